#include "unbend/forecast/explain.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "unbend/base/error.h"

namespace unbend::forecast {

Explanation explain(const Member& member, const series::TimeSeries& series) {
  require(!series.values.empty(), "series '{}': it is empty", series.id);
  const auto& layout = member.layout;
  const int lookback = layout.config.lookback, horizon = layout.config.horizon;
  std::vector<float> x(static_cast<std::size_t>(lookback)), mask(x.size());
  const double scale = fill_window(series.values, lookback, member.training.scaled, x.data(), mask.data());
  nbeats::Workspace<float> work;
  work.keep_blocks = true;
  nbeats::forward(layout, member.weights.data(), {1, x.data(), mask.data(), x.data()}, work);

  Explanation e;
  const auto seen = std::min(series.values.size(), static_cast<std::size_t>(lookback));
  e.window.assign(series.values.end() - static_cast<std::ptrdiff_t>(seen), series.values.end());
  const auto in_units = [&](const float* from, std::size_t count) {
    std::vector<double> out;
    for (std::size_t i = 0; i < count; ++i) out.push_back(scale * from[i]);
    return out;
  };
  e.forecast = in_units(work.forecast.data(), static_cast<std::size_t>(horizon));
  if (layout.config.last_level) e.level = series.values.back();
  std::vector<double> left = e.window;
  const auto norm = [](const std::vector<double>& v) {
    double sum = 0;
    for (const double each : v) sum += each * each;
    return std::sqrt(sum);
  };
  const double whole = norm(e.window);
  int block = 0;
  for (const auto& set : layout.sets) {
    for (int use = 0; use < set.uses; ++use, ++block) {
      Explanation::Block b{set.stack, nbeats::name(set.basis),
                           in_units(work.block_forecasts.data() + block * horizon, static_cast<std::size_t>(horizon)),
                           in_units(work.block_backcasts.data() + block * lookback, seen), 0};
      std::reverse(b.backcast.begin(), b.backcast.end());
      for (std::size_t i = 0; i < seen; ++i) left[i] -= b.backcast[i];
      b.left = whole > 0 ? norm(left) / whole : std::numeric_limits<double>::quiet_NaN();
      e.blocks.push_back(std::move(b));
    }
  }
  const auto wide = [](const std::vector<float>& v) { return at::tensor(v).to(at::kDouble); };
  e.loop = linearize_blocks(layout, wide(member.weights), wide(x), wide(mask));
  return e;
}

}  // namespace unbend::forecast
