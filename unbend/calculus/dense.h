// Linear maps as matrices, and what can be read off them exactly.
#pragma once

#include <ATen/ATen.h>

#include "unbend/calculus/linear_map.h"

namespace unbend {

/// Numbers that a matrix may have unless the caller says otherwise: 64 Mi, half a gigabyte in float64.
constexpr int64_t kDenseLimit = int64_t(1) << 26;

/// The matrix [m, n] of A between flat vectors (space.h), in the wider of its spaces' dtypes. Structure is used where
/// there is one; otherwise A is pushed along the columns of the identity, or pulled along its rows if there are fewer
/// of those, many at a time. Throws Error (Input) above `limit` elements.
at::Tensor to_dense(const LinearMap& a, int64_t limit = kDenseLimit);

/// The same map as a matrix, with its properties. Zeros, identities, diagonals and matrices stay what they are.
LinearMap materialize(const LinearMap& a, int64_t limit = kDenseLimit);

/// The diagonal of a square map, as a vector of its space, and its sum: exact, from as many pushes as there are
/// dimensions unless the structure says more. Estimates are in estimates.h.
Tensors diagonal(const LinearMap& a);
double trace(const LinearMap& a);

}  // namespace unbend
