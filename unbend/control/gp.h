// Exact Gaussian processes, plain or affine in an input u:
//   k((z, u), (z', u')) = k_f(z, z') + sum_i u_i u_i' k_g(z, z'),
// so that the mean is affine in u and the standard deviation is a norm of an affine function of u: what makes robust
// constraints second-order cones (Castaneda et al., arXiv 2011.10730). Several outputs share kernel and inputs.
#pragma once

#include <Eigen/Core>
#include <string>
#include <vector>

#include "unbend/control/kernel.h"
#include "unbend/control/robot.h"

namespace unbend::control {

struct GpData {
  Eigen::MatrixXd z;  ///< [N, d]
  Eigen::MatrixXd u;  ///< [N, m]; no columns for a plain process
  Eigen::MatrixXd y;  ///< [N, outputs]
};

struct GpKernel {
  Kernel drift;         ///< k_f
  Kernel gain;          ///< k_g; empty: no part of y depends on u
  double noise = 1e-2;  ///< standard deviation of the noise in y, in units of the scaled outputs
};

struct GpOptions {
  bool scale_outputs = true;  ///< divide each output by its standard deviation (its mean stays)
};

/// At one z, over ubar = [1; u]: the mean of output j is mean.row(j) ubar, its standard deviation scale[j] |root ubar|.
struct Prediction {
  using Rows = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, 0, kMostJoints, kMostJoints + 1>;
  using Square = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, 0, kMostJoints + 1, kMostJoints + 1>;
  Rows mean;    ///< [outputs, 1 + m]; m = 0 where no part of y depends on u
  Square root;  ///< [1 + m, 1 + m], upper triangular, root' root = S
};
/// mean [1; u] and |root [1; u]|, for u of any length where m = 0.
Vector mean_at(const Prediction& prediction, const Vector& u);
double deviation_at(const Prediction& prediction, const Vector& u);

/// A process with its data, factored. Values; copies share nothing.
class GaussianProcess {
 public:
  /// Input errors: fewer than 2 rows, more than 20000, sizes that do not fit, values that are not finite, outputs that
  /// do not vary, noise that is not positive. Where the covariance matrix is singular to rounding, a jitter of up to
  /// 1e-6 of its mean diagonal is added (see jitter()); Computation error if that does not help.
  GaussianProcess(GpData data, GpKernel kernel, const GpOptions& options = {});

  Prediction predict(const Eigen::Ref<const Eigen::VectorXd>& z) const;
  /// Standard deviation at u over that of knowing nothing: the prior one without linear terms, which grow everywhere,
  /// or that of the data's outputs where it is less. At most 1: far from all data.
  double novelty(const Prediction& prediction, const Vector& u) const;
  double log_marginal_likelihood() const { return likelihood_; }  ///< of the scaled outputs, summed over them

  const GpData& data() const { return data_; }
  const GpKernel& kernel() const { return kernel_; }
  const Eigen::VectorXd& scale() const { return scale_; }  ///< [outputs]
  double jitter() const { return jitter_; }
  Eigen::Index outputs() const { return data_.y.cols(); }
  Eigen::Index inputs() const { return data_.u.cols(); }
  Eigen::Index dimension() const { return data_.z.cols(); }

  /// |(K + s^2 I)^-1| and |(K + s^2 I)^-1 y_j|, y scaled: for error bounds.
  double inverse_norm() const;
  Eigen::VectorXd weight_norms() const { return weights_.colwise().norm(); }

 private:
  void pack(const Eigen::MatrixXd& inverse_factor);

  GpData data_;
  GpKernel kernel_;
  Eigen::VectorXd scale_;    // [outputs]
  Eigen::MatrixXd weights_;  // (K + s^2 I)^-1 y / scale [N, outputs]
  Eigen::MatrixXd panels_;   // L^-1 by panels of eight rows
  double likelihood_ = 0, jitter_ = 0;
  double drift_prior_ = 0, gain_prior_ = 0;  // variances that data elsewhere say nothing about
};

/// Gradient of the log marginal likelihood by log_parameters of drift, then gain, then log noise, with its value in
/// front.
std::vector<double> likelihood_with_gradient(const GpData& data, const GpKernel& kernel, const GpOptions& options = {});

struct GpFit {
  GpKernel kernel;
  double likelihood = 0, start_likelihood = 0;
  int evaluations = 0;
};
/// Maximises the log marginal likelihood over the parameters that are not fixed and the noise (BFGS on logarithms).
GpFit fit_kernel(const GpData& data, const GpKernel& start, const GpOptions& options = {}, int evaluations = 200);

/// Warnings about data that cannot identify what is asked of them: inputs u that do not vary.
std::vector<std::string> data_warnings(const GpData& data);

/// A bound |truth - mean| <= beta std + offset[j] for output j that holds at once for all z of norm at most `radius`
/// and all inputs of norm at most `input_radius`, with probability 1 - p for each output (Lederer, Umlauft and Hirche,
/// arXiv 1906.01376, Theorem 3.1), on a grid of width tau, if output j is a sample of the process with Lipschitz
/// constant lipschitz_truth[j].
struct UniformBound {
  double beta = 0;
  Eigen::VectorXd offset;  ///< [outputs], in units of y
};
UniformBound uniform_bound(const GaussianProcess& process, double radius, double input_radius, double tau, double p,
                           const Eigen::VectorXd& lipschitz_truth);

}  // namespace unbend::control
