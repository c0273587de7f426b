// GNS-Newton: a Newton-type minimiser of smooth functions that takes exact or approximate Hessians and needs no
// constants (Semenov, Jaggi and Doikov 2025, arXiv 2506.13710).
//
//   x+ = x - (H(x) + lambda B)^-1 g,  lambda = |g|_* / gamma,  accepted if f - f+ >= |g+|_*^2 / (8 lambda)
//
// gamma, a length, doubles after each accepted step and halves after each rejected one. Norms are |h| = sqrt(h'Bh) and
// |s|_* = sqrt(s'B^-1 s).
#pragma once

#include <cmath>
#include <functional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "unbend/optimize/dense_algebra.h"

namespace unbend::optimize {

// The forms of a Hessian or its surrogate H(x) >= 0 (indefinite ones are survived: a failed factorisation is a failed
// probe). All are asked once per iteration.

/// Fills [n, n]. Only the lower triangle is read, unless `whole`: then the upper one must agree.
struct DenseCurvature {
  std::function<void(const Vector& x, Matrix& h)> hessian;
  bool whole = false;
};
struct DiagonalCurvature {
  std::function<void(const Vector& x, Vector& h)> diagonal;
};
/// U U' + shift B with U [n, r], r << n: solved by a thin QR factorisation of U.
struct LowRankCurvature {
  std::function<void(const Vector& x, Matrix& u, double& shift)> factor;
};
/// The product with a vector; solved by conjugate gradients to a relative residual of min(0.1, sqrt|g|_*).
struct ProductCurvature {
  std::function<std::function<Vector(const Vector& v)>(const Vector& x)> at;
};
struct ZeroCurvature {};
using Curvature = std::variant<ZeroCurvature, DenseCurvature, DiagonalCurvature, LowRankCurvature, ProductCurvature>;

struct Problem {
  Eigen::Index size = 0;
  /// f(x), and the gradient into `g` [n]. Infinite or NaN means: this point cannot be evaluated.
  std::function<double(const Vector& x, Vector& g)> evaluate;
  Curvature curvature = ZeroCurvature{};
  Matrix metric = {};  ///< B, positive definite; empty: the identity
};

/// One term M G^-alpha of a class of functions, which guarantees gamma(x) >= 1 / sum_i M_i G^-alpha_i at G = |g|_*. A
/// Lipschitz gradient (L1) with H = 0 is {1, L1}; a Lipschitz Hessian (L) is {1/2, sqrt(L / 2)}; an error of the
/// Hessian of at most C1 + C2 G^(1 - beta) adds {1, C1} and {beta, C2}.
struct SmoothnessTerm {
  double alpha, constant;
};

/// One accepted step.
struct Iteration {
  int index;             ///< from 1
  double value;          ///< f after the step
  double gradient_norm;  ///< |g|_* after it
  double gamma, lambda;  ///< of the accepted probe
  double step;           ///< |x+ - x|
  int probes;
  int products;            ///< Hessian-vector products (conjugate gradients)
  double decrease;         ///< f - f+
  double guaranteed;       ///< |g+|_*^2 / (8 lambda), which the decrease must reach
  double gamma_bound = 0;  ///< what the smoothness terms guarantee at the old point; 0 without terms
};

enum class Outcome {
  Converged,        ///< |g|_* <= gradient_tolerance
  ValueReached,     ///< f - f_star <= value_tolerance
  Rounding,         ///< f cannot fall further in float64
  IterationLimit,   ///< max_iterations
  SearchExhausted,  ///< no probe of an iteration was accepted
  Stopped           ///< by the callback
};
std::string_view name(Outcome outcome);

struct MinimizeOptions {
  double gamma0 = 1;  ///< first gamma; that of a former solution is a warm start
  double gradient_tolerance = 1e-8;
  double f_star = -INFINITY;  ///< least value, if known
  double value_tolerance = 1e-8;
  int max_iterations = 1000;
  int max_probes = 40;      ///< per iteration
  bool accelerate = false;  ///< steps from extrapolated points, with restarts: experimental, no rate is proved
  std::vector<SmoothnessTerm> smoothness = {};
  std::function<bool(const Iteration&, const Vector& x)> callback = {};  ///< after every step; false stops
};

struct Minimum {
  Vector x;
  double value = 0, gradient_norm = 0;
  Outcome outcome = Outcome::Converged;
  std::string message;  ///< the outcome in a sentence, with advice
  double gamma = 1;     ///< for a warm start
  int evaluations = 0, probes = 0, products = 0;
  std::vector<Iteration> trace;
  int iterations() const { return static_cast<int>(trace.size()); }
  bool converged() const { return outcome == Outcome::Converged || outcome == Outcome::ValueReached; }
};

/// Input error for a start or values there that are not finite, shapes that do not fit, an asymmetric H (beyond 1e-8
/// relative), a B that is not positive definite, gamma0 <= 0.
Minimum minimize(const Problem& problem, const Vector& start, const MinimizeOptions& options = {});

// ---- Baselines, with the same stops and trace

/// Super-universal Newton: lambda = H |g|_*^alpha, H divided and multiplied by 4, accepted if
/// <g+, x - x+> >= |g+|_*^2 / (4 lambda). Identity metric; dense, diagonal, low-rank and zero Hessians.
Minimum super_universal_newton(const Problem& problem, const Vector& start, const MinimizeOptions& options = {},
                               double alpha = 1);
/// Cubic Newton with a doubling search for the constant; one eigendecomposition per iteration. Dense Hessians.
Minimum cubic_newton(const Problem& problem, const Vector& start, const MinimizeOptions& options = {});
/// Gradient method whose constant doubles and halves (from 1, at least 1e-5).
Minimum gradient_method(const Problem& problem, const Vector& start, const MinimizeOptions& options = {});
/// Nesterov's accelerated gradient method with the same search.
Minimum accelerated_gradient(const Problem& problem, const Vector& start, const MinimizeOptions& options = {});

}  // namespace unbend::optimize
