// Windows of series as N-BEATS takes them: newest point first, padded with zeros before a series begins, divided by
// their largest absolute value so that units do not matter (methods/meta_forecast.md, "Training").
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "unbend/base/random.h"
#include "unbend/series/series.h"

namespace unbend::forecast {

/// Writes the last `lookback` values of `history` [at least one] to `x` and what is seen of them to `mask`. Returns
/// what x was divided by: the largest absolute value, or 1e-8 where that is 0 (at most 1e-30); 1 if not `scaled`.
double fill_window(std::span<const double> history, int lookback, bool scaled, float* x, float* mask);

/// How training windows are cut from a collection of complete series.
struct Sampling {
  int lookback, horizon, period;
  std::int64_t recent;  ///< the cut lies among the last so many points of a series
  bool scaled = true;
};

/// Inputs and targets [batch, horizon], which are 0 beyond the end of the series, where `seen` is 0.
struct TrainingBatch {
  std::int64_t size = 0;
  std::vector<float> x, mask, level, target, seen;
  std::vector<float> season_scale;  ///< mean |x_t - x_{t-m}| of the window as it is, with its zeros
};

/// Fills `batch` with `size` windows: series uniformly, cut c uniformly in [max(1, n - recent), n), inputs before c,
/// targets from c on. Allocates nothing after the first call.
void sample(const series::Collection& source, const Sampling& sampling, std::int64_t size, Random& random,
            TrainingBatch& batch);

}  // namespace unbend::forecast
