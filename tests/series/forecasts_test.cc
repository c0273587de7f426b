// Metrics, baselines and intervals against worked examples and R's forecast 8.20 (methods/meta_forecast.md).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "unbend/base/error.h"
#include "unbend/base/random.h"
#include "unbend/series/baselines.h"
#include "unbend/series/conformal.h"
#include "unbend/series/csv.h"
#include "unbend/series/metrics.h"

namespace unbend::series {
namespace {

using testing::DoubleNear;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;
using V = std::vector<double>;

TEST(Metrics, WorkedExamples) {
  const V y{100, 110, 0}, f{90, 121, 0}, past{10, 12, 13, 12, 14, 16, 15, 17};
  EXPECT_NEAR(smape(y, f), 6.6833751044, 1e-9);
  EXPECT_NEAR(normalized_deviation(y, f), .1, 1e-12);
  EXPECT_NEAR(mase(y, f, mase_scale(past, 4)), 1.8666666667, 1e-9);
  EXPECT_NEAR(owa(12, 1.1, 15, 1.3), .8230769231, 1e-9);
  EXPECT_THAT(median({{1, 5, 3}, {2, 4, 9}, {7, 6, 1}, {0, 8, 2}}), ElementsAre(1.5, 5.5, 2.5));
  EXPECT_TRUE(std::isnan(mape(y, f)));
  EXPECT_NEAR(mape(V{100, -50}, V{90, -60}), 15, 1e-12);
  EXPECT_LT(smape_signed(V{-1}, V{-3}), 0);
  EXPECT_NEAR(smape(V{-1}, V{-3}), 100, 1e-12);
  EXPECT_TRUE(std::isnan(mase_scale(V{5, 5, 5}, 1)));
  EXPECT_TRUE(std::isnan(mase_scale(V{1, 2, 3}, 4)));
}

TEST(Metrics, GroupsCountWhatTheyLeaveOut) {
  const V past{1, 2, 4, 7}, constant{3, 3, 3, 3}, y{8, 8}, f{6, 10}, zero{0, 3}, three{3, 3};
  const auto s = score({{past, y, f}, {constant, zero, three}}, 1);
  EXPECT_EQ(s.series, 2);
  EXPECT_EQ(s.without_scale, 1);
  EXPECT_EQ(s.with_zeros, 1);
  EXPECT_NEAR(s.mase, 1, 1e-12);
  EXPECT_NEAR(s.mape, 25, 1e-12);
  EXPECT_NEAR(s.nd, 7. / 19, 1e-12);
  EXPECT_NEAR(s.smape, (smape(y, f) + smape(zero, three)) / 2, 1e-12);
  EXPECT_THROW(score({{past, y, V{1}}}, 1), Error);
  EXPECT_THROW(score({{past, y, V{1, NAN}}}, 1), Error);
}

// AirPassengers without its last 18 months.
const V kPassengers{112, 118, 132, 129, 121, 135, 148, 148, 136, 119, 104, 118, 115, 126, 141, 135, 125, 149,
                    170, 170, 158, 133, 114, 140, 145, 150, 178, 163, 172, 178, 199, 199, 184, 162, 146, 166,
                    171, 180, 193, 181, 183, 218, 230, 242, 209, 191, 172, 194, 196, 196, 236, 235, 229, 243,
                    264, 272, 237, 211, 180, 201, 204, 188, 235, 227, 234, 264, 302, 293, 259, 229, 203, 229,
                    242, 233, 267, 269, 270, 315, 364, 347, 312, 274, 237, 278, 284, 277, 317, 313, 318, 374,
                    413, 405, 355, 306, 271, 306, 315, 301, 356, 348, 355, 422, 465, 467, 404, 347, 305, 336,
                    340, 318, 362, 348, 363, 435, 491, 505, 404, 359, 310, 337, 360, 342, 406, 396, 420, 472};

TEST(Baselines, AgreeWithR) {
  ASSERT_EQ(kPassengers.size(), 126u);
  const auto two = naive2(kPassengers, 18, 12);
  const V expected{518.9449, 515.3142, 450.4839, 391.3984, 339.7846, 381.7149};
  for (std::size_t i = 0; i < 6; ++i) {
    EXPECT_NEAR(two[i], expected[i], 1e-3);
    EXPECT_DOUBLE_EQ(two[i], two[i + 12]);
  }
  const auto t = theta(kPassengers, 18, 12);
  EXPECT_NEAR(t[0], 520.9052, 1e-3);
  EXPECT_NEAR(t[1], 518.7733, 1e-3);
  EXPECT_NEAR(t[2], 454.8300, 1e-3);
  EXPECT_NEAR(mase_scale(kPassengers, 12), 29.08772, 1e-5);
  EXPECT_EQ(seasonal_naive(kPassengers, 18, 12)[13], kPassengers[126 - 11]);
}

TEST(Baselines, FallBackWhereTheyMust) {
  EXPECT_THAT(seasonal_naive(V{4, 5}, 2, 12), ElementsAre(5, 5));
  EXPECT_THAT(naive2(V{4, 5}, 2, 12), ElementsAre(5, 5));
  EXPECT_THAT(theta(V{4, 5}, 2, 12), ElementsAre(5, 5));
  EXPECT_THAT(theta(V(40, 7), 2, 12), ElementsAre(DoubleNear(7, 1e-9), DoubleNear(7, 1e-9)));
  EXPECT_THROW(naive(V{}, 2), Error);
  EXPECT_THROW(theta(V{1, 2, 3}, 0, 1), Error);
  V negative;
  for (int i = 0; i < 60; ++i) negative.push_back(i % 12 - 5.);  // seasonal, with values below 0
  EXPECT_TRUE(is_seasonal(negative, 12));
  EXPECT_THAT(naive2(negative, 2, 12), ElementsAre(negative.back(), negative.back()));
  for (const auto& name : baseline_names()) EXPECT_EQ(baseline(name, kPassengers, 3, 12).size(), 3u);
  EXPECT_THROW(baseline("Oracle", kPassengers, 3, 12), Error);
}

TEST(Baselines, SmoothingFindsTheWeightOfItsOwnModel) {
  Random random(5);
  V x;
  double level = 10;
  for (int t = 0; t < 4000; ++t) {
    const double e = random.normal();
    x.push_back(level + e);
    level += .3 * e;
  }
  const auto s = exponential_smoothing(x);
  EXPECT_NEAR(s.alpha, .3, .04);
  EXPECT_NEAR(s.level, level, .5);
}

TEST(Conformal, CoversNewSeriesAsPromised) {
  Random random(7);
  const auto draw = [&](int count) {
    std::vector<V> all;
    for (int i = 0; i < count; ++i) {
      const double scale = std::pow(10, 3 * random.uniform());
      V x{0};
      for (int t = 0; t < 42; ++t) x.push_back(x.back() + scale * random.normal());
      all.push_back(x);
    }
    return all;
  };
  const auto cases = [](const std::vector<V>& all, std::vector<V>& forecasts) {
    std::vector<Case> out;
    for (const auto& x : all) forecasts.push_back(naive({x.data(), 40}, 3));
    for (std::size_t i = 0; i < all.size(); ++i)
      out.push_back({{all[i].data(), 40}, {all[i].data() + 40, 3}, forecasts[i]});
    return out;
  };
  std::vector<V> f, g;
  const auto past = draw(400), fresh = draw(2000);
  const auto calibration = calibrate(cases(past, f), 1);
  const auto tests = cases(fresh, g);
  for (const double level : {.5, .9}) {
    for (int h = 0; h < 3; ++h) {
      int covered = 0;
      for (const auto& c : tests)
        covered += std::abs(c.actual[size_t(h)] - c.forecast[size_t(h)]) <=
                   half_width(calibration, h, level, variation(c.history, 1));
      // The coverage given 400 calibration series is Beta distributed: 3.5 standard deviations, and those of 2000
      // cases.
      EXPECT_NEAR(covered / 2000., level, 3.5 * std::sqrt(level * (1 - level) * (1. / 402 + 1. / 2000)));
    }
  }
  EXPECT_GT(half_width(calibration, 2, .8, 1), half_width(calibration, 0, .8, 1));
}

TEST(Conformal, RefusesWhatItCannotPromise) {
  const V constant{3, 3, 3}, past{1, 2, 4}, y{5}, f{6};
  EXPECT_EQ(variation(constant, 4), 0);
  EXPECT_EQ(variation(V{2}, 1), 0);
  EXPECT_EQ(variation(past, 4), 1.5);
  EXPECT_THROW(calibrate({{constant, y, f}}, 1), Error);
  const auto few = calibrate({{past, y, f}, {past, y, f}, {constant, y, f}}, 1);
  EXPECT_EQ(few.series(), 2);
  EXPECT_NEAR(highest_level(few), 2. / 3, 1e-12);
  EXPECT_NEAR(half_width(few, 0, .5, 1.5), 1, 1e-12);
  EXPECT_THAT([&] { half_width(few, 0, .9, 1); },
              ThrowsMessage<Error>(HasSubstr("needs 9 calibration series, there are 2")));
  EXPECT_THROW(half_width(few, 0, 1, 1), Error);
  EXPECT_THROW(half_width(few, 1, .5, 1), Error);
}

}  // namespace
}  // namespace unbend::series
