// Losses and scores on the output head against the matrix of logits.
#include "unbend/nets/head.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>

#include "unbend/base/error.h"
#include "unbend/nets/head_plain.h"

namespace unbend {
namespace {

at::Tensor random(at::IntArrayRef sizes, uint64_t seed, at::ScalarType dtype = at::kDouble) {
  return at::randn(sizes, at::make_generator<at::CPUGeneratorImpl>(seed), at::TensorOptions().dtype(at::kDouble))
      .to(dtype);
}

double difference(const at::Tensor& x, const at::Tensor& y) {
  if (y.numel() == 0) return 0;
  return ((x.to(at::kDouble) - y.to(at::kDouble)).abs().max() / y.to(at::kDouble).abs().max().clamp_min(1e-3))
      .item<double>();
}

struct Problem {
  at::Tensor hidden, weight;
  TokenTargets targets;
};

// Teacher targets are the likeliest tokens of another random model.
Problem problem(int64_t tokens, int64_t vocabulary, int64_t width, int64_t top) {
  Problem p{random({tokens, width}, 1), random({vocabulary, width}, 2) * 0.5, {}};
  p.targets.next =
      at::randint(vocabulary, {tokens}, at::make_generator<at::CPUGeneratorImpl>(3), at::TensorOptions(at::kLong));
  p.targets.next[tokens / 2] = -1;
  if (top > 0) {
    const auto teacher = at::log_softmax(at::mm(p.hidden + 0.3 * random({tokens, width}, 4), p.weight.t()), 1);
    const auto best = teacher.topk(top, 1);
    p.targets.ids = std::get<1>(best).to(at::kInt);
    p.targets.log_probs = std::get<0>(best).to(at::kFloat);
    if (tokens > 1) p.targets.next[0] = p.targets.ids[0][top - 1].item<int>();
  }
  return p;
}

struct Naive {
  at::Tensor loss, cross_entropy, divergence;
};

Naive naive(const at::Tensor& hidden, const Problem& p, double kl_weight, double ce_weight) {
  const auto log_s = at::log_softmax(at::mm(hidden, p.weight.t()), 1);
  const auto counts = p.targets.next.ge(0);
  const auto ce = at::where(counts, -log_s.gather(1, p.targets.next.clamp_min(0).unsqueeze(1)).squeeze(1), 0.0);
  auto kl = at::zeros_like(ce);
  if (p.targets.ids.defined()) {
    const auto used = p.targets.ids.ge(0);
    const auto ids = p.targets.ids.to(at::kLong).clamp_min(0);
    const auto log_p = p.targets.log_probs.to(at::kDouble);
    const auto prob = at::where(used, log_p.exp(), 0.0);
    kl = (prob * (log_p - log_s.gather(1, ids))).sum(1);
    const auto named = at::zeros_like(log_s).scatter_add(1, ids, used.to(at::kDouble)).gt(0);
    const auto log_tail = log_s.masked_fill(named, -INFINITY).logsumexp(1);
    const auto p_tail = 1 - prob.sum(1);
    kl = kl + at::where(p_tail > 1e-7, p_tail * (p_tail.clamp_min(1e-300).log() - log_tail), 0.0);
    kl = at::where(counts, kl, 0.0);
  }
  return {(kl * kl_weight + ce * ce_weight).sum() / counts.sum(), ce, kl};
}

class Distillation : public testing::TestWithParam<int64_t> {};

TEST_P(Distillation, EqualsTheMatrixOfLogits) {
  const int64_t top = GetParam();
  // More than one chunk of tokens, more than one slice of panels, and none of them full.
  for (const int64_t tokens : {1, 37, 131}) {
    auto p = problem(tokens, 1111, 24, top);
    if (top > 2) p.targets.ids[tokens - 1][1] = -1;
    const auto reference_hidden = p.hidden.clone().requires_grad_();
    const auto expected = naive(reference_hidden, p, 0.9, 0.1);
    const bool any = tokens > 1;  // with one token, none counts
    const auto expected_gradient =
        any ? torch::autograd::grad({expected.loss}, {reference_hidden})[0] : at::zeros_like(p.hidden);
    for (const auto dtype : {at::kDouble, at::kFloat}) {
      const auto hidden = p.hidden.to(dtype).requires_grad_();
      const auto head = freeze_head(p.weight.to(dtype));
      const auto result = distillation_loss(hidden, head, p.targets, 0.9, 0.1);
      const double bound = dtype == at::kDouble ? 1e-11 : 2e-5;
      if (any) {
        EXPECT_LT(difference(result.loss, expected.loss), bound);
      } else {
        EXPECT_EQ(result.loss.item<double>(), 0);
      }
      EXPECT_LT(difference(result.cross_entropy, expected.cross_entropy), bound);
      EXPECT_LT(difference(result.divergence, expected.divergence), bound);
      const auto gradient = torch::autograd::grad({result.loss * 2}, {hidden})[0];
      EXPECT_EQ(gradient.scalar_type(), dtype);
      EXPECT_LT(difference(gradient / 2, expected_gradient), dtype == at::kDouble ? 1e-11 : 1e-4);
      EXPECT_LT(difference(distillation_loss(hidden.detach(), head, p.targets, 0.9, 0.1).loss, result.loss), bound);

      auto targets = p.targets;  // as on devices without kernels
      if (!targets.ids.defined())
        targets.ids = at::empty({tokens, 0}, at::kInt), targets.log_probs = at::empty({tokens, 0});
      const auto elsewhere = plain::distillation_loss(hidden, head, targets, 0.9, 0.1);
      EXPECT_LT(difference(elsewhere.loss, result.loss), bound);
      EXPECT_LT(difference(elsewhere.cross_entropy, expected.cross_entropy), bound);
      EXPECT_LT(difference(elsewhere.divergence, expected.divergence), bound);
      EXPECT_LT(difference(torch::autograd::grad({elsewhere.loss}, {hidden})[0], expected_gradient),
                dtype == at::kDouble ? 1e-11 : 1e-4);
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Tops, Distillation, testing::Values(0, 1, 16, 64));

TEST(DistillationBFloat16, StaysCloseToTheMatrixOfLogits) {
  auto p = problem(70, 2000, 64, 32);
  p.weight = p.weight.to(at::kBFloat16).to(at::kDouble);
  p.hidden = p.hidden.to(at::kBFloat16).to(at::kDouble);
  const auto reference_hidden = p.hidden.clone().requires_grad_();
  const auto expected = naive(reference_hidden, p, 0.9, 0.1);
  const auto expected_gradient = torch::autograd::grad({expected.loss}, {reference_hidden})[0];
  const auto hidden = p.hidden.to(at::kFloat).requires_grad_();
  const auto result = distillation_loss(hidden, freeze_head(p.weight.to(at::kBFloat16)), p.targets, 0.9, 0.1);
  // Inputs were rounded beforehand and logits are float32: only the gradient's rounding to 8 bits is left.
  EXPECT_LT(difference(result.cross_entropy, expected.cross_entropy), 2e-5);
  EXPECT_LT(difference(result.divergence, expected.divergence), 2e-5);
  EXPECT_LT(difference(torch::autograd::grad({result.loss}, {hidden})[0], expected_gradient), 4e-3);
}

TEST(DistillationEdges, AConfidentStudentKeepsItsTail) {
  // Logits 0 and +-40: the tail's probability is e^-80 and its complement rounds to 1.
  auto hidden = at::full({1, 1}, 40.0, at::kDouble).requires_grad_();
  const auto head = freeze_head(at::tensor({1.0, 0.0, -1.0}, at::kDouble).unsqueeze(1));
  const TokenTargets targets{at::tensor({0}, at::kLong), at::zeros({1, 1}, at::kInt),
                             at::full({1, 1}, std::log(0.75f))};
  const auto result = distillation_loss(hidden, head, targets, 1, 0);
  const double tail = std::log1p(std::exp(-40.0)) - 40;  // of the two others, relative to the first
  EXPECT_NEAR(result.divergence[0].item<double>(), 0.75 * std::log(0.75) + 0.25 * (std::log(0.25) - tail), 1e-6);
  // d/dh: s_0 - p_0 at the first logit and s_j - s_j p_tail / s_tail for the others.
  result.loss.backward();
  const double q = 1 / (1 + std::exp(-40.0));
  EXPECT_NEAR(hidden.grad()[0][0].item<double>(), (1 - 0.75) * 1 + 0.25 * (1 - q), 1e-6);
}

TEST(DistillationEdges, ATeacherWithoutATailGivesFiniteNumbers) {
  const auto head = freeze_head(random({3, 4}, 2));
  auto hidden = random({2, 4}, 1).requires_grad_();
  const TokenTargets targets{at::tensor({0, 2}, at::kLong), at::tensor({0, 1, 2, 2, 1, 0}, at::kInt).view({2, 3}),
                             at::full({2, 3}, std::log(1.0f / 3))};
  const auto result = distillation_loss(hidden, head, targets, 1, 1);
  result.loss.backward();
  EXPECT_TRUE(std::isfinite(result.loss.item<double>()));
  const auto log_s = at::log_softmax(at::mm(hidden.detach(), head.weight.t()), 1);
  EXPECT_NEAR(result.divergence[0].item<double>(), (std::log(1.0 / 3) - log_s[0]).mean().item<double>(), 1e-6);
  EXPECT_TRUE(at::isfinite(hidden.grad()).all().item<bool>());
}

TEST(DistillationEdges, ResultsDoNotDependOnTheNumberOfThreads) {
  const auto p = problem(140, 5000, 32, 8);
  const auto head = freeze_head(p.weight.to(at::kBFloat16));
  const int before = at::get_num_threads();
  std::vector<at::Tensor> gradients;
  for (const int threads : {1, 2}) {
    at::set_num_threads(threads);
    const auto hidden = p.hidden.to(at::kFloat).requires_grad_();
    gradients.push_back(
        torch::autograd::grad({distillation_loss(hidden, head, p.targets, 0.9, 0.1).loss}, {hidden})[0]);
  }
  at::set_num_threads(before);
  EXPECT_TRUE(at::equal(gradients[0], gradients[1]));
}

TEST(DistillationEdges, RefusesWhatDoesNotFit) {
  const auto p = problem(6, 40, 8, 3);
  const auto head = freeze_head(p.weight);
  const auto with = [&](const auto& change) {
    auto targets = p.targets;
    targets.next = targets.next.clone(), targets.ids = targets.ids.clone(),
    targets.log_probs = targets.log_probs.clone();
    change(targets);
    return [=, &head, &p] { distillation_loss(p.hidden, head, targets, 1, 1); };
  };
  EXPECT_NO_THROW(with([](TokenTargets&) {})());
  EXPECT_THROW(with([](TokenTargets& t) { t.next = t.next.narrow(0, 0, 5); })(), Error);
  EXPECT_THROW(with([](TokenTargets& t) { t.next[1] = 40; })(), Error);
  EXPECT_THROW(with([](TokenTargets& t) { t.next[1] = -2; })(), Error);
  EXPECT_THROW(with([](TokenTargets& t) { t.ids[1][1] = 40; })(), Error);
  EXPECT_THROW(with([](TokenTargets& t) { t.ids = t.ids.to(at::kLong); })(), Error);
  EXPECT_THROW(with([](TokenTargets& t) { t.log_probs = t.log_probs.narrow(1, 0, 2); })(), Error);
  EXPECT_THROW(with([](TokenTargets& t) { t.log_probs.fill_(0); })(), Error);
  EXPECT_THROW(distillation_loss(p.hidden.narrow(1, 0, 7), head, p.targets, 1, 1), Error);
  EXPECT_THROW(distillation_loss(p.hidden, head, p.targets, NAN, 1), Error);
  EXPECT_THROW(freeze_head(p.weight.select(0, 0)), Error);
  const auto hidden = p.hidden.clone().requires_grad_();
  const auto loss = distillation_loss(hidden, head, p.targets, 1, 1).loss;
  const auto gradient = torch::autograd::grad({loss}, {hidden}, {}, true, true)[0];
  EXPECT_THROW(torch::autograd::grad({gradient.sum()}, {hidden}), Error);
}

TEST(Scores, EqualTheMatrixOfLogits) {
  for (const auto dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    const int64_t tokens = 135, vocabulary = 3001, top = 20;
    const auto weight = random({vocabulary, 16}, 2, dtype), hidden = random({tokens, 16}, 1, dtype);
    auto next =
        at::randint(vocabulary, {tokens}, at::make_generator<at::CPUGeneratorImpl>(3), at::TensorOptions(at::kLong));
    next[5] = -1;
    const auto logits = at::mm(hidden.to(at::kDouble), weight.to(at::kDouble).t());
    const auto log_s = at::log_softmax(logits, 1);
    const auto scores = next_token_scores(hidden, freeze_head(weight), next, top);
    const double bound = dtype == at::kDouble ? 1e-12 : 1e-5;
    EXPECT_LT(difference(scores.lse, logits.logsumexp(1)), bound);
    EXPECT_TRUE(at::equal(scores.best, logits.argmax(1)));
    const auto wanted = at::where(next.ge(0), log_s.gather(1, next.clamp_min(0).unsqueeze(1)).squeeze(1), 0.0);
    EXPECT_LT(difference(scores.log_prob, wanted), bound);
    const auto best = log_s.topk(top, 1);
    EXPECT_LT(difference(scores.top_log_probs, std::get<0>(best)), bound);
    EXPECT_LT(difference(log_s.gather(1, scores.top_ids.to(at::kLong)), std::get<0>(best)), bound);
    EXPECT_EQ(next_token_scores(hidden, freeze_head(weight), next).top_ids.size(1), 0);
    const auto elsewhere =
        plain::next_token_scores(hidden.to(at::kDouble), freeze_head(weight.to(at::kDouble)), next, top);
    EXPECT_TRUE(at::equal(elsewhere.best, scores.best));
    EXPECT_TRUE(at::equal(elsewhere.top_ids, scores.top_ids));
    for (const auto& [a, b] : {std::pair{elsewhere.lse, scores.lse},
                               {elsewhere.log_prob, scores.log_prob},
                               {elsewhere.top_log_probs, scores.top_log_probs}})
      EXPECT_LT(difference(a, b), bound);
  }
}

TEST(Scores, TiesGoToTheLowerId) {
  const auto head = freeze_head(at::ones({700, 2}, at::kDouble));
  const auto scores = next_token_scores(at::ones({1, 2}, at::kDouble), head, at::tensor({3}, at::kLong), 700);
  EXPECT_EQ(scores.best[0].item<int64_t>(), 0);
  EXPECT_TRUE(at::equal(scores.top_ids[0], at::arange(700, at::kInt)));
  EXPECT_NEAR(scores.log_prob[0].item<double>(), -std::log(700.0), 1e-12);
  EXPECT_THROW(next_token_scores(at::ones({1, 2}, at::kDouble), head, at::tensor({3}, at::kLong), 701), Error);
}

TEST(ComparedScores, EqualTheMatricesOfLogits) {
  for (const auto dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    const int64_t tokens = 130, vocabulary = 1501;
    const std::vector<int64_t> widths{16, 8, 16};
    std::vector<at::Tensor> hidden, log_probs;
    std::vector<FrozenHead> heads;
    for (std::size_t m = 0; m < widths.size(); ++m) {
      const auto weight = random({vocabulary, widths[m]}, 2 * m + 1, dtype);
      hidden.push_back(random({tokens, widths[m]}, 2 * m + 2, dtype));
      heads.push_back(freeze_head(weight));
      log_probs.push_back(at::log_softmax(at::mm(hidden[m].to(at::kDouble), weight.to(at::kDouble).t()), 1));
    }
    auto next = at::arange(tokens, at::kLong) * 11 % vocabulary;
    next[3] = -1;
    const double bound = dtype == at::kDouble ? 1e-12 : 1e-5;
    const auto scores = compare_scores(hidden, heads, next);
    for (std::size_t m = 0; m < widths.size(); ++m) {
      const auto wanted = at::where(next.ge(0), log_probs[m].gather(1, next.clamp_min(0).unsqueeze(1)).squeeze(1), 0.0);
      EXPECT_LT(difference(scores[m].log_prob, wanted), bound);
      EXPECT_TRUE(at::equal(scores[m].best, log_probs[m].argmax(1)));
      const auto kl = (log_probs[0].exp() * (log_probs[0] - log_probs[m])).sum(1);
      EXPECT_LT(difference(scores[m].divergence, kl), bound);
      if (dtype == at::kBFloat16) continue;  // there logits round in plain products
      const auto elsewhere = plain::compare_scores(hidden, heads, next)[m];
      EXPECT_LT(difference(elsewhere.log_prob, wanted), bound);
      EXPECT_TRUE(at::equal(elsewhere.best, scores[m].best));
      EXPECT_LT(difference(elsewhere.divergence, kl), bound);
    }
    EXPECT_THROW(compare_scores({hidden[0], hidden[1]}, {heads[0]}, next), Error);
    EXPECT_THROW(compare_scores({hidden[0], hidden[1]}, {heads[0], heads[0]}, next), Error);
    EXPECT_THROW(compare_scores({hidden[0], hidden[2].slice(0, 1)}, {heads[0], heads[2]}, next), Error);
  }
}

}  // namespace
}  // namespace unbend
