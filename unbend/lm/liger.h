// Recipe `liger`: half gated linear recurrence, half sliding-window softmax, with gates taken from the pretrained keys.
// Source: Lan et al. 2025, "Liger: Linearizing Large Language Models to Gated Recurrent Structures", arXiv 2503.01496,
// and its official code (OpenSparseLLMs/Linearization), whose 1/16 on the gate's logarithm the text omits.
//
// Per token (section 3): q, k, v from the pretrained projections; gate log alpha_t = log sigmoid(z_t) / 16 with z_t
// pooled from k_t before rotation; q^, k^ = softmax over a head's entries; S_t = diag(alpha_t) S_{t-1} + k^_t^T v_t;
// o_t = a q^_t S_t + b window(q, k, v)_t.
#pragma once

#include "unbend/lm/recipe.h"

namespace unbend::lm {

/// Options beside the common ones:
///   variant                  gla, hgrn2, gsa, mamba2, mlstm, rwkv6 or gated_deltanet (table 1)
///   gate_source              k (the paper's choice), q, v (table 8) or projection (a trained map of the layer's input)
///   gate                     false: alpha = 1; not for hgrn2 and gsa, which write with 1 - alpha
///   gate_logit_normalizer    divides log alpha where the official code does (gla, gsa, gated_deltanet)
///   pool_size                entries that one pooling output covers (1: none; must divide the source's width)
///   feature_map              softmax (no weights) or learned ([softmax(x M), softmax(-x M)] per head; not for gsa,
///                            which has no features)
///   slots                    M of gsa; 0: the head width
///   mix_linear, mix_window   weights a and b (0.5 each; 0 switches a branch off)
Recipe liger_recipe();

}  // namespace unbend::lm
