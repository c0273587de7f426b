#include "unbend/forecast/windows.h"

#include <algorithm>
#include <cmath>

namespace unbend::forecast {

double fill_window(std::span<const double> history, int lookback, bool scaled, float* x, float* mask) {
  const auto seen = std::min<std::size_t>(history.size(), static_cast<std::size_t>(lookback));
  double largest = 0;
  for (const double v : history.last(seen)) largest = std::max(largest, std::abs(v));
  const double scale = !scaled ? 1 : largest > 1e-30 ? largest : 1e-8;  // what is smaller is nothing to float targets
  for (std::size_t i = 0; i < seen; ++i) x[i] = static_cast<float>(history[history.size() - 1 - i] / scale);
  std::fill(x + seen, x + lookback, 0.f);
  std::fill(mask, mask + seen, 1.f);
  std::fill(mask + seen, mask + lookback, 0.f);
  return scale;
}

void sample(const series::Collection& source, const Sampling& s, std::int64_t size, Random& random,
            TrainingBatch& batch) {
  const auto count = [&](std::int64_t each) { return static_cast<std::size_t>(size * each); };
  batch.size = size;
  batch.x.resize(count(s.lookback)), batch.mask.resize(count(s.lookback));
  batch.target.resize(count(s.horizon)), batch.seen.resize(count(s.horizon));
  batch.level.resize(count(1)), batch.season_scale.resize(count(1));
  for (std::int64_t b = 0; b < size; ++b) {
    const auto& values = source[random.below(source.size())].values;
    const auto n = static_cast<std::int64_t>(values.size());
    const std::int64_t first = std::max<std::int64_t>(1, n - s.recent);
    const auto cut =
        first < n ? first + static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(n - first))) : n;
    float* const x = batch.x.data() + b * s.lookback;
    const double scale = fill_window({values.data(), static_cast<std::size_t>(cut)}, s.lookback, s.scaled, x,
                                     batch.mask.data() + b * s.lookback);
    batch.level[static_cast<std::size_t>(b)] = x[0];
    for (int i = 0; i < s.horizon; ++i) {
      const bool seen = cut + i < n;
      batch.seen[static_cast<std::size_t>(b * s.horizon + i)] = seen ? 1 : 0;
      batch.target[static_cast<std::size_t>(b * s.horizon + i)] =
          seen ? static_cast<float>(values[static_cast<std::size_t>(cut + i)] / scale) : 0;
    }
    double apart = 0;
    for (int i = s.period; i < s.lookback; ++i) apart += std::abs(x[i] - x[i - s.period]);
    batch.season_scale[static_cast<std::size_t>(b)] =
        s.lookback > s.period ? static_cast<float>(apart / (s.lookback - s.period)) : 0;
  }
}

}  // namespace unbend::forecast
