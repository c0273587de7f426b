// Quadrature: nodes x_k and weights w_k with sum_k w_k f(x_k) close to the integral of f.
//
// The rule decides the accuracy of everything that is computed with functionals. Gauss-Legendre for smooth integrands;
// a substitution (`through`) or `tanh_sinh` where the integrand is singular at an end; `periodic_trapezoid` for
// periodic ones. A minimisation sees only its nodes: watch the functional on a second, finer grid.
#pragma once

#include <ATen/ATen.h>

#include <functional>
#include <memory>
#include <vector>

#include "unbend/base/random.h"

namespace unbend::functional {

/// A quadrature rule for one argument of a function, or none. A value type over shared tensors.
class Grid {
 public:
  Grid() = default;  ///< no rule

  /// nodes [n, *shape of the argument] and weights [n], of one floating type. Input error for different lengths,
  /// values that are not finite, and for negative weights unless they are allowed.
  Grid(const at::Tensor& nodes, const at::Tensor& weights, bool allow_negative = false);

  explicit operator bool() const { return data_ != nullptr; }
  const at::Tensor& nodes() const { return data_->nodes; }
  const at::Tensor& weights() const { return data_->weights; }
  std::int64_t size() const { return data_->weights.size(0); }
  const void* id() const { return data_.get(); }  ///< equal for copies of one grid

 private:
  struct Data {
    at::Tensor nodes, weights;
  };
  std::shared_ptr<const Data> data_;
};

// Rules on an interval, in float64; nodes [n], ascending. Input errors for n < 1 and for intervals that are empty.

/// Exact for polynomials of degree 2n - 1. Newton's iteration on the Legendre polynomial.
Grid gauss_legendre(std::int64_t n, double a = -1, double b = 1);
/// Exact for degree n - 1; includes both ends. n >= 2.
Grid clenshaw_curtis(std::int64_t n, double a = -1, double b = 1);
/// Equal steps, both ends. n >= 2.
Grid trapezoid(std::int64_t n, double a, double b);
/// a, a + h, ..., b - h with weights h = (b - a) / n: converges geometrically for smooth periodic functions.
Grid periodic_trapezoid(std::int64_t n, double a, double b);
/// Double exponential rule with step 2^-level, for integrands that are singular at the ends.
Grid tanh_sinh(int level, double a, double b);

// Rules with a weight function: sum_k w_k f(x_k) is the integral of f times the weight. By the eigenvalues of the
// Jacobi matrix (Golub and Welsch, 1969).

Grid gauss_jacobi(std::int64_t n, double alpha, double beta);  ///< (1-x)^alpha (1+x)^beta on [-1, 1]; both > -1
Grid gauss_laguerre(std::int64_t n, double alpha = 0);         ///< x^alpha e^-x on [0, inf); alpha > -1
Grid gauss_hermite(std::int64_t n);                            ///< e^-x^2 on the real line

/// The rule for the integral over x = map(s): nodes map(s_k), weights w_k |det dmap/ds|. `map` is batched and
/// differentiable, [n, *shape] to the same shape, and acts on each node alone.
Grid through(const Grid& grid, const std::function<at::Tensor(const at::Tensor&)>& map);

/// Nodes [n_1 ... n_d, d] for functions of a vector, from d rules for numbers.
Grid tensor_product(const std::vector<Grid>& axes);

/// `n` points, uniform in the box, with equal weights. Draw a new one each step.
Grid random_grid(std::int64_t n, const std::vector<double>& low, const std::vector<double>& high, Random& random);

/// Nodes [n, 3] on the unit sphere, weights that sum to 1 (Lebedev, 1976): 6, 14, 26, 38 or 50 points, exact for
/// polynomials of degree 3, 5, 7, 9 or 11.
Grid lebedev(std::int64_t points);

/// [0, inf) for functions that decay over about `scale`: Gauss-Legendre in s with r = scale (1 + s) / (1 - s).
Grid radial(std::int64_t n, double scale = 1);

/// Nodes [n, 3] for functions on space that are smooth but at the origin: a rule for r on [0, inf) times a sphere.
Grid atomic(const Grid& radii, const Grid& sphere);

}  // namespace unbend::functional
