#include "unbend/tangent/uncertainty.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>
#include <functional>

#include "tests/error_message.h"

namespace unbend {
namespace {

at::Tensor normal(std::vector<int64_t> shape, uint64_t seed) {
  Random random(seed);
  return normal_tensor(shape, 1, random).to(at::kDouble);
}

Network network(Activation f, uint64_t seed, bool convolution = false) {
  Random random(seed);
  Network net;
  if (convolution) {
    append(net, Convolution{normal_tensor({3, 1, 2}, .5, random), normal_tensor({3}, .5, random), {1}, {0}, {1}, {0}},
           "conv");
    append(net, Elementwise{f}, "f0");
    append(net, Reshape{{-1}}, "flat");
  }
  for (const auto& node : multilayer_perceptron({convolution ? 12 : 5, 6, 4}, {f}, random).nodes)
    append(net, node.operation, node.name);
  return to(net, at::kDouble);
}

// Gradients of loss(net) in all weights beside central differences.
void check_gradients(const Network& original, const std::function<at::Tensor(const Network&)>& loss) {
  auto net = to(original, at::kDouble);
  const auto weights = parameters(net);
  for (const auto& p : weights) p.tensor->requires_grad_();
  loss(net).backward();
  Random random(99);
  for (const auto& p : weights) {
    const auto direction = normal_tensor(p.tensor->sizes(), 1, random).to(at::kDouble);
    const double analytic = p.tensor->grad().defined() ? (p.tensor->grad() * direction).sum().item<double>() : 0;
    const at::NoGradGuard no_gradients;
    const double h = 1e-6;
    p.tensor->add_(direction, h);
    const double above = loss(net).item<double>();
    p.tensor->add_(direction, -2 * h);
    const double below = loss(net).item<double>();
    p.tensor->add_(direction, h);
    const double numeric = (above - below) / (2 * h);
    EXPECT_NEAR(analytic, numeric, 1e-6 * std::max(1., std::abs(numeric))) << p.name;
  }
}

TEST(Uncertainty, LossesHaveTheirGradients) {
  const auto labels = at::tensor({0, 3, 1}, at::kLong);
  for (const bool convolution : {false, true}) {
    const auto x = convolution ? normal({3, 1, 5}, 2) : normal({3, 5}, 2);
    const auto y = normal({3, 4}, 3);
    for (const auto f : {Activation::Relu, Activation::Tanh, Activation::Gelu}) {
      const auto net = network(f, 4, convolution);
      for (const auto& law : {gaussian_law(), cauchy_law(), stable_law(2)}) {
        const auto noise = independent_noise(law, .4);
        check_gradients(net, [&](const Network& n) { return pairwise_loss(propagate(n, x, noise), labels); });
        check_gradients(net, [&](const Network& n) { return pairwise_loss(propagate_marginal(n, x, noise), labels); });
        if (law.kind == Law::Kind::Stable) continue;
        // A probabilistic network: two means and their own noise.
        check_gradients(net, [&](const Network& n) {
          const auto p = propagate(n, x, noise);
          const auto total = with_own_noise(outputs(p, 0, 2), at::exp(p.location.narrow(1, 2, 2)));
          return negative_log_likelihood(total, y.narrow(1, 0, 2)).mean();
        });
      }
    }
  }
  // And a plain function, whose graph is asked for.
  auto net = network(Activation::Tanh, 5);
  check_gradients(net, [&](const Network& n) {
    const auto p = propagate(BatchFunction([&](const at::Tensor& v) { return n(v); }), normal({3, 5}, 2),
                             independent_noise(gaussian_law(), .3), {Sweep::Auto, true});
    return pairwise_loss(p, labels);
  });
}

TEST(Uncertainty, LikelihoodsAreDensities) {
  // Two correlated outputs, by the formula with a matrix inverse.
  const auto s = at::tensor({.5, .2, .2, .3}, at::kDouble).view({1, 2, 2});
  const Propagated p{gaussian_law(), at::tensor({1., 2.}, at::kDouble).view({1, 2}), s, {}, {}};
  const auto y = at::tensor({1.3, 1.5}, at::kDouble).view({1, 2});
  const auto padded = s[0] + 1e-6 * .4 * at::eye(2, at::kDouble), r = (y - p.location)[0];
  const double expected =
      .5 * (at::dot(r, at::matmul(at::linalg_inv(padded), r)) + at::logdet(padded)).item<double>() + std::log(2 * M_PI);
  EXPECT_NEAR(negative_log_likelihood(p, y).item<double>(), expected, 1e-10);
  // Without input noise it is the probabilistic network's own loss.
  const Propagated still{gaussian_law(), p.location, at::zeros_like(s), {}, {}};
  const auto own = at::tensor({.7, .4}, at::kDouble).view({1, 2});
  const double alone = (.5 * ((y - p.location).square() / own + own.log() + std::log(2 * M_PI))).sum().item<double>();
  EXPECT_NEAR(negative_log_likelihood(with_own_noise(still, own), y).item<double>(), alone, 2e-6);
  // Cauchy: integrates to 1.
  const auto grid = at::linspace(-2000, 2000, 400001, at::kDouble).unsqueeze(1);
  const Propagated c{cauchy_law(), at::zeros_like(grid), {}, {}, at::full_like(grid, .7)};
  EXPECT_NEAR(at::exp(-negative_log_likelihood(c, grid)).sum().item<double>() * .01, 1, 1e-3);
  EXPECT_NE(error_message([&] {
              negative_log_likelihood({stable_law(1.5), p.location, {}, {}, at::ones({1, 2}, at::kDouble)}, y);
            }).find("no closed density"),
            std::string::npos);
}

TEST(Uncertainty, OwnNoiseAddsUp) {
  const auto net = network(Activation::Relu, 6);
  const auto x = normal({3, 5}, 7), own = normal({3, 4}, 8).abs();
  for (const auto& law : {gaussian_law(), cauchy_law(), stable_law(1.4)}) {
    for (const bool marginal : {false, true}) {
      const auto noise = independent_noise(law, .2);
      const auto p = marginal ? propagate_marginal(net, x, noise) : propagate(net, x, noise);
      const auto mine = law.gaussian() ? own.sqrt() : own;
      const auto expected = at::pow(at::pow(scale(p), law.alpha) + at::pow(mine, law.alpha), 1 / law.alpha);
      EXPECT_TRUE(at::allclose(scale(with_own_noise(p, own)), expected, 1e-10, 1e-12));
      EXPECT_NE(error_message([&] { with_own_noise(p, -own); }).find("negative"), std::string::npos);
    }
  }
}

TEST(Uncertainty, IntervalsHoldTheirShare) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(1);
  const auto location = at::zeros({20000, 1}, at::kDouble);
  for (const auto& law : {gaussian_law(), cauchy_law()}) {
    const Propagated p{law, location, {}, {}, at::full_like(location, law.gaussian() ? 4. : 2.)};
    const auto y = 2 * standard_variables(law, location, generator);
    const auto c = calibration(p, y, .95);
    EXPECT_NEAR(c.coverage, .95, .006);
    EXPECT_NEAR(c.width, 4 * quantile(law, .975), 1e-9);
    const double entropy = law.gaussian() ? .5 * std::log(2 * M_PI * M_E * 4) : std::log(4 * M_PI * 2);
    EXPECT_NEAR(c.nll, entropy, .03);
  }
  EXPECT_NE(error_message([&] {
              intervals({gaussian_law(), location, {}, {}, location}, 1);
            }).find("share"),
            std::string::npos);
}

TEST(Uncertainty, FarTailsStayApart) {
  // Probabilities that are 0 in numbers still have an order.
  const auto location = at::tensor({0., 50., 60.}, at::kDouble).view({1, 3});
  const Propagated p{gaussian_law(), location, at::eye(3, at::kDouble).unsqueeze(0) * .5, {}, {}};
  const auto log_p = log_above(p, at::zeros({1}, at::kLong))[0];
  EXPECT_NEAR(log_p[0].item<double>(), std::log(.5), 1e-9);
  EXPECT_LT(log_p[2].item<double>(), log_p[1].item<double>());
  EXPECT_TRUE(at::isfinite(log_p).all().item<bool>());
}

TEST(Uncertainty, SelectivePrediction) {
  Random random(1);
  const auto confidence_of = at::tensor({.9, .1, .8, .3}, at::kDouble);
  const auto wrong = at::tensor({0, 1, 0, 0}, at::kLong);
  const auto curve = risk_coverage(confidence_of, wrong, random);
  EXPECT_EQ(curve.coverage, (std::vector<double>{.25, .5, .75, 1}));
  EXPECT_EQ(curve.risk, (std::vector<double>{0, 0, 0, .25}));
  EXPECT_DOUBLE_EQ(curve.area, .0625);
  // Ties are in random order: the area is that of chance.
  double sum = 0;
  for (int i = 0; i < 2000; ++i) sum += risk_coverage(at::zeros({4}), wrong, random).area;
  EXPECT_NEAR(sum / 2000, .25, .02);
  EXPECT_DOUBLE_EQ(auroc(at::tensor({3., 2., 1.}), at::tensor({0., 2., 1.})), (3 + 2.5 + 1.5) / 9);
  EXPECT_NE(error_message([&] { risk_coverage(at::zeros({4}), at::zeros({3}), random); }).find("outcomes"),
            std::string::npos);
  // The confidence of the predicted class.
  const auto p = propagate(network(Activation::Relu, 9), normal({6, 5}, 10), independent_noise(gaussian_law(), .5));
  const auto probabilities = pairwise_probabilities(p);
  const auto c = confidence(p);
  for (int64_t b = 0; b < 6; ++b) {
    const auto label = predicted_class(p)[b].item<int64_t>();
    double log_sum = 0;
    for (int64_t j = 0; j < 4; ++j)
      if (j != label) log_sum += std::log(probabilities[b][label][j].item<double>());
    EXPECT_NEAR(c[b].item<double>(), log_sum, 1e-9);
  }
}

}  // namespace
}  // namespace unbend
