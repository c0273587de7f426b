// Recipe `lawcat`: a purely recurrent student, gated linear attention over queries and keys that a short causal
// convolution has blended with their neighbours.
// Source: Liu et al. 2025, "LAWCAT: Efficient Distillation from Quadratic to Linear Attention with Convolution across
// Tokens for Long Context Modeling", arXiv 2509.18467, and its official code where the brief reads it.
//
// Per query head (keys, values and gates are repeated from their kv head first), without rotation:
//   q'_t = sum_j taps_q[j] q_{t-K+1+j},  k'_t likewise              (K taps per channel, zeros before the start)
//   phi(x) = [softmax(x M), softmax(-x M)],  M [d, f]               (the same M for queries and keys)
//   log alpha_t = log sigmoid(x_t D U + b) / tau                    (D [hidden, r], U [r, 2f] per kv head)
//   S_t = diag(alpha_t) S_{t-1} + phi(k'_t)^T [v_t, 1],  [n_t, m_t] = phi(q'_t) S_t,  y_t = n_t / (m_t + 1e-10)
// With a window w > 0 (a hybrid; rotated queries and keys there), s = sigmoid(window_factor):
//   y_t = (s N_t + c n_t) / (s D_t + c m_t + 1e-10),  c = 1 or, `affine`, 1 - s,
// with N, D the sums of exp(score - max) over the window, with and without values.
#pragma once

#include "unbend/lm/recipe.h"

namespace unbend::lm {

/// Options beside the common ones (`window` 0, the default, is no window):
///   conv, conv_size, conv_init     the convolution, its taps K, and the start of all taps but the last, which is 1
///   conv_act, conv_v               "none" or "silu" after it; values are convolved too
///   share_qk_conv                  one filter bank for queries and keys
///   repeat_before_conv             filters of keys per query head (else per kv head)
///   rope_student                   rotated queries and keys (ablation)
///   feature_dim, tie_qk            f (0: half the head width); the same M for queries and keys
///   gate, gate_rank, gate_tau      false: alpha = 1; r (0: one full matrix); tau
///   normalise                      false: y = n / sqrt(d) (ablation)
///   affine                         of hybrids, see above
Recipe lawcat_recipe();

}  // namespace unbend::lm
