// Forecasts that need no training: what any other method has to beat. Histories are the oldest value first, complete
// and finite (series.h); an empty one is an Input error, a short one falls back as each function says.
#pragma once

#include <span>
#include <string>
#include <vector>

namespace unbend::series {

/// The last value.
std::vector<double> naive(std::span<const double> history, int horizon);

/// The value a season before; naive() for histories shorter than a season.
std::vector<double> seasonal_naive(std::span<const double> history, int horizon, int period);

/// The 90 % test of M4: |acf_m| > 1.645 sqrt((1 + 2 sum_{i<m} acf_i^2) / n), for n >= 3 m and m > 1.
bool is_seasonal(std::span<const double> history, int period);

/// Classical multiplicative decomposition, as R's decompose: a factor per phase of the season, with mean 1; factor i
/// belongs to the points i, i + m, ... from the first one on. All 1 for series that fail is_seasonal(), and for those
/// with values that are not positive, which have no multiplicative season.
std::vector<double> seasonal_factors(std::span<const double> history, int period);

/// naive() of the seasonally adjusted series, with the season put back: the yardstick of M4's OWA.
std::vector<double> naive2(std::span<const double> history, int horizon, int period);

/// Simple exponential smoothing; smoothing weight in [1e-4, 0.9999] and initial level by least squares of one-step
/// errors.
struct Smoothing {
  double alpha, initial, level;  ///< level after the last point
};
Smoothing exponential_smoothing(std::span<const double> history);

/// The Theta method (Assimakopoulos and Nikolopoulos 2000) as smoothing with half the least-squares slope as drift
/// (Hyndman and Billah 2003), on the seasonally adjusted series: R's thetaf. naive() for fewer than three points.
std::vector<double> theta(std::span<const double> history, int horizon, int period);

/// The four by name, in the order of the M competitions: "Naive", "SNaive", "Naive2", "Theta".
std::span<const std::string> baseline_names();
std::vector<double> baseline(const std::string& name, std::span<const double> history, int horizon, int period);

}  // namespace unbend::series
