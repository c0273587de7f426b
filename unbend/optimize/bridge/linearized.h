// Minimising functions of tensors: their gradients, Hessians and Gauss-Newton maps come from calculus/linearize, as
// products with vectors. The only part of optimize/ that knows LibTorch.
#pragma once

#include "unbend/calculus/linearize.h"
#include "unbend/optimize/gradient_normalized_smoothness.h"

namespace unbend::optimize {

/// f: one scalar from tensors like `like` (floating point, any shapes; computed in their dtype). The Hessian is exact,
/// by products. Input error if f gives anything but one number.
Problem newton_problem(Function f, const Tensors& like);

/// (1/p) |u(x)|^p of residuals u in any shapes, p >= 2, with the Gauss-Newton surrogate |u|^(p-2) J'J +
/// (p-2) |u|^(p-4) (J'u)(J'u)', by products.
Problem gauss_newton_problem(Function u, const Tensors& like, double p = 2);

/// From tensors to the vector of a Problem, leaf after leaf, and back into the shapes and dtypes of `like`.
Vector flatten(const Tensors& tensors);
Tensors unflatten(const Vector& x, const Tensors& like);

}  // namespace unbend::optimize
