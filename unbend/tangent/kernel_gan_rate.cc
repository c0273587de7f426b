#include "unbend/tangent/kernel_gan_rate.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace unbend::gan {
namespace {

/// Slope of the least-squares line through (x, y).
double line_slope(const std::vector<double>& x, const std::vector<double>& y) {
  const auto n = static_cast<double>(x.size());
  double mean_x = 0, mean_y = 0, xx = 0, xy = 0;
  for (std::size_t i = 0; i < x.size(); ++i) mean_x += x[i] / n, mean_y += y[i] / n;
  for (std::size_t i = 0; i < x.size(); ++i)
    xx += (x[i] - mean_x) * (x[i] - mean_x), xy += (x[i] - mean_x) * (y[i] - mean_y);
  return xy / xx;
}

}  // namespace

double envelope_rate(std::span<const double> distances) {
  constexpr double kSmallest = 1e-280;
  std::size_t end = distances.size();
  while (end > 0 && !(distances[end - 1] > kSmallest)) --end;
  const auto values = distances.first(end);
  if (values.size() < 4) return std::numeric_limits<double>::quiet_NaN();
  // Minima of |e| are where it changes sides: a window takes in at least two of them, so that it holds a maximum.
  std::size_t minima = 0;
  for (std::size_t i = 1; i + 1 < values.size(); ++i)
    if (values[i] < values[i - 1] && values[i] <= values[i + 1]) ++minima;
  const std::size_t window =
      minima < 2 ? 1 : std::min(values.size() / 4, std::max<std::size_t>(2 * values.size() / minima, 8));
  std::vector<double> x, y;
  for (std::size_t begin = 0; begin + window <= values.size(); begin += window) {
    const auto largest = std::max_element(values.begin() + static_cast<std::ptrdiff_t>(begin),
                                          values.begin() + static_cast<std::ptrdiff_t>(begin + window));
    if (!(*largest > kSmallest) || !std::isfinite(*largest)) continue;
    x.push_back(static_cast<double>(largest - values.begin()));
    y.push_back(std::log(*largest));
  }
  return x.size() < 2 ? std::numeric_limits<double>::quiet_NaN() : std::exp(line_slope(x, y));
}

}  // namespace unbend::gan
