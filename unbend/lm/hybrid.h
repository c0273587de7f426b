// Recipe `hybrid`, the project's own: exact softmax over a window and pinned sinks, and gated linear attention over
// everything older, under one denominator.
//
// Per query head at position t, with q, k after rotation, window W = {t-w+1..t}, sinks Z = {0..s-1} outside it, old
// tokens O = {s..t-w}:
//   m_t = max over W, Z of q_t.k_j / sqrt(d)                          e_tj = exp(q_t.k_j / sqrt(d) - m_t)
//   phi(x) = [softmax(x M), softmax(-x M)],  M [d, d/2]               (own M for queries and for keys)
//   gamma_u = sigmoid(x_u . w_g + b_g),      G_tj = product of gamma_u over j < u <= t
//   y_t = (sum_{W,Z} e_tj v_j + e^c sum_O G_tj phi_q(q_t).phi_k(k_j) v_j) / (the same sums without v)
// The window and its sinks are Xiao et al. 2023, the feature map is LoLCATs' (Zhang et al. 2024), the gate Liger's and
// Lizard's idea.
#pragma once

#include "unbend/lm/recipe.h"

namespace unbend::lm {

/// Options beside the common ones: state_heads "kv" (one key map, gate and state per kv head) or "query"; gate (false:
/// gamma = 1); gate_bias b_g; log_scale c at the start; linear (false: the linear part is switched off, for ablation).
Recipe hybrid_recipe();

}  // namespace unbend::lm
