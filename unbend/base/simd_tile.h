// Small dense matrices on Google Highway: a register-blocked product for operands that fit the first-level cache, and a
// transpose. Static dispatch: vectors of the target we are compiled for.
#pragma once

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>

namespace unbend::kernel {

namespace hn = hwy::HWY_NAMESPACE;

template <class T>
using Lanes = hn::ScalableTag<T>;

template <class T>
constexpr int64_t kLanes = hn::MaxLanes(Lanes<T>());

template <class T>
int64_t padded(int64_t width) {
  return (width + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

/// The first n < kLanes<T> numbers from p on, and zeros; nothing behind them is touched.
template <class T>
HWY_INLINE hn::Vec<Lanes<T>> load_first(const T* p, int64_t n) {
  const Lanes<T> d;
#if HWY_MEM_OPS_MIGHT_FAULT  // where masked operations are whole, aligned ones
  T all[kLanes<T>] = {};
  std::copy_n(p, n, all);
  return hn::LoadU(d, all);
#else
  return hn::MaskedLoad(hn::FirstN(d, size_t(n)), d, p);
#endif
}
template <class T>
HWY_INLINE void store_first(hn::Vec<Lanes<T>> v, T* p, int64_t n) {
  const Lanes<T> d;
#if HWY_MEM_OPS_MIGHT_FAULT
  T all[kLanes<T>];
  hn::StoreU(v, d, all);
  std::copy_n(all, n, p);
#else
  hn::BlendedStore(v, hn::FirstN(d, size_t(n)), d, p);
#endif
}

/// A(i, k) = data[i * row + k * column]: a matrix or its transpose.
template <class T>
struct Left {
  const T* data;
  int64_t row, column;
};

/// One product A B in a sum of them: A is rows x inner, B has `inner` rows, padded to whole vectors.
template <class T>
struct Term {
  int64_t inner;
  Left<T> a;
  const T* b;
  int64_t b_stride;
};

/// What becomes of a product: it is set, added to what is there, or written past the caches (whole aligned vectors).
enum class Into { Set, Add, Stream };

// R rows x V vectors of C in registers.
template <int R, int V, Into kInto, class T, class... Terms>
HWY_INLINE void block_product(T* HWY_RESTRICT c, int64_t c_stride, const Terms&... terms) {
  const Lanes<T> d;
  hn::Vec<Lanes<T>> sum[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      if constexpr (kInto == Into::Add) {
        sum[r][v] = hn::LoadU(d, c + r * c_stride + v * kLanes<T>);
      } else {
        sum[r][v] = hn::Zero(d);
      }
    }
  }
  const auto add = [&](const Term<T>& term) __attribute__((always_inline)) {
    const Left<T> a = term.a;
    const T* HWY_RESTRICT b = term.b;
    for (int64_t k = 0; k < term.inner; ++k) {
      hn::Vec<Lanes<T>> right[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) right[v] = hn::LoadU(d, b + k * term.b_stride + v * kLanes<T>);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const auto left = hn::Set(d, a.data[r * a.row + k * a.column]);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sum[r][v] = hn::MulAdd(left, right[v], sum[r][v]);
      }
    }
  };
  (add(terms), ...);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      T* to = c + r * c_stride + v * kLanes<T>;
      if constexpr (kInto == Into::Stream) {
        hn::Stream(sum[r][v], d, to);
      } else {
        hn::StoreU(sum[r][v], d, to);
      }
    }
  }
}

// All rows of a strip of V vectors: as many rows at a time as registers allow, then 4, 2, 1.
template <int V, Into kInto, class T, class Between, class... Terms>
HWY_NOINLINE void strip_product(Between& between, int64_t rows, T* c, int64_t c_stride, Terms... terms) {
  constexpr int kRows = V == 4 ? 6 : 8;
  const auto run = [&]<int R>() {
    block_product<R, V, kInto>(c, c_stride, terms...);
    between();
    ((terms.a.data += R * terms.a.row), ...);
    c += R * c_stride;
    rows -= R;
  };
  while (rows >= kRows) run.template operator()<kRows>();
  if (rows >= 4) run.template operator()<4>();
  if (rows >= 2) run.template operator()<2>();
  if (rows >= 1) run.template operator()<1>();
}

/// C = the sum of the terms, or C += : C is rows x `columns` padded to whole vectors. `between` is called after every
/// few rows: the place to ask for memory that is needed next.
template <Into kInto, class T, class Between, class... Terms>
void sum_of_products(Between&& between, int64_t rows, int64_t columns, T* c, int64_t c_stride, Terms... terms) {
  for (int64_t left = padded<T>(columns) / kLanes<T>; left > 0;) {
    const int64_t vectors = left == 5 ? 3 : std::min<int64_t>(left, 4);  // 5 as 3 + 2: one vector alone starves
    switch (vectors) {
      case 4: strip_product<4, kInto>(between, rows, c, c_stride, terms...); break;
      case 3: strip_product<3, kInto>(between, rows, c, c_stride, terms...); break;
      case 2: strip_product<2, kInto>(between, rows, c, c_stride, terms...); break;
      default: strip_product<1, kInto>(between, rows, c, c_stride, terms...);
    }
    ((terms.b += vectors * kLanes<T>), ...);
    c += vectors * kLanes<T>;
    left -= vectors;
  }
}

/// C = A B, or C += A B.
template <Into kInto, class T>
void product(int64_t rows, int64_t columns, int64_t inner, Left<T> a, const T* b, int64_t b_stride, T* c,
             int64_t c_stride) {
  sum_of_products<kInto>([] {}, rows, columns, c, c_stride, Term<T>{inner, a, b, b_stride});
}

/// to = from^T; `from` is rows x columns. In blocks of 4 x 4 for float.
template <class T>
void transpose(int64_t rows, int64_t columns, const T* HWY_RESTRICT from, int64_t from_stride, T* HWY_RESTRICT to,
               int64_t to_stride) {
  int64_t i = 0;
  if constexpr (sizeof(T) == 4) {
    const hn::FixedTag<T, 4> d;
    const hn::Repartition<uint64_t, decltype(d)> pairs;
    const auto low = [&](auto a, auto b) {
      return hn::BitCast(d, hn::InterleaveLower(pairs, hn::BitCast(pairs, a), hn::BitCast(pairs, b)));
    };
    const auto high = [&](auto a, auto b) {
      return hn::BitCast(d, hn::InterleaveUpper(pairs, hn::BitCast(pairs, a), hn::BitCast(pairs, b)));
    };
    for (; i + 4 <= rows; i += 4) {
      int64_t j = 0;
      for (; j + 4 <= columns; j += 4) {
        const T* source = from + i * from_stride + j;
        const auto r0 = hn::LoadU(d, source), r1 = hn::LoadU(d, source + from_stride);
        const auto r2 = hn::LoadU(d, source + 2 * from_stride), r3 = hn::LoadU(d, source + 3 * from_stride);
        const auto a = hn::InterleaveLower(d, r0, r1), b = hn::InterleaveUpper(d, r0, r1);
        const auto e = hn::InterleaveLower(d, r2, r3), f = hn::InterleaveUpper(d, r2, r3);
        T* target = to + j * to_stride + i;
        hn::StoreU(low(a, e), d, target);
        hn::StoreU(high(a, e), d, target + to_stride);
        hn::StoreU(low(b, f), d, target + 2 * to_stride);
        hn::StoreU(high(b, f), d, target + 3 * to_stride);
      }
      for (; j < columns; ++j) {
        for (int64_t r = i; r < i + 4; ++r) to[j * to_stride + r] = from[r * from_stride + j];
      }
    }
  }
  for (; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) to[j * to_stride + i] = from[i * from_stride + j];
  }
}

}  // namespace unbend::kernel
