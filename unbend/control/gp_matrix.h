// Covariance matrices of Gaussian processes over their data, and what is computed from them: shared by fitting and
// predicting.
#pragma once

#include "unbend/control/gp.h"

namespace unbend::control {

/// Input errors for data and kernels that cannot be used; otherwise the scales of the outputs.
Eigen::VectorXd check_gp(const GpData& data, const GpKernel& kernel, const GpOptions& options);

struct GpFactor {
  Eigen::MatrixXd lower;  ///< L L' = K + (noise^2 + jitter) I
  double jitter = 0;
};
/// Adds jitter from 1e-12 to 1e-6 of the mean diagonal where needed; Computation error beyond.
GpFactor factor_gp(const GpData& data, const GpKernel& kernel);

/// From L^-1 y [N, outputs].
double gp_likelihood(const GpFactor& factor, const Eigen::MatrixXd& whitened);

}  // namespace unbend::control
