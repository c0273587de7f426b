// Ready objectives for the minimisers: logistic and softmax regression, log-sum-exp, powers of norms of residuals, each
// with its exact Hessian and the surrogates of methods/gradient_normalized_smoothness.md.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "unbend/optimize/gradient_normalized_smoothness.h"

namespace unbend::optimize {

enum class Hessian {
  Exact,
  GaussNewton,  ///< without the second derivatives of the residual; of softmax: blocks diag(p) only, a slow control
  Fisher,       ///< sum over samples of grad f_i grad f_i'; of powers of norms the rank-one term
  Diagonal,     ///< of the exact Hessian
  Product,      ///< exact, as products with vectors: conjugate gradients
  Zero
};
std::vector<std::string> hessian_names();  ///< exact, gauss-newton, fisher, diagonal, product, zero
Hessian hessian_named(std::string_view name);

/// (1/m) sum log(1 + exp(-y_i <a_i, w>)) + sum_j ridge_j w_j^2 / 2. `a` [m, n], labels -1 and 1 [m], `ridge` [n] or of
/// one element for all. A column of ones makes an intercept. Fisher has low rank where m < n.
Problem logistic_problem(Matrix a, const Vector& y, const Vector& ridge, Hessian hessian = Hessian::Exact);

/// (1/m) sum log sum_k exp(<a_i, w_k>) - <a_i, w_{y_i}> + ridge; weights are w_1, w_2, .. one after the other, [K n];
/// `labels` are 0 .. K - 1; `ridge` [n], or of one element.
Problem softmax_problem(Matrix a, const std::vector<int>& labels, int classes, const Vector& ridge,
                        Hessian hessian = Hessian::Exact);

/// mu log sum_i exp((<a_i, x> - b_i) / mu). GaussNewton leaves out -(1/mu) grad grad'.
Problem log_sum_exp_problem(Matrix a, Vector b, double mu, Hessian hessian = Hessian::Exact);

/// Residuals u(x) in R^m of x in R^n.
struct Residuals {
  Eigen::Index variables = 0, count = 0;
  std::function<void(const Vector& x, Vector& u)> value;
  std::function<void(const Vector& x, Matrix& j)> jacobian;                      ///< [m, n]
  std::function<void(const Vector& x, const Vector& u, Matrix& h)> second = {};  ///< adds sum_i u_i Hess u_i; for Exact
};

/// (1/p) |u(x)|^p, p >= 2: least squares for p = 2. Exact, GaussNewton, Fisher (the rank-one term; wants the metric
/// B = J'J), Diagonal of Gauss-Newton, Product with Gauss-Newton, Zero.
Problem power_problem(Residuals residuals, double p = 2, Hessian hessian = Hessian::GaussNewton);

/// Constants of logistic_problem with its exact Hessian for MinimizeOptions::smoothness: a Lipschitz Hessian; for Zero
/// a Lipschitz gradient. Upper bounds from |a_i| and the largest eigenvalue of A'A / m.
std::vector<SmoothnessTerm> logistic_smoothness(const Matrix& a, const Vector& ridge, Hessian hessian);

/// Largest |analytic - finite difference| of gradient and Hessian at x, relative to their size: for checks of own
/// functions.
struct DerivativeCheck {
  double gradient, hessian;
};
DerivativeCheck check_derivatives(const Problem& problem, const Vector& x, double step = 1e-5);

/// H(x) as a matrix, whichever form it has.
Matrix dense_hessian(const Problem& problem, const Vector& x);

}  // namespace unbend::optimize
