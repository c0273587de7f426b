#include "unbend/tangent/attack.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>

#include "tests/error_message.h"
#include "unbend/nets/network.h"

namespace unbend {
namespace {

struct Fixture {
  Network network;
  at::Tensor x, y;
  Classifier logits = [this](const at::Tensor& inputs) { return network(inputs); };

  explicit Fixture(uint64_t seed = 1) {
    Random random(seed);
    network = multilayer_perceptron({12, 40, 4}, {}, random);
    for (const auto& p : parameters(network)) p.tensor->mul_(3);
    x = uniform_tensor({300, 12}, .5, random) + .5;
    y = network(x).argmax(1);
  }
};

constexpr AttackObjective kBoth[] = {AttackObjective::CrossEntropy, AttackObjective::Margin};

TEST(Attack, StaysInTheBallAndInTheRange) {
  const Fixture f;
  for (const auto objective : kBoth) {
    for (const bool random_start : {false, true}) {
      Random random(2);
      const auto changed =
          attacked(f.logits, f.x, f.y, objective, {.radius = .2, .step = .15, .random_start = random_start}, random);
      EXPECT_LE((changed - f.x).abs().max().item<float>(), .2F + 1e-6F);
      EXPECT_GE(changed.min().item<float>(), 0);
      EXPECT_LE(changed.max().item<float>(), 1);
      EXPECT_GT((changed - f.x).abs().max().item<float>(), .15F);
      EXPECT_FALSE(changed.requires_grad());
    }
  }
}

TEST(Attack, NothingWithoutStepsAndStart) {
  const Fixture f;
  Random random(2);
  const AttackOptions none{.radius = .3, .iterations = 0, .random_start = false};
  EXPECT_TRUE(at::equal(attacked(f.logits, f.x, f.y, AttackObjective::Margin, none, random), f.x));
  EXPECT_EQ(robustness(f.logits, f.x, f.y, none, random).lower(), accuracy(f.logits, f.x, f.y));
}

// For a linear classifier of two classes the worst change is known: eps times the 1-norm of w_1 - w_0 off the margin.
TEST(Attack, FindsTheWorstCaseOfALinearClassifier) {
  Random random(3);
  const auto w = normal_tensor({2, 9}, 1, random), x = uniform_tensor({200, 9}, .3, random) + .5;
  const auto labels = at::linear(x, w).argmax(1);
  const Classifier logits = [&](const at::Tensor& inputs) { return at::linear(inputs, w); };
  const auto margin = (at::linear(x, w).select(1, 0) - at::linear(x, w).select(1, 1)).abs();
  for (const double eps : {.02, .05, .1}) {
    const double expected = (margin > eps * (w[0] - w[1]).abs().sum()).to(at::kDouble).mean().item<double>();
    const auto found = robustness(logits, x, labels, {.radius = eps, .random_start = false}, random);
    EXPECT_NEAR(found.margin, expected, 1e-9) << eps;
    EXPECT_NEAR(found.cross_entropy, expected, 1e-9) << eps;
  }
}

TEST(Attack, MoreRadiusAndMoreStepsBreakMore) {
  const Fixture f;
  double before = 1;
  for (const double eps : {0., .02, .05, .1, .3}) {
    Random random(2);
    const double now = robustness(f.logits, f.x, f.y, {.radius = eps}, random).lower();
    EXPECT_LE(now, before + .02) << eps;
    before = now;
  }
  before = 1;
  for (const int iterations : {0, 1, 3, 10}) {
    Random random(2);
    const double now = robustness(f.logits, f.x, f.y, {.radius = .06, .iterations = iterations}, random).lower();
    EXPECT_LE(now, before + .02) << iterations;
    before = now;
  }
  EXPECT_LT(before, .9);
}

// Logits so far apart that the cross-entropy is 0 in float32: its gradient is 0, the margin's is not.
TEST(Attack, TheMarginSeesThroughSaturation) {
  Random random(4);
  const auto w = normal_tensor({3, 6}, 4000, random), x = uniform_tensor({100, 6}, .3, random) + .5;
  const Classifier logits = [&](const at::Tensor& inputs) { return at::linear(inputs, w); };
  const auto found = robustness(logits, x, logits(x).argmax(1), {.radius = .3, .random_start = false}, random);
  EXPECT_GT(found.cross_entropy, .8);
  EXPECT_LT(found.margin, .3);
  EXPECT_EQ(found.lower(), found.margin);
}

TEST(Attack, RefusesBadInput) {
  const Fixture f;
  Random random(1);
  const auto says = [&](const std::string& part, const at::Tensor& x, const at::Tensor& y, const AttackOptions& o) {
    EXPECT_THAT(error_message([&] { attacked(f.logits, x, y, AttackObjective::Margin, o, random); }),
                testing::HasSubstr(part));
  };
  says("radius of -1", f.x, f.y, {.radius = -1});
  says("step of -1", f.x, f.y, {.step = -1});
  says("-1 iterations", f.x, f.y, {.iterations = -1});
  says("outside their range", f.x * 2, f.y, {});
  says("range from 1 to 0", f.x, f.y, {.low = 1, .high = 0});
  says("expected [300]", f.x, f.y.narrow(0, 0, 3), {});
  says("floating-point", f.x.to(at::kLong), f.y, {});
  says("not finite", f.x * NAN, f.y, {});
}

}  // namespace
}  // namespace unbend
