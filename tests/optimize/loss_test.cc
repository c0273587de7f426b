#include "unbend/optimize/loss.h"

#include <gtest/gtest.h>

#include <cmath>

#include "unbend/base/random.h"

namespace unbend::optimize {
namespace {

std::vector<Loss> all_losses() {
  std::vector<Loss> all;
  for (const auto& name : loss_names())
    all.push_back(loss_named(name, name == "quantile" ? .3 : name == "epsilon-insensitive" ? .2 : 0));
  Loss user;
  user.kind = LossKind::User;
  user.value = [](double s, double y) { return std::cosh(s - y); };
  user.slope = [](double s, double y) { return std::sinh(s - y); };
  user.conjugate = [](double b, double y) { return b * std::asinh(b) - std::sqrt(1 + b * b) + b * y; };
  all.push_back(user);
  return all;
}

TEST(Loss, LogisticRootsOfTheBrief) {
  const Loss loss = loss_named("logistic");
  EXPECT_NEAR(-proximal(loss, .5, 2, 1).b, .2636196668528769, 1e-15);
  EXPECT_NEAR(-proximal(loss, -3, 10, 1).b, .35828259716982536, 1e-15);
  EXPECT_NEAR(proximal(loss, 0, .1, -1).b, .48780723676820537, 1e-15);
}

TEST(Loss, ProximalStepsAreSlopesAtTheirEnds) {
  Random random(1);
  for (const Loss& loss : all_losses()) {
    for (int i = 0; i < 300; ++i) {
      const double y = is_binary(loss) ? (random.uniform() < .5 ? -1 : 1) : random.normal();
      const double m = 3 * random.normal(), q = std::exp(4 * random.normal());
      const auto [b, conjugate] = proximal(loss, m, q, y);
      const double s = m - b * q, step = 1e-7 * (1 + q);
      // b lies between the slopes on both sides of s.
      EXPECT_GE(b, loss_slope(loss, s - step, y) - 1e-5 * (1 + std::abs(b))) << name(loss.kind);
      EXPECT_LE(b, loss_slope(loss, s + step, y) + 1e-5 * (1 + std::abs(b))) << name(loss.kind);
      // Fenchel and Young.
      EXPECT_NEAR(conjugate + loss_value(loss, s, y), b * s, 1e-8 * (1 + std::abs(b * s))) << name(loss.kind);
      EXPECT_NEAR(conjugate, loss_conjugate(loss, b, y), 1e-8 * (1 + std::abs(conjugate))) << name(loss.kind);
    }
  }
}

TEST(Loss, TheLogisticStepKeepsItsDigitsForAnyStrength) {
  const Loss loss = loss_named("logistic");
  for (const double q : {0., 1e-12, 1e-3, 1., 1e3, 1e8, 1e14}) {
    for (const double m : {-1e6, -700., -30., -1., 0., 1., 30., 700., 1e6}) {
      const auto [b, conjugate] = proximal(loss, m, q, 1);
      const double alpha = -b;
      ASSERT_TRUE(alpha >= 0 && alpha <= 1) << m << " " << q;
      ASSERT_TRUE(std::isfinite(conjugate));
      if (alpha == 0 || alpha == 1) continue;
      // logit(alpha) = -(m + alpha q)
      const double rounding = 1e-15 / (1 - alpha);  // of alpha itself
      EXPECT_NEAR(std::log1p(-alpha) - std::log(alpha), m + alpha * q, 1e-7 * (1 + std::abs(m) + alpha * q) + rounding)
          << m << " " << q;
    }
  }
}

TEST(Loss, SlopesAreDerivativesAndVectorsAgreeWithScalars) {
  Random random(2);
  for (const Loss& loss : all_losses()) {
    std::vector<double> s(16), y(16), q(16), value(16), slope(16), b(16), conjugate(16);
    for (std::size_t i = 0; i < 16; ++i) {
      s[i] = 2 * random.normal(), q[i] = std::exp(random.normal());
      y[i] = is_binary(loss) ? (i % 2 ? -1 : 1) : random.normal();
    }
    values_and_slopes(loss, s, y, value, slope);
    proximals(loss, s, q, y, b, conjugate);
    for (std::size_t i = 0; i < 16; ++i) {
      EXPECT_NEAR(value[i], loss_value(loss, s[i], y[i]), 1e-14);
      EXPECT_NEAR(slope[i], loss_slope(loss, s[i], y[i]), 1e-14);
      EXPECT_NEAR(b[i], proximal(loss, s[i], q[i], y[i]).b, 1e-13);
      EXPECT_NEAR(conjugate[i], proximal(loss, s[i], q[i], y[i]).conjugate, 1e-13);
      const double h = 1e-6;
      EXPECT_NEAR((loss_value(loss, s[i] + h, y[i]) - loss_value(loss, s[i] - h, y[i])) / (2 * h), slope[i],
                  1e-6 * (1 + std::abs(slope[i])))
          << name(loss.kind);
    }
  }
}

TEST(Loss, SoftmaxProximalIsASlopeAtItsOwnEnd) {
  Random random(3);
  for (int trial = 0; trial < 200; ++trial) {
    const std::size_t classes = 2 + random.below(5), y = random.below(classes);
    std::vector<double> m(classes), q(classes), b(classes), s(classes), c(classes);
    for (std::size_t k = 0; k < classes; ++k)
      m[k] = 5 * random.normal(), q[k] = trial % 7 ? std::exp(5 * random.normal()) : 0;
    const double conjugate = softmax_proximal(m, q, y, b);
    for (std::size_t k = 0; k < classes; ++k) s[k] = m[k] - b[k] * q[k];
    const double value = softmax_value(s, y, c);
    double inner = 0;
    for (std::size_t k = 0; k < classes; ++k) {
      EXPECT_NEAR(b[k], c[k], 1e-9 * (1 + q[k]));
      inner += b[k] * s[k];
    }
    EXPECT_NEAR(conjugate + value, inner, 1e-8 * (1 + std::abs(inner)));
  }
  // Two classes are the logistic loss of the difference.
  std::vector<double> m{.5, 0}, q{1, 1}, b(2);
  softmax_proximal(m, q, 0, b);
  EXPECT_NEAR(-b[0], .2636196668528769, 1e-14);
}

}  // namespace
}  // namespace unbend::optimize
