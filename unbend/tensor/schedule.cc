#include "unbend/tensor/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "unbend/base/error.h"

namespace unbend {

double warmup_cosine(std::int64_t step, std::int64_t total, double warmup_fraction, double floor_fraction) {
  require(step >= 0 && total > 0, "warmup_cosine: step {} of {}: expected a step from 0 and a positive total", step,
          total);
  require(warmup_fraction >= 0 && warmup_fraction <= 1, "warmup_cosine: warmup_fraction is {}, expected [0, 1]",
          warmup_fraction);
  require(floor_fraction >= 0 && floor_fraction <= 1, "warmup_cosine: floor_fraction is {}, expected [0, 1]",
          floor_fraction);
  const double warmup = std::round(warmup_fraction * static_cast<double>(total)), at = static_cast<double>(step);
  if (at < warmup) return (at + 1) / warmup;
  if (step >= total) return floor_fraction;
  const double progress = (at - warmup) / (static_cast<double>(total) - warmup);
  return floor_fraction + (1 - floor_fraction) * (1 + std::cos(std::numbers::pi * progress)) / 2;
}

bool PlateauSchedule::update(double loss) {
  if (loss < best) {
    best = loss;
    waited = 0;
    return true;
  }
  if (++waited >= patience) {
    scale = std::max(floor, scale * factor);
    waited = 0;
  }
  return false;
}

Json PlateauSchedule::state() const {
  Json json{{"scale", scale}, {"best", nullptr}, {"waited", waited}};
  if (std::isfinite(best)) json["best"] = best;  // JSON has no infinity
  return json;
}

void PlateauSchedule::load_state(const Json& state) {
  scale = json_get<double>(state, "scale", "plateau schedule");
  waited = json_get<int>(state, "waited", "plateau schedule");
  const bool none = !state.contains("best") || state["best"].is_null();
  best = none ? std::numeric_limits<double>::infinity() : json_get<double>(state, "best", "plateau schedule");
}

}  // namespace unbend
