#include <Eigen/Cholesky>
#include <cmath>
#include <numbers>

#include "unbend/base/error.h"
#include "unbend/control/gp_matrix.h"

namespace unbend::control {
namespace {

using Eigen::ArrayXd;
using Eigen::MatrixXd;
using Eigen::VectorXd;

/// Squared distances, inner products of z and of u, of all pairs, as one long column.
struct Pairs {
  ArrayXd squared, inner, inputs;
};

Pairs pairs_of(const GpData& data) {
  const Eigen::Index n = data.z.rows();
  const MatrixXd inner = data.z * data.z.transpose();
  MatrixXd squared = MatrixXd::Zero(n, n);  // from differences: no cancellation for data far from zero
  for (Eigen::Index j = 0; j < n; ++j) {
    for (Eigen::Index k = 0; k < data.z.cols(); ++k)
      squared.col(j).array() += (data.z.col(k).array() - data.z(j, k)).square();
  }
  const MatrixXd inputs = data.u * data.u.transpose();
  return {squared.reshaped(), inner.reshaped(),
          data.u.cols() ? ArrayXd(inputs.reshaped()) : ArrayXd(ArrayXd::Zero(n * n))};
}

MatrixXd covariance(const Pairs& pairs, const GpKernel& kernel, Eigen::Index n) {
  ArrayXd drift, gain;
  evaluate(kernel.drift, pairs.squared, pairs.inner, drift);
  if (!kernel.gain.empty()) {
    evaluate(kernel.gain, pairs.squared, pairs.inner, gain);
    drift += pairs.inputs * gain;
  }
  MatrixXd k = Eigen::Map<const MatrixXd>(drift.data(), n, n);
  k.diagonal().array() += kernel.noise * kernel.noise;
  return k;
}

GpFactor factor(const MatrixXd& k) {
  const double mean = k.diagonal().mean();
  if (!std::isfinite(mean)) fail_computation("Gaussian process: the covariance matrix is not finite");
  for (double relative = 0; relative <= 1.001e-6; relative = relative > 0 ? 10 * relative : 1e-12) {
    MatrixXd shifted = k;
    shifted.diagonal().array() += relative * mean;
    Eigen::LLT<Eigen::Ref<MatrixXd>> llt(shifted);
    if (llt.info() == Eigen::Success && shifted.diagonal().minCoeff() > 0) return {std::move(shifted), relative * mean};
  }
  fail_computation(
      "Gaussian process: the covariance matrix of {} rows is singular, also with a jitter of 1e-6: raise the noise, or "
      "remove rows that repeat",
      k.rows());
}

}  // namespace

VectorXd check_gp(const GpData& data, const GpKernel& kernel, const GpOptions& options) {
  const Eigen::Index n = data.z.rows();
  require(n >= 2, "Gaussian process: {} rows of data; at least 2 are needed", n);
  require(n <= 20000, "Gaussian process: {} rows of data; an exact process takes up to 20000", n);
  require(data.y.rows() == n && (data.u.cols() == 0 || data.u.rows() == n),
          "Gaussian process: {} rows of z, {} of u and {} of y", n, data.u.rows(), data.y.rows());
  require(data.z.cols() >= 1 && data.y.cols() >= 1 && data.y.cols() <= kMostJoints && data.u.cols() <= kMostJoints,
          "Gaussian process: {} coordinates, {} inputs, {} outputs; 1 or more, up to {} and 1 to {} are possible",
          data.z.cols(), data.u.cols(), data.y.cols(), kMostJoints, kMostJoints);
  const auto finite = [&](const MatrixXd& values, const char* name) {
    for (Eigen::Index i = 0; i < values.rows(); ++i)
      require(values.row(i).allFinite(), "Gaussian process: row {} of {} is not finite", i + 1, name);
  };
  finite(data.z, "z");
  finite(data.u, "u");
  finite(data.y, "y");
  require(kernel.noise > 0 && std::isfinite(kernel.noise), "Gaussian process: the noise must be positive, not {:g}",
          kernel.noise);
  require(!kernel.drift.empty(), "Gaussian process: the kernel of the drift is empty");
  require(kernel.gain.empty() || data.u.cols() > 0, "Gaussian process: a kernel of the gain needs inputs u");
  VectorXd scale = VectorXd::Ones(data.y.cols());
  for (Eigen::Index j = 0; options.scale_outputs && j < scale.size(); ++j) {
    scale[j] = std::sqrt((data.y.col(j).array() - data.y.col(j).mean()).square().mean());
    require(scale[j] > 1e-300, "Gaussian process: output {} is {:g} in all rows", j + 1, data.y(0, j));
  }
  return scale;
}

GpFactor factor_gp(const GpData& data, const GpKernel& kernel) {
  return factor(covariance(pairs_of(data), kernel, data.z.rows()));
}

double gp_likelihood(const GpFactor& factor, const MatrixXd& whitened) {
  const auto n = static_cast<double>(whitened.rows()), outputs = static_cast<double>(whitened.cols());
  return -whitened.squaredNorm() / 2 -
         outputs * (factor.lower.diagonal().array().log().sum() + n / 2 * std::log(2 * std::numbers::pi));
}

std::vector<double> likelihood_with_gradient(const GpData& data, const GpKernel& kernel, const GpOptions& options) {
  const VectorXd scale = check_gp(data, kernel, options);
  const Eigen::Index n = data.z.rows();
  const Pairs pairs = pairs_of(data);
  const GpFactor f = factor(covariance(pairs, kernel, n));
  const auto lower = f.lower.triangularView<Eigen::Lower>();
  MatrixXd weights = data.y.array().rowwise() / scale.transpose().array();
  lower.solveInPlace(weights);
  std::vector<double> out{gp_likelihood(f, weights)};
  lower.transpose().solveInPlace(weights);
  MatrixXd inverse = MatrixXd::Identity(n, n);
  lower.solveInPlace(inverse);
  // d LML / d theta = tr((sum_j w_j w_j' - outputs K^-1) dK / d theta) / 2.
  MatrixXd sensitivity = weights * weights.transpose();
  sensitivity.noalias() -= static_cast<double>(data.y.cols()) * (inverse.transpose() * inverse);
  const auto s = sensitivity.reshaped().array();
  ArrayXd slope;
  for (std::size_t i = 0; i < log_parameters(kernel.drift).size(); ++i) {
    evaluate_gradient(kernel.drift, i, pairs.squared, pairs.inner, slope);
    out.push_back((s * slope).sum() / 2);
  }
  for (std::size_t i = 0; i < log_parameters(kernel.gain).size(); ++i) {
    evaluate_gradient(kernel.gain, i, pairs.squared, pairs.inner, slope);
    out.push_back((s * slope * pairs.inputs).sum() / 2);
  }
  out.push_back(sensitivity.trace() * kernel.noise * kernel.noise);
  return out;
}

GpFit fit_kernel(const GpData& data, const GpKernel& start, const GpOptions& options, int evaluations) {
  const std::size_t drift = log_parameters(start.drift).size(), gain = log_parameters(start.gain).size();
  const auto count = static_cast<Eigen::Index>(drift + gain + 1);
  const auto kernel_at = [&](const VectorXd& x) {
    const std::vector<double> values(x.begin(), x.end());
    return GpKernel{
        with_log_parameters(start.drift, {values.begin(), values.begin() + static_cast<std::ptrdiff_t>(drift)}),
        with_log_parameters(start.gain, {values.begin() + static_cast<std::ptrdiff_t>(drift), values.end() - 1}),
        std::exp(values.back())};
  };
  GpFit fit;
  /// Minus the likelihood; infinite where the matrix cannot be factored.
  const auto value = [&](const VectorXd& x, VectorXd& gradient) {
    ++fit.evaluations;
    if (x.lpNorm<Eigen::Infinity>() > 16) return HUGE_VAL;
    try {
      const auto result = likelihood_with_gradient(data, kernel_at(x), options);
      gradient = -Eigen::Map<const VectorXd>(result.data() + 1, count);
      return -result[0];
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::Input) throw;
      return HUGE_VAL;
    }
  };
  VectorXd x(count), gradient(count);
  {
    auto values = log_parameters(start.drift);
    const auto more = log_parameters(start.gain);
    values.insert(values.end(), more.begin(), more.end());
    values.push_back(std::log(start.noise));
    x = Eigen::Map<const VectorXd>(values.data(), count);
  }
  double f = value(x, gradient);
  if (!std::isfinite(f)) fail_computation("Gaussian process: the likelihood at the initial parameters is not finite");
  fit.start_likelihood = -f;
  MatrixXd inverse = MatrixXd::Identity(count, count) / std::max(gradient.norm(), 1e-12);
  while (fit.evaluations < evaluations && gradient.lpNorm<Eigen::Infinity>() > 1e-5 * (1 + std::abs(f))) {
    VectorXd step = -inverse * gradient;
    if (step.dot(gradient) >= 0) step = -gradient / gradient.norm();
    step *= std::min(1., 2 / step.lpNorm<Eigen::Infinity>());  // a factor of e^2 at a time
    double length = 1, next = 0;
    VectorXd moved, slope(count);
    for (; length > 1e-8 && fit.evaluations < evaluations; length /= 2) {
      moved = x + length * step;
      next = value(moved, slope);
      if (next <= f + 1e-4 * length * step.dot(gradient)) break;
    }
    if (!(next < f)) break;
    const VectorXd s = moved - x, y = slope - gradient;
    const double sy = s.dot(y);
    if (sy > 1e-10 * s.norm() * y.norm()) {
      const VectorXd hy = inverse * y;
      inverse += (1 + y.dot(hy) / sy) / sy * s * s.transpose() - (hy * s.transpose() + s * hy.transpose()) / sy;
    }
    const bool small = f - next <= 1e-9 * (1 + std::abs(f));
    x = moved;
    gradient = slope;
    f = next;
    if (small) break;
  }
  fit.kernel = kernel_at(x);
  fit.likelihood = -f;
  return fit;
}

}  // namespace unbend::control
