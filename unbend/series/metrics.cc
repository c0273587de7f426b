#include "unbend/series/metrics.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "unbend/base/error.h"

namespace unbend::series {
namespace {

constexpr double kUndefined = std::numeric_limits<double>::quiet_NaN();

void check(Values actual, Values forecast) {
  require(!actual.empty() && actual.size() == forecast.size(), "a forecast of {} points for {} actual values",
          forecast.size(), actual.size());
}

template <class F>
double mean_of(Values actual, Values forecast, F f) {
  check(actual, forecast);
  double sum = 0;
  for (std::size_t i = 0; i < actual.size(); ++i) sum += f(actual[i], forecast[i]);
  return sum / static_cast<double>(actual.size());
}

}  // namespace

double smape(Values actual, Values forecast) {
  return 200 * mean_of(actual, forecast, [](double y, double f) {
           const double below = std::abs(f) + std::abs(y);
           return below == 0 ? 0 : std::abs(f - y) / below;
         });
}

double smape_signed(Values actual, Values forecast) {
  return 200 * mean_of(actual, forecast, [](double y, double f) { return f == y ? 0 : std::abs(f - y) / (f + y); });
}

double mape(Values actual, Values forecast) {
  return 100 * mean_of(actual, forecast,
                       [](double y, double f) { return y == 0 ? kUndefined : std::abs(f - y) / std::abs(y); });
}

double normalized_deviation(Values actual, Values forecast) {
  check(actual, forecast);
  double above = 0, below = 0;
  for (std::size_t i = 0; i < actual.size(); ++i)
    above += std::abs(forecast[i] - actual[i]), below += std::abs(actual[i]);
  return below == 0 ? kUndefined : above / below;
}

double mase_scale(Values history, int period) {
  const auto m = static_cast<std::size_t>(period);
  if (history.size() <= m) return kUndefined;
  double sum = 0;
  for (std::size_t i = m; i < history.size(); ++i) sum += std::abs(history[i] - history[i - m]);
  return sum == 0 ? kUndefined : sum / static_cast<double>(history.size() - m);
}

double mase(Values actual, Values forecast, double scale) {
  return mean_of(actual, forecast, [](double y, double f) { return std::abs(f - y); }) / scale;
}

double owa(double smape, double mase, double smape_naive2, double mase_naive2) {
  return (smape / smape_naive2 + mase / mase_naive2) / 2;
}

std::vector<double> median(const std::vector<std::vector<double>>& rows) {
  require(!rows.empty(), "the median of no forecasts");
  std::vector<double> out(rows[0].size()), column(rows.size());
  const std::size_t half = rows.size() / 2;
  for (std::size_t i = 0; i < out.size(); ++i) {
    for (std::size_t r = 0; r < rows.size(); ++r) {
      require(rows[r].size() == out.size(), "forecasts of {} and {} points have no common median", out.size(),
              rows[r].size());
      column[r] = rows[r][i];
    }
    std::sort(column.begin(), column.end());
    out[i] = rows.size() % 2 ? column[half] : column[half - 1] / 2 + column[half] / 2;
  }
  return out;
}

Scores score(const std::vector<Case>& cases, int period) {
  Scores s;
  double smapes = 0, mases = 0, mapes = 0, above = 0, below = 0;
  std::size_t points = 0;
  for (const auto& c : cases) {
    check(c.actual, c.forecast);
    for (const double f : c.forecast)
      require(std::isfinite(f), "the forecast of series {} is not finite", s.series + 1);
    const auto n = static_cast<double>(c.actual.size());
    smapes += n * smape(c.actual, c.forecast);
    points += c.actual.size();
    const double scale = mase_scale(c.history, period), percent = mape(c.actual, c.forecast);
    if (std::isnan(scale))
      ++s.without_scale;
    else
      mases += mase(c.actual, c.forecast, scale);
    if (std::isnan(percent))
      ++s.with_zeros;
    else
      mapes += percent;
    for (std::size_t i = 0; i < c.actual.size(); ++i)
      above += std::abs(c.forecast[i] - c.actual[i]), below += std::abs(c.actual[i]);
    ++s.series;
  }
  s.smape = smapes / static_cast<double>(points);
  s.mase = mases / (s.series - s.without_scale);  // NaN where no series counts
  s.mape = mapes / (s.series - s.with_zeros);
  s.nd = above / below;
  return s;
}

}  // namespace unbend::series
