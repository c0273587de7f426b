#include "unbend/forecast/evaluate.h"

#include <fmt/format.h>

#include <chrono>
#include <cmath>

#include "unbend/base/error.h"
#include "unbend/series/baselines.h"

namespace unbend::forecast {
namespace {

MethodScores scores_of(const std::string& method, const Evaluation& e,
                       const std::vector<std::vector<double>>& forecasts, int period) {
  MethodScores out{method, {}, 0, {}, {}};
  std::vector<series::Case> cases;
  for (std::size_t i = 0; i < forecasts.size(); ++i) {
    const auto& history = e.histories[i].values;
    cases.push_back({history, e.actual[i], forecasts[i]});
    out.smape.push_back(series::smape(e.actual[i], forecasts[i]));
    out.mase.push_back(series::mase(e.actual[i], forecasts[i], series::mase_scale(history, period)));
  }
  out.scores = series::score(cases, period);
  return out;
}

}  // namespace

Evaluation evaluate(const Ensemble& ensemble, const series::Collection& collection, const std::vector<double>& levels) {
  Evaluation e;
  const int horizon = ensemble.horizon;
  for (const auto& s : collection) {
    if (s.values.size() <= static_cast<std::size_t>(horizon)) {
      e.left_out.push_back(
          fmt::format("series '{}' has {} points, no more than the horizon of {}", s.id, s.values.size(), horizon));
      continue;
    }
    e.histories.push_back({s.id, {s.values.begin(), s.values.end() - horizon}, {}});
    e.actual.emplace_back(s.values.end() - horizon, s.values.end());
  }
  require(!e.histories.empty(), "evaluate: no series has more than {} points", horizon);

  const auto timed = [&](const std::string& method, const auto& make) {
    const auto begin = std::chrono::steady_clock::now();
    const std::vector<std::vector<double>> forecasts = make();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    e.methods.push_back(scores_of(method, e, forecasts, ensemble.period));
    e.methods.back().seconds = seconds;
    return forecasts;
  };
  for (const auto& name : series::baseline_names()) {
    timed(name, [&] {
      std::vector<std::vector<double>> out;
      for (const auto& h : e.histories) out.push_back(series::baseline(name, h.values, horizon, ensemble.period));
      return out;
    });
  }
  e.forecast = timed(kEnsembleName, [&] {
    std::vector<std::vector<double>> out;
    for (auto& f : predict(ensemble, e.histories)) {
      out.push_back(std::move(f.values));
      e.variation.push_back(f.variation);
    }
    return out;
  });
  const auto& naive2 = e.methods[2].scores;
  for (auto& m : e.methods) m.owa = series::owa(m.scores.smape, m.scores.mase, naive2.smape, naive2.mase);

  if (!ensemble.calibration) return e;
  for (const double level : levels) {
    Coverage c{level};
    for (std::size_t i = 0; i < e.forecast.size(); ++i) {
      for (int h = 0; h < horizon; ++h) {
        const auto at = static_cast<std::size_t>(h);
        const double half = series::half_width(*ensemble.calibration, h, level, e.variation[i]);
        c.covered += std::abs(e.actual[i][at] - e.forecast[i][at]) <= half;
        ++c.points;
      }
    }
    e.coverage.push_back(c);
  }
  return e;
}

}  // namespace unbend::forecast
