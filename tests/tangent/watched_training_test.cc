#include "unbend/tangent/watched_training.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>
#include <filesystem>

#include "tests/error_message.h"
#include "unbend/tensor/checkpoint.h"

namespace unbend {
namespace {

// Two rings: not linearly separable.
ImageSet rings(int64_t count, uint64_t seed) {
  Random random(seed);
  auto x = at::empty({count, 2}), y = at::empty({count}, at::kLong);
  for (int64_t i = 0; i < count; ++i) {
    const double angle = 6.2831853 * random.uniform(), radius = (i % 2 == 0 ? .15 : .4) + .02 * random.normal();
    x[i][0] = .5 + radius * std::cos(angle), x[i][1] = .5 + radius * std::sin(angle);
    y[i] = i % 2;
  }
  return {x, y};
}

WatchedTraining small() {
  WatchedTraining s;
  s.hidden = {16, 16}, s.batch = 20, s.steps = 300, s.evaluations = 8, s.learning_rate = 1e-2;
  s.directions = 2, s.probes = 40, s.attacks = {.02, .05}, s.attacked = 40, s.quiet = true, s.keep = {0, 100};
  return s;
}

void expect_same(const WatchedRun& a, const WatchedRun& b) {
  ASSERT_EQ(a.moments.size(), b.moments.size());
  for (size_t i = 0; i < a.moments.size(); ++i) EXPECT_EQ(to_json(a.moments[i]), to_json(b.moments[i]));
  auto one = a.network, other = b.network;
  const auto p = parameters(one), q = parameters(other);
  for (size_t i = 0; i < p.size(); ++i) EXPECT_TRUE(at::equal(*p[i].tensor, *q[i].tensor)) << p[i].name;
  ASSERT_EQ(a.kept.size(), b.kept.size());
}

TEST(WatchedTraining, LearnsAndLogs) {
  const auto run = train_watched(rings(200, 1), rings(100, 2), small());
  EXPECT_TRUE(run.finished);
  std::vector<int64_t> steps;
  for (const auto& m : run.moments) steps.push_back(m.step);
  EXPECT_EQ(steps, log_spaced_steps(300, 8));
  const auto &first = run.moments.front(), &last = run.moments.back();
  EXPECT_LT(last.loss, first.loss / 3);
  EXPECT_GE(last.train_accuracy, .98);
  EXPECT_GE(last.test_accuracy, .95);
  EXPECT_EQ(last.layers.size(), 2U);
  EXPECT_NEAR(last.layers[0] + last.layers[1], last.train_complexity, 1e-12);
  EXPECT_GT(last.test_complexity, 0);
  EXPECT_GT(last.random_complexity, 0);
  ASSERT_EQ(last.robustness.size(), 2U);
  EXPECT_GT(last.robustness[0].lower(), last.robustness[1].lower() - 1e-9);
  ASSERT_EQ(run.kept.size(), 2U);
  EXPECT_EQ(run.kept.begin()->first, 0);
  EXPECT_GE(run.kept.rbegin()->first, 100);
  const auto curves = run.curves(1);
  EXPECT_EQ(curves.robustness.back(), last.robustness[1].margin);
  EXPECT_FALSE(find_phases(curves).name().empty());
}

TEST(WatchedTraining, RepeatsAndGoesOnWhereItStopped) {
  const auto train = rings(200, 1), test = rings(100, 2);
  const auto expected = train_watched(train, test, small());
  expect_same(train_watched(train, test, small()), expected);
  auto other_seed = small();
  other_seed.seed = 5;
  EXPECT_NE(to_json(train_watched(train, test, other_seed).moments.back()), to_json(expected.moments.back()));

  const auto folder = std::filesystem::temp_directory_path() / "unbend_watched_training_test";
  std::filesystem::remove_all(folder);
  auto kept = small();
  kept.checkpoints = folder;
  train_watched(train, test, kept);
  // Without its newest checkpoints the run goes on from an earlier one.
  const auto last = latest_checkpoint(folder);
  ASSERT_TRUE(last);
  std::filesystem::remove(*last);
  expect_same(train_watched(train, test, kept), expected);
  expect_same(train_watched(train, test, kept), expected);  // from its very end
  kept.weight_decay = 0;
  EXPECT_THAT(error_message([&] { train_watched(train, test, kept); }, ErrorKind::Usage),
              testing::HasSubstr("another training"));
  std::filesystem::remove_all(folder);
}

TEST(WatchedTraining, StepsAreLogSpaced) {
  const auto steps = log_spaced_steps(40000, 24);
  EXPECT_THAT(steps, testing::IsSupersetOf({0, 1, 40, 63, 399, 2521, 40000}));
  EXPECT_EQ(steps.back(), 40000);
  EXPECT_EQ(log_spaced_steps(1, 5), (std::vector<int64_t>{0, 1}));
}

TEST(WatchedTraining, RefusesBadInput) {
  const auto says = [&](const std::string& part, const auto& change) {
    auto s = small();
    change(s);
    EXPECT_THAT(error_message([&] { train_watched(rings(50, 1), rings(10, 2), s); }), testing::HasSubstr(part));
  };
  says("batch of 51", [](auto& s) { s.batch = 51; });
  says("0 steps", [](auto& s) { s.steps = 0; });
  says("hidden layer", [](auto& s) { s.hidden = {}; });
  says("3 directions", [](auto& s) { s.directions = 3; });
  says("radius", [](auto& s) { s.radius = 0; });
  const auto nan = rings(50, 1);
  nan.images[3][1] = NAN;
  EXPECT_THAT(error_message([&] { train_watched(nan, rings(10, 2), small()); }), testing::HasSubstr("at [3, 1]"));
}

TrainingCurves double_descent() {
  TrainingCurves c;
  c.steps = log_spaced_steps(40000, 24);
  for (const auto step : c.steps) {
    const double u = std::log10(1. + static_cast<double>(step));
    c.complexity.push_back(5 - 2 * std::exp(-4 * (u - 1.6) * (u - 1.6)) + 3 * std::exp(-4 * (u - 3.3) * (u - 3.3)) -
                           2 / (1 + std::exp(-8 * (u - 4))));
    c.train_accuracy.push_back(step < 300 ? .5 : 1.);
    c.robustness.push_back(step < 300 ? .4 : .1 + .3 / (1 + std::exp(-8 * (u - 4.2))));
  }
  return c;
}

TEST(Phases, FindsTheDoubleDescent) {
  const auto phases = find_phases(double_descent());
  ASSERT_TRUE(phases.descent_end && phases.migration && phases.interpolation);
  EXPECT_NEAR(std::log10(static_cast<double>(*phases.descent_end)), 1.6, .2);
  EXPECT_EQ(*phases.interpolation, 399);
  EXPECT_NEAR(std::log10(static_cast<double>(phases.peak)), 3.3, .2);
  EXPECT_GT(*phases.migration, phases.peak);
  EXPECT_LT(phases.end_over_peak, .5);
  EXPECT_EQ(phases.name(), "region migration");
  EXPECT_GE(phases.fragile, 300);
  EXPECT_LT(phases.robustness_low, .15);
  EXPECT_GT(phases.robustness_end, phases.robustness_low + .1);
}

TEST(Phases, SeesNoMigrationInAnAscent) {
  auto curves = double_descent();
  for (size_t i = 0; i < curves.steps.size(); ++i) curves.complexity[i] = static_cast<double>(i);
  const auto phases = find_phases(curves);
  EXPECT_FALSE(phases.migration);
  EXPECT_FALSE(phases.descent_end);
  EXPECT_EQ(phases.peak, 40000);
  EXPECT_EQ(phases.name(), "interpolation");
  for (auto& a : curves.train_accuracy) a = .5;
  EXPECT_EQ(find_phases(curves).name(), "before interpolation");
}

TEST(Phases, RefusesBadInput) {
  const auto says = [](const std::string& part, const auto& change) {
    auto curves = double_descent();
    change(curves);
    EXPECT_THAT(error_message([&] { find_phases(curves); }), testing::HasSubstr(part));
  };
  says("increase", [](auto& c) { c.steps[3] = c.steps[2]; });
  says("finite", [](auto& c) { c.complexity[3] = NAN; });
  says("for 25 steps", [](auto& c) { c.robustness.pop_back(); });
  says("too few", [](auto& c) { c = {{0, 1}, {1, 1}, {1, 1}, {}}; });
}

}  // namespace
}  // namespace unbend
