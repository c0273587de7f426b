// Adam (Kingma and Ba, 2015) on one flat array, with clipping of the gradient's norm: the arithmetic of
// unbend/tensor/adamw.h without weight decay, and without LibTorch.
#pragma once

#include <limits>

#include "unbend/control/policy_matrix.h"

namespace unbend::control {

struct AdamOptions {
  double lr = 3e-4, beta1 = .9, beta2 = .999, eps = 1e-8;
  double max_norm = std::numeric_limits<double>::infinity();  ///< of the gradient; a longer one is scaled to it
};

template <class T>
class Adam {
 public:
  Adam() = default;
  explicit Adam(std::int64_t parameters) { moments_.resize(static_cast<std::size_t>(2 * parameters)); }

  /// One step downhill. A gradient that is not finite or all zero changes nothing: skipped() counts it, and the result
  /// is false.
  bool step(const AdamOptions& options, T* parameters, const T* gradient);

  double norm() const { return norm_; }  ///< of the last gradient, before clipping
  std::int64_t steps() const { return steps_; }
  std::int64_t skipped() const { return skipped_; }

  /// For checkpoints: [2, parameters] averages of the gradient and of its square; steps taken, steps skipped.
  Numbers<T>& moments() { return moments_; }
  const Numbers<T>& moments() const { return moments_; }
  void set_counts(std::int64_t steps, std::int64_t skipped) { steps_ = steps, skipped_ = skipped; }

 private:
  Numbers<T> moments_;
  std::int64_t steps_ = 0, skipped_ = 0;
  double norm_ = 0;
};

}  // namespace unbend::control
