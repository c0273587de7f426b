// Least-squares fits of a few points.
#pragma once

#include <vector>

namespace unbend {

/// Slope of log y against log x: the exponent of a power law. Not finite for fewer than two different x, or where a
/// value is not positive.
double log_log_slope(const std::vector<double>& x, const std::vector<double>& y);

}  // namespace unbend
