#include "unbend/tangent/kernel_gan_local.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>

#include "tests/error_message.h"
#include "unbend/base/random.h"
#include "unbend/calculus/check.h"
#include "unbend/calculus/dense.h"
#include "unbend/tangent/kernel_gan_rate.h"

namespace unbend::gan {
namespace {

using testing::HasSubstr;
using Complex = std::complex<double>;

Block balanced(double sigma, double lambda, double eta_d, double eta_g, Order order) {
  return {1, {1}, 1 / (sigma * sigma), {eta_d, eta_g, lambda, order}};
}

/// The balanced block with eta_d lambda = a and coupling g.
Block at_coupling(double a, double g, Order order) { return {1, {1}, 1, {a, g / a, 1, order}}; }

at::Tensor numbers(std::initializer_list<double> list) { return at::tensor(std::vector<double>(list), at::kDouble); }

TEST(KernelGanLocal, SpectralRadiiOfTheBrief) {
  struct Case {
    double sigma, lambda, eta_d, eta_g, alternating, simultaneous;
  };
  for (const Case& c : {Case{1, 1, .1, .1, .948683, .953939}, Case{1, .5, .1, .01, .974679, .975192},
                        Case{1, .1, .1, .2, .994987, 1.004988}, Case{10, 1, .1, .1, .998991, .998990},
                        Case{.3, .5, .2, .2, .948683, 1.159502}}) {
    EXPECT_NEAR(predict(balanced(c.sigma, c.lambda, c.eta_d, c.eta_g, Order::Alternating)).rate, c.alternating, 6e-7);
    EXPECT_NEAR(predict(balanced(c.sigma, c.lambda, c.eta_d, c.eta_g, Order::Simultaneous)).rate, c.simultaneous, 6e-7);
  }
}

TEST(KernelGanLocal, PhasesOfTheAlternatingUpdate) {
  const auto order = Order::Alternating;
  const Boundaries b = boundaries({.5, 1, 1, order});
  EXPECT_NEAR(b.monotone, .085786, 6e-7);
  EXPECT_NEAR(b.oscillating, 2.914214, 6e-7);
  EXPECT_NEAR(b.stable, 3, 1e-12);
  const auto near = [](Complex a, Complex b) { EXPECT_LT(std::abs(a - b), 6e-5) << a << " " << b; };
  const Prediction slow = predict(at_coupling(.5, .02, order)), turning = predict(at_coupling(.5, 1, order)),
                   flipping = predict(at_coupling(.5, 2.95, order)), wild = predict(at_coupling(.5, 3.01, order));
  near(slow.eigenvalues[0], .95817), near(slow.eigenvalues[1], .5218);
  EXPECT_EQ(slow.verdict, Verdict::Monotone);
  near(turning.eigenvalues[0], {.25, std::copysign(.6614, turning.eigenvalues[0].imag())});
  EXPECT_EQ(turning.verdict, Verdict::Oscillating);
  EXPECT_NEAR(turning.per_decade, std::log(10) / -std::log(std::sqrt(.5)), 1e-9);
  near(flipping.eigenvalues[0], -.88508), near(flipping.eigenvalues[1], -.5649);
  EXPECT_EQ(flipping.verdict, Verdict::Period2);
  EXPECT_NEAR(wild.rate, 1.01962, 6e-6);
  EXPECT_EQ(wild.verdict, Verdict::Divergent);
  EXPECT_TRUE(std::isinf(wild.per_decade));
}

TEST(KernelGanLocal, PhasesOfTheSimultaneousUpdate) {
  const auto order = Order::Simultaneous;
  const Boundaries b = boundaries({.5, 1, 1, order});
  EXPECT_NEAR(b.monotone, .0625, 1e-12);
  EXPECT_NEAR(b.oscillating, .5, 1e-12);
  const Prediction turning = predict(at_coupling(.5, .3, order));
  EXPECT_LT(std::abs(turning.eigenvalues[0].real() - .75), 1e-9);
  EXPECT_NEAR(std::abs(turning.eigenvalues[0].imag()), .4873, 6e-5);
  EXPECT_NEAR(turning.rate, .89443, 6e-6);
  EXPECT_NEAR(predict(at_coupling(.5, .51, order)).rate, 1.00499, 6e-6);
  EXPECT_NEAR(predict(at_coupling(.5, 1, Order::Alternating)).rate, .7071, 6e-5);
  EXPECT_EQ(predict(at_coupling(.5, 1, order)).verdict, Verdict::Divergent);
}

TEST(KernelGanLocal, VerdictsFollowTheBoundaries) {
  for (const auto order : {Order::Alternating, Order::Simultaneous}) {
    for (const double a : {.01, .3, .7, .99, 1., 1.3, 1.9}) {
      const Boundaries b = boundaries({a, 1, 1, order});
      for (double g = 1e-4; g < 5; g *= 1.07) {
        const Verdict expected = g < b.monotone      ? Verdict::Monotone
                                 : g < b.oscillating ? Verdict::Oscillating
                                 : g < b.stable      ? Verdict::Period2
                                                     : Verdict::Divergent;
        EXPECT_EQ(predict(at_coupling(a, g, order)).verdict, expected) << a << " " << g;
      }
    }
  }
}

TEST(KernelGanLocal, JuryAndEigenvaluesAgreeOnRandomParameters) {
  Random random(2);
  int stable = 0;
  for (int i = 0; i < 2000; ++i) {
    const auto order = random.below(2) == 0 ? Order::Alternating : Order::Simultaneous;
    const double lambda = 2 * random.uniform(), p = .5 + random.uniform(), q = .5 + random.uniform();
    const Block b{
        p, {q}, std::exp(2 * random.normal()), {.9 * random.uniform() + .01, random.uniform() + .01, lambda, order}};
    const auto m = block_matrix(b);
    const double trace = (m[0][0] + m[1][1]).item<double>(), determinant = at::linalg_det(m).item<double>();
    const Prediction predicted = predict(b);
    const bool converges = predicted.verdict != Verdict::Divergent && predicted.verdict != Verdict::Neutral;
    EXPECT_EQ(jury_stable(trace, determinant), converges) << i;
    EXPECT_NEAR(std::abs(eigenvalues_of(m)[0]), predicted.rate, 1e-9 * predicted.rate);
    stable += converges;
  }
  EXPECT_GT(stable, 200);
  EXPECT_LT(stable, 1800);
}

TEST(KernelGanLocal, Determinants) {
  for (const double g : {.01, .4, 2.}) {
    const auto det = [&](Order order) {
      return at::linalg_det(block_matrix(at_coupling(.3, g, order))).item<double>();
    };
    EXPECT_NEAR(det(Order::Alternating), .7, 1e-12);
    EXPECT_NEAR(det(Order::Simultaneous), .7 + g, 1e-12);
  }
}

TEST(KernelGanLocal, MassesThatDiffer) {
  const auto rate = [](double p, double q, Order order) { return predict({p, {q}, 1, {.1, .05, .5, order}}).rate; };
  EXPECT_NEAR(rate(1, .8, Order::Alternating), .966851, 6e-7);
  EXPECT_NEAR(rate(1, 1, Order::Alternating), .974679, 6e-7);
  EXPECT_NEAR(rate(.8, 1, Order::Alternating), .984378, 6e-7);
  EXPECT_NEAR(rate(1, .8, Order::Simultaneous), .968504, 6e-7);
  EXPECT_NEAR(rate(1, 1, Order::Simultaneous), .977241, 6e-7);
  EXPECT_NEAR(rate(.8, 1, Order::Simultaneous), .986914, 6e-7);
}

TEST(KernelGanLocal, SeveralPointsOnOneTarget) {
  for (const auto order : {Order::Alternating, Order::Simultaneous}) {
    const Prediction merging = predict({1, {.4, .4}, 1, {.1, .05, .5, order}});
    EXPECT_NEAR(*merging.difference, .992, 1e-12);
    // The closed form is the spectrum of the matrix, and so is that of masses that are almost equal.
    for (const double change : {0., 1e-9}) {
      const Block three{1, {.2, .2, .2 + change}, 2, {.1, .3, .5, order}};
      const auto by_matrix = eigenvalues_of(block_matrix(three)), predicted = predict(three).eigenvalues;
      for (std::size_t i = 0; i < 4; ++i) EXPECT_LT(std::abs(std::abs(by_matrix[i]) - std::abs(predicted[i])), 1e-6);
    }
  }
  const Prediction shared = predict({1, {.5, .5}, 1, {.1, .05, .5, Order::Alternating}});
  EXPECT_EQ(shared.verdict, Verdict::Neutral);
  EXPECT_LT(*shared.mean_rate, 1);
  EXPECT_EQ(predict({1, {.6, .6}, 1, {.1, .05, .5, Order::Alternating}}).verdict, Verdict::Divergent);
}

TEST(KernelGanLocal, WithoutRegularisation) {
  EXPECT_EQ(predict(balanced(1, 0, .1, .1, Order::Alternating)).verdict, Verdict::Neutral);
  EXPECT_EQ(predict(balanced(1, 0, .1, .1, Order::Simultaneous)).verdict, Verdict::Divergent);
  EXPECT_EQ(predict(balanced(.01, 0, .1, .1, Order::Alternating)).verdict, Verdict::Divergent);  // g = 100
  EXPECT_THAT(error_message([] { predict({1, {.5}, 1, {.1, .1, 0}}); }), HasSubstr("there is no equilibrium"));
}

TEST(KernelGanLocal, RecommendationsAreTheBest) {
  Kernel kernel;
  for (const auto order : {Order::Alternating, Order::Simultaneous}) {
    const Block b = balanced(1, .5, .1, .1, order);
    const Recommendation r = recommend(b, kernel);
    const double best = order == Order::Alternating ? std::sqrt(.95) : 1 - .025;
    EXPECT_NEAR(r.sigma_rate, best, 1e-7);
    EXPECT_NEAR(r.eta_g_rate, best, 1e-7);
    EXPECT_NEAR(predict(balanced(r.sigma, .5, .1, .1, order)).rate, best, 1e-7);
    for (const double factor : {.3, .7, 1.5, 4.})
      EXPECT_GT(predict(balanced(factor * r.sigma, .5, .1, .1, order)).rate, best - 1e-7) << factor;
    EXPECT_NEAR(predict(balanced(r.sigma_low, .5, .1, .1, order)).rate, best, 1e-6);
    EXPECT_NEAR(predict(balanced(r.sigma_high, .5, .1, .1, order)).rate, best, 1e-6);
  }
  // Simultaneous: sigma^2 = 4 eta_g q^2 / (eta_d lambda^2).
  EXPECT_NEAR(recommend(balanced(1, .5, .1, .1, Order::Simultaneous), kernel).sigma, 4, 1e-9);
}

/// Points on a line, far apart, with one or two generated points each.
Problem line(Order order, KernelKind kind = KernelKind::Gaussian) {
  Problem p;
  p.true_points = numbers({0, 0, 40, 0, 0, 40}).view({3, 2});
  p.true_masses = numbers({.3, .3, .4});
  p.points = numbers({0, .1, 40.2, 0, 39.9, .1, .1, 40}).view({4, 2});
  p.masses = numbers({.25, .15, .1, .4});
  p.kernel.kind = kind;
  p.steps = {.2, .5, .6, order};
  return p;
}

TEST(KernelGanLocal, TheJacobianOfTheWholeUpdateHasTheSpectrumOfTheBlocks) {
  for (const auto order : {Order::Alternating, Order::Simultaneous}) {
    const Problem p = line(order);
    const Linearization l = linearize_update(p);
    const Tensors at = equilibrium(p);
    for (std::size_t i = 0; i < at.size(); ++i)  // it is a fixed point
      EXPECT_LT((l.value[i] - at[i]).abs().max().item<double>(), 1e-14);
    const auto found = eigenvalues_of(to_dense(l.jacobian));
    std::vector<Complex> expected(3, 1 - .12);
    for (const Block& b : {Block{.3, {.25}, 1, p.steps}, Block{.3, {.15, .1}, 1, p.steps}, Block{.4, {.4}, 1, p.steps}})
      for (const Complex z : predict(b).eigenvalues) expected.insert(expected.end(), 2, z);
    ASSERT_EQ(found.size(), expected.size());
    for (const Complex z : found) {  // equal as multisets: take each nearest one once
      const auto match = std::ranges::min_element(expected, {}, [&](Complex e) { return std::abs(e - z); });
      EXPECT_LT(std::abs(*match - z), 1e-7) << z;
      expected.erase(match);
    }
  }
}

TEST(KernelGanLocal, TheJacobianIsADerivative) {
  for (const auto kind : {KernelKind::Gaussian, KernelKind::RationalQuadratic, KernelKind::MultiGaussian}) {
    Problem p = line(Order::Alternating, kind);
    p.true_points = p.true_points / 20;  // blocks that feel each other
    p.points = p.points / 20;
    const CheckResult check = check_linearization(update(p), equilibrium(p));
    EXPECT_TRUE(check) << check.message;
  }
}

TEST(KernelGanLocal, CoupledBlocksConvergeAsTheJacobianSays) {
  // One generated point per target, balanced, two widths apart: the isolated model is rough, the Jacobian is not.
  Problem p;
  p.true_points = numbers({0, 2}).view({2, 1});
  p.true_masses = p.masses = numbers({.5, .5});
  p.points = numbers({1e-4, 2 + 3e-4}).view({2, 1});
  p.steps = {.2, .3, .5, Order::Alternating};
  const double exact = std::abs(eigenvalues_of(to_dense(linearize_update(p).jacobian))[0]);
  const auto e = (simulate(p, {.steps = 400, .forget = 0}).points - p.true_points).abs().sum(1).flatten();
  const double measured = envelope_rate({e.const_data_ptr<double>() + 200, 200});
  EXPECT_NEAR(measured, exact, 1e-3);
  const Report report = analyse(p);
  EXPECT_GT(report.leakage, kMostLeakage);
  EXPECT_THAT(report.notices.at(0), HasSubstr("not isolated"));
}

TEST(KernelGanLocal, EquilibriumNeedsRegularisationWhereMassesDiffer) {
  Problem p = line(Order::Alternating);
  p.steps.lambda = 0;
  EXPECT_THAT(error_message([&] { equilibrium(p); }), HasSubstr("there is none"));
  p.masses = numbers({.3, .2, .1, .4});
  EXPECT_EQ(equilibrium(p)[1].abs().max().item<double>(), 0);
}

TEST(KernelGanLocal, ReportsEachTarget) {
  Problem p = line(Order::Alternating);
  p.points = numbers({0, .1, 40.2, 0, 39.9, .1, 200, 200}).view({4, 2});
  const Report report = analyse(p);
  ASSERT_EQ(report.targets.size(), 3U);
  EXPECT_EQ(report.targets[1].members, (std::vector<std::int64_t>{1, 2}));
  EXPECT_NEAR(report.targets[1].delta, .05, 1e-12);
  EXPECT_FALSE(report.targets[2].prediction);
  EXPECT_THAT(report.targets[2].advice, HasSubstr("no generated point"));
  EXPECT_EQ(report.far, (std::vector<std::int64_t>{3}));
  EXPECT_LT(report.leakage, 1e-12);
  EXPECT_THAT(report.notices.at(0), HasSubstr("almost no pull"));
  EXPECT_EQ(report.rate, std::max(report.targets[0].prediction->rate, report.targets[1].prediction->rate));
  p.points = numbers({0, .6, 40.2, 0, 39.9, .1, 0, 40}).view({4, 2});
  EXPECT_THAT(analyse(p).notices.at(0), HasSubstr("outside the local regime at true point 0"));
}

TEST(KernelGanLocal, KinkedKernelsAreForSimulationOnly) {
  for (const auto kind : {KernelKind::Laplacian, KernelKind::ReluNtk}) {
    const Problem p = line(Order::Alternating, kind);
    EXPECT_THAT(error_message([&] { analyse(p); }), HasSubstr("no local linear theory"));
    EXPECT_THAT(error_message([&] { update(p); }), HasSubstr("no local linear theory"));
    EXPECT_NO_THROW(simulate(p, {.steps = 5}));
  }
}

TEST(KernelGanLocal, AdviceWithoutRegularisationKnowsTheOrder) {
  Problem p;
  p.true_points = p.points = numbers({0}).view({1, 1});
  p.true_masses = p.masses = numbers({1});
  p.steps = {.1, 50, 0, Order::Alternating};
  EXPECT_THAT(analyse(p).targets[0].advice,
              testing::AllOf(HasSubstr("g = 5 is above 4"), testing::Not(HasSubstr("alternating"))));
  p.steps.order = Order::Simultaneous;
  EXPECT_THAT(analyse(p).targets[0].advice, HasSubstr("take alternating ones"));
}

TEST(KernelGanLocal, AdviceHelps) {
  // Where a knob is named, turning it makes the block converge, or faster.
  for (const auto order : {Order::Alternating, Order::Simultaneous}) {
    for (const double eta_g : {.0005, .3, 3., 50.}) {
      Problem p;
      p.true_points = p.points = numbers({0}).view({1, 1});
      p.true_masses = p.masses = numbers({1});
      p.steps = {.1, eta_g, .5, order};
      const auto before = analyse(p).targets[0];
      p.kernel.sigma = before.recommendation->sigma;
      EXPECT_LE(analyse(p).rate, before.prediction->rate + 1e-12) << eta_g;
      EXPECT_NEAR(analyse(p).rate, before.recommendation->sigma_rate, 1e-12);
    }
  }
}

}  // namespace
}  // namespace unbend::gan
