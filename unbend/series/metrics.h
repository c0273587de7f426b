// Measures of forecasts, as the competitions M3 and M4 define them. Each is exact and says what it does with zeros.
#pragma once

#include <span>
#include <string>
#include <vector>

namespace unbend::series {

using Values = std::span<const double>;

/// 200 mean(|f - y| / (|f| + |y|)), in percent; a point where both are 0 counts 0.
double smape(Values actual, Values forecast);
/// The formula of M3, without the absolute values below: 200 mean(|f - y| / (f + y)). Not bounded, and negative where
/// the sum is.
double smape_signed(Values actual, Values forecast);
/// 100 mean(|f - y| / |y|); NaN where an actual value is 0.
double mape(Values actual, Values forecast);
/// sum |f - y| / sum |y|; NaN where all actual values are 0.
double normalized_deviation(Values actual, Values forecast);
/// mean |x_t - x_{t-m}| over the history [n]; NaN for n <= m, and for histories that repeat exactly (0).
double mase_scale(Values history, int period);
/// mean |f - y| / mase_scale.
double mase(Values actual, Values forecast, double scale);
/// (smape / smape of Naive2 + mase / mase of Naive2) / 2: of the means over a group, not a mean of ratios.
double owa(double smape, double mase, double smape_naive2, double mase_naive2);

/// Elementwise median of equally long rows; of an even number the mean of the middle two. Input error without rows.
std::vector<double> median(const std::vector<std::vector<double>>& rows);

/// One series' forecast and what came.
struct Case {
  Values history, actual, forecast;
};

/// Means over a group.
struct Scores {
  double smape = 0;  ///< over all points
  double mase = 0;   ///< over the series that have a scale
  double mape = 0;   ///< over the series without zeros
  double nd = 0;     ///< of sums over all points
  int series = 0, without_scale = 0, with_zeros = 0;
};

/// Input error (naming its place) for a case whose forecast is not as long as what came, or not finite.
Scores score(const std::vector<Case>& cases, int period);

}  // namespace unbend::series
