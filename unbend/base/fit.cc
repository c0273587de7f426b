#include "unbend/base/fit.h"

#include <cmath>

#include "unbend/base/error.h"

namespace unbend {

double log_log_slope(const std::vector<double>& x, const std::vector<double>& y) {
  require(x.size() == y.size(), "log_log_slope: {} x for {} y", x.size(), y.size());
  double sum_x = 0, sum_y = 0, sum_xx = 0, sum_xy = 0;
  const auto n = static_cast<double>(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double a = std::log(x[i]), b = std::log(y[i]);
    sum_x += a, sum_y += b, sum_xx += a * a, sum_xy += a * b;
  }
  return (n * sum_xy - sum_x * sum_y) / (n * sum_xx - sum_x * sum_x);
}

}  // namespace unbend
