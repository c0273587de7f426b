// Rows of floats as vectors of this machine: what the three phases of a mixer share.
#pragma once

#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "unbend/base/simd_tile.h"

namespace unbend::engine {

namespace hn = hwy::HWY_NAMESPACE;
using F32 = hn::ScalableTag<float>;
using Vector = hn::Vec<F32>;
constexpr std::int64_t kL = hn::MaxLanes(F32());
static_assert(hn::MaxLanes(F32()) == kernel::kLanes<float>);

inline std::int64_t vectors(std::int64_t n) { return (n + kL - 1) / kL; }

// Numbers of either cache type, and rows whose length need not be a whole number of vectors.
inline Vector load(const float* p, std::int64_t n) {
  if (n >= kL) return hn::LoadU(F32(), p);
  float all[kL] = {};
  std::memcpy(all, p, static_cast<std::size_t>(n) * sizeof(float));
  return hn::LoadU(F32(), all);
}
inline Vector load(const hwy::float16_t* p, std::int64_t n) {
  const hn::Rebind<hwy::float16_t, F32> half;
  if (n >= kL) return hn::PromoteTo(F32(), hn::LoadU(half, p));
  hwy::float16_t all[kL] = {};
  std::memcpy(static_cast<void*>(all), p, static_cast<std::size_t>(n) * sizeof(*p));
  return hn::PromoteTo(F32(), hn::LoadU(half, all));
}
inline void store(Vector v, float* p, std::int64_t n) {
  if (n >= kL) return hn::StoreU(v, F32(), p);
  float all[kL];
  hn::StoreU(v, F32(), all);
  std::memcpy(p, all, static_cast<std::size_t>(n) * sizeof(float));
}
inline void store(Vector v, hwy::float16_t* p, std::int64_t n) {
  const hn::Rebind<hwy::float16_t, F32> half;
  if (n >= kL) return hn::StoreU(hn::DemoteTo(half, v), half, p);
  hwy::float16_t all[kL];
  hn::StoreU(hn::DemoteTo(half, v), half, all);
  std::memcpy(static_cast<void*>(p), all, static_cast<std::size_t>(n) * sizeof(*p));
}
inline float sum_of(Vector v) { return hn::GetLane(hn::SumOfLanes(F32(), v)); }

template <class From, class To>
void copy(const From* from, std::int64_t n, To* to) {
  for (std::int64_t i = 0; i < n; i += kL) store(load(from + i, n - i), to + i, n - i);
}

template <class T>
float dot(const float* a, const T* b, std::int64_t n) {
  auto sum = hn::Zero(F32());
  for (std::int64_t i = 0; i < n; i += kL) sum = hn::MulAdd(load(a + i, n - i), load(b + i, n - i), sum);
  return sum_of(sum);
}

inline float log_sigmoid(float z) { return std::min(z, 0.f) - std::log1p(std::exp(-std::abs(z))); }
inline float softplus(float z) { return std::max(z, 0.f) + std::log1p(std::exp(-std::abs(z))); }

/// exp(x - max x) in place; returns their sum.
inline float exponentials(float* x, std::int64_t n) {
  float max = -std::numeric_limits<float>::infinity();
  for (std::int64_t i = 0; i < n; ++i) max = std::max(max, x[i]);
  auto sum = hn::Zero(F32());
  const auto shift = hn::Set(F32(), max);
  for (std::int64_t i = 0; i < n; i += kL) {
    auto e = hn::Exp(F32(), hn::Sub(load(x + i, n - i), shift));
    if (n - i < kL) e = hn::IfThenElseZero(hn::FirstN(F32(), n - i), e);
    store(e, x + i, n - i);
    sum = hn::Add(sum, e);
  }
  return sum_of(sum);
}

inline void scale(float* x, std::int64_t n, float by) {
  for (std::int64_t i = 0; i < n; ++i) x[i] *= by;
}

inline void softmax(const float* x, std::int64_t n, float* out) {
  copy(x, n, out);
  scale(out, n, 1 / exponentials(out, n));
}

/// [softmax(x M), softmax(-x M)] with M [d][f].
inline void softmax_pair(const float* x, const float* map, std::int64_t d, std::int64_t f, float* out) {
  for (std::int64_t j = 0; j < f; j += kL) {
    auto sum = hn::Zero(F32());
    for (std::int64_t i = 0; i < d; ++i) sum = hn::MulAdd(hn::Set(F32(), x[i]), load(map + i * f + j, f - j), sum);
    store(sum, out + j, f - j);
    store(hn::Neg(sum), out + f + j, f - j);
  }
  for (float* half : {out, out + f}) scale(half, f, 1 / exponentials(half, f));
}

}  // namespace unbend::engine
