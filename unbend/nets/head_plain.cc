#include "unbend/nets/head_plain.h"

#include <torch/types.h>

#include <limits>

#include "unbend/base/error.h"

namespace unbend::plain {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

at::Tensor logits_of(const at::Tensor& hidden, const FrozenHead& head) {
  const auto type = head.weight.scalar_type();
  return at::linear(hidden.to(type), head.weight).to(type == at::kDouble ? at::kDouble : at::kFloat);
}

/// values[n, ids[n]], 0 where the id is -1.
at::Tensor picked(const at::Tensor& values, const at::Tensor& ids) {
  const auto at_ids = values.gather(1, ids.clamp_min(0).unsqueeze(1)).squeeze(1);
  return at_ids.masked_fill(ids < 0, 0);
}

}  // namespace

DistillationLoss distillation_loss(const at::Tensor& hidden, const FrozenHead& head, const TokenTargets& targets,
                                   double kl_weight, double ce_weight) {
  const auto z = logits_of(hidden, head);
  const auto lse = z.logsumexp(-1);
  const auto counted = targets.next >= 0;
  const auto cross_entropy = (lse - picked(z, targets.next)).masked_fill(counted.logical_not(), 0);
  auto divergence = at::zeros_like(cross_entropy);
  if (targets.ids.size(1) > 0) {
    const auto ids = targets.ids.to(at::kLong);
    const auto named = ids >= 0;
    const auto log_p = targets.log_probs.to(z.scalar_type());
    const auto p = log_p.exp().masked_fill(named.logical_not(), 0);
    auto p_tail = 1 - p.to(at::kDouble).sum(1);
    const double least = p_tail.masked_fill(counted.logical_not(), 0).min().item<double>();
    require(least > -1e-3, "distillation_loss: the teacher's probabilities at a position sum to {}", 1 - least);
    p_tail = p_tail.masked_fill(p_tail < 1e-7, 0).to(z.scalar_type());  // as the fused kernel has it
    // The tail from the logits of all other tokens: never the difference of two numbers close to 1.
    auto taken = at::zeros({z.size(0), z.size(1) + 1}, z.options().dtype(at::kBool));
    taken.scatter_(1, ids.masked_fill(named.logical_not(), z.size(1)), true);
    const auto tail = z.masked_fill(taken.narrow(1, 0, z.size(1)), -kInfinity).logsumexp(-1);
    const auto terms = p * (log_p - (z.gather(1, ids.clamp_min(0)) - lse.unsqueeze(1)));
    const auto no_tail = (p_tail == 0) | tail.isneginf();
    const auto of_tail = p_tail * (p_tail.log() - (tail - lse));
    divergence =
        (terms.masked_fill(p == 0, 0).sum(1) + of_tail.masked_fill(no_tail, 0)).masked_fill(counted.logical_not(), 0);
  }
  const auto loss = (divergence * kl_weight + cross_entropy * ce_weight).sum() / counted.sum().clamp_min(1);
  return {loss, cross_entropy.detach(), divergence.detach()};
}

TokenScores next_token_scores(const at::Tensor& hidden, const FrozenHead& head, const at::Tensor& next, int64_t top) {
  const auto z = logits_of(hidden, head);
  const auto lse = z.logsumexp(-1);
  const auto [values, ids] = z.topk(top, -1);
  return {(picked(z, next) - lse).masked_fill(next < 0, 0), z.argmax(-1), lse, ids.to(at::kInt),
          values - lse.unsqueeze(1)};
}

std::vector<ComparedScores> compare_scores(const std::vector<at::Tensor>& hidden, const std::vector<FrozenHead>& heads,
                                           const at::Tensor& next) {
  std::vector<ComparedScores> results;
  at::Tensor teacher;
  for (size_t m = 0; m < hidden.size(); ++m) {
    const auto log_probs = at::log_softmax(logits_of(hidden[m], heads[m]), -1);
    if (m == 0) teacher = log_probs;
    results.push_back({picked(log_probs, next), log_probs.argmax(-1), (teacher.exp() * (teacher - log_probs)).sum(-1)});
  }
  return results;
}

}  // namespace unbend::plain
