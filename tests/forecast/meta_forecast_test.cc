#include "unbend/forecast/meta_forecast.h"

#include <ATen/Parallel.h>
#include <c10/util/Half.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>

#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/series/metrics.h"
#include "unbend/series/source.h"

namespace unbend::forecast {
namespace {

using testing::Each;
using testing::HasSubstr;
using testing::SizeIs;
using testing::ThrowsMessage;

FitOptions small() {
  FitOptions o;
  o.frequency = "quarterly";
  o.lookbacks = {2, 3}, o.losses = {Loss::Smape, Loss::Mase};
  o.stacks = {{nbeats::Basis::Generic, 3, true, 2, 24}};
  o.iterations = 400, o.batch = 32, o.rate = 3e-3;
  return o;
}

series::Collection source(int count = 300) {
  Random random(9);
  return series::synthetic_source({.count = count, .period = 4, .shortest = 30, .longest = 50}, random);
}

const Ensemble& ensemble() {
  static const Ensemble e = fit(source(), small());
  return e;
}

TEST(MetaForecast, ScalesWithTheSeries) {
  const auto series = source(5);
  auto larger = series;
  for (auto& s : larger)
    for (double& v : s.values) v *= 1000;
  const auto a = predict(ensemble(), series), b = predict(ensemble(), larger);
  for (std::size_t i = 0; i < a.size(); ++i)
    for (std::size_t h = 0; h < 8; ++h)
      EXPECT_NEAR(b[i].values[h], 1000 * a[i].values[h], 1e-5 * std::abs(b[i].values[h]));
}

TEST(MetaForecast, IsTheMedianOfItsMembersAndLearnsSomething) {
  const auto& e = ensemble();
  ASSERT_THAT(e.members, SizeIs(4));
  ASSERT_TRUE(e.calibration);
  EXPECT_EQ(e.calibration->series(), 30);
  Random random(77);
  auto fresh = series::synthetic_source({.count = 100, .period = 4, .shortest = 40, .longest = 60}, random);
  series::Collection histories;
  for (const auto& s : fresh) histories.push_back({s.id, {s.values.begin(), s.values.end() - 8}, {}});
  const auto f = predict(e, histories);
  double own = 0, naive = 0;
  for (std::size_t i = 0; i < f.size(); ++i) {
    EXPECT_THAT(f[i].members, SizeIs(4));
    EXPECT_EQ(f[i].values, series::median(f[i].members));
    const series::Values actual(fresh[i].values.data() + fresh[i].values.size() - 8, 8);
    own += series::smape(actual, f[i].values);
    naive += series::smape(actual, std::vector<double>(8, histories[i].values.back()));
  }
  EXPECT_LT(own, naive);
}

TEST(MetaForecast, ShortConstantAndNegativeSeries) {
  const auto f = predict(ensemble(), {{"short", {5, 6, 7}, {}},
                                      {"constant", std::vector<double>(30, 7.5), {}},
                                      {"zero", std::vector<double>(30, 0), {}},
                                      {"one", {3}, {}},
                                      {"negative", {-1, -2, -3, -4, -5, -6, -5, -4, -3, -2, -1, -2}, {}}});
  EXPECT_THAT(f[0].notes.at(0), HasSubstr("3 points are less than one horizon of 8"));
  EXPECT_THAT(f[1].values, Each(7.5));
  EXPECT_THAT(f[1].notes.at(0), HasSubstr("constant"));
  EXPECT_THAT(f[2].values, Each(0));
  EXPECT_THAT(f[3].values, Each(3));
  for (const auto& each : f)
    for (const double v : each.values) EXPECT_TRUE(std::isfinite(v));
}

TEST(MetaForecast, HorizonsAndRefusals) {
  const auto& e = ensemble();
  const auto s = source(1);
  EXPECT_THAT(([&] { predict(e, s, {.horizon = 5}); }), ThrowsMessage<Error>(HasSubstr("--truncate")));
  EXPECT_THAT(([&] { predict(e, s, {.horizon = 12}); }), ThrowsMessage<Error>(HasSubstr("--iterate")));
  EXPECT_THAT(([&] {
                predict(e, {{"a", {1, NAN}, {}}});
              }),
              ThrowsMessage<Error>(HasSubstr("series 'a': it has missing")));
  EXPECT_THAT(([&] { predict(e, {{"a", {}, {}}}); }), ThrowsMessage<Error>(HasSubstr("empty")));
  EXPECT_THROW(predict({}, s), Error);
  const auto whole = predict(e, s)[0].values, part = predict(e, s, {.horizon = 5, .truncate = true})[0].values;
  EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin()));
  EXPECT_THAT(part, SizeIs(5));
  const auto longer = predict(e, s, {.horizon = 12, .iterate = true})[0];
  EXPECT_THAT(longer.values, SizeIs(12));
  EXPECT_TRUE(std::equal(whole.begin(), whole.end(), longer.values.begin()));
  auto fed = s;
  fed[0].values.insert(fed[0].values.end(), whole.begin(), whole.end());
  EXPECT_EQ(predict(e, fed)[0].values[0], longer.values[8]);

  auto o = small();
  o.frequency = "lunar";
  EXPECT_THAT(([&] { fit(source(5), o); }), ThrowsMessage<Error>(HasSubstr("frequency 'lunar' is not known")));
  o = small();
  o.calibration = 1;
  EXPECT_THAT(([&] { fit(source(5), o); }), ThrowsMessage<Error>(HasSubstr("0 (none) or from 2")));
  o = small();
  o.lookbacks = {20000};
  EXPECT_THAT(([&] { fit(source(5), o); }), ThrowsMessage<Error>(HasSubstr("lookback of 20000 horizons")));
}

TEST(MetaForecast, LeavesOutMembersThatGiveNoNumbers) {
  auto e = ensemble();
  for (float& w : e.members[1].weights) w *= 1e30f;
  const auto f = predict(e, source(1))[0];
  EXPECT_THAT(f.members, SizeIs(3));
  EXPECT_THAT(f.notes.at(0), HasSubstr("1 of 4 members"));
  for (auto& m : e.members)
    for (float& w : m.weights) w = w > 0 ? 1e38f : -1e38f;
  EXPECT_THAT(([&] { predict(e, source(1)); }), ThrowsMessage<Error>(HasSubstr("no member")));
}

TEST(MetaForecast, SeriesThatRunAwayAreRefusedHowFarEverTheyAreForecast) {
  auto growing = ensemble();  // every horizon is many times as large as the one before
  for (auto& m : growing.members) {
    m.training.scaled = false;
    for (float& w : m.weights) w *= 100;
  }
  const auto s = source(1);
  EXPECT_EQ(predict(growing, s)[0].members.size(), 4u);
  EXPECT_THAT(([&] { predict(growing, s, {.horizon = 100 * growing.horizon, .iterate = true}); }),
              ThrowsMessage<Error>(HasSubstr("no member")));
  series::Collection huge{{"huge", {}, {}}};
  for (int i = 0; i < 40; ++i) huge[0].values.push_back(i % 2 ? 1e39 : 2e39);  // float32 ends at 3.4e38
  EXPECT_THAT(([&] { predict(growing, huge); }), ThrowsMessage<Error>(HasSubstr("series 'huge': no member")));
  EXPECT_EQ(series::median({{1.5e308}, {1.7e308}})[0], 1.6e308);
}

TEST(MetaForecast, MembersGoOnOnlyWithNumbersAllTheWay) {
  auto e = ensemble();
  series::Collection s{{"steep", {}, {}}};
  for (int i = 0; i < 40; ++i) s[0].values.push_back(1e305 * (i + 1));
  e.members[0].training.scaled = false;  // cannot hold the series
  const auto f = predict(e, s, {.horizon = 16, .iterate = true})[0];
  EXPECT_THAT(f.members, SizeIs(3));
  for (const auto& m : f.members) EXPECT_THAT(m, SizeIs(16));
  EXPECT_EQ(f.values, series::median(f.members));
  e = ensemble();
  e.members[1].training.scaled = false;
  std::ranges::fill(e.members[1].weights, 0);  // forecasts 0, as long as float32 holds the series, up to 3.4e38
  for (int i = 0; i < 40; ++i) s[0].values[i] = 3.4e38 * (i + 1) / 40.1;
  EXPECT_THAT(predict(e, s)[0].members, SizeIs(4));
  const auto far = predict(e, s, {.horizon = 40, .iterate = true})[0];
  EXPECT_THAT(far.members, SizeIs(3));
  for (const auto& m : far.members) EXPECT_THAT(m, SizeIs(40));
}

TEST(MetaForecast, FilesComeBackBitwise) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "e.safetensors", again = folder.path() / "f.safetensors";
  save_ensemble(path, ensemble(), false);
  const auto loaded = load_ensemble(path);
  for (std::size_t m = 0; m < 4; ++m) EXPECT_EQ(loaded.members[m].weights, ensemble().members[m].weights);
  EXPECT_EQ(predict(loaded, source(3))[2].values, predict(ensemble(), source(3))[2].values);
  save_ensemble(again, loaded, false);
  EXPECT_EQ(read_file(path), read_file(again));
  EXPECT_EQ(loaded.calibration->series(), 30);
  save_ensemble(path, ensemble(), true);
  save_ensemble(again, load_ensemble(path), true);
  EXPECT_EQ(read_file(path), read_file(again));
  write_file(path, "not an ensemble");
  EXPECT_THROW(load_ensemble(path), Error);
}

TEST(MetaForecast, ResumesFromFinishedMembers) {
  const TemporaryFolder folder;
  auto o = small();
  o.keep = folder.path() / "kept";
  EXPECT_THAT(([&] { fit(source(), o, [](std::int64_t done, std::int64_t) { return done < 1300; }); }),
              ThrowsMessage<Error>(HasSubstr("stopped")));
  std::int64_t first = 0;  // of 1,600 steps; members train beside each other
  const auto e = fit(source(), o, [&](std::int64_t done, std::int64_t) { return first = first ? first : done, true; });
  EXPECT_GT(first, 400);
  for (std::size_t m = 0; m < 4; ++m) EXPECT_EQ(e.members[m].weights, ensemble().members[m].weights);

  // What is kept is not rounded, and belongs to its source.
  const auto steps_of = [&](const series::Collection& s) {
    std::int64_t steps = 0;
    const auto found = fit(s, o, [&](std::int64_t, std::int64_t) { return ++steps, true; });
    return std::pair(steps, found.members[0].weights);
  };
  o.half = true;
  const auto [none, rounded] = steps_of(source());
  EXPECT_EQ(none, 0);
  EXPECT_EQ(rounded[0], static_cast<float>(c10::Half(e.members[0].weights[0])));
  EXPECT_NE(rounded, e.members[0].weights);
  auto other = source();
  other[7].values[3] *= 2;
  EXPECT_EQ(steps_of(other).first, 1600);
}

TEST(MetaForecast, ThreadsChangeNothing) {
  const int threads = at::get_num_threads();
  at::set_num_threads(2);
  const auto two = fit(source(), small());
  const TemporaryFolder folder;
  auto o = small();
  o.keep = folder.path();
  std::atomic<std::int64_t> last = 0;
  EXPECT_THROW(fit(source(), o, [&](std::int64_t done, std::int64_t) { return last = done, done < 1000; }), Error);
  const auto resumed = fit(source(), o);
  at::set_num_threads(threads);
  for (std::size_t m = 0; m < 4; ++m) {
    EXPECT_EQ(two.members[m].weights, ensemble().members[m].weights);
    EXPECT_EQ(resumed.members[m].weights, ensemble().members[m].weights);
  }
}

TEST(MetaForecast, FilesThatPromiseTooMuch) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "e.safetensors";
  const auto refused = [&](const char* part, const std::function<void(Ensemble&)>& change) {
    Ensemble e{"monthly", 12, 2, "", {{}}, {}};
    e.members[0].training.network = nbeats::generic(4, 2, 1, true, 1, 3);
    e.members[0].layout = nbeats::layout(e.members[0].training.network);
    e.members[0].weights.resize(e.members[0].layout.parameters);
    change(e);  // after the layout: the file says one thing and holds another
    save_ensemble(path, e, false);
    EXPECT_THAT([&] { load_ensemble(path); }, ThrowsMessage<Error>(HasSubstr(part)));
  };
  refused("another shape", [](Ensemble& e) { e.members[0].training.network.stacks[0].width = 20000; });
  refused("blocks of all stacks", [](Ensemble& e) { e.members[0].training.network.stacks[0].blocks = 10001; });
  refused("at most 100000 points", [](Ensemble& e) { e.members[0].training.network.horizon = 1 << 30; });
  refused("bases", [](Ensemble& e) {
    e.members[0].training.network = {100000, 100000, {{nbeats::Basis::Seasonality, 1, true, 1, 1, 2, 100}}};
  });
  refused("period", [](Ensemble& e) { e.period = 2000000000; });
}

TEST(MetaForecast, IntervalsCoverSeriesLikeTheSource) {
  Random random(31);
  auto fresh = series::synthetic_source({.count = 300, .period = 4, .shortest = 40, .longest = 60}, random);
  const auto own = calibrate_on(ensemble(), fresh);
  EXPECT_EQ(own.series(), 300);
  // The quantiles of the source's 30 held-out series and of 300 others like them agree within sampling error.
  int covered = 0;
  for (std::size_t h = 0; h < 8; ++h) {
    const double width = series::half_width(*ensemble().calibration, static_cast<int>(h), .8, 1);
    for (const double s : own.scores[h]) covered += s <= width;
  }
  EXPECT_NEAR(covered / 2400., .8, .2);
}

}  // namespace
}  // namespace unbend::forecast
