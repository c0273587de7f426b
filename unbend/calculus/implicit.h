// Derivatives of solutions: of linear systems, of least squares, and of any equation F(theta, x) = 0.
#pragma once

#include "unbend/calculus/linearize.h"
#include "unbend/calculus/solve.h"

namespace unbend {

/// A^-1 of a square map as a map: push solves with A, pull with A^T, by `solve` and its options (a preconditioner is
/// used for both; declare A symmetric or psd where it is). Where a solve does not converge, push and pull throw Error
/// (Computation) with its message.
LinearMap inverse(const LinearMap& a, const SolveOptions& options = {});

/// The solution x of A x = b, along changes dA and db: dx = A^-1 (db - dA x).
Tensors solve_push(const LinearMap& a, const Tensors& x, const LinearMap& da, const Tensors& db,
                   const SolveOptions& options = {});

struct SolvePull {
  LinearMap a;  ///< cotangent of A, of rank one (least squares: two)
  Tensors b;    ///< cotangent of b
};

/// The cotangents of A and b for the cotangent c of x: with z = A^-T c they are -z x^T and z.
SolvePull solve_pull(const LinearMap& a, const Tensors& x, const Tensors& c, const SolveOptions& options = {});

/// The same for x = argmin |A x - b| with A of full column rank and r = b - A x:
/// dx = A^+ (db - dA x) + (A^T A)^-1 dA^T r; with y = A^+T c and z = A^+ y the cotangents are -y x^T + r z^T and y.
/// Solved by lsqr; Error (Computation) where it does not converge.
Tensors least_squares_push(const LinearMap& a, const Tensors& b, const Tensors& x, const LinearMap& da,
                           const Tensors& db, const SolveOptions& options = {});
SolvePull least_squares_pull(const LinearMap& a, const Tensors& b, const Tensors& x, const Tensors& c,
                             const SolveOptions& options = {});

/// F(theta, x), as many numbers as x has.
using Residual = std::function<Tensors(const Tensors& theta, const Tensors& x)>;

/// The derivative of x as a function of theta where F(theta, x) = 0 (implicit function theorem): the map
/// -(dF/dx)^-1 dF/dtheta, at a pair that solves the equation already, by whatever method. `jacobian` declares what is
/// known of dF/dx, which decides the solver.
LinearMap implicit_derivative(const Residual& f, const Tensors& theta, const Tensors& x, Properties jacobian = {},
                              const SolveOptions& options = {});

/// theta -> x(theta) as a Function that can be linearized: `solver` finds x without gradients, and the derivative is
/// that of the equation. Once only: second derivatives would come out as zero.
Function implicit_function(Residual f, Function solver, Properties jacobian = {}, const SolveOptions& options = {});

}  // namespace unbend
