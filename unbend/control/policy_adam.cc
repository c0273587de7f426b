#include "unbend/control/policy_adam.h"

#include <algorithm>
#include <cmath>

namespace unbend::control {
namespace {

/// In 16 partial sums: vectors, and the same result everywhere.
template <class T>
double sum_of_squares(const T* values, std::int64_t count) {
  constexpr std::int64_t kParts = 16;
  T parts[kParts] = {};
  double sum = 0;
  for (std::int64_t i = 0; i < count; i += 256 * kParts) {  // short runs in T, their sum in double
    const auto end = std::min(count, i + 256 * kParts);
    std::fill(parts, parts + kParts, T(0));
    std::int64_t j = i;
    for (; j + kParts <= end; j += kParts) {
      for (std::int64_t k = 0; k < kParts; ++k) parts[k] += values[j + k] * values[j + k];
    }
    for (; j < end; ++j) parts[0] += values[j] * values[j];
    for (const T part : parts) sum += part;
  }
  return sum;
}

}  // namespace

template <class T>
bool Adam<T>::step(const AdamOptions& o, T* parameters, const T* gradient) {
  const auto count = static_cast<std::int64_t>(moments_.size() / 2);
  norm_ = std::sqrt(sum_of_squares(gradient, count));
  if (!std::isfinite(norm_) || norm_ == 0) {
    ++skipped_;
    return false;
  }
  ++steps_;
  const auto steps = static_cast<double>(steps_);
  const auto scale = static_cast<T>(std::min(1., o.max_norm / (norm_ + 1e-6)));
  const auto b1 = static_cast<T>(o.beta1), b2 = static_cast<T>(o.beta2), eps = static_cast<T>(o.eps);
  const auto rate = static_cast<T>(o.lr / (1 - std::pow(o.beta1, steps)));
  const auto root = static_cast<T>(1 / std::sqrt(1 - std::pow(o.beta2, steps)));
  T* __restrict const m = moments_.data();
  T* __restrict const v = moments_.data() + count;
  T* __restrict const p = parameters;
  const T* __restrict const gradients = gradient;
#pragma GCC ivdep
  for (std::int64_t i = 0; i < count; ++i) {
    const T g = scale * gradients[i];
    m[i] = b1 * m[i] + (1 - b1) * g;
    v[i] = b2 * v[i] + (1 - b2) * g * g;
    p[i] -= rate * m[i] / (std::sqrt(v[i]) * root + eps);
  }
  return true;
}

template class Adam<float>;
template class Adam<double>;

}  // namespace unbend::control
