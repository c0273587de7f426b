#include "unbend/transport/lcot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <numeric>

#include "tests/error_message.h"
#include "unbend/base/random.h"
#include "unbend/transport/sphere.h"

namespace unbend::transport {
namespace {

using testing::DoubleNear;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pointwise;

CircularMeasure atoms(std::vector<double> x, std::vector<double> w = {}) { return circular_atoms(x, w, 1, "test"); }

CircularMeasure random_atoms(std::int64_t n, Random& random) {
  std::vector<double> x, w;
  for (std::int64_t i = 0; i < n; ++i) x.push_back(random.uniform()), w.push_back(.05 + random.uniform());
  return atoms(x, w);
}

CircularMeasure random_histogram(std::int64_t bins, Random& random) {
  std::vector<double> w;
  for (std::int64_t i = 0; i < bins; ++i) w.push_back(random.uniform() < .3 ? 0 : random.uniform());
  w[0] += .1;
  return circular_histogram(w, "test");
}

double distance(const CircularMeasure& a, const CircularMeasure& b, double p = 2) {
  return lcot(lcot_embed(a), lcot_embed(b), p);
}

const CircularMap& uniform() {
  static const CircularMap map = lcot_embed(circular_histogram(std::vector{1., 1.}, "uniform"));
  return map;
}

TEST(Lcot, TwoAtomsAreTheirDistanceApart) {
  for (const auto& [a, b, d] : {std::tuple{.1, .35, .25}, {.05, .9, .15}, {.2, .75, .45}}) {
    for (const double p : {1., 2., 3.5}) {
      EXPECT_NEAR(distance(atoms({a}), atoms({b}), p), std::pow(d, p), 1e-15);
      EXPECT_NEAR(circular_transport(atoms({a}), atoms({b}), p).cost, std::pow(d, p), 1e-14);
    }
    EXPECT_NEAR(transport_to_uniform(atoms({a})), 1. / 12, 1e-15);
  }
}

TEST(Lcot, WorkedExamples) {
  const auto first = lcot_embed(atoms({0, .2, .4}));
  EXPECT_NEAR(first.shift, -.3, 1e-15);
  EXPECT_NEAR(transport_to_uniform(atoms({0, .2, .4})), .0211111111111, 1e-12);
  EXPECT_NEAR(lcot(first, uniform()), .0211111111111, 1e-12);
  const auto u = atoms({.2, .5, .8}), v = atoms({.4, .5, .7});
  EXPECT_NEAR(lcot_embed(v).shift, .1 / 3, 1e-15);
  EXPECT_NEAR(distance(u, v), 2. / 75, 1e-15);
  EXPECT_NEAR(circular_transport(u, v).cost, 1. / 60, 1e-15);

  const auto a = atoms({.95, .1, .3}, {.25, .5, .25}), b = atoms({.6, .85}, {.4, .6});
  const auto ma = lcot_embed(a), mb = lcot_embed(b);
  EXPECT_NEAR(ma.shift, -.1375, 1e-15);
  EXPECT_NEAR(mb.shift, .25, 1e-15);
  EXPECT_NEAR(lcot(ma, mb), .0815625, 1e-15);
  EXPECT_NEAR(circular_transport(a, b).cost, .073125, 1e-14);
  EXPECT_NEAR(transport_to_uniform(a), .0331770833333, 1e-12);
  EXPECT_NEAR(transport_to_uniform(b), .0383333333333, 1e-12);
  EXPECT_THAT(lcot_grid(ma, 8),
              Pointwise(DoubleNear(1e-15), {.0375, -.0875, -.2125, -.1375, -.2625, .2625, .1375, .1625}));
  EXPECT_THAT(lcot_grid(mb, 8),
              Pointwise(DoubleNear(1e-15), {-.2125, -.3375, .2875, .1625, .0375, .1625, .0375, -.0875}));
}

TEST(Lcot, IsAMetricAboveTransportThatRotatesAlong) {
  Random random(1);
  for (int trial = 0; trial < 100; ++trial) {
    const auto a = random_atoms(1 + static_cast<std::int64_t>(random.below(12)), random);
    const auto b = random_atoms(1 + static_cast<std::int64_t>(random.below(12)), random);
    const auto c = trial % 2 ? random_histogram(7, random) : random_atoms(5, random);
    const auto ma = lcot_embed(a), mb = lcot_embed(b), mc = lcot_embed(c);
    EXPECT_NEAR(lcot(ma, mb), lcot(mb, ma), 1e-15);
    EXPECT_EQ(lcot(ma, ma), 0);
    EXPECT_LE(std::sqrt(lcot(ma, mb)), std::sqrt(lcot(ma, mc)) + std::sqrt(lcot(mc, mb)) + 1e-12);
    EXPECT_GE(lcot(ma, mb), circular_transport(a, b).cost - 1e-14);
    EXPECT_NEAR(circular_transport(a, b).cost, circular_transport(b, a).cost, 1e-13);
    EXPECT_NEAR(lcot(ma, uniform()), transport_to_uniform(a), 1e-14);
    EXPECT_NEAR(lcot(mc, uniform()), transport_to_uniform(c), 1e-14);
    for (const double e : lcot_grid(mc, 101)) EXPECT_LE(std::abs(e), .5 + 1e-12);
    const double theta = random.uniform();
    const auto turned = [&](const CircularMeasure& m) {
      std::vector<double> x;
      for (const double y : m.left) x.push_back(y + theta);
      return circular_atoms(x, m.weights, 1, "turned", Range::Reduce);
    };
    EXPECT_NEAR(distance(turned(a), turned(b)), lcot(ma, mb), 1e-14);
  }
}

TEST(Lcot, ReferencesOfOtherKinds) {
  Random random(2);
  const auto a = random_atoms(9, random), b = random_atoms(4, random), reference = random_atoms(6, random);
  const auto ma = lcot_embed(a, reference), mr = lcot_embed(reference, reference);
  EXPECT_NEAR(lcot(ma, mr), circular_transport(reference, a).cost, 1e-13);
  EXPECT_GE(lcot(ma, lcot_embed(b, reference)), circular_transport(a, b).cost - 1e-13);
  const auto even = circular_histogram(std::vector{1., 1., 1.}, "even");  // uniform, found by search
  EXPECT_NEAR(lcot_embed(a, even).shift, lcot_embed(a).shift, 1e-7);
  EXPECT_NEAR(circular_transport(even, a).cost, transport_to_uniform(a), 1e-13);
  const auto h = random_histogram(5, random);
  EXPECT_NEAR(circular_transport(even, h).cost, transport_to_uniform(h), 1e-12);
  EXPECT_NEAR(circular_transport(even, h, 1).cost, lcot(lcot_embed(h, even, 1), uniform(), 1), 1e-9);
}

// Splitting atoms finely and hiding the split in bins must agree in the limit.
TEST(Lcot, HistogramsAreLimitsOfAtoms) {
  Random random(3);
  const auto h = random_histogram(6, random), g = random_histogram(9, random);
  const auto fine = [](const CircularMeasure& m) {
    std::vector<double> x, w;
    for (std::int64_t i = 0; i < m.size(); ++i) {
      const auto k = static_cast<std::size_t>(i);
      for (int part = 0; part < 2000; ++part)
        x.push_back(m.left[k] + (m.right[k] - m.left[k]) * (part + .5) / 2000), w.push_back(m.weights[k] / 2000);
    }
    return atoms(x, w);
  };
  for (const double p : {1., 2., 3.}) {
    EXPECT_NEAR(distance(h, g, p), distance(fine(h), fine(g), p), 2e-6);
    EXPECT_NEAR(circular_transport(h, g, p).cost, circular_transport(fine(h), fine(g), p).cost, 2e-6);
  }
  EXPECT_NEAR(transport_to_uniform(atoms({0, .2, .4, .6, .8})), 1. / 12 / 25, 1e-15);
}

TEST(Lcot, MatricesOnceExactOnceOnAGrid) {
  Random random(4);
  std::vector<CircularMap> maps;
  std::vector<double> rows;
  for (int k = 0; k < 40; ++k) {
    maps.push_back(lcot_embed(k % 3 ? random_atoms(30, random) : random_histogram(12, random)));
    const auto e = lcot_grid(maps.back(), 3000);
    rows.insert(rows.end(), e.begin(), e.end());
  }
  const auto exact = lcot_matrix(maps, 2, 2), grid = grid_matrix(rows, 3000, 2);
  for (std::size_t i = 0; i < 40; ++i) {
    EXPECT_EQ(exact[41 * i], 0);
    for (std::size_t j = 0; j < i; ++j) {
      EXPECT_EQ(exact[40 * i + j], lcot(maps[i], maps[j]));
      EXPECT_NEAR(grid[40 * i + j], exact[40 * i + j], 5e-3);
      EXPECT_EQ(grid[40 * i + j], grid[40 * j + i]);
    }
  }
  const auto f = chordal_features(maps[1], 100), g = chordal_features(maps[2], 100);
  double square = 0;
  for (std::size_t k = 0; k < f.size(); ++k) square += (f[k] - g[k]) * (f[k] - g[k]);
  double arcs = 0;
  for (int k = 0; k < 100; ++k) arcs += std::pow(wrap(maps[1]((k + .5) / 100) - maps[2]((k + .5) / 100)), 2) / 100;
  EXPECT_LE(square, arcs + 1e-12);
}

TEST(Lcot, InverseGivesTheMeasureBack) {
  Random random(5);
  const auto a = atoms({.9, .1, .5, .5, 0}, {.1, .2, .3, .3, .1});
  const auto back = inverse_atoms(lcot_embed(a));
  EXPECT_THAT(back.positions, Pointwise(DoubleNear(1e-12), {0., .1, .5, .9}));
  EXPECT_THAT(back.masses, Pointwise(DoubleNear(1e-12), {.1, .2, .6, .1}));
  const auto h = random_histogram(8, random);
  std::vector<double> given(8, 0.0);
  for (std::int64_t i = 0; i < h.size(); ++i)
    given[static_cast<std::size_t>(h.atoms[static_cast<std::size_t>(i)])] = h.weights[static_cast<std::size_t>(i)];
  EXPECT_THAT(inverse_histogram(lcot_embed(h), 8), Pointwise(DoubleNear(1e-12), given));
  EXPECT_THAT(error_message([&] { inverse_atoms(lcot_embed(h)); }), HasSubstr("sloped"));
  const auto soft = smoothed(given, 50);
  EXPECT_NEAR(std::accumulate(soft.begin(), soft.end(), 0.0), 1, 1e-12);
}

TEST(Lcot, WaysAndMeansRespectTheSeam) {
  const auto a = lcot_embed(atoms({.1})), b = lcot_embed(atoms({.9}));
  const auto middle = inverse_atoms(interpolate(a, b, .5));
  ASSERT_EQ(middle.positions.size(), 1u);
  EXPECT_NEAR(circular_distance(middle.positions[0], 0), 0, 1e-15);
  const auto raw = inverse_histogram(interpolate(a, b, .5, false), 4);
  EXPECT_NEAR(raw[2], .2, 1e-12);  // the long way round, as the authors' code
  const auto mean = inverse_atoms(barycenter(std::vector{a, b, lcot_embed(atoms({.03}))}, {}));
  ASSERT_EQ(mean.positions.size(), 1u);
  EXPECT_NEAR(mean.positions[0], .01, 1e-14);
  EXPECT_NEAR(lcot(barycenter(std::vector{a, b}, std::vector{1e-9, 1.}), b), 0, 1e-12);

  Random random(6);
  for (int trial = 0; trial < 20; ++trial) {
    const auto x = lcot_embed(trial % 2 ? random_histogram(5, random) : random_atoms(6, random));
    const auto y = lcot_embed(random_histogram(7, random));
    EXPECT_NEAR(lcot(interpolate(x, y, 0), x), 0, 1e-14);
    EXPECT_NEAR(lcot(interpolate(x, y, 1), y), 0, 1e-14);
    for (const double tau : {.2, .5}) {  // a geodesic
      EXPECT_NEAR(lcot(x, interpolate(x, y, tau)), tau * tau * lcot(x, y), 1e-13);
      EXPECT_NEAR(lcot(interpolate(x, y, tau), y), (1 - tau) * (1 - tau) * lcot(x, y), 1e-13);
    }
  }
}

TEST(Lcot, GradientsAgainstDifferences) {
  Random random(7);
  for (int trial = 0; trial < 20; ++trial) {
    std::vector<double> x, w;
    const int n = 1 + trial % 6;
    for (int i = 0; i < n; ++i) x.push_back(random.uniform()), w.push_back(.2 + random.uniform());
    if (n > 2) w[1] = 0;
    const auto b = lcot_embed(random_atoms(5, random));
    const auto at = [&] { return lcot(lcot_embed(atoms(x, w)), b); };
    const auto a = atoms(x, w);
    const auto gradient = lcot_gradient(a, lcot_embed(a), b, n);
    EXPECT_NEAR(gradient.value, at(), 1e-15);
    constexpr double kStep = 1e-6;
    for (std::size_t i = 0; i < x.size(); ++i) {
      for (auto* list : {&x, &w}) {
        if (list == &w && w[i] == 0) continue;
        const double kept = (*list)[i];
        (*list)[i] = kept + kStep;
        const double up = at();
        (*list)[i] = kept - kStep;
        const double difference = (up - at()) / (2 * kStep);
        (*list)[i] = kept;
        EXPECT_NEAR((list == &x ? gradient.values : gradient.masses)[i], difference, 1e-7) << trial << " " << i;
      }
    }
  }
}

TEST(Lcot, SlicedOnSpheres) {
  Random random(8);
  const auto circles = great_circles(3, 200, random);
  const auto cloud = [&](double shift, int n) {
    Measure m{3, {}, {}};
    for (int i = 0; i < n; ++i)
      m.add(std::vector{random.normal() + shift, random.normal(), random.normal()}, 1 + random.uniform());
    return m;
  };
  auto a = cloud(2, 12);
  const auto b = cloud(-2, 9), c = cloud(2, 15);
  const auto ea = sliced_embed(a, circles, "a"), eb = sliced_embed(b, circles, "b"), ec = sliced_embed(c, circles, "c");
  EXPECT_EQ(sliced_lcot(ea, ea), 0);
  EXPECT_GT(sliced_lcot(ea, eb), 2 * sliced_lcot(ea, ec));
  const auto few = great_circles(3, 5, random);
  const auto gradient = sliced_gradient(a, b, few);
  for (std::size_t i = 0; i < a.points.size(); i += 4) {
    const double kept = a.points[i];
    a.points[i] = kept + 1e-6;
    const double up = sliced_gradient(a, b, few).value;
    a.points[i] = kept - 1e-6;
    EXPECT_NEAR(gradient.points[i], (up - sliced_gradient(a, b, few).value) / 2e-6, 1e-7);
    a.points[i] = kept;
  }
  // In two dimensions there is one great circle, and LCOT does not depend on where its angles begin or which way round.
  const auto plane = great_circles(2, 3, random);
  std::vector<double> x;
  Measure flat{2, {}, {}}, other{2, {}, {}};
  for (const double angle : {.1, .2, .7})
    flat.add(std::vector{std::cos(2 * std::numbers::pi * angle), std::sin(2 * std::numbers::pi * angle)}, 1);
  for (const double angle : {.4, .9})
    other.add(std::vector{3 * std::cos(2 * std::numbers::pi * angle), 3 * std::sin(2 * std::numbers::pi * angle)}, 1);
  EXPECT_NEAR(sliced_lcot(sliced_embed(flat, plane, "a"), sliced_embed(other, plane, "b")),
              distance(atoms({.1, .2, .7}), atoms({.4, .9})), 1e-14);
  EXPECT_THAT(error_message([&] {
                sliced_embed(Measure{3, {0, 0, 0}, {1}}, circles, "o");
              }),
              HasSubstr("no direction"));
}

TEST(Circle, ReducesAndRefuses) {
  EXPECT_EQ(reduced(-1e-18), 0);
  EXPECT_EQ(reduced(1), 0);
  EXPECT_EQ(reduced(-.25), .75);
  const auto hours = circular_atoms(std::vector{23., 1., 24.}, {}, 24, "hours");
  EXPECT_THAT(hours.left, Pointwise(DoubleNear(1e-15), {0., 1. / 24, 23. / 24}));
  EXPECT_THAT(hours.atoms, ElementsAre(2, 1, 0));
  const auto refused = [](std::vector<double> x, std::vector<double> w = {}, double period = 1) {
    return error_message([&] { circular_atoms(x, w, period, "hue.csv"); });
  };
  EXPECT_THAT(refused({}), HasSubstr("hue.csv: no values"));
  EXPECT_THAT(refused({.1, NAN}), HasSubstr("value 1 is nan"));
  EXPECT_THAT(refused({.1, 350}), HasSubstr("value 1 is 350, beyond one turn of 1"));
  EXPECT_THAT(refused({.1}, {.1, .2}), HasSubstr("2 masses for 1 values"));
  EXPECT_THAT(refused({.1}, {-1}), HasSubstr("mass 0 is -1"));
  EXPECT_THAT(refused({.1}, {0}), HasSubstr("total mass is 0"));
  EXPECT_THAT(refused({.1}, {NAN}), HasSubstr("mass 0 is nan"));
  EXPECT_THAT(refused({.1}, {}, 0), HasSubstr("period is 0"));
  EXPECT_THAT(refused({0, 20}, {}, 1e-308), HasSubstr("value 1 is 20, expected a finite number of periods"));
  EXPECT_THAT(error_message([] { circular_histogram(std::vector{1., -1.}, "h"); }), HasSubstr("mass 1 is -1"));
  EXPECT_THAT(error_message([] { circular_histogram(std::vector{0., 0.}, "h"); }), HasSubstr("total mass is 0"));
  EXPECT_THAT(error_message([] { circular_transport(atoms({.1}), atoms({.2}), .5); }), HasSubstr("p is 0.5"));
  EXPECT_THAT(error_message([] { lcot(lcot_embed(atoms({.1})), lcot_embed(atoms({.1})), .5); }), HasSubstr("p is 0.5"));
  EXPECT_THAT(error_message([] { lcot_grid(lcot_embed(atoms({.1})), 1); }), HasSubstr("1 nodes"));
}

}  // namespace
}  // namespace unbend::transport
