// Gradients of the hand-written passes against differences in float64, float32 against float64, and Adam.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "tests/error_message.h"
#include "unbend/control/policy_adam.h"
#include "unbend/control/policy_head.h"
#include "unbend/control/policy_net.h"

namespace unbend::control {
namespace {

using ::testing::HasSubstr;

template <class T>
Matrix<T> random_matrix(std::int64_t rows, std::int64_t columns, double scale, Random& random) {
  Matrix<T> m(rows, columns);
  for (T& value : m.data) value = static_cast<T>(scale * random.normal());
  return m;
}

/// The derivative of f where `x` varies, by central differences.
double slope(double& x, const std::function<double()>& f, double h = 1e-5) {
  const double at = x;
  x = at + h;
  const double above = f();
  x = at - h;
  const double below = f();
  x = at;
  return (above - below) / (2 * h);
}

/// sum of out^2 / 2 weighed by row and column, so that every output has its own gradient.
template <class T>
double weighed(const Matrix<T>& out, Matrix<T>* gradient) {
  if (gradient) gradient->resize(out.rows, out.columns, out.columns + 3);
  double sum = 0;
  for (std::int64_t i = 0; i < out.rows; ++i)
    for (std::int64_t k = 0; k < out.columns; ++k) {
      const double w = std::cos(static_cast<double>(i + 7 * k)), y = out.row(i)[k];
      sum += w * y * y / 2;
      if (gradient) gradient->row(i)[k] = static_cast<T>(w * y);
    }
  return sum;
}

struct Shape {
  std::vector<std::int64_t> widths;
  Nonlinearity hidden;
  std::int64_t rows;
};

TEST(Mlp, GradientsEqualDifferences) {
  const Shape shapes[] = {{{3, 5, 2}, Nonlinearity::Tanh, 7},
                          {{17, 33, 20, 1}, Nonlinearity::Tanh, 13},
                          {{4, 64, 64, 6}, Nonlinearity::Relu, 29},
                          {{6, 4}, Nonlinearity::Tanh, 3},
                          {{5, 18, 9}, Nonlinearity::Tanh, 600}};  // more rows than are summed at once
  for (const auto& [widths, hidden, rows] : shapes) {
    Random random(3);
    const Mlp<double> net(widths, hidden);
    Numbers<double> p(static_cast<std::size_t>(net.parameters())), gradient(p.size());
    net.initialise(p.data(), Start::Uniform, 1, random);
    auto x = random_matrix<double>(rows, widths.front(), 1, random);
    Mlp<double>::Work work;
    const auto loss = [&] {
      net.forward(p.data(), x, work);
      return weighed<double>(work.result(), nullptr);
    };
    Matrix<double> upstream, by_input;
    loss();
    weighed(work.result(), &upstream);
    net.backward(p.data(), x, upstream, work, gradient.data(), &by_input);
    for (int trial = 0; trial < 40; ++trial) {
      const auto k = random.below(p.size());
      if (p[k] == 0) {  // padding: no gradient may come there
        EXPECT_EQ(gradient[k], 0);
        continue;
      }
      EXPECT_NEAR(gradient[k], slope(p[k], loss), 1e-6 * (1 + std::abs(gradient[k])))
          << widths.size() << " layers, " << rows << " rows, parameter " << k;
      const auto j = random.below(static_cast<std::uint64_t>(rows * widths.front()));
      EXPECT_NEAR(by_input.data[j], slope(x.data[j], loss), 1e-6 * (1 + std::abs(by_input.data[j])));
    }
  }
}

TEST(Mlp, IsItsDefinition) {
  Random random(5);
  const Mlp<float> net({5, 40, 3}, Nonlinearity::Tanh);
  Numbers<float> p(static_cast<std::size_t>(net.parameters()));
  net.initialise(p.data(), Start::Uniform, 1, random);
  const auto layers = net.layers(p.data());
  const auto x = random_matrix<float>(31, 5, 2, random);
  Mlp<float>::Work work;
  net.forward(p.data(), x, work);
  for (std::int64_t i = 0; i < x.rows; ++i) {
    std::vector<double> in(x.row(i), x.row(i) + 5);
    for (std::size_t l = 0; l < layers.size(); ++l) {
      std::vector<double> out;
      for (std::size_t o = 0; o < layers[l].bias.size(); ++o) {
        double z = layers[l].bias[o];
        for (std::size_t k = 0; k < in.size(); ++k) z += layers[l].weight[o * in.size() + k] * in[k];
        out.push_back(l == 0 ? std::tanh(z) : z);
      }
      in = out;
    }
    for (std::size_t k = 0; k < 3; ++k) EXPECT_NEAR(work.result().row(i)[k], in[k], 2e-6);
  }
  Numbers<float> again(p.size());
  net.set_layers(layers, again.data());
  EXPECT_EQ(again, p);
}

TEST(Mlp, OrthogonalStart) {
  Random random(1);
  const Mlp<double> net({24, 16, 40}, Nonlinearity::Relu);
  Numbers<double> p(static_cast<std::size_t>(net.parameters()));
  net.initialise(p.data(), Start::Orthogonal, .5, random);
  const auto layers = net.layers(p.data());
  for (std::size_t a = 0; a < 16; ++a)
    for (std::size_t b = 0; b < 16; ++b) {
      double rows = 0, columns = 0;
      for (std::size_t k = 0; k < 24; ++k) rows += layers[0].weight[a * 24 + k] * layers[0].weight[b * 24 + k];
      for (std::size_t o = 0; o < 40; ++o) columns += layers[1].weight[o * 16 + a] * layers[1].weight[o * 16 + b];
      EXPECT_NEAR(rows, a == b ? 2 : 0, 1e-12);
      EXPECT_NEAR(columns, a == b ? .25 : 0, 1e-12);
    }
}

TEST(Mlp, RefusesBadShapes) {
  EXPECT_THAT(error_message([] { Mlp<float>({4}, Nonlinearity::Tanh); }), HasSubstr("inputs and outputs"));
  EXPECT_THAT(error_message([] { Mlp<float>({4, 0, 2}, Nonlinearity::Tanh); }), HasSubstr("layer of 0"));
  const Mlp<float> net({4, 2}, Nonlinearity::Tanh);
  Mlp<float>::Work work;
  Numbers<float> p(static_cast<std::size_t>(net.parameters()));
  EXPECT_THAT(error_message([&] { net.forward(p.data(), Matrix<float>(3, 5), work); }), HasSubstr("5 columns"));
}

TEST(Surrogate, GradientsEqualDifferences) {
  Random random(7);
  for (const double kappa : {1., 1.4, 2.}) {
    for (const Objective objective : {Objective::Mdpo, Objective::Ppo, Objective::NoKl}) {
      for (const PolicyKind kind : {PolicyKind::Categorical, PolicyKind::Gaussian}) {
        const std::int64_t n = 9, k = 3;
        auto now = random_matrix<double>(n, k, .6, random), old = random_matrix<double>(n, k, .6, random);
        std::vector<double> spread{-.3, .1, .2}, old_spread{.1, -.2, .3}, by_spread(3), scratch(3);
        Matrix<double> actions = random_matrix<double>(n, kind == PolicyKind::Categorical ? 1 : k, 1, random);
        if (kind == PolicyKind::Categorical)
          for (double& a : actions.data) a = static_cast<double>(random.below(3));
        const auto advantages = random_matrix<double>(n, 1, 1, random);
        const SurrogateOptions options{objective, .7, .2, .05, kappa};
        Matrix<double> gradient, ignored;
        const auto value = [&](Matrix<double>& g, std::vector<double>& s) {
          return surrogate(Head<double>{kind, &now, spread.data()}, Head<double>{kind, &old, old_spread.data()},
                           actions, advantages.data.data(), options, g, s.data());
        };
        const auto at = value(gradient, by_spread);
        EXPECT_GE(at.divergence, 0);
        const auto loss = [&] { return -value(ignored, scratch).value; };
        for (std::int64_t i = 0; i < n; ++i)
          for (std::int64_t c = 0; c < k; ++c) EXPECT_NEAR(gradient.row(i)[c], slope(now.row(i)[c], loss, 1e-6), 2e-8);
        for (std::size_t c = 0; c < 3 && kind == PolicyKind::Gaussian; ++c)
          EXPECT_NEAR(by_spread[c], slope(spread[c], loss, 1e-6), 2e-8) << "kappa " << kappa;
      }
    }
  }
}

TEST(Surrogate, AtTheOldPolicyItIsThePolicyGradient) {
  Random random(11);
  for (const double kappa : {1., 1.5}) {
    for (const PolicyKind kind : {PolicyKind::Categorical, PolicyKind::Gaussian}) {
      const auto old = random_matrix<float>(50, 4, 1, random);
      const std::vector<float> spread{-.5, 0, .3f, -1};
      auto actions = random_matrix<float>(50, kind == PolicyKind::Categorical ? 1 : 4, 1, random);
      if (kind == PolicyKind::Categorical)
        for (float& a : actions.data) a = static_cast<float>(random.below(4));
      const auto advantages = random_matrix<float>(50, 1, 1, random);
      Matrix<float> with, without;
      std::vector<float> by_spread(4), plain(4);
      const Head<float> head{kind, &old, spread.data()};
      const auto psi = surrogate(head, head, actions, advantages.data.data(), {Objective::Mdpo, 1e-2, .2, 0, kappa},
                                 with, by_spread.data());
      surrogate(head, head, actions, advantages.data.data(), {Objective::NoKl, 1e-2, .2, 0, kappa}, without,
                plain.data());
      EXPECT_NEAR(psi.divergence, 0, 1e-7);
      for (std::int64_t i = 0; i < 50; ++i)
        for (std::int64_t k = 0; k < 4; ++k) EXPECT_NEAR(with.row(i)[k], without.row(i)[k], 1e-7);
      for (std::size_t k = 0; k < 4 && kind == PolicyKind::Gaussian; ++k)
        EXPECT_NEAR(by_spread[k], plain[k], kappa == 1 ? 1e-7 : 3e-5);
    }
  }
}

TEST(Surrogate, TsallisDivergenceEndsInKl) {
  Random random(13);
  const auto now = random_matrix<double>(5, 3, .5, random), old = random_matrix<double>(5, 3, .5, random);
  const std::vector<double> spread{-.2, .1, 0}, old_spread{0, .2, -.1}, advantages(5, 0.);
  Matrix<double> gradient, actions(5, 3);
  std::vector<double> by_spread(3);
  for (const PolicyKind kind : {PolicyKind::Categorical, PolicyKind::Gaussian}) {
    const Head<double> a{kind, &now, spread.data()}, b{kind, &old, old_spread.data()};
    const auto divergence = [&](double kappa) {
      return surrogate(a, b, actions, advantages.data(), {Objective::Mdpo, 1, .2, 0, kappa}, gradient, by_spread.data())
          .divergence;
    };
    EXPECT_NEAR(divergence(1 + 1e-6), divergence(1), 1e-5);
    EXPECT_GT(std::abs(divergence(2) - divergence(1)), 1e-3);
  }
}

TEST(Surrogate, CutsRatiosAndRefuses) {
  Matrix<double> now(1, 2), old(1, 2), action(1, 1), gradient;
  now.data = {60, 0}, old.data = {0, 60}, action.data = {0};
  const double advantage = 1;
  const auto psi =
      surrogate(Head<double>{PolicyKind::Categorical, &now, nullptr},
                Head<double>{PolicyKind::Categorical, &old, nullptr}, action, &advantage, {}, gradient, nullptr);
  EXPECT_EQ(psi.clamped, 1);
  EXPECT_TRUE(std::isfinite(psi.value));
  SurrogateOptions options;
  options.step_size = 0;
  const auto call = [&] {
    surrogate(Head<double>{PolicyKind::Categorical, &now, nullptr},
              Head<double>{PolicyKind::Categorical, &old, nullptr}, action, &advantage, options, gradient, nullptr);
  };
  EXPECT_THAT(error_message(call), HasSubstr("t_k"));
  options.step_size = 1, options.kappa = 2.5;
  EXPECT_THAT(error_message(call), HasSubstr("[1, 2]"));
}

/// A critic that is a fixed smooth function of the action: Q = sum cos(a + k), for checks of the chain rule.
TEST(SquashedGaussian, GradientsEqualDifferences) {
  Random random(17);
  const std::int64_t n = 6, d = 3;
  for (const double kappa : {1., 1.5, 2.}) {
    auto outputs = random_matrix<double>(n, 2 * d, .5, random);
    outputs.row(2)[d] = 2.5;  // beyond the cut of log_std: no gradient of its own
    const auto old = random_matrix<double>(n, 2 * d, .5, random);
    auto noise = random_matrix<double>(n, d, 1, random);
    noise.row(2)[0] = .05;  // where the tanh is saturated, densities are too large for differences
    SquashedSample<double> s;
    Matrix<double> gradient, ignored, q_slope(n, d);
    const auto value = [&](Matrix<double>& g) {
      squash(outputs, noise, kappa, s);
      std::vector<double> q(static_cast<std::size_t>(n), 0.);
      for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t k = 0; k < d; ++k) {
          const double z = s.action.row(i)[k] + static_cast<double>(k);
          q[static_cast<std::size_t>(i)] += std::cos(z), q_slope.row(i)[k] = -std::sin(z);
        }
      return squashed_loss(outputs, noise, s, &old, q.data(), q_slope, {.8, .3, kappa, .01}, g);
    };
    value(gradient);
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t k = 0; k < 2 * d; ++k)
        EXPECT_NEAR(gradient.row(i)[k], slope(outputs.row(i)[k], [&] { return value(ignored); }),
                    2e-8 * (1 + std::abs(gradient.row(i)[k])))
            << "kappa " << kappa << ", row " << i << ", output " << k;
  }
}

TEST(SquashedGaussian, WithCEqualLambdaItIsSac) {
  Random random(19);
  const auto outputs = random_matrix<float>(8, 4, .5, random), old = random_matrix<float>(8, 4, .5, random);
  const auto noise = random_matrix<float>(8, 2, 1, random), q_slope = random_matrix<float>(8, 2, 1, random);
  const auto q = random_matrix<float>(8, 1, 1, random);
  SquashedSample<float> s;
  squash(outputs, noise, 1, s);
  Matrix<float> with, without;
  const OffPolicyWeights weights{.2, .2, 1, 1e-3};
  EXPECT_EQ(squashed_loss(outputs, noise, s, &old, q.data.data(), q_slope, weights, with),
            squashed_loss<float>(outputs, noise, s, nullptr, q.data.data(), q_slope, weights, without));
  EXPECT_EQ(with.data, without.data);
}

TEST(CategoricalLoss, GradientsEqualDifferencesAndItsOptimumIsTheClosedForm) {
  Random random(23);
  auto logits = random_matrix<double>(4, 3, 1, random);
  const auto old = random_matrix<double>(4, 3, 1, random), q = random_matrix<double>(4, 3, 1, random);
  Matrix<double> gradient, ignored;
  for (const double kappa : {1., 1.6}) {
    const OffPolicyWeights weights{.5, .2, kappa, 0};
    categorical_loss(logits, &old, q, weights, gradient);
    for (std::int64_t i = 0; i < 4; ++i)
      for (std::int64_t k = 0; k < 3; ++k)
        EXPECT_NEAR(gradient.row(i)[k],
                    slope(logits.row(i)[k], [&] { return categorical_loss(logits, &old, q, weights, ignored); }), 1e-9);
  }
  // pi ~ pi_old^(1 - lambda t) exp(t Q) with t = 1 / c
  const double c = .5, lambda = .2;
  for (std::size_t i = 0; i < logits.data.size(); ++i) {
    std::vector<double> log_p(3), p(3);
    const auto row = static_cast<std::int64_t>(i / 3);
    log_softmax(old.row(row), 3, log_p.data(), p.data());
    logits.data[i] = (1 - lambda / c) * log_p[i % 3] + q.data[i] / c;
  }
  categorical_loss(logits, &old, q, {c, lambda, 1, 0}, gradient);
  for (const double g : gradient.data) EXPECT_NEAR(g, 0, 1e-14);
}

TEST(Adam, FirstStepsClippingAndSkips) {
  Adam<double> adam(2);
  double p[] = {1, -1}, g[] = {3, -4};
  EXPECT_TRUE(adam.step({.lr = .1, .max_norm = .5}, p, g));
  EXPECT_EQ(adam.norm(), 5);
  EXPECT_NEAR(p[0], .9, 1e-7);
  EXPECT_NEAR(p[1], -.9, 1e-7);  // the first step is lr in each direction
  double m[] = {.9 * .1 * .3 + .1 * .2, 0}, v = .999 * .001 * .09 + .001 * .04;  // the second, by hand
  const double clip = .5 / (5 + 1e-6);
  m[0] = .9 * .1 * 3 * clip + .1 * .2, v = .999 * .001 * 9 * clip * clip + .001 * .04;
  const double expected = p[0] - .1 * (m[0] / (1 - .81)) / (std::sqrt(v / (1 - .999 * .999)) + 1e-8);
  double h[] = {.2, 0};
  EXPECT_TRUE(adam.step({.lr = .1}, p, h));
  EXPECT_NEAR(p[0], expected, 1e-12);
  double zero[] = {0, 0}, bad[] = {NAN, 1};
  const double before = p[0];
  EXPECT_FALSE(adam.step({}, p, zero));
  EXPECT_FALSE(adam.step({}, p, bad));
  EXPECT_EQ(adam.skipped(), 2);
  EXPECT_EQ(p[0], before);
}

}  // namespace
}  // namespace unbend::control
