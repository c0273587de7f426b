#include "unbend/control/filter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/error_message.h"
#include "unbend/base/random.h"

namespace unbend::control {
namespace {

using ::testing::HasSubstr;

Cone cone(std::initializer_list<double> a, double b, const Cone::Rows& m = {}) {
  Cone out{Vector(a.size()), b, m};
  std::copy(a.begin(), a.end(), out.a.begin());
  return out;
}

FilterProblem example() {
  Cone::Rows m(3, 3);
  m << .2, .1, 0, .3, 0, .4, 0, .2, .1;
  return {Vector{{2, -1}}, {cone({-1, .5}, 1, m)}, {}};
}

/// A random problem that has a solution: constraints hold at some input.
FilterProblem random_problem(int n, int cones, bool limits, Random& random) {
  FilterProblem p;
  p.desired.resize(n);
  Vector allowed(n);
  for (int k = 0; k < n; ++k) {
    p.desired[k] = 10 * random.normal();
    allowed[k] = 3 * random.normal();
  }
  for (int i = 0; i < cones; ++i) {
    Cone c{Vector(n), 0, Cone::Rows(random.below(4) == 0 ? 0 : n + 1, n + 1)};
    const double size = std::exp(3 * random.normal());
    for (double& v : c.a) v = size * random.normal();
    for (double& v : c.m.reshaped()) v = .4 * size * random.normal() / (n + 1);
    c.b = -c.margin(allowed) + size * random.uniform();
    p.cones.push_back(c);
  }
  if (limits) p.limit = allowed.cwiseAbs().array() + .5;
  return p;
}

TEST(Filter, Oracle) {
  const FilterProblem p = example();
  EXPECT_NEAR(p.cones[0].margin(p.desired), -2.0099020, 1e-7);
  const Vector expected{{.47117641, -.52510374}};  // Newton on its KKT conditions, to 1e-16
  for (const auto& result : {solve_filter(p), solve_filter_interior(p), solve_filter_scs(p)}) {
    EXPECT_EQ(result.status, FilterStatus::Solved);
    EXPECT_LT((result.u - expected).norm(), 2e-7) << name(result.path);
    EXPECT_NEAR(result.distance, 1.6008835, 1e-7);
    EXPECT_NEAR(result.margins[0], 0, 1e-7);
  }
  const auto own = solve_filter(p);
  ASSERT_EQ(own.path, FilterPath::OneCone);
  EXPECT_NEAR(own.multipliers[0], 1.35998588, 1e-7);
  const Vector ubar = own.u;
  const Eigen::Vector3d y = p.cones[0].m.col(0) + p.cones[0].m.rightCols(2) * ubar;
  const Vector stationary =
      own.u - p.desired -
      own.multipliers[0] * Vector(p.cones[0].a - p.cones[0].m.rightCols(2).transpose() * y / y.norm());
  EXPECT_LT(stationary.norm(), 1e-10);
}

TEST(Filter, WithoutUncertaintyIsTheClosedForm) {
  FilterProblem p = example();
  p.cones[0].m.resize(0, 3);
  const auto result = solve_filter(p);
  EXPECT_LT((result.u - Vector{{.8, -.4}}).norm(), 1e-14);
  p.cones[0].m = Cone::Rows::Zero(3, 3);
  EXPECT_LT((solve_filter(p).u - Vector{{.8, -.4}}).norm(), 1e-8);
}

TEST(Filter, AnAllowedInputIsReturnedBitForBit) {
  FilterProblem p = example();
  p.desired = Vector{{.1 + .2, -1. / 3}};
  const auto result = solve_filter(p);
  EXPECT_EQ(result.status, FilterStatus::Unchanged);
  EXPECT_EQ(result.u, p.desired);
  EXPECT_EQ(result.distance, 0);
}

TEST(Filter, ProvesInfeasibilityAndViolatesLeast) {
  Cone::Rows m(2, 3);
  m << 0, 1, 0, 0, 0, 1;
  const FilterProblem p{Vector{{2, -1}}, {cone({-.1, .05}, -1, m)}, {}};
  for (const auto& result : {solve_filter(p), solve_filter_interior(p), solve_filter_scs(p)}) {
    EXPECT_EQ(result.status, FilterStatus::Infeasible) << name(result.path);
    EXPECT_LT(result.u.norm(), 1e-3);  // |u| + .1 u1 - .05 u2 + 1 is least at 0
    EXPECT_NEAR(result.margins[0], -1, 1e-3);
  }
  // Two half planes that do not meet, and limits that do not reach.
  EXPECT_EQ(solve_filter({Vector{{0, 0}}, {cone({1, 0}, -1), cone({-1, 0}, .5)}, {}}).status, FilterStatus::Infeasible);
  const auto limited = solve_filter({Vector{{0, 0}}, {cone({1, 0}, -5)}, Vector{{2, 2}}});
  EXPECT_EQ(limited.status, FilterStatus::Infeasible);
  EXPECT_NEAR(limited.u[0], 2, 1e-7);
}

TEST(Filter, LimitsAreKept) {
  FilterProblem p{Vector{{3, -7}}, {}, Vector{{2, 5}}};
  EXPECT_LT((solve_filter(p).u - Vector{{2, -5}}).norm(), 1e-8);
  p.cones = {cone({-1, -1}, -3.5)};
  EXPECT_LT((solve_filter(p).u - Vector{{1.5, -5}}).norm(), 1e-7);
}

TEST(Filter, AgreesWithScs) {
  Random random(11);
  int one = 0, several = 0;
  for (int trial = 0; trial < 300; ++trial) {
    const int n = 1 + static_cast<int>(random.below(4));
    const FilterProblem p = random_problem(n, 1 + static_cast<int>(random.below(5)), trial % 3 == 0, random);
    const auto own = solve_filter(p), scs = solve_filter_scs(p), interior = solve_filter_interior(p);
    ASSERT_EQ(own.status, scs.status) << trial;
    ASSERT_EQ(own.status, interior.status) << trial;
    if (own.status == FilterStatus::Unchanged) continue;
    ++(own.path == FilterPath::OneCone ? one : several);
    EXPECT_LT((own.u - interior.u).norm(), 1e-6 * (1 + own.distance)) << trial << " " << name(own.path);
    EXPECT_LT((own.u - scs.u).norm(), 1e-5 * (1 + own.distance)) << trial << " " << name(own.path);
    for (std::size_t i = 0; i < p.cones.size(); ++i) EXPECT_GE(own.margins[i], -1e-7 * p.cones[i].a.norm()) << trial;
  }
  EXPECT_GT(one, 50);
  EXPECT_GT(several, 50);
}

TEST(Filter, DoesNotMindTheScaleOfRows) {
  FilterProblem p = example();
  const auto before = solve_filter(p);
  p.cones[0].a *= 1e4;
  p.cones[0].b *= 1e4;
  p.cones[0].m *= 1e4;
  EXPECT_LT((solve_filter(p).u - before.u).norm(), 1e-11);
  EXPECT_LT((solve_filter_interior(p).u - before.u).norm(), 1e-7);
}

TEST(Filter, RefusesWhatDoesNotFit) {
  FilterProblem p = example();
  p.desired = Vector{{NAN, 0}};
  EXPECT_THAT(error_message([&] { solve_filter(p); }), HasSubstr("desired input is not finite"));
  p = example();
  p.cones[0].a = Vector{{1, 2, 3}};
  EXPECT_THAT(error_message([&] { solve_filter(p); }), HasSubstr("constraint 1 is for 3 inputs"));
  p = example();
  p.cones[0].b = INFINITY;
  EXPECT_THAT(error_message([&] { solve_filter(p); }), HasSubstr("constraint 1 is not finite"));
  p = example();
  p.cones[0].a *= 1e200;  // its square overflows: a violation must not look like none
  EXPECT_THAT(error_message([&] { solve_filter(p); }), HasSubstr("beyond 1e150"));
  p = example();
  p.limit = Vector{{1, -1}};
  EXPECT_THAT(error_message([&] { solve_filter(p); }), HasSubstr("limits must be positive"));
}

}  // namespace
}  // namespace unbend::control
