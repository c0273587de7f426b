// Inside of the minimisers: (H + lambda) d = -g for every form of H, factorised anew for each lambda only as far as
// must be.
#pragma once

#include "unbend/optimize/gradient_normalized_smoothness.h"

namespace unbend::optimize {

class DampedSolve {
 public:
  DampedSolve(const Problem& problem, const MinimizeOptions& options) : problem_(problem) {}

  void at(const Vector& x);  ///< evaluates the Hessian
  /// False where H + lambda is not positive definite.
  bool solve(double lambda, const Vector& g, Vector& d);
  int products() const { return products_; }
  const Matrix& dense() const { return h_; }

 private:
  bool conjugate_gradients(double lambda, const Vector& g, Vector& d);
  const Problem& problem_;
  Matrix h_, work_, q_, small_;  // the Hessian; its damped copy; thin QR: basis, R R'
  Vector diagonal_;
  double shift_ = 0;
  std::function<Vector(const Vector&)> product_;
  int products_ = 0;
};

/// What all minimisers check first: throws as minimize does. Gives f and g at the start.
double check_start(const Problem& problem, const Vector& start, const MinimizeOptions& options, Vector& g);

/// Whether one of the common stops is reached at `minimum`, whose outcome and message are then set.
bool stops(Minimum& minimum, const MinimizeOptions& options);
/// Notes the iteration; true if the callback stops.
bool note(Minimum& minimum, const MinimizeOptions& options, const Iteration& iteration);
void finish(Minimum& minimum, Outcome outcome);

}  // namespace unbend::optimize
