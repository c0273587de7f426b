#include "unbend/series/conformal.h"

#include <algorithm>
#include <cmath>

#include "unbend/base/error.h"

namespace unbend::series {

double variation(Values history, int period) {
  double s = mase_scale(history, period);
  if (std::isnan(s)) s = mase_scale(history, 1);
  return std::isnan(s) ? 0 : s;
}

Calibration calibrate(const std::vector<Case>& cases, int period) {
  Calibration out;
  for (const auto& c : cases) {
    const double s = variation(c.history, period);
    if (s == 0) continue;
    if (out.scores.empty()) out.scores.resize(c.actual.size());
    require(c.actual.size() == out.scores.size() && c.forecast.size() == c.actual.size(),
            "calibration: forecasts of {} points for {} actual values, where others have {}", c.forecast.size(),
            c.actual.size(), out.scores.size());
    for (std::size_t h = 0; h < c.actual.size(); ++h) {
      const double e = std::abs(c.actual[h] - c.forecast[h]) / s;
      require(std::isfinite(e), "calibration: a forecast is not finite");
      out.scores[h].push_back(e);
    }
  }
  require(!out.scores.empty(), "calibration: no series that varies");
  for (auto& row : out.scores) std::sort(row.begin(), row.end());
  return out;
}

double highest_level(const Calibration& calibration) { return calibration.series() / (calibration.series() + 1.); }

double half_width(const Calibration& calibration, int step, double level, double variation) {
  require(step >= 0 && step < calibration.horizon(), "calibration: step {} of {}", step + 1, calibration.horizon());
  require(level > 0 && level < 1, "an interval's level must be between 0 and 1, not {:g}", level);
  const int n = calibration.series();
  const auto rank = static_cast<int>(std::ceil((n + 1) * level - 1e-9));
  require(rank <= n, "an interval of level {:g} needs {} calibration series, there are {}", level,
          static_cast<int>(std::ceil(level / (1 - level) - 1e-9)), n);
  return calibration.scores[static_cast<std::size_t>(step)][static_cast<std::size_t>(rank - 1)] * variation;
}

}  // namespace unbend::series
