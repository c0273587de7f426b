// A language model's output head without the [tokens, vocabulary] matrix of logits: losses with gradients, scores, and
// comparisons of two models. Logits exist for about a hundred tokens at a time; on devices that are not CPUs, where
// plain tensor operations serve (head_plain.h), for all.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

namespace unbend {

/// A head whose weight does not train, kept in the two layouts that its products read.
struct FrozenHead {
  at::Tensor weight;      ///< [V, M], contiguous
  at::Tensor transposed;  ///< [panels, M, leading dimension]: W^T in column panels, see head.cc; on CPUs only
  int64_t vocabulary() const { return weight.size(0); }
  int64_t width() const { return weight.size(1); }
};

/// weight [V, M] float32, float64 or bfloat16 (products in bfloat16 with float32 sums; float32 where the machine has no
/// such products). Takes twice the memory of the weight, with copies unless it is contiguous.
FrozenHead freeze_head(const at::Tensor& weight);

/// What a decoder should say at N positions.
struct TokenTargets {
  at::Tensor next;  ///< [N] int64, the true next token; -1: the position counts for nothing
  at::Tensor ids;   ///< [N, K] int32, the teacher's K likeliest tokens, distinct; -1: unused. Undefined: no teacher
  at::Tensor log_probs;  ///< [N, K] float32, their log-probabilities over the whole vocabulary
};

struct DistillationLoss {
  at::Tensor loss;           ///< scalar: mean over counted positions of kl_weight * KL + ce_weight * CE
  at::Tensor cross_entropy;  ///< [N], detached; 0 where the position does not count
  at::Tensor divergence;     ///< [N], detached: KL(teacher || student) over the K tokens and one bucket for all others
};

/// hidden [N, M] (after the final norm), any floating dtype; products in the head's. Differentiable in hidden, once,
/// and that gradient once more in its cotangent (the push); it is computed with the loss, so keep gradients disabled
/// where none is wanted. loss and the details are float64 for a float64 head, else float32. Throws Error (Input) on
/// shapes or ids that do not fit and on teacher probabilities that sum to more than 1.
DistillationLoss distillation_loss(const at::Tensor& hidden, const FrozenHead& head, const TokenTargets& targets,
                                   double kl_weight, double ce_weight);

struct TokenScores {
  at::Tensor log_prob;       ///< [N], of the target; 0 where the target is -1
  at::Tensor best;           ///< [N] int64, the likeliest token, the first among equals
  at::Tensor lse;            ///< [N], log of the sum of exp(logit)
  at::Tensor top_ids;        ///< [N, K] int32, likeliest first
  at::Tensor top_log_probs;  ///< [N, K]
};

/// Scores of the next tokens `next` [N] int64 (-1: none), and the `top` likeliest tokens (0: none): TokenTargets of a
/// teacher. hidden [N, M]. No gradients.
TokenScores next_token_scores(const at::Tensor& hidden, const FrozenHead& head, const at::Tensor& next,
                              int64_t top = 0);

/// What a model says of the next tokens, beside the teacher.
struct ComparedScores {
  at::Tensor log_prob;    ///< [N], of the target; 0 where the target is -1
  at::Tensor best;        ///< [N] int64, the likeliest token, the first among equals
  at::Tensor divergence;  ///< [N], KL(teacher || model) over the whole vocabulary; 0 for the teacher
};

/// Scores of models on the same positions, the teacher first, from hidden states [N, M] of each and its head; every
/// model's logits are computed once. `next` [N] int64 (-1: none). Heads agree in vocabulary and dtype. No gradients.
std::vector<ComparedScores> compare_scores(const std::vector<at::Tensor>& hidden, const std::vector<FrozenHead>& heads,
                                           const at::Tensor& next);

}  // namespace unbend
