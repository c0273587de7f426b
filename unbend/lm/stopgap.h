#pragma once
#include <torch/types.h>
namespace unbend {
inline at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& w, double eps, at::ScalarType out) {
  return (x * at::rsqrt((x * x).mean(-1, true) + eps) * w).to(out);
}
inline at::Tensor swiglu(const at::Tensor& gu) {
  auto p = gu.chunk(2, -1);
  return at::silu(p[0]) * p[1];
}
inline at::Tensor split_heads_rope(const at::Tensor& qkv, int64_t d, int64_t first, int64_t count, const at::Tensor& cos, const at::Tensor& sin, at::ScalarType type) {
  auto x = qkv.narrow(-1, first * d, count * d).reshape({qkv.size(0), qkv.size(1), count, d}).transpose(1, 2).to(type);
  if (!cos.defined()) return x;
  auto a = x.narrow(-1, 0, d / 2), b = x.narrow(-1, d / 2, d / 2);
  return at::cat({a * cos - b * sin, b * cos + a * sin}, -1);
}
}
