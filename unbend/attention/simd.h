// Small vocabulary on Google Highway for CPU kernels: vectors of float or double, loaded from and stored to tensors
// that may hold bfloat16, and row-major tile products in which bfloat16 operands accumulate in float32.
#pragma once

#include <ATen/native/CPUBlas.h>
#include <c10/util/BFloat16.h>
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace unbend::simd {

namespace hn = hwy::HWY_NAMESPACE;

/// The type in which numbers stored as T are computed with.
template <class T>
using Compute = std::conditional_t<std::is_same_v<T, c10::BFloat16>, float, T>;

template <class D, class T>
using ToTag = hn::Rebind<T, D>;

template <class D>
HWY_INLINE hn::Vec<D> load(D d, const hn::TFromD<D>* p) {
  return hn::LoadU(d, p);
}
template <class D>
HWY_INLINE hn::Vec<D> load(D d, const c10::BFloat16* p) {
  const ToTag<D, uint16_t> half;
  const ToTag<D, uint32_t> word;
  const auto bits = hn::LoadU(half, reinterpret_cast<const uint16_t*>(p));
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(word, bits)));
}

/// Bits of `v` rounded to nearest even at bfloat16; the bfloat16 is the upper half of each word.
template <class D>
HWY_INLINE hn::Vec<ToTag<D, uint32_t>> round_bits(D d, hn::Vec<D> v) {
  const ToTag<D, uint32_t> word;
  const auto bits = hn::BitCast(word, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(word, 1u));
  return hn::Add(bits, hn::Add(odd, hn::Set(word, 0x7FFFu)));
}

template <class D>
HWY_INLINE void store(D d, hn::Vec<D> v, hn::TFromD<D>* p) {
  hn::StoreU(v, d, p);
}
template <class D>
HWY_INLINE void store(D d, hn::Vec<D> v, c10::BFloat16* p) {
  const ToTag<D, uint16_t> half;
  hn::StoreU(hn::TruncateTo(half, hn::ShiftRight<16>(round_bits(d, v))), half, reinterpret_cast<uint16_t*>(p));
}

/// The same for `count` < Lanes(d) elements; missing ones are zero.
template <class D, class T>
HWY_INLINE hn::Vec<D> load_n(D d, const T* p, int64_t count) {
  T all[hn::MaxLanes(D())] = {};
  std::memcpy(static_cast<void*>(all), p, count * sizeof(T));
  return load(d, all);
}
template <class D, class T>
HWY_INLINE void store_n(D d, hn::Vec<D> v, T* p, int64_t count) {
  T all[hn::MaxLanes(D())];
  store(d, v, all);
  std::memcpy(static_cast<void*>(p), all, count * sizeof(T));
}

/// Calls step(i, load, store) for i = 0, lanes, ... < n, where load(p) and store(v, p) move the elements from p on that
/// exist: whole vectors but for the last.
template <class D, class Step>
HWY_INLINE void for_each_vector(D d, int64_t n, const Step& step) {
  const int64_t lanes = hn::Lanes(d);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    step(
        i, [&](const auto* p) { return load(d, p); }, [&](auto v, auto* p) { store(d, v, p); });
  }
  if (i < n) {
    step(
        i, [&](const auto* p) { return load_n(d, p, n - i); }, [&](auto v, auto* p) { store_n(d, v, p, n - i); });
  }
}

/// One word per lane: bfloat16 of `even` in the lower half and of `odd` in the upper: two rows, interleaved.
template <class D>
HWY_INLINE void store_pairs(D d, hn::Vec<D> even, hn::Vec<D> odd, c10::BFloat16* p) {
  const ToTag<D, uint32_t> word;
  const auto low = hn::ShiftRight<16>(round_bits(d, even));
  const auto high = hn::And(round_bits(d, odd), hn::Set(word, 0xFFFF0000u));
  hn::StoreU(hn::Or(low, high), word, reinterpret_cast<uint32_t*>(p));
}

/// C [m, n] = A [m, k] B [k, n], or C += A B; row-major with leading dimensions.
inline void multiply(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b, int64_t ldb,
                     float* c, int64_t ldc, bool add) {
  at::native::cpublas::brgemm(m, n, k, lda, ldb, ldc, add, a, b, c, /*is_vnni=*/false);
}
inline void multiply(int64_t m, int64_t n, int64_t k, const double* a, int64_t lda, const double* b, int64_t ldb,
                     double* c, int64_t ldc, bool add) {
  for (int64_t i = 0; i < m; ++i) {
    double* row = c + i * ldc;
    if (!add) std::memset(row, 0, n * sizeof(double));
    for (int64_t l = 0; l < k; ++l) {
      const double factor = a[i * lda + l];
      for (int64_t j = 0; j < n; ++j) row[j] += factor * b[l * ldb + j];
    }
  }
}
/// Here k is even and B is in pairs: element (l, j) lies at [(l / 2) * ldb + j] * 2 + l % 2 ("VNNI" order).
inline void multiply(int64_t m, int64_t n, int64_t k, const c10::BFloat16* a, int64_t lda, const c10::BFloat16* b,
                     int64_t ldb, float* c, int64_t ldc, bool add) {
  at::native::cpublas::brgemm(m, n, k, lda, ldb, ldc, add, a, b, c, /*is_vnni=*/true);
}

/// Whether bfloat16 tiles may be multiplied on the machine this was compiled for.
#ifdef __AVX512BF16__
inline constexpr bool kHasBFloat16Products = true;
#else
inline constexpr bool kHasBFloat16Products = false;
#endif

/// Rows a row-major B operand groups together: 2 for bfloat16 (pairs), else 1.
template <class T>
inline constexpr int64_t kGroup = std::is_same_v<T, c10::BFloat16> ? 2 : 1;

/// Elements of T that one 16-, 32- or 64-bit transposition moves as a unit, and that unit.
template <class T>
using Unit = std::conditional_t<std::is_same_v<T, double>, uint64_t, uint32_t>;

/// B operand of A [*, width] X^T for rows X [rows, width] (row stride `stride`): writes columns [0, rows) of
/// [width, padded columns] (leading dimension `ld`). For bfloat16 the width is even and pairs along it move together.
template <class T>
void pack_transposed(const T* x, int64_t rows, int64_t width, int64_t stride, T* packed, int64_t ld) {
  constexpr int64_t group = kGroup<T>;
  auto* out = reinterpret_cast<Unit<T>*>(packed);
  for (int64_t l = 0; l < width / group; ++l) {
    for (int64_t r = 0; r < rows; ++r) std::memcpy(&out[l * ld + r], x + r * stride + l * group, sizeof(Unit<T>));
  }
}

/// B operand made of rows X [rows, width] themselves; for bfloat16 two rows are interleaved, an odd last one with
/// zeros.
template <class S, class T>
void pack_rows(const S* x, int64_t rows, int64_t width, int64_t stride, T* packed) {
  if constexpr (kGroup<T> == 1) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < width; ++c) packed[r * width + c] = x[r * stride + c];
    }
  } else {
    for (int64_t r = 0; r < rows; r += 2) {
      T* out = packed + r * width;
      const S* even = x + r * stride;
      if (r + 1 < rows) {
        const S* odd = even + stride;
        for (int64_t c = 0; c < width; ++c) out[2 * c] = even[c], out[2 * c + 1] = odd[c];
      } else {
        for (int64_t c = 0; c < width; ++c) out[2 * c] = even[c], out[2 * c + 1] = T(0);
      }
    }
  }
}

}  // namespace unbend::simd
