// Recipe `supra`: attention becomes a recurrence with fixed decay, learned features and GroupNorm; then all weights
// train on ("uptraining"), without a teacher.
// Source: Mercat et al. 2024, "Linearizing Large Language Models", arXiv 2405.06640, and its official code
// (TRI-ML/linear_open_lm), which is followed where the paper is silent.
//
// Per token, with q, k, v from the pretrained projections and A, B over the heads joined into one vector:
//   phi_q = rope(relu(A q + a), t),  phi_k = rope(relu(B k + b), t) / sqrt(d)
//   S_t = gamma_h S_{t-1} + phi_k^T v_t,  u_t = phi_q S_t,  y_t = (u_t - mean u_t) / sqrt(var u_t + 1e-5)   per head h
#pragma once

#include <string>
#include <vector>

#include "unbend/lm/recipe.h"

namespace unbend::lm {

/// Options beside the common ones (it has no window; LoRA rank 0, since all weights train):
///   decay         lightning (see decay_slopes), retnet (gamma_h = 1 - 2^(-5-h)) or none
///   decay_start   the first slope of lightning instead of its own; the others keep their ratio to it (0: off)
///   slopes        a list of -log gamma, one per query head, instead of those of `decay`
///   kernel_init   default (uniform, as linear layers start) or identity (a = b = 0)
///   qk_norm       normalise phi over all heads, with a gain, before the rotation
///   rope          after the kernel, before it, or none
///   rope_base     of the rotation's angles, in place of the model's own (0); the paper takes 1e6 for long sequences
///   normalise     true: divide by max(sum of the weights, 1e-7) instead of GroupNorm. With decay=none and rope=before
///                 this is T2R (Kasai et al. 2021, arXiv 2103.13076), the paper's baseline
///   transfer      a stage before the others that fits the features to the teacher's heads (not in the paper)
///   two_step      train the features alone first
/// A = B when there are as many key heads as query heads, as in the code. States are per query head, or per key head if
/// all query heads of one decay alike.
Recipe supra_recipe();

/// s_h = -log gamma_h >= 0 of `heads` heads by the name of a decay. lightning: r^(h+1) with r = 2^(-8/H) where H is a
/// power of two; else the slopes of the largest such c < H, then every second one of 2c. Input error for another name.
std::vector<double> decay_slopes(const std::string& decay, std::int64_t heads, double start = 0);

}  // namespace unbend::lm
