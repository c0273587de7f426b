// Phases of training, as local complexity shows them: first descent, ascent until the training set is interpolated,
// second descent ("region migration"), in which folds leave the data and robustness appears late (arXiv 2402.15555).
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace unbend {

/// What is logged along training, at increasing steps; all vectors are as long as `steps`.
struct TrainingCurves {
  std::vector<int64_t> steps;
  std::vector<double> complexity;      ///< around training points
  std::vector<double> train_accuracy;  ///< 0 to 1
  std::vector<double> robustness;      ///< 0 to 1; may be empty
};

struct Phases {
  std::optional<int64_t> descent_end;    ///< lowest complexity up to interpolation; none if that is the start
  std::optional<int64_t> interpolation;  ///< first step with train accuracy 0.99 or more
  int64_t peak = 0;                      ///< highest complexity after the descent
  std::optional<int64_t> migration;      ///< first step after the peak with less than 0.8 of its complexity
  double end_over_peak = 1;              ///< complexity at the end, over that of the peak
  std::optional<int64_t> fragile;        ///< step of the lowest robustness from interpolation on
  double robustness_low = 0, robustness_end = 0;

  /// "before interpolation", "interpolation", "region migration": where the training stands at its end.
  std::string_view name() const;
};

/// Reads the phases off curves smoothed over 0.1 decades of log(1 + step). Input error for fewer than 3 points, steps
/// that do not increase, lengths that differ, numbers that are not finite.
Phases find_phases(const TrainingCurves& curves);

/// The curve smoothed as there: weights exp(-(u / width)^2 / 2) in u = log10(1 + step).
std::vector<double> smoothed(const std::vector<int64_t>& steps, const std::vector<double>& values, double width = .1);

}  // namespace unbend
