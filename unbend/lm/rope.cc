#include "unbend/lm/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace unbend::lm {
namespace {

/// Dimension (as a real number) whose wave turns `turns` times within the original context (YaRN, section 3.2).
double yarn_dimension(const DecoderConfig& c, double turns) {
  const double wavelength = static_cast<double>(c.rope.original_context) / (turns * 2 * std::numbers::pi);
  return static_cast<double>(c.head_dim) * std::log(wavelength) / (2 * std::log(c.rope_base));
}

}  // namespace

RopeTable rope_table(const DecoderConfig& c, std::int64_t first, std::int64_t count, const at::TensorOptions& options) {
  const std::int64_t half = c.head_dim / 2;
  const bool yarn = c.rope.kind == RopeScaling::Kind::Yarn;
  double low = 0, high = 0;
  if (yarn) {
    low = std::max(0., std::floor(yarn_dimension(c, c.rope.beta_fast)));
    high = std::min(static_cast<double>(c.head_dim - 1), std::ceil(yarn_dimension(c, c.rope.beta_slow)));
  }
  const double magnitude = yarn ? (1 + 0.1 * std::log(c.rope.factor)) * c.rope.attention_factor : 1;

  auto cos = at::empty({count, half}, at::kDouble), sin = at::empty({count, half}, at::kDouble);
  auto* cos_data = cos.mutable_data_ptr<double>();
  auto* sin_data = sin.mutable_data_ptr<double>();
  for (std::int64_t i = 0; i < half; ++i) {
    double frequency = std::pow(c.rope_base, -2. * static_cast<double>(i) / static_cast<double>(c.head_dim));
    if (!c.rope.frequency_factors.empty()) frequency /= c.rope.frequency_factors[i];
    if (c.rope.kind == RopeScaling::Kind::Linear) frequency /= c.rope.factor;
    if (yarn) {
      const double ramp = std::clamp((static_cast<double>(i) - low) / std::max(0.001, high - low), 0., 1.);
      frequency *= (1 - ramp) + ramp / c.rope.factor;  // fast waves are kept, slow ones interpolated
    }
    for (std::int64_t t = 0; t < count; ++t) {
      const double angle = static_cast<double>(first + t) * frequency;
      cos_data[t * half + i] = std::cos(angle) * magnitude;
      sin_data[t * half + i] = std::sin(angle) * magnitude;
    }
  }
  return {cos.to(options), sin.to(options)};
}

}  // namespace unbend::lm
