// Functions by finitely many numbers: combinations of a basis, tables with interpolation, projections onto them.
//
// Functions that grow with every step of a descent get slower with every step: project them.
#pragma once

#include <vector>

#include "unbend/calculus/fn.h"

namespace unbend::functional {

/// n functions of one number, as one function R -> R^n; on [a, b].
struct Basis {
  Fn functions;
  std::int64_t size;
  double a, b;
};

Basis legendre_basis(std::int64_t n, double a, double b);  ///< orthonormal polynomials of degree below n
Basis sine_basis(std::int64_t n, double a, double b);      ///< orthonormal, 0 at both ends
Basis cosine_basis(std::int64_t n, double a, double b);    ///< orthonormal, with slope 0 at both ends
Basis fourier_basis(std::int64_t n, double a, double b);   ///< orthonormal, of period b - a; n is odd

/// sum_i c_i phi_i for coefficients [n]; differentiable in them if they require gradients.
Fn combination(const Basis& basis, const at::Tensor& coefficients);
/// sum_ij c_ij phi_i(x) psi_j(y), and so on: a function of as many numbers as there are bases.
Fn combination(const std::vector<Basis>& bases, const at::Tensor& coefficients);

/// The piecewise multilinear function with values [n_1 .. n_d] at the nodes of d grids of numbers, in any order of
/// nodes; it goes on linearly beyond them. It carries the grids.
Fn interpolation(const at::Tensor& values, const std::vector<Grid>& grids);

/// A function of d numbers by its values at the nodes of d grids, linear between: equal to f at the nodes.
Fn project(const Fn& f, const std::vector<Grid>& grids);
Fn project(const Fn& f);  ///< on its own grids

/// The combination nearest to f: in L2 by the grid, or for length > 0 in the norm of |g|^2 + length^2 |g'|^2 against
/// the functional g -> integral of f g; that is, the weak solution of g - length^2 g'' = f among the combinations. With
/// f a functional gradient, g is a Sobolev gradient: descent along it does not depend on the mesh. The basis decides
/// the ends: sines keep them fixed, polynomials leave them free. Computation error if the grid has too few nodes for
/// the basis.
Fn project(const Fn& f, const Basis& basis, const Grid& grid, double length = 0);

}  // namespace unbend::functional
