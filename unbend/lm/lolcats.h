// Recipe `lolcats`: exact softmax over a window, linear attention with learned feature maps over everything older,
// under one denominator. The family's common peer. Source: Zhang et al. 2024, "LoLCATs: On Low-Rank Linearizing of
// Large Language Models", arXiv 2410.10254, and its official code (HazyResearch/lolcats).
//
// Per query head at position t, with q, k after rotation, window W = {t-w+1..t}, old tokens O = {0..t-w}:
//   m_t = max over W of q_t.k_j / sqrt(d),  e_tj = exp(q_t.k_j / sqrt(d) - m_t),  f = sigmoid(a)
//   phi(x) = [softmax(x M), softmax(-x M)],  M [d, d/2] per query head, own ones for queries and keys
//   y_t = (f sum_W e_tj v_j + sum_O phi_q(q_t).phi_k(k_j) v_j) / (the same sums without v)
// The shift by m_t touches the window only, so f acts per row, as in the official code. A terraced window, the code's
// other form, moves in blocks of w tokens: W is t's own block up to t and the block before, O the blocks before those.
#pragma once

#include "unbend/lm/recipe.h"

namespace unbend::lm {

/// Options beside the common ones: window_factor, a at the start; terraced (the window in blocks; w + 1 to 2 w tokens,
/// training and decoding alike, where the official code decodes with a sliding window of w); linear (false: the window
/// alone, for ablation).
Recipe lolcats_recipe();

}  // namespace unbend::lm
