// Training of a kernel GAN by gradient descent-ascent, exactly (methods/gda_gan.md; Becker et al. 2023,
// arXiv 2305.08277): the discriminator f is a function in the kernel's Hilbert space, the generator's parameters are
// its points.
//   f_{k+1} = (1 - eta_d lambda) f_k + eta_d (sum_i p_i K(., x_i) - sum_j q_j K(., y_j^k)),
//   y_j^{k+1} = y_j^k + eta_g q_j grad f(y_j^k), with f_{k+1} (alternating) or f_k (simultaneous).
// What is predicted without any simulation is in kernel_gan_local.h.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "unbend/tangent/kernel_gan_kernel.h"

namespace unbend::gan {

/// Which discriminator the generator sees: the new one or the old one. They converge under different conditions.
enum class Order { Alternating, Simultaneous };

struct Steps {
  double eta_d = .1;  ///< step of the discriminator
  double eta_g = .1;  ///< step of the generator; a point of mass q moves with eta_g q
  double lambda = 1;  ///< weight of |f|^2 / 2
  Order order = Order::Alternating;

  double decay() const { return 1 - eta_d * lambda; }  ///< what one step leaves of f
};

struct Problem {
  at::Tensor true_points;  ///< [Nr, d] float64
  at::Tensor true_masses;  ///< [Nr]
  at::Tensor points;       ///< [Ng, d], where the generated points start
  at::Tensor masses;       ///< [Ng]
  Kernel kernel = {};
  Steps steps = {};
};

/// Input error for steps that are not positive, lambda < 0, and eta_d lambda >= 2: the discriminator alone is unstable.
void check_steps(const Steps& steps);

/// The problem in float64 with coincident true points merged, which `notices` (if not null) is told. Input error for
/// what cannot be trained: shapes, NaN, negative masses or all zero, kernel and steps.
Problem checked(const Problem& problem, std::vector<std::string>* notices = nullptr);

/// The point of view of each generated point: its nearest true point, and how far away that is.
struct Nearest {
  std::vector<std::int64_t> target;
  std::vector<double> distance;
};
Nearest nearest_targets(const Problem& problem);

struct SimulateOptions {
  std::int64_t steps = 1000;
  /// Sources whose weight has decayed below this are forgotten; 0: none is.
  double forget = 1e-15;
  double cutoff = 0;               ///< in widths: see gradients()
  std::int64_t record_every = 1;   ///< positions are kept after so many steps
  double most_bytes = 2147483648;  ///< Input error if the sources need more
  bool from_equilibrium = false;   ///< f starts at its equilibrium for points on their targets, not at 0; lambda > 0
  /// If above 0: f(x) = psi(x)^T theta with so many random features instead of the exact kernel.
  std::int64_t features = 0;
  std::uint64_t seed = 1;
  /// Called with each new position [Ng, d]; false ends the simulation.
  std::function<bool(std::int64_t step, const double* points)> observe = {};
};

struct Trajectory {
  at::Tensor steps;                ///< [M] int64, from 0
  at::Tensor points;               ///< [M, Ng, d]
  std::int64_t window = 0;         ///< steps that f remembers; 0 with random features, which remember all
  double bytes = 0;                ///< that the sources, or the features, took
  Expansion discriminator = {};    ///< f after the last step; empty with random features
  std::vector<std::string> notes;  ///< of points that no true point pulls at
};

/// Steps after which a source's weight is below `forget`, at most `steps`: ceil(ln forget / ln |1 - eta_d lambda|).
std::int64_t memory_window(const Steps& steps, double forget, std::int64_t count);

/// Bytes of the sources that f is made of: (window Ng + Nr) (d + 1) 8.
double memory_needed(const Problem& problem, const SimulateOptions& options);

/// O(steps window Ng^2 d), or O(steps features (Ng + Nr) d). Input error as checked() has them, for a negative number
/// of steps, and for random features of a kernel that has none (ReluNtk). Computation error if a point leaves all
/// bounds.
Trajectory simulate(const Problem& problem, const SimulateOptions& options = {});

/// K(x, z) ~ psi(x)^T psi(z): psi(x) = sqrt(2 / R) cos(x directions^T + phases), with directions from the kernel's
/// spectrum (Rahimi and Recht 2007).
struct Features {
  at::Tensor directions;                             ///< [R, d]
  at::Tensor phases;                                 ///< [R]
  at::Tensor operator()(const at::Tensor& x) const;  ///< [n, d] -> [n, R]
};
Features random_features(const Kernel& kernel, std::int64_t dims, std::int64_t count, std::uint64_t seed);

}  // namespace unbend::gan
