#include "unbend/series/source.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "unbend/base/error.h"

namespace unbend::series {
namespace {

constexpr double kTurn = 2 * std::numbers::pi;

// One season: deviations from 1, no lower than a level of .05.
std::vector<double> season_of(int period, double strength, Random& random) {
  std::vector<double> season(static_cast<std::size_t>(period), 0);
  for (int k = 1; k <= std::min(4, period / 2); ++k) {
    const double amplitude = strength * random.uniform(), phase = kTurn * random.uniform();
    for (int t = 0; t < period; ++t)
      season[static_cast<std::size_t>(t)] += amplitude * std::cos(kTurn * k * t / period + phase);
  }
  for (double& v : season) v = std::max(v, -.95);
  return season;
}

}  // namespace

Collection synthetic_source(const SourceOptions& options, Random& random) {
  require(options.shortest >= 2 && options.longest >= options.shortest,
          "synthetic series: lengths from {} to {}, where the shortest must be at least 2", options.shortest,
          options.longest);
  require(options.count > 0 && options.period > 0, "synthetic series: {} series of period {}: both must be above 0",
          options.count, options.period);
  require(options.variety >= 0 && options.variety <= 1, "synthetic series: variety {} is not between 0 and 1",
          options.variety);
  Collection out;
  const int m = options.period;
  const auto span = static_cast<std::uint64_t>(options.longest - options.shortest + 1);
  const double per_point = 12. / m;  // of a monthly slope or walk
  for (int i = 0; i < options.count; ++i) {
    const auto sometimes = [&](double share) { return random.uniform() < options.variety * share; };
    const int n = options.shortest + static_cast<int>(random.below(span));
    const double level = std::pow(10, 4 * random.uniform());
    const double slope = sometimes(.25) ? 0 : .004 * random.normal() * per_point;
    const bool exponential = random.uniform() < .5;
    const double decay = sometimes(.25) ? 1 - 1 / (m * (1 + 4 * random.uniform())) : 1;
    const double strength = sometimes(.25) ? 0 : sometimes(.5) ? .35 * random.uniform() : .35;
    const auto seasons = season_of(m, strength, random);
    const bool adds = sometimes(.3);
    const double walks[] = {0, .005, .02};
    const double walk = walks[random.below(3)] * std::sqrt(per_point);
    const double loud = .06 * random.uniform(), noise = loud * (sometimes(.4) ? .2 : 1);
    const double step = sometimes(.15) ? .3 * random.normal() : 0;
    const int step_at = static_cast<int>(random.below(static_cast<std::uint64_t>(n)));
    const double cycle = sometimes(.25) ? .15 * random.uniform() : 0;
    const double cycle_length = m * (2 + 6 * random.uniform()), cycle_phase = kTurn * random.uniform();
    TimeSeries s{fmt::format("S{}", i + 1), {}, {}};
    double wandered = 0, trend_time = 0, speed = 1;
    for (int t = 0; t < n; ++t) {
      const double trend = exponential ? std::exp(slope * trend_time) : std::max(.05, 1 + slope * trend_time);
      wandered += walk * random.normal();
      double smooth = trend * std::exp(wandered + (t >= step_at ? step : 0));
      if (cycle > 0) smooth *= 1 + cycle * std::cos(kTurn * t / cycle_length + cycle_phase);
      const double season = seasons[static_cast<std::size_t>(t % m)];
      const double value = (adds ? smooth + season : smooth * (1 + season)) * (1 + noise * random.normal());
      s.values.push_back(level * std::max(value, 1e-3));
      trend_time += speed, speed *= decay;
    }
    out.push_back(std::move(s));
  }
  return out;
}

}  // namespace unbend::series
