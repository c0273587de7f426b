// Arithmetic on functions, point by point. Operands have the same arguments, or none (numbers and integrals); a number
// and a tensor combine as in a scaling. Input errors print both signatures.
#pragma once

#include "unbend/calculus/fn.h"

namespace unbend::functional {

Fn add(const Fn& f, const Fn& g);
Fn operator+(const Fn& f, const Fn& g);
Fn operator-(const Fn& f, const Fn& g);
Fn operator*(const Fn& f, const Fn& g);
Fn operator/(const Fn& f, const Fn& g);
Fn operator-(const Fn& f);

Fn exp(const Fn& f);
Fn log(const Fn& f);
Fn sqrt(const Fn& f);
Fn sin(const Fn& f);
Fn cos(const Fn& f);
Fn tanh(const Fn& f);
Fn sinh(const Fn& f);
Fn cosh(const Fn& f);
Fn atan(const Fn& f);
Fn erf(const Fn& f);
Fn sigmoid(const Fn& f);
Fn abs(const Fn& f);
Fn sign(const Fn& f);
Fn square(const Fn& f);
Fn pow(const Fn& f, double power);

/// 1 where f > threshold, else 0; its derivative is 0.
Fn step(const Fn& f, double threshold = 0);
/// a where mask > 0, else b. Where a would be NaN, mask its inputs too: the branch not taken has a gradient as well.
Fn where(const Fn& mask, const Fn& a, const Fn& b);

Fn sum(const Fn& f);                                      ///< over the entries of the result
Fn dot(const Fn& f, const Fn& g);                         ///< sum of products of entries
Fn expand(const Fn& f, std::vector<std::int64_t> shape);  ///< a number to a tensor of equal entries
Fn component(const Fn& f, std::int64_t index);            ///< of the flattened result
Fn stack(const std::vector<Fn>& numbers);                 ///< n numbers to a vector [n]
/// Sum of the diagonal over the last two groups of `dims` axes: [*s, *a, *a] to [*s].
Fn trace(const Fn& f, std::int64_t dims = 1);

}  // namespace unbend::functional
