// Causal sliding-window softmax attention with pinned sink tokens, as partial results that can be merged with others
// (a linear branch, another tile or rank). A window of at least the sequence's length is full causal softmax.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>

namespace unbend {

/// Which keys a token sees: the token at position t sees j in [first(t), t] and every j < sinks with j <= t.
struct WindowOptions {
  int64_t window;      ///< at least 1 (the token itself)
  int64_t sinks = 0;   ///< the first tokens of a sequence, visible to all later ones
  double scale = 1.0;  ///< score = scale * q.k; 1/sqrt(d) in most models
  /// The window's lower edge moves on at multiples of `step` only. 1 is a sliding window; step b and window b + 1 are a
  /// terraced one: a token sees its own block of b tokens up to itself, and the block before.
  int64_t step = 1;

  /// The first token of the window at position t >= -1; below 0 at the start of a sequence.
  int64_t first(int64_t t) const { return (t + step) / step * step - step - window + 1; }
  int64_t span() const { return window + step - 1; }  ///< tokens of the window where it is longest
};

/// Softmax over a set of keys, kept so that two disjoint sets can be merged:
/// with e_j = exp(score_j - max), the sum of e_j is exp(lse - max) and the sum of e_j v_j is out * exp(lse - max).
struct Partial {
  at::Tensor out;  ///< [B, H, T, dv], softmax-weighted mean of the values; 0 where no key is visible
  at::Tensor max;  ///< [B, H, T], largest score; -inf where no key is visible
  at::Tensor lse;  ///< [B, H, T], log of the sum of exp(score); -inf where no key is visible
};

/// Attention of a sequence that starts at position 0, fused: scores never exist beyond a tile, forward and backward
/// cost O(T (window + sinks)) per head. q [B, H, T, d]; k [B, Hkv, T, d]; v [B, Hkv, T, dv]; Hkv divides H, and query
/// head h reads kv head h / (H / Hkv). All float32, float64 or bfloat16; results are float64 for float64, else float32.
/// Differentiable in q, k, v from all three outputs; the gradient once more in its cotangents (so that forward mode
/// works by double backward) and in q, k, v (through the definition below, at its memory). Third derivatives are not
/// offered. The gradient of `max` goes to the key with the largest score, the first one among equals. Throws Error
/// (Input) on shapes or dtypes that do not fit, window < 1, step < 1, sinks < 0 or a scale that is not finite. The
/// kernel is for CPUs; elsewhere the definition below serves, at its memory.
Partial window_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const WindowOptions& options);

/// The definition, with explicit positions; for streaming too, where keys are sinks, a ring buffer and new tokens in
/// any order. q [B, H, T, d]; k [B, Hkv, S, d]; v [B, Hkv, S, dv]; query_positions [T] and key_positions [S], int64.
/// Query i sees key j iff 0 <= key_positions[j] <= query_positions[i] and
/// (key_positions[j] >= first(query_positions[i]) or key_positions[j] < sinks). A key position of -1 is an empty slot.
/// Plain tensor operations, O(T S) memory, differentiable to any order. Positions may be on another device. Errors as
/// above.
Partial window_attention_at(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const at::Tensor& query_positions, const at::Tensor& key_positions,
                            const WindowOptions& options);

}  // namespace unbend
