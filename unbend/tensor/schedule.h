// Learning-rate schedules, as factors on the groups' rates.
#pragma once

#include <cstdint>
#include <limits>

#include "unbend/base/json.h"

namespace unbend {

/// Linear warm-up over the first `warmup_fraction` of `total` steps to 1, then a cosine that falls to `floor_fraction`
/// at step `total` and stays there. Steps count from 0; the first one of a warm-up of W steps has factor 1 / W.
double warmup_cosine(std::int64_t step, std::int64_t total, double warmup_fraction, double floor_fraction);

/// Multiplies its scale by `factor` after `patience` validations in a row without gain, never below `floor`.
struct PlateauSchedule {
  double factor = 0.1;
  int patience = 10;
  double floor = 1e-3;  ///< of the scale

  double scale = 1;
  double best = std::numeric_limits<double>::infinity();
  int waited = 0;

  /// Takes a validation loss (a NaN is no gain) and returns whether it is the best so far.
  bool update(double loss);

  /// `scale`, `best` and `waited`, for checkpoints.
  Json state() const;
  void load_state(const Json& state);
};

}  // namespace unbend
