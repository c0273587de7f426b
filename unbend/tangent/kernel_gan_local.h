// Whether gradient descent-ascent on a kernel GAN converges near its equilibrium, and how fast, without running it: the
// isolated points model (methods/gda_gan.md; Becker et al. 2023, arXiv 2305.08277). True points are many widths apart
// and every generated point is near one of them, so that the dynamics split into blocks: one true point of mass p and n
// generated ones of masses q_j, with Delta = p - sum q_j. In e_j = y_j - x and v = grad f(x), to first order:
//   v' = (1 - a) v - eta_d kappa sum_j q_j e_j,  e_j' = e_j + eta_g q_j (v_used + h e_j),
// with a = eta_d lambda, h = -kappa Delta / lambda, kappa = -K''(0), and v_used = v' (alternating) or v. Dimensions
// decouple.
#pragma once

#include <complex>
#include <optional>
#include <string>
#include <vector>

#include "unbend/calculus/linearize.h"
#include "unbend/tangent/kernel_gan.h"

namespace unbend::gan {

enum class Verdict {
  Monotone,     ///< converges without changing sides
  Oscillating,  ///< converges, turning round
  Period2,      ///< converges, changing sides at every step
  Neutral,      ///< neither: an eigenvalue on the unit circle and none outside
  Divergent
};
std::string name(Verdict verdict);

struct Block {
  double p = 1;                 ///< mass of the true point
  std::vector<double> q = {1};  ///< masses of its generated points
  double kappa = 1;             ///< Kernel::curvature()
  Steps steps = {};

  double delta() const;
};

struct Prediction {
  std::vector<std::complex<double>> eigenvalues;  ///< n + 1, of one dimension, the largest modulus first
  double rate = 1;                                ///< rho: the largest modulus
  Verdict verdict = Verdict::Neutral;
  double per_decade = 0;  ///< iterations in which the distance falls to a tenth; infinite unless rate < 1
  /// With points of equal mass: the modulus for their mean, and the eigenvalue for their differences (n > 1).
  std::optional<double> mean_rate = {}, difference = {};
};

/// Of any block. lambda = 0 needs Delta = 0, else there is no equilibrium: Input error. A block without generated
/// points, or with masses or kappa that are not positive: Input error.
Prediction predict(const Block& block);

/// The matrix [n + 1, n + 1] of (e_1, .., e_n, v), one dimension.
at::Tensor block_matrix(const Block& block);

/// Stable by the conditions of Jury for z^2 - trace z + determinant: |determinant| < 1 and |trace| < 1 + determinant.
bool jury_stable(double trace, double determinant);

/// In g = eta_d eta_g kappa q^2 (n q^2 for n points of equal mass, in their mean) at Delta = 0: monotone up to
/// `monotone`, oscillating up to `oscillating`, changing sides up to `stable`, divergent beyond.
struct Boundaries {
  double monotone, oscillating, stable;
};
Boundaries boundaries(const Steps& steps);
/// g of a block, with sum q_j^2.
double coupling(const Block& block);

/// Which width, at these steps, and which eta_g, at this width, make a block converge fastest; computed for Delta = 0
/// and evaluated by predict() as the block is. lambda > 0.
struct Recommendation {
  double sigma, sigma_rate;      ///< simultaneous: g = a^2 / 4; alternating: g = a, the middle of a band
  double sigma_low, sigma_high;  ///< where g is inside the band of the best rate (one point if simultaneous)
  double eta_g, eta_g_rate;
};
Recommendation recommend(const Block& block, const Kernel& kernel);

/// One true point and what is predicted for it.
struct TargetReport {
  std::int64_t target;                ///< row of the true points
  std::vector<std::int64_t> members;  ///< rows of the generated points near it
  double delta;
  double distance;                       ///< of the farthest member
  bool local;                            ///< distance <= sigma / 2: outside, the rate does not hold yet
  std::optional<Prediction> prediction;  ///< none without members, or without an equilibrium
  std::optional<Recommendation> recommendation;
  std::string advice;  ///< which knob to turn
};

struct Report {
  Problem problem;  ///< as checked() gives it
  std::vector<TargetReport> targets;
  std::vector<std::int64_t> far;  ///< generated points that are near no true point: they feel almost no pull
  double leakage;                 ///< the largest sum, at a true point, of mass * K over what is not its own
  double rate;                    ///< of the slowest block; NaN if there is none
  std::vector<std::string> notices;
};

constexpr double kMostLeakage = 1e-3;  ///< above, the blocks are not isolated
constexpr double kReach = 3;           ///< widths within which a generated point belongs to its nearest true point

/// Input error as checked() has them, and for kernels that are not smooth.
Report analyse(const Problem& problem);

/// The whole non-linear update with all points together, as a function: (y [Ng, d], f at the true points [Nr], grad f
/// there [Nr, d]) -> the same after one step, where f is the smallest function with these values and gradients. Exact
/// as long as the generated points stand on true points, to first order beside them; so its Jacobian at equilibrium is
/// that of training, couplings between blocks included.
Function update(const Problem& problem);

/// The equilibrium in these coordinates: every point on its nearest true point, f = sum_i (Delta_i / lambda) K(., x_i).
/// lambda > 0, or Delta = 0 everywhere: Input error otherwise.
Tensors equilibrium(const Problem& problem);

/// Linearization of update() at the equilibrium. Its spectrum is that of the blocks, repeated d times, and 1 - a once
/// for each true point, where blocks are isolated.
Linearization linearize_update(const Problem& problem);

/// Eigenvalues of a square map of moderate size by its matrix, the largest modulus first.
std::vector<std::complex<double>> eigenvalues_of(const at::Tensor& matrix);

}  // namespace unbend::gan
