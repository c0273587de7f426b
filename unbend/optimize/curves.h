// Curves of a few parameters for least squares: y = c(x; parameters).
#pragma once

#include <string>
#include <vector>

#include "unbend/optimize/objectives.h"

namespace unbend::optimize {

/// linear (any number of columns, and a constant), exponential a e^(bx) + c, power a x^b + c, saturation a x / (b + x),
/// logistic a / (1 + e^-(x-b)/c), gaussian a e^-(x-b)^2/(2 c^2) + d.
std::vector<std::string> curve_names();
std::vector<std::string> curve_parameters(const std::string& curve, Eigen::Index columns);

/// Where a fit starts: rough guesses from the data [m, columns], [m].
Vector curve_start(const std::string& curve, const Matrix& x, const Vector& y);

/// (c(x_i) - y_i) / sqrt(m), with second derivatives. Usage error for another name; Input error for data that are not
/// finite, for more than one column but in linear, for x <= 0 in power.
Residuals curve_residuals(const std::string& curve, const Matrix& x, const Vector& y);

/// Standard errors of the parameters at a least-squares solution: sqrt diag(s^2 (J'J)^-1) with s^2 the residual
/// variance. Infinite where J'J is singular or there are no more points than parameters.
Vector standard_errors(const Residuals& residuals, const Vector& parameters);

}  // namespace unbend::optimize
