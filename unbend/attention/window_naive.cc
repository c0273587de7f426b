// The definition of window attention in plain tensor operations.
#include <cmath>
#include <limits>

#include "unbend/attention/window.h"
#include "unbend/attention/window_checks.h"
#include "unbend/base/error.h"

namespace unbend {

void check_window_arguments(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const WindowOptions& options) {
  require(q.dim() == 4 && k.dim() == 4 && v.dim() == 4,
          "window_attention: q, k, v must be [B, H, T, d], [B, Hkv, S, d], [B, Hkv, S, dv], not {}, {}, {}", q.sizes(),
          k.sizes(), v.sizes());
  require(q.size(0) == k.size(0) && q.size(3) == k.size(3) && q.size(3) >= 1,
          "window_attention: q {} and k {} must agree in batch and in head width", q.sizes(), k.sizes());
  require(k.sizes().slice(0, 3) == v.sizes().slice(0, 3),
          "window_attention: k {} and v {} must agree but for the width", k.sizes(), v.sizes());
  require(v.size(3) >= 1, "window_attention: values of no width, v {}", v.sizes());
  require(k.size(1) >= 1 && q.size(1) % k.size(1) == 0,
          "window_attention: the kv heads of k {} must divide the heads of q {}", k.sizes(), q.sizes());
  const auto dtype = q.scalar_type();
  require(dtype == at::kFloat || dtype == at::kDouble || dtype == at::kBFloat16,
          "window_attention: q is {}, not float32, float64 or bfloat16", c10::toString(dtype));
  require(k.scalar_type() == dtype && v.scalar_type() == dtype,
          "window_attention: q, k, v must have one dtype, not {}, {}, {}", c10::toString(dtype),
          c10::toString(k.scalar_type()), c10::toString(v.scalar_type()));
  require(options.window >= 1, "window_attention: window must be at least 1, not {}", options.window);
  require(options.step >= 1, "window_attention: step must be at least 1, not {}", options.step);
  require(options.sinks >= 0, "window_attention: sinks must not be negative, as {} is", options.sinks);
  require(std::isfinite(options.scale), "window_attention: scale must be finite, not {}", options.scale);
}

namespace {

void check_positions(const char* name, const at::Tensor& positions, int64_t length, const char* of) {
  require(positions.dim() == 1 && positions.size(0) == length && positions.scalar_type() == at::kLong,
          "window_attention_at: {} must be int64 [{}] (the length of {}), not {} {}", name, length, of,
          c10::toString(positions.scalar_type()), positions.sizes());
}

}  // namespace

Partial window_attention_at(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const at::Tensor& query_positions, const at::Tensor& key_positions,
                            const WindowOptions& options) {
  check_window_arguments(q, k, v, options);
  check_positions("query_positions", query_positions, q.size(2), "q");
  check_positions("key_positions", key_positions, k.size(2), "k");
  const auto compute = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const int64_t batch = q.size(0), heads = q.size(1), kv_heads = k.size(1), tokens = q.size(2);

  const auto t = query_positions.to(q.device()).unsqueeze(1), j = key_positions.to(q.device()).unsqueeze(0);
  const auto edge = t - t.remainder(options.step) - options.window;
  const auto visible = (j >= 0) & (j <= t) & ((j > edge) | (j < options.sinks));  // [T, S]
  const auto unseen = visible.any(1).logical_not();                               // [T]
  const double infinity = std::numeric_limits<double>::infinity();

  // The queries of a group are rows of one product with their shared keys: broadcasting would copy the keys.
  const int64_t rows = heads / kv_heads * tokens;
  const auto grouped = q.to(compute).reshape({batch, kv_heads, rows, q.size(3)});
  const auto scores = (at::matmul(grouped, k.to(compute).transpose(-1, -2)) * options.scale)
                          .view({batch, kv_heads, heads / kv_heads, tokens, k.size(2)})
                          .masked_fill(visible.logical_not(), -infinity);
  if (k.size(2) == 0) {
    const auto none = scores.new_full({batch, heads, tokens}, -infinity);
    return {scores.new_zeros({batch, heads, tokens, v.size(3)}), none, none.clone()};
  }
  const auto max = std::get<0>(scores.max(-1));  // its gradient goes to the first largest
  // Rows without a visible key get harmless numbers, so that no NaN reaches a gradient.
  const auto shift = max.detach().masked_fill(unseen, 0);
  const auto weights = at::exp(scores - shift.unsqueeze(-1));
  const auto sum = weights.sum(-1).masked_fill(unseen, 1);
  const auto out = at::matmul(weights.view({batch, kv_heads, rows, k.size(2)}), v.to(compute)) /
                   sum.view({batch, kv_heads, rows, 1});
  const auto lse = (sum.log() + shift).masked_fill(unseen, -infinity);
  return {out.reshape({batch, heads, tokens, v.size(3)}), max.reshape({batch, heads, tokens}),
          lse.reshape({batch, heads, tokens})};
}

}  // namespace unbend
