#include "unbend/tangent/phases.h"

#include <algorithm>
#include <cmath>

#include "unbend/base/error.h"

namespace unbend {
namespace {

constexpr double kInterpolated = .99, kLeft = .8;

void check(const TrainingCurves& c) {
  const size_t n = c.steps.size();
  require(n >= 3, "phases: {} points of training are too few", n);
  require(
      c.complexity.size() == n && c.train_accuracy.size() == n && (c.robustness.empty() || c.robustness.size() == n),
      "phases: curves of {}, {} and {} points for {} steps", c.complexity.size(), c.train_accuracy.size(),
      c.robustness.size(), n);
  require(c.steps[0] >= 0 && std::ranges::is_sorted(c.steps, std::less_equal()), "phases: steps must increase");
  for (const auto* curve : {&c.complexity, &c.train_accuracy, &c.robustness})
    require(std::ranges::all_of(*curve, [](double x) { return std::isfinite(x); }), "phases: values must be finite");
}

}  // namespace

std::vector<double> smoothed(const std::vector<int64_t>& steps, const std::vector<double>& values, double width) {
  std::vector<double> result;
  const auto place = [&](size_t i) { return std::log10(1. + static_cast<double>(steps[i])); };
  for (size_t i = 0; i < values.size(); ++i) {
    double sum = 0, weights = 0;
    for (size_t j = 0; j < values.size(); ++j) {
      const double u = (place(j) - place(i)) / width, weight = std::exp(-u * u / 2);
      sum += weight * values[j], weights += weight;
    }
    result.push_back(sum / weights);
  }
  return result;
}

Phases find_phases(const TrainingCurves& curves) {
  check(curves);
  const auto& steps = curves.steps;
  const size_t n = steps.size();
  const auto lc = smoothed(steps, curves.complexity);
  const auto learnt = std::ranges::find_if(curves.train_accuracy, [](double a) { return a >= kInterpolated; });
  const size_t interpolated = learnt - curves.train_accuracy.begin();
  Phases phases;
  if (interpolated < n) phases.interpolation = steps[interpolated];

  const auto before = lc.begin() + static_cast<int64_t>(std::min(interpolated, n - 1)) + 1;
  const size_t bottom = std::min_element(lc.begin(), before) - lc.begin();  // where the ascent begins
  if (bottom > 0) phases.descent_end = steps[bottom];
  const size_t top = std::max_element(lc.begin() + static_cast<int64_t>(bottom), lc.end()) - lc.begin();
  phases.peak = steps[top];
  for (size_t i = top + 1; i < n && !phases.migration; ++i) {
    if (lc[i] < kLeft * lc[top]) phases.migration = steps[i];
  }
  if (lc[top] > 0) phases.end_over_peak = lc[n - 1] / lc[top];
  if (!curves.robustness.empty()) {
    const auto from = curves.robustness.begin() + static_cast<int64_t>(std::min(interpolated, n - 1));
    const auto low = std::min_element(from, curves.robustness.end());
    phases.fragile = steps[low - curves.robustness.begin()];
    phases.robustness_low = *low, phases.robustness_end = curves.robustness.back();
  }
  return phases;
}

std::string_view Phases::name() const {
  return migration ? "region migration" : interpolation ? "interpolation" : "before interpolation";
}

}  // namespace unbend
