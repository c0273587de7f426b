#include "unbend/transport/partial_transport.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/error_message.h"
#include "tests/transport/random_measure.h"

namespace unbend::transport {
namespace {

using testing::HasSubstr;

// The least value over all partial matchings of unit masses.
double best_matching(const Measure& a, const Measure& b, double lambda, std::int64_t i = 0, unsigned used = 0) {
  if (i == a.size()) return lambda * static_cast<double>(b.size() - __builtin_popcount(used));
  double best = lambda + best_matching(a, b, lambda, i + 1, used);
  for (std::int64_t j = 0; j < b.size(); ++j) {
    if (used >> j & 1) continue;
    best =
        std::min(best, squared_distance(a.point(i), b.point(j)) + best_matching(a, b, lambda, i + 1, used | 1U << j));
  }
  return best;
}

// Feasible plan, feasible potentials, no gap: a proof that the value is the optimum.
void expect_proved(const PartialPlan& plan, const Measure& a, const Measure& b, double lambda) {
  std::vector<double> rows(a.masses.size()), columns(b.masses.size());
  for (const auto& [i, j, mass] : plan.entries) {
    EXPECT_GT(mass, 0);
    EXPECT_LT(squared_distance(a.point(i), b.point(j)), 2 * lambda * (1 + 1e-12));
    rows[static_cast<std::size_t>(i)] += mass, columns[static_cast<std::size_t>(j)] += mass;
  }
  for (std::size_t i = 0; i < rows.size(); ++i) EXPECT_LE(rows[i], a.masses[i] + 1e-12);
  for (std::size_t j = 0; j < columns.size(); ++j) EXPECT_LE(columns[j], b.masses[j] + 1e-12);
  if (!plan.gap) return;
  EXPECT_LT(std::abs(*plan.gap), 1e-10 * (1 + plan.value));
  for (std::int64_t i = 0; i < a.size(); ++i) {
    const double u = plan.source_potentials[static_cast<std::size_t>(i)];
    EXPECT_LE(u, 0);
    for (std::int64_t j = 0; j < b.size(); ++j) {
      const double v = plan.target_potentials[static_cast<std::size_t>(j)];
      EXPECT_LE(v, 0);
      if (a.masses[static_cast<std::size_t>(i)] > 0 && b.masses[static_cast<std::size_t>(j)] > 0) {
        EXPECT_LE(u + v, squared_distance(a.point(i), b.point(j)) - 2 * lambda + 1e-11 * (1 + lambda));
      }
    }
  }
}

TEST(PartialTransport, WorkedExampleWithSplitMass) {
  const auto a = measure(2, {0, 0, 2, 0, 0, 2}, {.4, .3, .3});
  const auto b = measure(2, {.5, 0, 0, .4, 2.2, .1, 5, 5}, {.2, .3, .2, .3});
  const auto c = measure(2, {.9, .2, 0, 2.5, -3, 0}, {.5, .3, .1});
  const auto plan = partial_transport(a, b, .8);
  expect_proved(plan, a, b, .8);
  EXPECT_NEAR(plan.value, .723, 1e-14);
  ASSERT_EQ(plan.entries.size(), 3u);
  EXPECT_NEAR(plan.entries[0].mass, .1, 1e-15);  // 0 to 0
  EXPECT_NEAR(plan.entries[1].mass, .3, 1e-15);  // 0 to 1
  EXPECT_EQ(plan.entries[2].source, 1);
  EXPECT_EQ(plan.entries[2].target, 2);
  EXPECT_NEAR(partial_transport(a, c, .8).value, .78, 1e-14);
  EXPECT_NEAR(partial_transport(b, c, .8).value, 1.015, 1e-14);
}

TEST(PartialTransport, WorkedExampleOnTheLine) {
  const auto x0 = measure(1, {0, 1, 2, 3}, {1, 1, 1, 1}), x1 = measure(1, {.2, 1.1, 6}, {1, 1, 1});
  const auto x2 = measure(1, {.9, 2.5, 3.2, 9}, {1, 1, 1, 1});
  const auto plan = partial_transport(x0, x1, 1);
  EXPECT_EQ(plan.solver, "line");
  EXPECT_NEAR(plan.value, 3.05, 1e-14);
  EXPECT_NEAR(partial_transport(x0, x2, 1).value, 2.30, 1e-14);
  EXPECT_NEAR(partial_transport(x1, x2, 1).value, 5.04, 1e-14);
  EXPECT_NEAR(partial_transport(x1, x2, 1, Solver::NetworkSimplex).value, 5.04, 1e-14);
}

TEST(PartialTransport, SolversAgreeWithAllMatchings) {
  Random random(1);
  for (int trial = 0; trial < 60; ++trial) {
    const std::int64_t dim = 1 + trial % 5;
    const auto a = random_measure(static_cast<std::int64_t>(random.below(6)), dim, 1, random);
    const auto b = random_measure(static_cast<std::int64_t>(random.below(6)), dim, 1, random);
    const double lambda = .02 + 3 * random.uniform();
    const double expected = best_matching(a, b, lambda);
    for (const Solver solver : {Solver::Automatic, Solver::NetworkSimplex, Solver::Assignment}) {
      const auto plan = partial_transport(a, b, lambda, solver);
      expect_proved(plan, a, b, lambda);
      EXPECT_NEAR(plan.value, expected, 1e-13 * (1 + expected)) << plan.solver << " " << trial;
    }
  }
}

TEST(PartialTransport, ProvesItsOptimaAtAllSizes) {
  Random random(2);
  for (const std::int64_t dim : {1, 2, 3, 5, 40}) {
    for (const double equal : {0., .7}) {
      for (const double reach : {.05, 1., 100.}) {
        const double lambda = reach * static_cast<double>(dim);
        const auto a = random_measure(90, dim, equal, random), b = random_measure(130, dim, equal, random);
        const auto plan = partial_transport(a, b, lambda);
        expect_proved(plan, a, b, lambda);
        const auto simplex = partial_transport(a, b, lambda, Solver::NetworkSimplex);
        expect_proved(simplex, a, b, lambda);
        EXPECT_NEAR(plan.value, simplex.value, 1e-12 * (1 + plan.value)) << dim << " " << equal << " " << lambda;
        if (equal > 0) {
          const auto assigned = partial_transport(a, b, lambda, Solver::Assignment);
          expect_proved(assigned, a, b, lambda);
          EXPECT_NEAR(assigned.value, plan.value, 1e-12 * (1 + plan.value));
        }
        EXPECT_NEAR(partial_transport(b, a, lambda).value, plan.value, 1e-12 * (1 + plan.value));
      }
    }
  }
}

// Points on a grid and equal masses: nearly every basis is degenerate, and most costs tie.
TEST(PartialTransport, SurvivesDegeneracy) {
  Random random(3);
  for (const int trial : {0, 1, 2, 3}) {
    Measure a{2, {}, {}}, b{2, {}, {}};
    for (int i = 0; i < 20; ++i) {
      for (int j = 0; j < 20; ++j) {
        a.add(std::vector<double>{double(i), double(j)}, 1);
        if (random.uniform() < .7) b.add(std::vector<double>{i + (trial % 2 ? .5 : 0), double(j)}, 1 + trial / 2);
      }
    }
    a.add(std::vector<double>{3, 3}, 1);  // twice the same atom
    expect_proved(partial_transport(a, b, 3), a, b, 3);
    if (trial < 2) expect_proved(partial_transport(a, b, 3, Solver::Assignment), a, b, 3);
  }
}

TEST(PartialTransport, LimitsInLambda) {
  Random random(4);
  const auto a = random_measure(30, 2, 0, random), b = random_measure(25, 2, 0, random);
  EXPECT_NEAR(partial_transport(a, b, 1e-9).value, 1e-9 * (a.total() + b.total()), 1e-20);
  double last = 0, last_slope = INFINITY;
  for (double lambda = .05; lambda < 3; lambda += .05) {  // increasing, concave, below giving everything up
    const double value = partial_transport(a, b, lambda).value, slope = (value - last) / .05;
    EXPECT_GE(slope, -1e-12);
    EXPECT_LE(slope, last_slope + 1e-10);
    EXPECT_LE(value, lambda * (a.total() + b.total()) + 1e-12);
    last = value, last_slope = slope;
  }
  const auto p = normalised(a, "a"), q = normalised(b, "b");
  const auto balanced = balanced_transport(p, q);
  EXPECT_NEAR(balanced.transported, 1, 1e-13);
  EXPECT_NEAR(partial_transport(p, q, 1000).value, balanced.value, 1e-10);
  EXPECT_THAT(error_message([&] { balanced_transport(a, b); }), HasSubstr("unequal"));
}

TEST(PartialTransport, EmptyMasslessAndEqualMeasures) {
  Random random(5);
  const auto a = random_measure(20, 3, 0, random);
  const Measure empty{3, {}, {}};
  EXPECT_NEAR(partial_transport(a, empty, 2).value, 2 * a.total(), 1e-13);
  EXPECT_EQ(partial_transport(empty, empty, 2).value, 0);
  EXPECT_NEAR(partial_transport(a, a, 2).value, 0, 1e-13);
  auto padded = a;
  padded.add(std::vector<double>{0, 0, 0}, 0);
  EXPECT_EQ(partial_transport(padded, a, 2).value, partial_transport(a, a, 2).value);
  for (const auto& entry : partial_transport(padded, a, 2).entries) EXPECT_EQ(entry.source, entry.target);
}

TEST(PartialTransport, ShiftsChangeNothing) {
  Random random(6);
  auto a = random_measure(40, 2, 0, random), b = random_measure(30, 2, 0, random);
  const double value = partial_transport(a, b, .7).value;
  for (auto* m : {&a, &b})
    for (double& x : m->points) x += 100;
  EXPECT_NEAR(partial_transport(a, b, .7).value, value, 1e-11);
}

TEST(PartialTransport, EachDroppedCandidateIsFoundAgain) {
  // More atoms than the list of candidates holds, many of them as good as each other: masses and distances on a grid.
  Random random(13);
  Measure a{2, {}, {}}, b{2, {}, {}};
  for (Measure* m : {&a, &b})
    for (int i = 0; i < 300; ++i)
      m->add(std::vector{static_cast<double>(random.below(20)), static_cast<double>(random.below(20))},
             static_cast<double>(1 + random.below(3)));
  for (const double lambda : {.5, 2., 50.}) {
    const auto plan = partial_transport(a, b, lambda);
    EXPECT_EQ(plan.solver, "network simplex");
    expect_proved(plan, a, b, lambda);
  }
}

TEST(PartialTransport, RefusesBadInput) {
  const auto good = measure(1, {0}, {1});
  const auto refused = [&](const Measure& bad, double lambda = 1) {
    return error_message([&] { partial_transport(good, bad, lambda); });
  };
  EXPECT_EQ(refused(good), "no error");
  EXPECT_THAT(refused(good, 0), HasSubstr("lambda is 0"));
  EXPECT_THAT(refused(good, NAN), HasSubstr("lambda is nan"));
  EXPECT_THAT(refused(good, 1e308), HasSubstr("lambda is 1e+308: too large for measures of mass 1 and 1"));
  EXPECT_THAT(error_message([&] { balanced_transport(good, measure(1, {1e200}, {1})); }), HasSubstr("too far apart"));
  EXPECT_THAT(error_message([&] { partial_transport(good, measure(1, {0}, {2}), 1, Solver::Assignment); }),
              HasSubstr("not all equal"));
  EXPECT_THAT(refused(measure(1, {0, 1}, {1, -1})), HasSubstr("second measure: the mass of point 1 is -1"));
  EXPECT_THAT(refused(measure(1, {0}, {NAN})), HasSubstr("the mass of point 0 is nan"));
  EXPECT_THAT(refused(measure(1, {INFINITY}, {1})), HasSubstr("coordinate inf"));
  EXPECT_THAT(refused(measure(1, {0, 1}, {1})), HasSubstr("2 coordinates for 1 masses"));
  EXPECT_THAT(refused(measure(2, {0, 1}, {1})), HasSubstr("of 1 dimensions in the first measure, of 2"));
  EXPECT_THAT(
      error_message([&] { partial_transport(good, good, 1, Solver::NetworkSimplex, 1); }, ErrorKind::Computation),
      HasSubstr("duality gap"));
}

}  // namespace
}  // namespace unbend::transport
