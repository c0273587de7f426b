// Prediction intervals by split conformal calibration (Vovk et al. 2005; Lei et al. 2018): how far forecasts were off
// on series that had no part in training, per step ahead and relative to each series' own variation.
#pragma once

#include <span>
#include <vector>

#include "unbend/series/metrics.h"

namespace unbend::series {

/// Sorted scores |y_h - f_h| / s, one row per step h. Every row has one score per calibration series.
struct Calibration {
  std::vector<std::vector<double>> scores;
  int horizon() const { return static_cast<int>(scores.size()); }
  int series() const { return scores.empty() ? 0 : static_cast<int>(scores[0].size()); }
};

/// s of a series: mean |x_t - x_{t-m}| of its history (mase_scale), or, where that is undefined, mean |x_t - x_{t-1}|;
/// 0 for a constant series and for one of a single value.
double variation(Values history, int period);

/// From forecasts with their outcomes, all of one length. Series without variation are left out. Input error if none is
/// left.
Calibration calibrate(const std::vector<Case>& cases, int period);

/// The highest level that so many series can support: n / (n + 1).
double highest_level(const Calibration& calibration);

/// Half the width of the interval at step `step` (from 0) that covers with probability `level` if the series is
/// exchangeable with those of the calibration: the ceil((n + 1) level)-th smallest score times `variation`. Input error
/// for levels outside (0, 1) and above highest_level().
double half_width(const Calibration& calibration, int step, double level, double variation);

}  // namespace unbend::series
