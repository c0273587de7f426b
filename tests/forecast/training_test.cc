#include "unbend/forecast/training.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "unbend/base/error.h"
#include "unbend/series/source.h"

namespace unbend::forecast {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

TEST(Windows, AreReversedMaskedAndScaled) {
  std::vector<float> x(4), mask(4);
  const std::vector<double> three{2, -8, 4}, five{1, 2, 3, 4, 5}, zeros{0, 0}, tiny{2e-12, -8e-12, 4e-12};
  EXPECT_EQ(fill_window(three, 4, true, x.data(), mask.data()), 8);
  EXPECT_THAT(x, ElementsAre(.5, -1, .25, 0));
  EXPECT_THAT(mask, ElementsAre(1, 1, 1, 0));
  EXPECT_EQ(fill_window(five, 4, false, x.data(), mask.data()), 1);
  EXPECT_THAT(x, ElementsAre(5, 4, 3, 2));
  EXPECT_EQ(fill_window(tiny, 4, true, x.data(), mask.data()), 8e-12);
  EXPECT_THAT(x, ElementsAre(.5, -1, .25, 0));
  EXPECT_EQ(fill_window(zeros, 4, true, x.data(), mask.data()), 1e-8);
  EXPECT_THAT(x, ElementsAre(0, 0, 0, 0));
}

TEST(Windows, CutsLieWhereTheyShould) {
  const series::Collection source{{"a", {1, 2, 3, 4, 5, 6, 7, 8}, {}}};
  Random random(1);
  TrainingBatch batch;
  sample(source, {.lookback = 3, .horizon = 2, .period = 1, .recent = 3, .scaled = false}, 500, random, batch);
  bool newest = false, oldest = false;
  for (std::size_t b = 0; b < 500; ++b) {
    const float last = batch.x[3 * b];
    EXPECT_TRUE(last >= 5 && last <= 7);  // cuts 5, 6, 7: the upper end is left out
    EXPECT_EQ(batch.level[b], last);
    EXPECT_EQ(batch.season_scale[b], 1);
    EXPECT_EQ(batch.target[2 * b], last + 1);
    EXPECT_EQ(batch.seen[2 * b + 1], last < 7);
    EXPECT_EQ(batch.target[2 * b + 1], last < 7 ? last + 2 : 0);
    newest |= last == 7, oldest |= last == 5;
  }
  EXPECT_TRUE(newest && oldest);
  sample(source, {.lookback = 3, .horizon = 2, .period = 1, .recent = 100, .scaled = true}, 500, random, batch);
  for (std::size_t b = 0; b < 500; ++b) EXPECT_EQ(batch.x[3 * b], 1);  // rising: the newest is the largest
}

TrainingBatch two_by_two() {
  TrainingBatch b;
  b.size = 2;
  b.target = {1, 2, 3, 0}, b.seen = {1, 1, 1, 0}, b.season_scale = {.5, 0};
  return b;
}

TEST(Losses, ValuesAndGradients) {
  const auto b = two_by_two();
  const std::vector<float> f{2, 2, 1, 9};
  std::vector<float> g(4);
  EXPECT_NEAR(loss_gradient(Loss::Smape, b, f.data(), g.data()), 50 * (1. / 3 + 2. / 4), 1e-4);
  EXPECT_THAT(g, ElementsAre(testing::FloatNear(50. / 3, 1e-4), 0, testing::FloatNear(-50. / 4, 1e-4), 0));
  EXPECT_NEAR(loss_gradient(Loss::Mape, b, f.data(), g.data()), (1 + 2. / 3) / 4, 1e-6);
  EXPECT_NEAR(g[2], -1. / 12, 1e-6);
  EXPECT_NEAR(loss_gradient(Loss::Mase, b, f.data(), g.data()), 2. / 4, 1e-6);  // the second series has no scale
  EXPECT_THAT(g, ElementsAre(.5, 0, 0, 0));
}

TEST(Losses, RateIsHalvedEveryThird) {
  std::vector<double> rates;
  for (int i = 0; i < 9; ++i) rates.push_back(rate_factor(i, 9));
  EXPECT_THAT(rates, ElementsAre(1, 1, 1, .5, .5, .5, .25, .25, .25));
  EXPECT_GT(rate_factor(1, 2), 0);
}

Training small() {
  Training t;
  t.network = nbeats::generic(8, 4, 3, true, 2, 16);
  t.iterations = 120, t.batch = 32, t.period = 4, t.recent = 20;
  return t;
}

series::Collection source(int count = 60) {
  Random random(9);
  return series::synthetic_source({.count = count, .period = 4, .shortest = 30, .longest = 50}, random);
}

TEST(Training, LearnsRepeatsAndCounts) {
  for (const Loss loss : {Loss::Smape, Loss::Mase, Loss::Mape}) {
    auto t = small();
    t.loss = loss;
    std::int64_t steps = 0;
    const auto a = train(source(), t, [&](std::int64_t step, double) { return steps = step, true; });
    EXPECT_EQ(steps, 120);
    ASSERT_EQ(a.losses.size(), 10u);
    EXPECT_LT(a.losses.back(), .7 * a.losses.front()) << name(loss);
    EXPECT_EQ(a.weights, train(source(), t).weights);
    t.seed = 2;
    EXPECT_NE(a.weights, train(source(), t).weights);
    EXPECT_EQ(to_json(training_from_json(to_json(t), "t")), to_json(t));
  }
}

TEST(Training, RefusesBadSources) {
  const auto refused = [](series::Collection s, Training t, const char* part) {
    EXPECT_THAT(([&] { train(s, t); }), ThrowsMessage<Error>(HasSubstr(part)));
  };
  auto t = small();
  refused({}, t, "no series");
  refused({{"a", {1}, {}}}, t, "series 'a' has 1 point, at least 2");
  refused({{"a", {1, NAN}, {}}}, t, "value 2 is not finite");
  t.loss = Loss::Mape;
  refused({{"a", {1, 0, 2}, {}}}, t, "value 2 is 0: the loss mape needs positive");
  t = small();
  t.batch = 0;
  refused(source(), t, "must be above 0");
  t = small();
  EXPECT_THAT(([&] { train(source(), t, [](std::int64_t step, double) { return step < 5; }); }),
              ThrowsMessage<Error>(HasSubstr("stopped at step 5")));
  t.rate = 1e38;
  EXPECT_THAT(([&] { train(source(), t); }), ThrowsMessage<Error>(HasSubstr("not finite at step")));
  EXPECT_THROW(find_loss("mse"), Error);
}

}  // namespace
}  // namespace unbend::forecast
