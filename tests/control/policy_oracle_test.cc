// Worked examples of mirror descent on policies: tables, one state, Gaussians, advantages, single steps of simulators.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "tests/error_message.h"
#include "unbend/control/environments_own.h"
#include "unbend/control/mdpo.h"
#include "unbend/control/mdpo_tabular.h"

namespace unbend::control {
namespace {

using ::testing::HasSubstr;

template <class T>
Matrix<T> matrix(std::int64_t columns, const std::vector<T>& values) {
  Matrix<T> m(std::ssize(values) / columns, columns);
  std::copy(values.begin(), values.end(), m.data.begin());
  return m;
}

void expect_near(const std::vector<double>& values, const std::vector<double>& expected, double tolerance) {
  ASSERT_EQ(values.size(), expected.size());
  for (std::size_t i = 0; i < values.size(); ++i) EXPECT_NEAR(values[i], expected[i], tolerance) << i;
}

FiniteProcess two_states() { return {2, 2, .9, {.9, .1, .2, .8, .5, .5, .1, .9}, {1, 0, 0, 2}}; }

TEST(TabularMirrorDescent, FollowsTheWorkedExample) {
  const auto process = two_states();
  std::vector<double> policy(4, .5);
  auto values = policy_values(process, policy);
  expect_near(values.v, {7.61290323, 8.25806452}, 1e-8);
  for (int k = 1; k <= 40; ++k) {
    // exp(t A) and exp(t Q) differ by a factor per state only
    policy = mirror_descent_step(process, policy, 1);
    const auto next = policy_values(process, policy);
    for (std::size_t s = 0; s < 2; ++s) EXPECT_GE(next.v[s], values.v[s] - 1e-12) << "step " << k;
    values = next;
    if (k == 1) {
      EXPECT_NEAR(policy[1], .3558211, 1e-7);
      EXPECT_NEAR(policy[3], .90310913, 1e-8);
      expect_near(values.v, {13.21437239, 15.37009755}, 1e-8);
    }
    if (k == 2) expect_near({policy[1], policy[3]}, {.44141002, .99336223}, 1e-8);
    if (k == 5) expect_near(values.v, {15.63759281, 17.93357902}, 1e-8);
  }
}

TEST(TabularMirrorDescent, WithEntropy) {
  const auto process = two_states();
  const std::vector<double> policy{.5, .5, .7, .3};
  const auto values = policy_values(process, policy, .2);
  expect_near(values.v, {6.7857641, 6.8843986}, 1e-7);
  expect_near(values.q, {7.11606479, 6.17820453, 6.15157322, 8.18708164}, 1e-8);
  expect_near(mirror_descent_step(process, policy, .5, .2), {.6151305, .3848695, .43654743, .56345257}, 1e-8);
  const auto full = mirror_descent_step(process, policy, 5, .2);  // t = 1 / lambda: softmax(Q / lambda)
  for (std::size_t s = 0; s < 2; ++s) {
    const double odds = std::exp((values.q[2 * s + 1] - values.q[2 * s]) / .2);
    EXPECT_NEAR(full[2 * s + 1], odds / (1 + odds), 1e-15);
  }
}

TEST(TabularMirrorDescent, RefusesBadTables) {
  auto process = two_states();
  EXPECT_THAT(error_message([&] { policy_values(process, {.5, .5, .9, .2}); }), HasSubstr("policy, row 1"));
  EXPECT_THAT(error_message([&] { mirror_descent_step(process, {.5, .5, .5, .5}, 0); }), HasSubstr("step size"));
  process.transitions[2] = NAN;
  EXPECT_THAT(error_message([&] { policy_values(process, {.5, .5, .5, .5}); }), HasSubstr("transitions, row 1"));
  process = two_states(), process.discount = 1;
  EXPECT_THAT(error_message([&] { policy_values(process, {.5, .5, .5, .5}); }), HasSubstr("discount"));
}

/// Psi in one state with all actions as samples, each weighed so that the mean is the expectation under the policy.
double one_state(const std::vector<double>& logits, std::vector<double>* gradient = nullptr) {
  const std::vector<double> old_logits{.2, -.1, .4}, advantage{1, -.5, .2};
  std::vector<double> log_p(3), p(3), weighed(3), now, old;
  log_softmax(old_logits.data(), 3, log_p.data(), p.data());
  for (std::size_t a = 0; a < 3; ++a) weighed[a] = 3 * p[a] * advantage[a];
  for (int i = 0; i < 3; ++i)
    now.insert(now.end(), logits.begin(), logits.end()), old.insert(old.end(), old_logits.begin(), old_logits.end());
  const auto now_m = matrix(3, now), old_m = matrix(3, old), actions = matrix(1, std::vector<double>{0, 1, 2});
  Matrix<double> slope;
  SurrogateOptions options;
  options.step_size = .5;
  const auto psi = surrogate(Head<double>{PolicyKind::Categorical, &now_m, nullptr},
                             Head<double>{PolicyKind::Categorical, &old_m, nullptr}, actions, weighed.data(), options,
                             slope, nullptr);
  if (gradient) {
    gradient->assign(3, 0);
    for (std::int64_t i = 0; i < 3; ++i)
      for (std::size_t a = 0; a < 3; ++a) (*gradient)[a] -= slope.row(i)[a];
  }
  return psi.value;
}

TEST(Surrogate, OneStateAndItsOptimum) {
  std::vector<double> gradient;
  EXPECT_NEAR(one_state({.5, -.3, .1}, &gradient), .3511274550561851, 1e-14);
  expect_near(gradient, {-.0096738, -.11033808, .12001188}, 1e-8);
  const std::vector<double> best{.2 + .5, -.1 - .25, .4 + .1};
  EXPECT_NEAR(one_state(best, &gradient), .3763481361943531, 1e-14);
  for (const double g : gradient) EXPECT_NEAR(g, 0, 1e-14);
}

TEST(Surrogate, GaussianDivergenceIsOfNewFromOld) {
  const auto divergence = [](double mean, double std, double old_mean, double old_std) {
    const auto now = matrix(1, std::vector<double>{mean}), old = matrix(1, std::vector<double>{old_mean});
    const double log_std = std::log(std), old_log_std = std::log(old_std), advantage = 0;
    Matrix<double> slope;
    double spread = 0;
    return surrogate(Head<double>{PolicyKind::Gaussian, &now, &log_std},
                     Head<double>{PolicyKind::Gaussian, &old, &old_log_std}, now, &advantage, {}, slope, &spread)
        .divergence;
  };
  EXPECT_NEAR(divergence(.3, .5, -.1, .8), .2903161292457356, 1e-14);
  EXPECT_NEAR(divergence(-.1, .8, .3, .5), .6299963707542648, 1e-14);
}

TEST(Surrogate, TsallisLogarithm) {
  EXPECT_NEAR(tsallis_log(2, 1.5), .8284271247461903, 1e-15);
  EXPECT_NEAR(tsallis_log(.3, 2), -.7, 1e-15);
  EXPECT_NEAR(tsallis_log(.3, 1), -1.2039728043259361, 1e-15);
}

TEST(SquashedGaussian, WorkedExample) {
  const auto outputs = matrix(2, std::vector<double>{.3, -.5}), old = matrix(2, std::vector<double>{.1, -.2});
  const auto noise = matrix(1, std::vector<double>{.7}), slope = matrix(1, std::vector<double>{0});
  SquashedSample<double> s;
  squash(outputs, noise, 1, s);
  EXPECT_NEAR(s.u.row(0)[0], .7245714617988434, 1e-15);
  EXPECT_NEAR(s.action.row(0)[0], .6197329880937158, 1e-15);
  EXPECT_NEAR(s.log_prob[0], -.17931823659749407, 1e-15);
  const double q = 1.7;
  Matrix<double> gradient;
  const OffPolicyWeights weights{1, .2, 1, 0};
  EXPECT_NEAR(squashed_loss(outputs, noise, s, &old, &q, slope, weights, gradient), -1.4590855806627818, 1e-14);
  const double without = squashed_loss<double>(outputs, noise, s, nullptr, &q, slope, weights, gradient);
  EXPECT_NEAR((-1.4590855806627818 - without) / (.2 - 1), -.5252908199183904, 1e-13);
}

TEST(Advantages, StopAtEndsAndBootstrap) {
  const std::vector<double> rewards(4, 1.), values{.5, .4, .3, .2}, next{.4, .3, 0, .7};
  const std::vector<std::uint8_t> ends{0, 0, 1, 0};
  const auto [advantage, target] = generalised_advantages(1, rewards, values, next, ends, .99, .95);
  expect_near(advantage, {2.35880667, 1.55535, .7, 1.493}, 1e-8);
  expect_near(target, {2.85880667, 1.95535, 1, 1.693}, 1e-8);
  // Two copies side by side do not mix.
  std::vector<double> r2, v2, n2;
  std::vector<std::uint8_t> e2;
  for (std::size_t i = 0; i < 4; ++i)
    for (int copy = 0; copy < 2; ++copy)
      r2.push_back(copy ? 7 : rewards[i]), v2.push_back(values[i]), n2.push_back(next[i]), e2.push_back(ends[i]);
  const auto both = generalised_advantages(2, r2, v2, n2, e2, .99, .95);
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(both.advantage[2 * i], advantage[i]);
  EXPECT_THAT(error_message([&] { generalised_advantages(3, rewards, values, next, ends, .99, .95); }),
              HasSubstr("3 copies"));
}

TEST(Advantages, StepSizeStaysPositive) {
  EXPECT_EQ(annealed_step_size(1, 0, 48), 1);
  EXPECT_NEAR(annealed_step_size(1, 47, 48), 1. / 48, 1e-15);
  EXPECT_DOUBLE_EQ(annealed_step_size(2, 48, 48), 2. / 48);
}

TEST(Simulators, SingleSteps) {
  double reward = 0;
  std::uint8_t over = 0;
  std::vector<double> seen(4);
  const auto cart = cartpole(1);
  cart->set_state({.01, -.02, .03, .04});
  cart->step(matrix(1, std::vector<double>{1}), {&reward, 1}, {&over, 1});
  cart->observe(0, seen.data());
  expect_near(seen, {.0096, .17467919574755525, .0308, -.2430687179600081}, 1e-15);
  EXPECT_EQ(reward, 1);
  EXPECT_EQ(over, 0);

  const auto swing = pendulum(1);
  swing->set_state({std::numbers::pi - .1, .5});
  swing->step(matrix(1, std::vector<double>{1.5}), {&reward, 1}, {&over, 1});
  EXPECT_NEAR(swing->state()[1], .7998750624851213, 1e-15);
  EXPECT_NEAR(swing->state()[0], 3.0815864067140493, 1e-15);
  EXPECT_NEAR(reward, -9.278535870371401, 1e-14);

  const auto point = point_mass(1);
  point->set_state({.3, -.4, 1, 0});
  point->step(matrix(2, std::vector<double>{.5, -1}), {&reward, 1}, {&over, 1});
  expect_near(point->state(), {.4, -.4, 1, -.1}, 1e-15);
  EXPECT_NEAR(reward, -std::hypot(.4, .4) - .0125, 1e-15);
}

}  // namespace
}  // namespace unbend::control
