// Numbers aligned for vectors of the processor, and matrices of them.
#pragma once

#include <cstdint>
#include <new>
#include <vector>

namespace unbend::control {

template <class T>
struct AlignedAllocator {
  using value_type = T;
  static constexpr std::align_val_t kAlignment{64};
  AlignedAllocator() = default;
  template <class U>
  AlignedAllocator(const AlignedAllocator<U>&) {}
  T* allocate(std::size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), kAlignment)); }
  void deallocate(T* p, std::size_t) { ::operator delete(p, kAlignment); }
  bool operator==(const AlignedAllocator&) const { return true; }
};

template <class T>
using Numbers = std::vector<T, AlignedAllocator<T>>;

/// Row i begins at data[i * stride]; what lies behind `columns` means nothing.
template <class T>
struct Matrix {
  std::int64_t rows = 0, columns = 0, stride = 0;
  Numbers<T> data = {};

  Matrix() = default;
  Matrix(std::int64_t rows, std::int64_t columns) { resize(rows, columns, columns); }
  /// Contents are undefined afterwards. Never gives memory back, so that calls in a loop do not allocate.
  void resize(std::int64_t new_rows, std::int64_t new_columns, std::int64_t new_stride) {
    rows = new_rows, columns = new_columns, stride = new_stride;
    const auto size = static_cast<std::size_t>(rows * stride);
    if (data.size() < size) data.resize(size);
  }
  T* row(std::int64_t i) { return data.data() + i * stride; }
  const T* row(std::int64_t i) const { return data.data() + i * stride; }
};

}  // namespace unbend::control
