#include "unbend/tangent/kernel_gan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>
#include <limits>

#include "tests/error_message.h"
#include "unbend/base/random.h"
#include "unbend/tangent/kernel_gan_batch.h"
#include "unbend/tangent/kernel_gan_rate.h"

namespace unbend::gan {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

at::Tensor numbers(std::initializer_list<double> list) { return at::tensor(std::vector<double>(list), at::kDouble); }

/// One true point at 0, one generated point at 0.1, on a line.
Problem two_points(double sigma, Steps steps) {
  Kernel kernel;
  kernel.sigma = sigma;
  return {numbers({0}).view({1, 1}), numbers({1}), numbers({.1}).view({1, 1}), numbers({1}), kernel, steps};
}

Problem cloud(const Kernel& kernel, Order order, std::uint64_t seed = 1) {
  Random random(seed);
  const auto points = [&](std::int64_t n) {
    auto t = at::empty({n, 2}, at::kDouble);
    for (std::int64_t i = 0; i < 2 * n; ++i) t.view(-1)[i] = random.normal();
    return t;
  };
  return {points(3), numbers({.5, .3, .2}), points(4), numbers({.1, .2, .3, .4}), kernel, {.3, .2, .4, order}};
}

double distance(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<double>(); }

TEST(KernelGan, TheFirstStepsAreAsComputedByHand) {
  const auto first = [](Order order) {
    return simulate(two_points(1, {.1, .5, .5, order}), {.steps = 5, .forget = 0}).points.flatten();
  };
  EXPECT_LT(distance(first(Order::Alternating), numbers({.1, .095025, .085565, .072306, .056087, .037864})), 6e-7);
  EXPECT_LT(distance(first(Order::Simultaneous), numbers({.1, .1, .095025, .085317, .071347, .053803})), 6e-7);
}

/// The definition: every step evaluates the unrolled sum, by autograd of the kernel itself.
at::Tensor by_definition(const Problem& p, std::int64_t steps) {
  std::vector<at::Tensor> positions{p.points};
  for (std::int64_t k = 0; k < steps; ++k) {
    const std::int64_t terms = p.steps.order == Order::Alternating ? k + 1 : k;
    const auto x = positions.back().detach().clone().requires_grad_(true);
    auto f = at::zeros({x.size(0)}, at::kDouble);
    for (std::int64_t s = 0; s < terms; ++s) {
      const double weight = p.steps.eta_d * std::pow(p.steps.decay(), static_cast<double>(terms - 1 - s));
      f = f + weight * (at::mv(kernel_matrix(p.kernel, x, p.true_points), p.true_masses) -
                        at::mv(kernel_matrix(p.kernel, x, positions[static_cast<std::size_t>(s)]), p.masses));
    }
    auto gradient = at::zeros_like(x);
    if (terms > 0) {
      f.sum().backward();
      gradient = x.grad();
    }
    positions.push_back(x.detach() + p.steps.eta_g * p.masses.unsqueeze(1) * gradient);
  }
  return at::stack(positions);
}

class Kernels : public testing::TestWithParam<KernelKind> {
 protected:
  Kernel kernel() const {
    Kernel k;
    k.kind = GetParam();
    k.sigma = .8;
    k.shape = 1.5;
    return k;
  }
};

TEST_P(Kernels, TrainingEqualsAutogradOfTheUnrolledSum) {
  // Without points that meet their own past, at which the kinked kernels have no gradient.
  for (const auto order : {Order::Alternating, Order::Simultaneous}) {
    const Problem p = cloud(kernel(), order);
    const auto expected = by_definition(p, kernel().smooth() ? 12 : 1);
    const auto points = simulate(p, {.steps = expected.size(0) - 1, .forget = 0}).points;
    if (kernel().smooth()) {
      EXPECT_LT(distance(points, expected), 1e-13) << name(GetParam());
    } else if (order == Order::Simultaneous) {
      EXPECT_EQ(distance(points, expected), 0);
    }
  }
}

TEST_P(Kernels, GradientsAreThoseOfTheKernel) {
  Random random(3);
  for (const std::int64_t count : {1, 7, 513, 1500}) {
    for (const std::int64_t dims : {1, 2, 5}) {
      auto f = Expansion::with_room(dims, count);
      f.count = count;
      for (std::int64_t i = 0; i < count; ++i) {
        for (auto& column : f.coordinates) column[static_cast<std::size_t>(i)] = 2 * random.normal();
        f.weights[static_cast<std::size_t>(i)] = random.normal();
      }
      auto x = at::empty({3, dims}, at::kDouble);
      for (std::int64_t i = 0; i < x.numel(); ++i) x.view(-1)[i] = random.normal();
      const auto leaf = x.clone().requires_grad_(true);
      values(kernel(), f, leaf).sum().backward();
      auto out = at::empty_like(x);
      gradients(kernel(), f, x.const_data_ptr<double>(), 3, out.mutable_data_ptr<double>());
      EXPECT_LT(distance(out, leaf.grad()), 1e-11 * static_cast<double>(count)) << name(GetParam()) << " " << count;
      if (!kernel().radial() || kernel().kind == KernelKind::RationalQuadratic) continue;
      gradients(kernel(), f, x.const_data_ptr<double>(), 3, out.mutable_data_ptr<double>(), 60);
      EXPECT_LT(distance(out, leaf.grad()), 1e-11 * static_cast<double>(count)) << "with a cut-off";
    }
  }
}

TEST_P(Kernels, FeaturesGiveTheKernelInTheMean) {
  if (!kernel().radial()) {
    EXPECT_THAT(error_message([&] { random_features(kernel(), 2, 10, 1); }), HasSubstr("no random features"));
    return;
  }
  const Features psi = random_features(kernel(), 2, 200000, 5);
  const Problem p = cloud(kernel(), Order::Alternating);
  const auto estimate = at::mm(psi(p.points), psi(p.true_points).t());
  EXPECT_LT(distance(estimate, kernel_matrix(kernel(), p.points, p.true_points)), .012) << name(GetParam());
}

INSTANTIATE_TEST_SUITE_P(All, Kernels,
                         testing::Values(KernelKind::Gaussian, KernelKind::RationalQuadratic, KernelKind::MultiGaussian,
                                         KernelKind::Laplacian, KernelKind::ReluNtk),
                         [](const auto& info) {
                           auto text = name(info.param);
                           std::erase(text, '-');
                           return text;
                         });

TEST(KernelGan, RadialFunctionsAreDerivativesOfEachOther) {
  for (const auto kind : {KernelKind::Gaussian, KernelKind::RationalQuadratic, KernelKind::MultiGaussian}) {
    Kernel kernel;
    kernel.kind = kind;
    kernel.sigma = 1.3;
    kernel.shape = 2.5;
    const auto s = at::linspace(0, 9, 10, at::kDouble).requires_grad_(true);
    const Radial k = radial(kernel, s);
    k.value.sum().backward({}, true);
    EXPECT_LT(distance(k.slope.detach(), -2 * s.grad()), 1e-14);
    s.mutable_grad().zero_();
    k.slope.sum().backward();
    EXPECT_LT(distance(k.slope_derivative.detach(), s.grad()), 1e-14);
    EXPECT_NEAR(kernel.curvature(), k.slope[0].item<double>(), 1e-14);
  }
}

TEST(KernelGan, ForgettingChangesNothingAboveItsLevel) {
  for (const auto order : {Order::Alternating, Order::Simultaneous}) {
    Problem p = cloud({}, order);
    const auto whole = simulate(p, {.steps = 400, .forget = 0});
    const auto short_memory = simulate(p, {.steps = 400, .forget = 1e-12});
    EXPECT_EQ(whole.window, 400);
    EXPECT_EQ(short_memory.window, std::ceil(std::log(1e-12) / std::log(1 - .12)));
    EXPECT_LT(distance(whole.points, short_memory.points), 1e-11);
    EXPECT_GT(distance(whole.points, simulate(p, {.steps = 400, .forget = 1e-2}).points), 1e-11);
  }
}

TEST(KernelGan, WindowsAtTheirLimits) {
  EXPECT_EQ(memory_window({.1, .1, 0}, 1e-15, 500), 500);
  EXPECT_EQ(memory_window({1, .1, 1}, 1e-15, 500), 1);  // f forgets everything at once
  EXPECT_EQ(memory_window({1, .1, 1.5}, 1e-15, 500), 50);
  EXPECT_EQ(memory_window({.1, .1, .1}, 1e-15, 100), 100);
  for (const double lambda : {1., 1.5}) {
    const Problem p = two_points(3, {1, .1, lambda});
    EXPECT_LT(distance(simulate(p, {.steps = 100, .forget = 0}).points, simulate(p, {.steps = 100}).points), 1e-14);
  }
}

TEST(KernelGan, WithoutRegularisationTheFirstSumGrowsWithTheSteps) {
  const auto t = simulate(two_points(1, {.1, .2, 0}), {.steps = 60, .forget = 0});
  EXPECT_NEAR(t.discriminator.weights[0], .1 * 60, 1e-12);
  EXPECT_LT(distance(t.points, by_definition(two_points(1, {.1, .2, 0}), 60)), 1e-12);
}

TEST(KernelGan, InvariantUnderMotionsAndScaling) {
  const Problem p = cloud({}, Order::Alternating);
  const auto base = simulate(p, {.steps = 100}).points;
  const auto turn = numbers({std::cos(.7), -std::sin(.7), std::sin(.7), std::cos(.7)}).view({2, 2});
  const auto shift = numbers({100, -30});
  Problem moved = p;
  moved.true_points = at::mm(p.true_points, turn) + shift;
  moved.points = at::mm(p.points, turn) + shift;
  EXPECT_LT(distance(simulate(moved, {.steps = 100}).points, at::matmul(base, turn) + shift), 1e-11);
  Problem scaled = p;
  scaled.true_points = 7 * p.true_points;
  scaled.points = 7 * p.points;
  scaled.kernel.sigma = 7;
  scaled.steps.eta_g = 49 * p.steps.eta_g;
  EXPECT_LT(distance(simulate(scaled, {.steps = 100}).points, 7 * base), 1e-11);
}

TEST(KernelGan, RandomFeaturesHaveTheRateOfTheKernel) {
  Problem p = two_points(1, {.1, .1, 1});
  const auto rate = [&](const SimulateOptions& options) {
    const auto e = simulate(p, options).points.flatten().abs();
    return envelope_rate({e.const_data_ptr<double>() + 200, 200});
  };
  EXPECT_NEAR(rate({.steps = 400}), .948683, 2e-3);
  EXPECT_NEAR(rate({.steps = 400, .features = 4000}), .948683, 2e-3);
}

TEST(KernelGan, StartsAtTheEquilibriumIfAsked) {
  Problem p = two_points(1, {.1, .05, .5});
  p.points = p.true_points.clone();
  p.masses = numbers({.8});
  for (const std::int64_t features : {0, 500}) {
    const auto still = simulate(p, {.steps = 50, .from_equilibrium = true, .features = features});
    EXPECT_LT(still.points.abs().max().item<double>(), features > 0 ? .1 : 1e-15);
  }
  const auto f = simulate(p, {.steps = 50, .from_equilibrium = true}).discriminator;
  EXPECT_NEAR(values(p.kernel, f, p.true_points)[0].item<double>(), .2 / .5, 1e-14);
}

TEST(KernelGan, LanesEqualTheSimulator) {
  std::vector<Cell> cells;
  for (const double sigma : {.3, 1., 10.})
    for (const double lambda : {.01, .5, 1.})
      for (const double eta : {.05, .4}) cells.push_back({sigma, {eta, eta, lambda}, 1, .9});
  std::size_t compared = 0;
  for (const auto kind : {KernelKind::Gaussian, KernelKind::RationalQuadratic, KernelKind::MultiGaussian}) {
    for (const auto order : {Order::Alternating, Order::Simultaneous}) {
      Kernel kernel;
      kernel.kind = kind;
      const auto results = run_cells(kernel, order, cells, {.steps = 60, .grown = 1e9, .vanished = 0});
      for (std::size_t i = 0; i < cells.size(); ++i) {
        Problem p = two_points(cells[i].sigma, cells[i].steps);
        p.steps.order = order;
        p.kernel.kind = kind;
        p.points = numbers({1e-3 * cells[i].sigma}).view({1, 1});
        p.masses = numbers({.9});
        const double start = 1e-3 * cells[i].sigma;
        const auto points = simulate(p, {.steps = 60, .forget = 0}).points.flatten().abs() / start;
        if (points.max().item<double>() > 10) continue;  // chaos beyond the linear regime enlarges rounding
        EXPECT_NEAR(results[i].last, points[60].item<double>(), 1e-9) << i;
        EXPECT_EQ(results[i].steps, 60);
        ++compared;
      }
    }
  }
  EXPECT_GT(compared, 4 * cells.size());
}

TEST(KernelGan, CellsEndEarly) {
  const std::vector<Cell> cells{{1, {.1, .1, 1}}, {1, {.1, .2, .1}}};
  const auto results = run_cells({}, Order::Simultaneous, cells);
  EXPECT_EQ(results[0].fate, Fate::Converged);
  EXPECT_EQ(results[1].fate, Fate::Diverged);
  for (const auto& r : results) EXPECT_LT(r.steps, 1000);
  EXPECT_THAT(run_cells({}, Order::Alternating, {}), IsEmpty());
}

TEST(KernelGan, EnvelopesOfKnownSequences) {
  for (const double rate : {.5, .9, .999, 1.02}) {
    for (const double turn : {0., .003, .05, .7, 3.}) {
      std::vector<double> e;
      for (int k = 0; k < 1000; ++k) e.push_back(std::abs(std::pow(rate, k) * std::cos(turn * k + .3)));
      EXPECT_NEAR(envelope_rate(e), rate, 2e-3) << rate << " " << turn;
    }
  }
  EXPECT_TRUE(std::isnan(envelope_rate(std::vector<double>{1, .5, 0, 0, 0})));
}

TEST(KernelGan, RefusesWhatCannotBeTrained) {
  const Problem good = two_points(1, {.1, .1, 1});
  const auto refused = [&](const std::function<void(Problem&)>& change) {
    Problem p = good;
    change(p);
    return error_message([&] { simulate(p, {.steps = 1}); });
  };
  for (const double sigma : {0., -1., std::nan("")})
    EXPECT_THAT(refused([&](Problem& p) { p.kernel.sigma = sigma; }), HasSubstr("sigma must be positive"));
  EXPECT_THAT(refused([](Problem& p) { p.steps.eta_d = 0; }), HasSubstr("eta_d must be positive"));
  EXPECT_THAT(refused([](Problem& p) { p.steps.eta_g = -1; }), HasSubstr("eta_g must be positive"));
  EXPECT_THAT(refused([](Problem& p) { p.steps.lambda = -.1; }), HasSubstr("lambda must be 0 or positive"));
  EXPECT_THAT(refused([](Problem& p) { p.steps.lambda = 20; }), HasSubstr("the discriminator alone is unstable"));
  EXPECT_THAT(refused([](Problem& p) { p.masses = numbers({-1}); }), HasSubstr("-1 is negative"));
  EXPECT_THAT(refused([](Problem& p) { p.true_masses = numbers({0}); }), HasSubstr("all are zero"));
  EXPECT_THAT(refused([](Problem& p) { p.masses = numbers({1, 1}); }), HasSubstr("expected 1 numbers"));
  EXPECT_THAT(refused([](Problem& p) {
                p.points = at::zeros({1, 2});
              }),
              HasSubstr("true points have 1 dimensions, generated points 2"));
  EXPECT_THAT(refused([](Problem& p) { p.points = numbers({std::nan("")}).view({1, 1}); }), HasSubstr("NaN"));
  EXPECT_THAT(refused([](Problem& p) { p.points = numbers({1}); }), HasSubstr("expected [points, dimensions]"));
  EXPECT_THAT(error_message([&] { simulate(good, {.steps = -1}); }), HasSubstr("-1 steps"));
  EXPECT_THAT(error_message([&] { simulate(good, {.steps = 1000, .forget = 0, .most_bytes = 1000}); }),
              HasSubstr("1000 steps to remember"));
  Problem free = good;
  free.steps.lambda = 0;
  EXPECT_THAT(error_message([&] { simulate(free, {.steps = 1, .from_equilibrium = true}); }), HasSubstr("lambda = 0"));
  EXPECT_NO_THROW(simulate(free, {.steps = 10}));
}

TEST(KernelGan, CoincidentTruePointsAreMergedWithANotice) {
  Problem p = two_points(1, {.1, .1, 1});
  p.true_points = numbers({0, 5, 0}).view({3, 1});
  p.true_masses = numbers({.25, .5, .25});
  std::vector<std::string> notices;
  const Problem merged = checked(p, &notices);
  EXPECT_EQ(merged.true_points.size(0), 2);
  EXPECT_EQ(merged.true_masses[0].item<double>(), .5);
  ASSERT_EQ(notices.size(), 1U);
  EXPECT_THAT(notices[0], HasSubstr("1 true point coincides"));
  EXPECT_LT(distance(simulate(p, {.steps = 30}).points, simulate(merged, {.steps = 30}).points), 1e-14);
}

TEST(KernelGan, SaysWhereTheKernelUnderflows) {
  Problem p = two_points(.001, {.1, .1, 1});
  const auto t = simulate(p, {.steps = 20});
  EXPECT_EQ(distance(t.points[20], t.points[0]), 0);
  ASSERT_EQ(t.notes.size(), 1U);
  EXPECT_THAT(t.notes[0], HasSubstr("38 sigma"));
}

TEST(KernelGan, MemoryIsWhatTheSourcesTake) {
  const Problem p = cloud({}, Order::Alternating);
  const double sources = (200 * 4 + 3) * 3 * 8, recorded = 200 * 4 * 2 * 8;
  EXPECT_EQ(memory_needed(p, {.steps = 200, .forget = 0}), sources + recorded);
}

}  // namespace
}  // namespace unbend::gan
