// Integral and integro-differential equations: unknown functions by coefficients of a basis, operators on functions by
// their values at the nodes of a grid.
//
//   const Functional residual = [&](const Fn& u) { return u - integrate(x * y * u(y), 1, grid) - f; };
//   const Fn u = solve_equation(residual, {legendre_basis(20, 0, 1), grid}).u;
#pragma once

#include "unbend/calculus/fn_basis.h"
#include "unbend/calculus/functional.h"
#include "unbend/calculus/linear_map.h"
#include "unbend/calculus/outcome.h"

namespace unbend::functional {

struct Collocation {
  Basis basis;
  Grid grid;  ///< of numbers: at its nodes the equation holds, to least squares with its weights
  /// Numbers that must be 0 besides, u(0) - 1 as value_at(u, 0) - 1; without gradients of functions (the values are
  /// differentiated by coefficients). Each weighs as much as the whole grid.
  std::vector<Functional> conditions = {};
};

/// A linear operator u -> A u on functions of a number as a linear map from coefficients [n] to values at the nodes
/// times the square roots of the weights, then conditions. With an orthonormal basis it is A between the spaces with
/// the L2 inner product, so that its singular values are A's and its adjoint is A's adjoint. An affine operator gives
/// its linear part.
LinearMap collocate(const Functional& op, const Collocation& where);

struct EquationOptions {
  double tolerance = 1e-12;  ///< of the root mean square residual, and of the conditions
  int max_steps = 30;        ///< of Newton's iteration; a linear equation takes one
  at::Tensor start = {};     ///< coefficients [n]; zeros if undefined
};

struct EquationSolution {
  Fn u;
  at::Tensor coefficients;        ///< [n]
  std::vector<double> residuals;  ///< before the first step and after each one
  /// Converged; Stagnated where the residual is the least that the basis can give; MaxIterations; or what the linear
  /// solver said.
  Outcome outcome;
};

/// R(u) = 0 by Newton's iteration on the coefficients: R is linearized, each linear problem solved to least squares
/// (above 512 coefficients by LSQR on pushes and pulls), and steps are halved while they make the residual grow. Gives
/// the best u found. Input error for a residual that is not a function R -> R, and for conditions that are no numbers.
EquationSolution solve_equation(const Functional& residual, const Collocation& where,
                                const EquationOptions& options = {});

}  // namespace unbend::functional
