// Tiles of the gated scan's kernel: storage padded to whole vectors, and their products.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "unbend/base/simd_tile.h"

namespace unbend::kernel {

/// A zeroed matrix whose rows are padded to whole vectors; the padding stays zero.
template <class T>
struct Tile {
  int64_t width = 0, stride = 0;
  at::Tensor storage;
  T* data = nullptr;

  Tile(int64_t rows, int64_t columns)
      : width(columns),
        stride(padded<T>(columns)),
        storage(at::zeros({std::max<int64_t>(rows, 1), stride}, c10::CppTypeToScalarType<T>::value)),
        data(storage.data_ptr<T>()) {}
  T* row(int64_t i) const { return data + i * stride; }
};

template <class T>
Left<T> plain(const Tile<T>& tile, int64_t first_row = 0) {
  return {tile.row(first_row), tile.stride, 1};
}
template <class T>
Left<T> transposed(const Tile<T>& tile, int64_t first_row = 0) {
  return {tile.row(first_row), 1, tile.stride};
}

/// c = a b, += a b, or c = a b + a2 b2 with each sum kept in registers; `between` as in sum_of_products.
template <Into kInto = Into::Set, class T, class Between>
void multiply(Between&& between, int64_t rows, int64_t inner, Left<T> a, const Tile<T>& b, const Tile<T>& c) {
  sum_of_products<kInto>(between, rows, c.width, c.data, c.stride, Term<T>{inner, a, b.data, b.stride});
}
template <class T, class Between>
void multiply_add(Between&& between, int64_t rows, int64_t inner, Left<T> a, const Tile<T>& b, const Tile<T>& c) {
  multiply<Into::Add>(between, rows, inner, a, b, c);
}
template <class T, class Between>
void multiply_two(Between&& between, int64_t rows, int64_t inner, Left<T> a, const Tile<T>& b, int64_t inner2,
                  Left<T> a2, const Tile<T>& b2, const Tile<T>& c) {
  sum_of_products<Into::Set>(between, rows, c.width, c.data, c.stride, Term<T>{inner, a, b.data, b.stride},
                             Term<T>{inner2, a2, b2.data, b2.stride});
}

/// Rows that are needed soon, asked for a few cache lines at a time between other work: heads are usually interleaved
/// in memory, so rows are too far apart for the hardware to see them coming, and all lines asked for at once would fill
/// the processor's buffers for outstanding lines and stop it.
class Ahead {
 public:
  void add(std::uintptr_t first, int64_t stride, int64_t rows, int64_t bytes) {  // strides in bytes
    rows_.push_back({first, stride, rows, (bytes + kLine - 1) / kLine});
  }
  void fetch(int64_t lines) {
    while (lines > 0 && at_ < rows_.size()) {
      const Block& block = rows_[at_];
      const char* from = reinterpret_cast<const char*>(block.first + row_ * block.stride + line_ * kLine);
      const int64_t count = std::min(lines, block.lines - line_);
      for (int64_t i = 0; i < count; ++i) __builtin_prefetch(from + i * kLine, 0, 2);
      lines -= count;
      if ((line_ += count) < block.lines) continue;
      line_ = 0;
      if (++row_ < block.rows) continue;
      row_ = 0, ++at_;
    }
  }
  void restart() { rows_.clear(), at_ = 0, row_ = line_ = 0; }

 private:
  static constexpr int64_t kLine = 64;
  struct Block {
    std::uintptr_t first;
    int64_t stride, rows, lines;
  };
  std::vector<Block> rows_;
  size_t at_ = 0;
  int64_t row_ = 0, line_ = 0;
};

}  // namespace unbend::kernel
