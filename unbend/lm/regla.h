// Recipe `regla`: gated linear attention with bounded exponential features, a refined forget gate, and a norm in place
// of the denominator; then all weights train on.
// Source: Lu et al. 2025, "ReGLA: Refining Gated Linear Attention", NAACL 2025, arXiv 2502.01578, as two independent
// public descriptions of its method section agree on it (no official code is known).
//
// Per query head of width d, with the layer's normed input x_t and kv heads repeated:
//   phi_q = s exp(q_t - max_j q_tj),  phi_k = exp(k_t - M_t),  M_t = max over u <= t and j of k_uj,
//   s = 1 / (e sqrt(d (e^2 - 1)))
//   g_t = sigmoid(W_g x_t + b_g),  r_t = sigmoid(W_r x_t + b_r),  f_t = (1 - r_t) g_t^2 + r_t (1 - (1 - g_t)^2)
//   S_t = exp(M_{t-1} - M_t) S_{t-1} diag(f_t) + phi_k^T v_t,  h_t = phi_q S_t,  y_t = gain * h_t / rms(h_t)
// so f decays the state along its value axis. The running maximum is the global one up to a factor that the norm
// removes, without a look ahead.
#pragma once

#include "unbend/lm/recipe.h"

namespace unbend::lm {

/// Options beside the common ones (it has no window; LoRA rank 0, since all weights train):
///   feature       safe_exp (above), relu, elu1 (elu + 1), hedgehog (learned softmax pairs, feature_map.h) or none
///   shift         of safe_exp keys: running, global (over the whole sequence: no streaming) or none
///   scale_s       s with safe_exp (false: 1)
///   gate          refined (above), sigmoid (f = g), scalar (one g per head; S_t = g S + (1 - g) phi_k^T v_t),
///                 delta (one g per head; S_t = S - g phi_k^T phi_k S + g phi_k^T v_t with unit phi_k),
///                 fast_decay (two gates, S decays by g_value along one axis and by g_key along the other) or none
///   gate_axis     of refined and sigmoid: value, or key as in flash-linear-attention's GLA
///   gate_rank     r > 0: gates from r numbers per token (0: from all of x_t)
///   gate_bias     start of b_g (b_r starts at 0)
///   norm          rms or layer, per head and with a gain, or none
///   denominator   true: divide h_t by the same sum without values (per value channel where f decays values)
///   rope          rotate q and k before the features, as the model that is converted does
///   init          teacher, or random: projections q, k, v and o of converted layers start anew, N(0, 1 / inputs)
///   warm_start    before all weights train: gates (gates and gains, to the teacher's heads), projections (the same and
///                 W_q, W_k, W_o, with init=random W_v too, to the outputs of the teacher's attention) or none
/// Baselines: feature=relu gate=none norm=none denominator=true is linear attention; feature=none gate=fast_decay is
/// Mao 2022 (arXiv 2210.04243); gate=scalar is RFA's gate, gate=delta the delta rule (Schlag et al. 2021,
/// arXiv 2102.11174).
/// A gauge says how far the largest entries of keys lie apart: below 80 or so, none of them underflows.
Recipe regla_recipe();

/// log f from the logits of g and r, finite and <= 0 for finite logits.
at::Tensor refined_log_gate(const at::Tensor& g, const at::Tensor& r);

/// s above: 1 over the standard deviation of sum_i exp(x_i) exp(y_i) for d pairs of standard normal numbers.
double feature_scale(std::int64_t d);

}  // namespace unbend::lm
