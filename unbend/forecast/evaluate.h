// An ensemble beside forecasts that need no training, on the last horizon of each series.
#pragma once

#include <string>
#include <vector>

#include "unbend/forecast/meta_forecast.h"
#include "unbend/series/metrics.h"

namespace unbend::forecast {

struct MethodScores {
  std::string method;
  series::Scores scores;
  double owa;                       ///< against Naive2 on the same series
  std::vector<double> smape, mase;  ///< per series; mase NaN without a scale
  double seconds = 0;
};

/// How many points of the last horizons lie in intervals of a level.
struct Coverage {
  double level;
  int covered = 0, points = 0;
};

struct Evaluation {
  series::Collection histories;               ///< without the last horizon
  std::vector<std::vector<double>> actual;    ///< that horizon
  std::vector<std::vector<double>> forecast;  ///< the ensemble's
  std::vector<double> variation;
  std::vector<MethodScores> methods;  ///< those of series::baseline_names(), then the ensemble
  std::vector<Coverage> coverage;     ///< with the ensemble's own calibration; empty without
  std::vector<std::string> left_out;  ///< series that are too short, with the reason
};

constexpr const char* kEnsembleName = "N-BEATS";

/// Complete series. Input error if none is longer than a horizon.
Evaluation evaluate(const Ensemble& ensemble, const series::Collection& collection, const std::vector<double>& levels);

}  // namespace unbend::forecast
