// Recipe `lizard`: gated linear attention with a learned gate beside a window whose softmax has sinks of its own, the
// meta memory.
// Source: Nguyen et al. 2025, "Lizard: An Efficient Linearization Framework for Large Language Models", arXiv
// 2507.09025 (v4), as the brief reads it where the paper is silent or contradicts itself.
//
// Per query head, q and k without rotation (with `window_rope` those of the window are rotated):
//   phi(z) = [act(z M), act(-z M)],  M [d, f], own M for queries and keys, act = softmax over the f entries or exp
//   gamma_t = sigmoid(x_t . w + b), one number per token for all heads of a layer, or per head
//   S_t = gamma_t S_{t-1} + phi(k_t)^T [v_t, 1],  [n_t, z_t] = phi(q_t) S_t,  gated_t = n_t / z_t
//   anchor_t = sum_j e^(s_tj) v_j / (sum_i e^(m_i) + sum_j e^(s_tj)) over the window's j,  s_tj = q_t.k_j / sqrt(d)
//   y_t = gated_t + alpha anchor_t,  or, `convex`, (gated_t + |alpha| anchor_t) / (1 + |alpha|)
//
// The paper trains with gates inside the exponents, exp(z M + log C) for queries and exp(z M - log C) for keys with
// C_t = gamma_1 ... gamma_t, so that a chunk is one product of matrices. Our gated_scan() gets features and log gamma
// apart, which holds for softmax features too, where a gate added before the softmax would cancel. Its kernel for CPUs
// does the same as the paper, chunk by chunk: queries are multiplied by P, the product of the gates since the chunk's
// first token, and keys by 1/P, and a chunk ends where P would fall below 2^-60, so that no factor overflows for any
// gate and any length (unbend/attention/gated_scan_chunk.h). Features exp(z M) may overflow by themselves: keys are
// kept relative to the largest exponent that the state still holds, r_t = max(r_{t-1} + log gamma_t, max(k_t M)), whose
// change is one more decay of the state, and queries relative to their own largest; both cancel in n_t / z_t.
#pragma once

#include "unbend/lm/recipe.h"

namespace unbend::lm {

/// Options beside the common ones:
///   preset                    "paper", or "recommended": window_rope, convex, a gate per head that starts at
///                             gate_bias 3, and ten times the paper's learning rate of transfer
///   features, feature_dim     "softmax" or "exp"; f (0: the head width)
///   map_heads                 own maps per "query" head; "kv": key maps (and states) per kv head; "layer": one each
///   map_start                 M starts as the "identity" (f must be d) or "random", N(0, 1/d)
///   gate                      "sigmoid"; "mamba2": gamma^(e^a); "gla": a gate per feature, sigmoid(x D U + b);
///                             "pooling": sigmoid of keys, averaged where numbers do not fit; "none": gamma = 1
///   gate_per_head             own gates per state, not per layer
///   gate_bias, gate_rank      where b starts; columns of D
///   gate_tau                  log gamma is divided by it
///   meta, meta_start          sinks m of the window, where they start,
///   meta_spread               and how far apart: equal ones stay equal and are one sink of m_i + ln m
///   window_rope, convex       see above
///   alpha, learn_alpha        where it starts; whether it is trained
///   alpha_per_head            own alpha per query head
///   gla_norm                  "row" as above; "none": gated = n; "joint": one denominator, the window's numbers
///                             relative to its largest score, as in lolcats
///   branches                  "both", "gate" or "anchor" (ablation)
///   freeze_mixer              in the second stage
Recipe lizard_recipe();

}  // namespace unbend::lm
