#include "unbend/transport/lopt.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/error_message.h"
#include "tests/transport/random_measure.h"
#include "unbend/transport/hellinger_kantorovich.h"
#include "unbend/transport/pca.h"

namespace unbend::transport {
namespace {

using testing::DoubleNear;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pointwise;

std::vector<Measure> clouds(std::int64_t count, std::int64_t dim, Random& random) {
  std::vector<Measure> all;
  for (std::int64_t k = 0; k < count; ++k)
    all.push_back(random_measure(5 + static_cast<std::int64_t>(random.below(20)), dim, k % 2 ? 1 : 0, random));
  return all;
}

std::vector<Embedding> embedded(const Measure& reference, std::span<const Measure> targets, double lambda) {
  return embed_all(
      targets, [&](const Measure& t) { return lopt_embed(reference, t, lambda); }, 2);
}

TEST(Lopt, WorkedExampleOnTheLine) {
  const auto x0 = measure(1, {0, 1, 2, 3}, {1, 1, 1, 1});
  const auto e1 = lopt_embed(x0, measure(1, {.2, 1.1, 6}, {1, 1, 1}), 1);
  const auto e2 = lopt_embed(x0, measure(1, {.9, 2.5, 3.2, 9}, {1, 1, 1, 1}), 1);
  EXPECT_THAT(e1.displacement, Pointwise(DoubleNear(1e-14), {.2, .1, 0., 0.}));
  EXPECT_THAT(e1.mass, ElementsAre(1, 1, 0, 0));
  EXPECT_NEAR(e1.value, 3.05, 1e-14);
  EXPECT_THAT(e2.displacement, Pointwise(DoubleNear(1e-14), {0., -.1, .5, .2}));
  EXPECT_THAT(e2.mass, ElementsAre(0, 1, 1, 1));
  EXPECT_EQ(e2.rest.total(), 1);
  const auto e0 = lopt_embed(x0, x0, 1);
  EXPECT_NEAR(lopt_discrepancy(e0, e1, 1), 3.05, 1e-14);
  EXPECT_NEAR(lopt_discrepancy(e0, e2, 1), 2.30, 1e-14);
  EXPECT_NEAR(lopt_discrepancy(e1, e2, 1), 5.04, 1e-14);
}

TEST(Lopt, WorkedExampleWithSplitMass) {
  const auto x0 = measure(2, {0, 0, 2, 0, 0, 2}, {.4, .3, .3});
  const auto x1 = measure(2, {.5, 0, 0, .4, 2.2, .1, 5, 5}, {.2, .3, .2, .3});
  const auto e0 = lopt_embed(x0, x0, .8), e1 = lopt_embed(x0, x1, .8);
  const auto e2 = lopt_embed(x0, measure(2, {.9, .2, 0, 2.5, -3, 0}, {.5, .3, .1}), .8);
  EXPECT_THAT(e1.displacement, Pointwise(DoubleNear(1e-14), {.125, .3, .2, .1, 0., 0.}));
  EXPECT_THAT(e1.mass, Pointwise(DoubleNear(1e-14), {.4, .2, 0.}));
  EXPECT_THAT(e1.rest.masses, Pointwise(DoubleNear(1e-14), {.1, .3}));
  EXPECT_THAT(e2.displacement, Pointwise(DoubleNear(1e-14), {.9, .2, -1.1, .2, 0., .5}));
  EXPECT_NEAR(lopt_discrepancy(e0, e1, .8), .69225, 1e-14);
  EXPECT_NEAR(partial_transport(x0, projected(x0, e1), .8).value, .69225, 1e-14);
  EXPECT_NEAR(lopt_discrepancy(e0, e2, .8), .78, 1e-14);
  EXPECT_NEAR(lopt_discrepancy(e1, e2, .8), 1.12425, 1e-14);
}

TEST(Lopt, MatrixIsTheDiscrepancyOfAllPairs) {
  Random random(1);
  for (const std::int64_t dim : {1, 2, 3, 5}) {
    const auto reference = random_measure(17, dim, 0, random);
    const auto targets = clouds(37, dim, random);
    const auto e = embedded(reference, targets, 1.3);
    const auto matrix = lopt_matrix(e, 1.3, 2);
    for (std::size_t i = 0; i < e.size(); ++i) {
      EXPECT_NEAR(lopt_discrepancy(e[i], e[i], 1.3), e[i].rest.total() * 2.6, 1e-12);  // rests are not compared
      EXPECT_EQ(matrix[i * e.size() + i], 0);
      for (std::size_t j = 0; j < i; ++j) {
        EXPECT_NEAR(matrix[i * e.size() + j], lopt_discrepancy(e[i], e[j], 1.3), 1e-12);
        EXPECT_EQ(matrix[i * e.size() + j], matrix[j * e.size() + i]);
      }
    }
  }
  EXPECT_TRUE(lopt_matrix({}, 1).empty());
}

TEST(Lopt, BoundsPartialTransportWherePlansAreMaps) {
  Random random(2);
  const auto reference = random_measure(40, 2, 1, random);
  std::vector<Measure> targets;
  for (int k = 0; k < 6; ++k) targets.push_back(random_measure(40, 2, 1, random));
  const auto e = embedded(reference, targets, .8);
  for (std::size_t i = 0; i < e.size(); ++i)
    for (std::size_t j = 0; j < i; ++j)
      EXPECT_GE(lopt_discrepancy(e[i], e[j], .8), partial_transport(targets[i], targets[j], .8).value - 1e-9);
}

TEST(Lopt, CapsEachAtom) {
  const auto x0 = measure(1, {0, 10}, {1, .5});
  const auto a = lopt_embed(x0, measure(1, {-1, 10}, {1, .5}), .6),
             b = lopt_embed(x0, measure(1, {1, 10}, {.7, .5}), .6);
  EXPECT_NEAR(lopt_discrepancy(a, b, .6), 1.2 * .7 + .6 * .3, 1e-14);  // 4 > 2 lambda
}

TEST(Lopt, LimitsGiveLinearTransport) {
  Random random(3);
  const auto reference = normalised(random_measure(12, 2, 0, random), "r");
  const std::vector<Measure> targets = {normalised(random_measure(15, 2, 0, random), "a"),
                                        normalised(random_measure(9, 2, 0, random), "b")};
  const auto partial = embedded(reference, targets, 500);
  std::vector<Embedding> balanced;
  for (const auto& t : targets) balanced.push_back(lot_embed(reference, t));
  EXPECT_THAT(partial[0].displacement, Pointwise(DoubleNear(1e-10), balanced[0].displacement));
  EXPECT_THAT(balanced[0].mass, Pointwise(DoubleNear(1e-12), reference.masses));
  double square = 0;
  const auto f = features(reference, balanced, false, 1);
  for (std::size_t k = 0; k < f.size() / 2; ++k) square += (f[k] - f[f.size() / 2 + k]) * (f[k] - f[f.size() / 2 + k]);
  EXPECT_NEAR(lopt_matrix(balanced, uncapped_lambda(balanced, 2))[1], square, 1e-12);
}

double mass_at(const Measure& m, std::span<const double> x) {
  double mass = 0;
  for (std::int64_t i = 0; i < m.size(); ++i)
    if (squared_distance(m.point(i), x) < 1e-24) mass += m.masses[static_cast<std::size_t>(i)];
  return mass;
}

TEST(Lopt, InterpolationsHaveTheirEndsAndLinearMass) {
  Random random(4);
  const auto reference = random_measure(20, 2, 1, random), a = random_measure(25, 2, 1, random);
  const auto b = random_measure(14, 2, 1, random);
  const auto ea = lopt_embed(reference, a, .5), eb = lopt_embed(reference, b, .5);
  for (const double t : {0., .25, .7, 1.}) {
    EXPECT_NEAR(interpolate(reference, ea, t).total(), (1 - t) * reference.total() + t * a.total(), 1e-12);
    EXPECT_NEAR(interpolate(reference, ea, eb, t).total(), (1 - t) * a.total() + t * b.total(), 1e-12);
  }
  const auto expect_equal = [](const Measure& got, const Measure& wanted) {
    for (std::int64_t i = 0; i < wanted.size(); ++i) EXPECT_NEAR(mass_at(got, wanted.point(i)), 1, 1e-12);
    EXPECT_NEAR(got.total(), wanted.total(), 1e-12);
  };
  expect_equal(interpolate(reference, ea, 0), reference);
  expect_equal(interpolate(reference, ea, 1), a);
  expect_equal(interpolate(reference, ea, eb, 0), a);
  expect_equal(interpolate(reference, ea, eb, 1), b);
  EXPECT_THAT(error_message([&] { interpolate(reference, ea, 1.5); }), HasSubstr("t = 1.5"));
}

TEST(Lopt, BarycentreIgnoresWhatIsOutOfReach) {
  const auto a = measure(2, {0, 0, 4, 0, 100, 100}, {1, 1, 1}), b = measure(2, {0, 1, 4, 1}, {1, 1});
  const auto start = measure(2, {.2, .2, 3.8, .7, -50, 0}, {1, 1, 1});
  for (const bool by_mass : {true, false}) {
    BarycenterOptions options;
    options.weigh_by_mass = by_mass;
    options.tolerance = 1e-9;
    const auto found = barycenter(start, std::vector{a, b}, 4, options);
    EXPECT_THAT(found.measure.points, Pointwise(DoubleNear(1e-6), {0., .5, 4., .5, -50., 0.}));
    EXPECT_LT(found.rounds, 100);
  }
  EXPECT_THAT(error_message([&] { barycenter(start, {}, 4, {}); }), HasSubstr("no measures"));
  BarycenterOptions bad;
  bad.weights = {1, -1};
  EXPECT_THAT(error_message([&] { barycenter(start, std::vector{a, b}, 4, bad); }), HasSubstr("a weight is -1"));
}

TEST(Lopt, RefusesBadInput) {
  const auto good = measure(1, {0}, {1});
  EXPECT_THAT(error_message([&] { lopt_embed(measure(1, {0}, {0}), good, 1); }), HasSubstr("total mass is 0"));
  EXPECT_THAT(error_message([&] { lopt_embed({1, {}, {}}, good, 1); }), HasSubstr("total mass is 0"));
  EXPECT_THAT(error_message([&] { lot_embed(good, {1, {}, {}}); }), HasSubstr("total mass is 0"));
  const std::vector<Measure> targets = {good, measure(2, {0, 0}, {1})};
  EXPECT_THAT(error_message([&] { embedded(good, targets, 1); }), HasSubstr("measure 1: points of 1 dimensions"));
  const auto e = lopt_embed(good, {1, {}, {}}, 1);  // an empty target is legal
  EXPECT_THAT(e.mass, ElementsAre(0));
  EXPECT_EQ(e.rest.size(), 0);
  const auto other = lopt_embed(measure(1, {0, 1}, {1, 1}), good, 1);
  EXPECT_THAT(error_message([&] {
                lopt_matrix(std::vector{e, other}, 1);
              }),
              HasSubstr("embeddings of 1 and of 2 atoms"));
}

TEST(HellingerKantorovich, TwoAtoms) {
  HkOptions options;
  options.length = 2;
  options.blur = 1e-4;
  for (const double gap : {0., .5, 2., 3.}) {
    const auto e = hk_embed(measure(1, {1}, {.5}), measure(1, {1 + gap}, {2}), options);
    const double angle = gap / 2, exact = 4 * (2.5 - 2 * std::cos(angle));
    EXPECT_NEAR(e.value, exact, 2e-3 * exact);
    EXPECT_NEAR(e.velocity[0], 2 * std::sin(angle), 1e-3);  // sqrt(2 / .5) = 2
    EXPECT_NEAR(e.growth[0], 2 * (2 * std::cos(angle) - 1), 2e-3);
    const auto f = hk_features(measure(1, {1}, {.5}), std::vector{e}, 2);
    EXPECT_NEAR(f[0] * f[0] + f[1] * f[1], exact, 2e-3 * exact);
  }
  const auto far = hk_embed(measure(1, {0}, {.5}), measure(1, {4}, {2}), options);  // beyond pi
  EXPECT_NEAR(far.value, 4 * 2.5, 1e-9);
  EXPECT_EQ(far.growth[0], -2);
  EXPECT_EQ(far.rest.total(), 2);
}

TEST(Pca, FindsTheAxesBothWays) {
  Random random(5);
  for (const std::int64_t count : {4, 60}) {  // by the Gram matrix, by the covariance
    std::vector<double> rows;
    for (std::int64_t i = 0; i < count; ++i) {
      const double a = 5 * random.normal(), b = random.normal();
      for (const double x : {a + 1, a - 2, b, 0., 3., 0.}) rows.push_back(x);
    }
    const Pca pca = fit_pca(rows, count, 9);
    ASSERT_EQ(pca.size(), 2);
    EXPECT_GT(pca.variances[0], pca.variances[1]);
    EXPECT_NEAR(pca.variances[0] + pca.variances[1], pca.total_variance, 1e-12 * pca.total_variance);
    const auto s = scores(pca, rows);
    for (std::int64_t i = 0; i < count; ++i) {
      for (std::int64_t k = 0; k < 6; ++k) {
        const auto c = static_cast<std::size_t>(k);
        const double back = pca.mean[c] + s[static_cast<std::size_t>(2 * i)] * pca.components[c] +
                            s[static_cast<std::size_t>(2 * i + 1)] * pca.components[6 + c];
        EXPECT_NEAR(back, rows[static_cast<std::size_t>(6 * i + k)], 1e-12);
      }
    }
  }
  EXPECT_THAT(error_message([] { fit_pca(std::vector<double>{1., NAN}, 2, 1); }), HasSubstr("nan"));
  EXPECT_THAT(error_message([] { fit_pca(std::vector<double>{1.}, 1, 1); }), HasSubstr("at least 2"));
}

TEST(Pca, ScalingPlacesPointsByTheirDistances) {
  const std::vector<double> x = {0, 0, 3, 0, 0, 4};
  std::vector<double> squares;
  for (std::size_t i = 0; i < 3; ++i)
    for (std::size_t j = 0; j < 3; ++j)
      squares.push_back(squared_distance(std::span(x).subspan(2 * i, 2), std::span(x).subspan(2 * j, 2)));
  const auto places = classical_scaling(squares, 3, 2);
  for (std::size_t i = 0; i < 3; ++i)
    for (std::size_t j = 0; j < 3; ++j)
      EXPECT_NEAR(
          squared_distance(std::span(places.points).subspan(2 * i, 2), std::span(places.points).subspan(2 * j, 2)),
          squares[3 * i + j], 1e-12);
  EXPECT_NEAR(places.eigenvalues[2], 0, 1e-12);
}

}  // namespace
}  // namespace unbend::transport
