#pragma once
#include "unbend/lm/head.h"
namespace unbend::lm {
/// Mean next-token cross-entropy with gradients to the head too; for small vocabularies.
inline at::Tensor plain_cross_entropy(const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& targets) {
  const auto logits = at::linear(hidden, head);
  return at::cross_entropy_loss(logits.to(logits.scalar_type() == at::kDouble ? at::kDouble : at::kFloat), targets, {}, at::Reduction::Mean, -1);
}
}
