// The output head's losses and scores (head.h) in plain tensor operations, for devices without kernels of ours: with
// the whole [tokens, vocabulary] matrix of logits.
#pragma once

#include "unbend/nets/head.h"

namespace unbend::plain {

/// Arguments as in head.h, checked, on one device; `targets.ids` defined, perhaps without columns. Differentiable in
/// hidden any number of times.
DistillationLoss distillation_loss(const at::Tensor& hidden, const FrozenHead& head, const TokenTargets& targets,
                                   double kl_weight, double ce_weight);
TokenScores next_token_scores(const at::Tensor& hidden, const FrozenHead& head, const at::Tensor& next, int64_t top);
std::vector<ComparedScores> compare_scores(const std::vector<at::Tensor>& hidden, const std::vector<FrozenHead>& heads,
                                           const at::Tensor& next);

}  // namespace unbend::plain
