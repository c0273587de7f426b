#include "unbend/tensor/adamw.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/optim/adamw.h>

#include <cmath>

#include "unbend/base/error.h"
#include "unbend/tensor/schedule.h"

namespace unbend {
namespace {

at::Tensor parameter(at::IntArrayRef shape, at::ScalarType type, std::uint64_t seed) {
  at::manual_seed(seed);
  return at::randn(shape, type).set_requires_grad(true);
}

// A gradient that depends on the parameter, so that errors of one step show in the next.
void set_grad(const at::Tensor& p, int step) { p.mutable_grad() = (p.detach() * 3 + 0.7 * step).sin(); }

TEST(AdamW, FollowsTheDefinitionInFloat64) {
  const double lr = 0.02, decay = 0.1, beta1 = 0.8, beta2 = 0.95, eps = 1e-6;
  const auto p = parameter({37}, at::kDouble, 1);
  auto x = p.detach().clone(), m = at::zeros_like(x), v = at::zeros_like(x);
  AdamW optimizer({{{p}, lr, decay, beta1, beta2, eps}});
  for (int t = 1; t <= 20; ++t) {
    const double rate = lr / t;
    set_grad(p, t);
    const auto g = p.grad().clone();
    ASSERT_TRUE(optimizer.step(1.0 / t));
    m = beta1 * m + (1 - beta1) * g;
    v = beta2 * v + (1 - beta2) * g * g;
    x = x - rate * decay * x - rate * (m / (1 - std::pow(beta1, t))) / ((v / (1 - std::pow(beta2, t))).sqrt() + eps);
    ASSERT_LT((p - x).abs().max().item<double>(), 1e-14);
  }
}

TEST(AdamW, AgreesWithTorchOptim) {
  const std::vector<std::vector<std::int64_t>> shapes{{64, 33}, {7}, {}};
  std::vector<at::Tensor> ours, theirs;
  for (const auto& shape : shapes) {
    ours.push_back(parameter(shape, at::kFloat, 2));
    theirs.push_back(ours.back().detach().clone().set_requires_grad(true));
  }
  AdamW optimizer({{ours, 0.01, 0.1, 0.9, 0.95, 1e-8}});
  torch::optim::AdamW reference(theirs, torch::optim::AdamWOptions(0.01).weight_decay(0.1).betas({0.9, 0.95}));
  for (int t = 1; t <= 30; ++t) {
    for (std::size_t i = 0; i < ours.size(); ++i) {
      if (t % 5 == 0 && i == 1) {  // no gradient now and then: steps are counted per parameter
        ours[i].mutable_grad().reset();
        theirs[i].mutable_grad().reset();
        continue;
      }
      set_grad(ours[i], t);
      set_grad(theirs[i], t);
    }
    optimizer.step();
    reference.step();
  }
  for (std::size_t i = 0; i < ours.size(); ++i) EXPECT_LT((ours[i] - theirs[i]).abs().max().item<double>(), 2e-6) << i;
}

TEST(AdamW, GroupsKeepTheirRates) {
  const auto a = parameter({4}, at::kFloat, 3), b = parameter({4}, at::kDouble, 3);
  const auto a0 = a.detach().clone(), b0 = b.detach().clone();
  AdamW optimizer({{{a}, 0.1, 0, 0.9, 0.999, 0}, {{b}, 0.001, 0, 0.9, 0.999, 0}});
  a.mutable_grad() = at::ones_like(a);
  b.mutable_grad() = -at::ones_like(b);
  optimizer.step(0.5);
  // The first step of Adam without eps is lr * sign(g).
  EXPECT_LT((a - (a0 - 0.05)).abs().max().item<double>(), 1e-6);
  EXPECT_LT((b - (b0 + 0.0005)).abs().max().item<double>(), 1e-12);
}

TEST(AdamW, GroupsAreIndependentBitForBit) {
  struct Settings {
    double lr, decay, eps;
  };
  const std::vector<Settings> all{{.02, .1, 1e-12}, {.005, .4, 1.5625e-14}, {.1, 0, 1e-2}, {.02, 0, 0}};
  const auto at = [](std::size_t i) { return parameter({5, 7}, at::kDouble, 20 + i); };
  std::vector<ParameterGroup> groups;
  std::vector<at::Tensor> alone;
  for (std::size_t i = 0; i < all.size(); ++i)
    groups.push_back({{at(i)}, all[i].lr, all[i].decay, .9, .95, all[i].eps});
  AdamW together(groups);
  for (int t = 1; t <= 10; ++t) {
    for (const auto& group : groups) set_grad(group.parameters[0], t);
    together.step(1. / t);
  }
  for (std::size_t i = 0; i < all.size(); ++i) {
    const auto p = at(i);
    AdamW single({{{p}, all[i].lr, all[i].decay, .9, .95, all[i].eps}});
    for (int t = 1; t <= 10; ++t) {
      set_grad(p, t);
      single.step(1. / t);
    }
    EXPECT_TRUE(p.equal(groups[i].parameters[0])) << i;
    for (std::size_t j = 0; j < i; ++j) EXPECT_FALSE(alone[j].equal(p)) << i << " and " << j;
    alone.push_back(p);
  }
}

TEST(AdamW, GradientsOfOtherLayoutsCount) {
  const auto p = parameter({3, 5}, at::kFloat, 4), q = p.detach().clone().set_requires_grad(true);
  const auto g = at::randn({5, 3});
  p.mutable_grad() = g.t();
  q.mutable_grad() = g.t().contiguous();
  AdamW first({{{p}}}), second({{{q}}});
  first.step();
  second.step();
  EXPECT_TRUE(p.equal(q));
}

TEST(AdamW, ResumesBitForBit) {
  const auto run = [](int steps, const at::Tensor& p, AdamW& optimizer, int first) {
    for (int t = first; t < first + steps; ++t) {
      set_grad(p, t);
      optimizer.step(warmup_cosine(t, 20, 0.1, 0.1), 1.0);
    }
  };
  const auto p = parameter({50'000}, at::kFloat, 5);
  const auto q = p.detach().clone().set_requires_grad(true);
  AdamW whole({{{p}}}), half({{{q}}});
  run(20, p, whole, 0);
  run(9, q, half, 0);
  std::map<std::string, at::Tensor> saved;
  for (const auto& [name, t] : half.state()) saved[name] = t.clone();
  const auto r = q.detach().clone().set_requires_grad(true);
  AdamW resumed({{{r}}});
  resumed.load_state(saved);
  run(11, r, resumed, 9);
  EXPECT_TRUE(r.equal(p));
  EXPECT_THROW(AdamW({{{parameter({3}, at::kFloat, 1)}}}).load_state(saved), Error);
  saved.erase("0.0.step");
  EXPECT_THROW(resumed.load_state(saved), Error);
}

TEST(AdamW, StepsWithoutFiniteGradientsAreSkippedAndCounted) {
  for (const float bad : {INFINITY, -INFINITY, NAN}) {
    const auto p = parameter({5}, at::kFloat, 6), q = parameter({5}, at::kFloat, 7);
    const auto before = p.detach().clone();
    AdamW optimizer({{{p, q}}});
    p.mutable_grad() = at::ones_like(p);
    q.mutable_grad() = at::ones_like(q);
    q.mutable_grad()[3] = bad;
    EXPECT_FALSE(optimizer.step(1, 1));
    EXPECT_EQ(optimizer.skipped(), 1);
    EXPECT_TRUE(p.equal(before));
    EXPECT_EQ(optimizer.state().at("0.0.step").item<float>(), 0);
    optimizer.zero_grad();
    EXPECT_FALSE(q.grad().defined());
    EXPECT_TRUE(optimizer.step());
  }
}

TEST(AdamW, BadParametersAreRefused) {
  const auto p = parameter({2}, at::kFloat, 1);
  EXPECT_THROW(AdamW({{{at::zeros({2})}}}), Error);
  EXPECT_THROW(AdamW({{{p, p}}}), Error);
  EXPECT_THROW(AdamW({{{p}}, {{p}}}), Error);
  EXPECT_THROW(AdamW({{{p, parameter({2}, at::kDouble, 1)}}}), Error);
  EXPECT_THROW(AdamW({{{parameter({2}, at::kBFloat16, 1)}}}), Error);
  EXPECT_THROW(AdamW({{{p}, -1.0}}), Error);
  EXPECT_THROW(AdamW({{{p}, 0.1, 0, 1.0}}), Error);
}

TEST(ClipGradNorm, ScalesOnlyLargeGradients) {
  const auto p = parameter({2}, at::kFloat, 1), q = parameter({}, at::kDouble, 1), none = parameter({2}, at::kFloat, 1);
  const auto set = [&] {
    p.mutable_grad() = at::tensor({3.0f, 0.0f});
    q.mutable_grad() = at::scalar_tensor(4.0, at::kDouble);
  };
  set();
  EXPECT_DOUBLE_EQ(clip_grad_norm({p, q, none}, 10), 5);
  EXPECT_EQ(p.grad()[0].item<double>(), 3);
  EXPECT_DOUBLE_EQ(clip_grad_norm({p, q, none}, 1), 5);
  EXPECT_NEAR(p.grad()[0].item<double>(), 0.6, 1e-6);
  EXPECT_NEAR(q.grad().item<double>(), 0.8, 1e-6);
  EXPECT_EQ(clip_grad_norm({none}, 1), 0);
  EXPECT_THROW(clip_grad_norm({p}, 0), Error);
}

TEST(Schedule, WarmsUpAndFallsToTheFloor) {
  EXPECT_DOUBLE_EQ(warmup_cosine(0, 100, 0.1, 0.2), 0.1);
  EXPECT_DOUBLE_EQ(warmup_cosine(9, 100, 0.1, 0.2), 1);
  EXPECT_DOUBLE_EQ(warmup_cosine(10, 100, 0.1, 0.2), 1);
  EXPECT_DOUBLE_EQ(warmup_cosine(55, 100, 0.1, 0.2), 0.6);
  EXPECT_DOUBLE_EQ(warmup_cosine(100, 100, 0.1, 0.2), 0.2);
  EXPECT_DOUBLE_EQ(warmup_cosine(1000, 100, 0.1, 0.2), 0.2);
  EXPECT_DOUBLE_EQ(warmup_cosine(0, 1, 0, 0), 1);
  for (int step = 10; step < 100; ++step)
    EXPECT_GT(warmup_cosine(step, 100, 0.1, 0.2), warmup_cosine(step + 1, 100, 0.1, 0.2));
  EXPECT_THROW(warmup_cosine(-1, 100, 0.1, 0), Error);
  EXPECT_THROW(warmup_cosine(0, 0, 0.1, 0), Error);
  EXPECT_THROW(warmup_cosine(0, 100, 1.1, 0), Error);
}

TEST(Schedule, PlateauReducesAfterPatience) {
  PlateauSchedule schedule{.patience = 3, .floor = 0.05};
  EXPECT_TRUE(schedule.update(1.0));
  for (int i = 0; i < 2; ++i) EXPECT_FALSE(schedule.update(1.0));
  EXPECT_EQ(schedule.scale, 1);
  PlateauSchedule resumed{.patience = 3, .floor = 0.05};
  resumed.load_state(Json::parse(schedule.state().dump()));
  EXPECT_FALSE(resumed.update(NAN));
  EXPECT_DOUBLE_EQ(resumed.scale, 0.1);
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(resumed.update(2.0));
  EXPECT_DOUBLE_EQ(resumed.scale, 0.05);
  EXPECT_TRUE(resumed.update(0.9));
  EXPECT_EQ(resumed.waited, 0);
  PlateauSchedule fresh;
  fresh.load_state(PlateauSchedule{}.state());
  EXPECT_EQ(fresh.best, INFINITY);
}

}  // namespace
}  // namespace unbend
