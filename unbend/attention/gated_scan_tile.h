// Tiles of the gated scan's kernel: storage padded to whole vectors, and their products.
#pragma once

#include <ATen/ATen.h>

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

template <class T>
void multiply(int64_t rows, int64_t inner, Left<T> a, const Tile<T>& b, const Tile<T>& c) {
  product<false>(rows, c.width, inner, a, b.data, b.stride, c.data, c.stride);
}
template <class T>
void multiply_add(int64_t rows, int64_t inner, Left<T> a, const Tile<T>& b, const Tile<T>& c) {
  product<true>(rows, c.width, inner, a, b.data, b.stride, c.data, c.stride);
}

/// c = a b + a2 b2, each sum kept in registers.
template <class T>
void multiply_two(int64_t rows, int64_t inner, Left<T> a, const Tile<T>& b, int64_t inner2, Left<T> a2,
                  const Tile<T>& b2, const Tile<T>& c) {
  sum_of_products<false>(rows, c.width, c.data, c.stride, Term<T>{inner, a, b.data, b.stride},
                         Term<T>{inner2, a2, b2.data, b2.stride});
}

}  // namespace unbend::kernel
