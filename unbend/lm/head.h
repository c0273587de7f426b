#pragma once
#include <torch/types.h>
namespace unbend {
struct TokenScores { at::Tensor logprob, lse, argmax, top_ids, top_logprobs; };
inline TokenScores next_token_scores(const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& targets, int64_t top_k) {
  std::vector<at::Tensor> lp, lse, am, ti, tl;
  for (int64_t i = 0; i < hidden.size(0); i += 256) {
    auto z = at::linear(hidden.slice(0, i, i + 256), head).to(at::kFloat);
    auto l = at::logsumexp(z, {-1});
    lse.push_back(l); am.push_back(z.argmax(-1));
    lp.push_back(z.gather(1, targets.slice(0, i, i + 256).clamp_min(0).unsqueeze(1)).squeeze(1) - l);
    if (top_k) { auto [v, x] = z.topk(top_k, -1); ti.push_back(x); tl.push_back(v - l.unsqueeze(1)); }
  }
  return {at::cat(lp), at::cat(lse), at::cat(am), top_k ? at::cat(ti) : at::Tensor(), top_k ? at::cat(tl) : at::Tensor()};
}
inline at::Tensor divergence(const at::Tensor& hp, const at::Tensor& wp, const at::Tensor& hq, const at::Tensor& wq) {
  std::vector<at::Tensor> out;
  for (int64_t i = 0; i < hp.size(0); i += 256) {
    auto p = at::log_softmax(at::linear(hp.slice(0, i, i + 256), wp).to(at::kFloat), -1);
    auto q = at::log_softmax(at::linear(hq.slice(0, i, i + 256), wq).to(at::kFloat), -1);
    out.push_back((p.exp() * (p - q)).sum(-1));
  }
  return at::cat(out);
}
struct DistillationLoss { at::Tensor loss, cross_entropy, kl; };
inline DistillationLoss distillation_loss(const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& targets, const at::Tensor& top_ids, const at::Tensor& top_logprobs, double kl_weight, double ce_weight) {
  auto z = at::log_softmax(at::linear(hidden, head).to(at::kFloat), -1);
  auto valid = (targets >= 0).to(at::kFloat);
  auto n = valid.sum().clamp_min(1);
  auto ce = -z.gather(1, targets.clamp_min(0).unsqueeze(1)).squeeze(1) * valid;
  auto loss = ce_weight * ce.sum() / n;
  at::Tensor kl;
  if (kl_weight != 0) {
    auto s = z.gather(1, top_ids.to(at::kLong));
    auto p = top_logprobs.exp();
    auto pt = (1 - p.sum(-1)).clamp_min(1e-8), st = (1 - s.exp().sum(-1)).clamp_min(1e-8);
    kl = ((p * (top_logprobs - s)).sum(-1) + pt * (pt.log() - st.log())) * valid;
    loss = loss + kl_weight * kl.sum() / n;
  }
  return {loss, ce.detach(), kl.defined() ? kl.detach() : kl};
}
}
