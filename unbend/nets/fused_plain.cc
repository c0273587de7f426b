#include "unbend/nets/fused_plain.h"

#include <torch/types.h>

namespace unbend::plain {
namespace {

at::ScalarType compute_type(const at::Tensor& x) { return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

// x [.., T, width].
at::Tensor rotated(const at::Tensor& x, const Rotary& rotary) {
  const auto cos = rotary.cos.to(x.scalar_type()), sin = rotary.sin.to(x.scalar_type());
  const bool halves = rotary.pairs == RotaryPairs::Halves;
  const auto pairs = halves ? x.unflatten(-1, {2, x.size(-1) / 2}) : x.unflatten(-1, {x.size(-1) / 2, 2});
  const int64_t axis = halves ? -2 : -1;
  const auto a = pairs.select(axis, 0), b = pairs.select(axis, 1);
  return at::stack({a * cos - b * sin, a * sin + b * cos}, axis).flatten(-2);
}

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps, at::ScalarType out) {
  const auto wide = x.to(compute_type(x));
  return (wide * (wide.square().mean(-1, true) + eps).rsqrt() * weight.to(compute_type(x))).to(out);
}

at::Tensor swiglu(const at::Tensor& gate_up) {
  const auto halves = gate_up.to(compute_type(gate_up)).chunk(2, -1);
  return (at::silu(halves[0]) * halves[1]).to(gate_up.scalar_type());
}

std::vector<at::Tensor> split_heads(const at::Tensor& packed, int64_t width, const std::vector<HeadRange>& ranges,
                                    const Rotary& rotary, at::ScalarType out) {
  std::vector<at::Tensor> heads;
  for (const auto& r : ranges) {
    auto x = packed.narrow(2, r.first * width, r.count * width).unflatten(2, {r.count, width}).transpose(1, 2);
    if (r.rotate) x = rotated(x.to(compute_type(packed)), rotary);
    heads.push_back(x.to(out).contiguous());
  }
  return heads;
}

}  // namespace unbend::plain
