#include "unbend/control/gp.h"

#include <Eigen/Cholesky>
#include <algorithm>
#include <array>
#include <cmath>

#include "unbend/base/error.h"
#include "unbend/control/gp_matrix.h"

namespace unbend::control {
namespace {

using Eigen::ArrayXd;
using Eigen::MatrixXd;
using Eigen::VectorXd;

constexpr Eigen::Index kPanel = 8;
using Pack = Eigen::Array<double, kPanel, 1>;

}  // namespace

GaussianProcess::GaussianProcess(GpData data, GpKernel kernel, const GpOptions& options)
    : data_(std::move(data)), kernel_(std::move(kernel)) {
  scale_ = check_gp(data_, kernel_, options);
  const MatrixXd y = data_.y.array().rowwise() / scale_.transpose().array();
  const GpFactor factor = factor_gp(data_, kernel_);
  jitter_ = factor.jitter;
  Kernel local = kernel_.drift;
  std::erase_if(local.terms, [](const Term& term) {
    return std::ranges::any_of(term, [](const Factor& f) { return f.kind == Factor::Kind::Linear; });
  });
  drift_prior_ = evaluate(local.empty() ? kernel_.drift : local, 0, 0);
  gain_prior_ = evaluate(kernel_.gain, 0, 0);
  weights_ = y;
  factor.lower.triangularView<Eigen::Lower>().solveInPlace(weights_);
  likelihood_ = gp_likelihood(factor, weights_);
  factor.lower.triangularView<Eigen::Lower>().transpose().solveInPlace(weights_);
  MatrixXd inverse = MatrixXd::Identity(data_.z.rows(), data_.z.rows());
  factor.lower.triangularView<Eigen::Lower>().solveInPlace(inverse);
  pack(inverse);
}

/// Panel p holds rows 8p .. 8p + 7 of the lower triangle, column by column: what a query streams through once.
void GaussianProcess::pack(const MatrixXd& inverse) {
  const Eigen::Index n = inverse.rows(), count = (n + kPanel - 1) / kPanel;
  panels_.setZero(kPanel, kPanel * count * (count + 1) / 2);
  Eigen::Index at = 0;
  for (Eigen::Index p = 0; p < count; ++p) {
    for (Eigen::Index column = 0; column < kPanel * (p + 1); ++column, ++at) {
      for (Eigen::Index i = 0; i < kPanel; ++i) {
        const Eigen::Index row = kPanel * p + i;
        if (row < n && column <= row) panels_(i, at) = inverse(row, column);
      }
    }
  }
}

Prediction GaussianProcess::predict(const Eigen::Ref<const VectorXd>& z) const {
  require(z.size() == dimension(), "Gaussian process: a query of {} coordinates; the data have {}", z.size(),
          dimension());
  require(z.allFinite(), "Gaussian process: the query is not finite");
  const Eigen::Index n = data_.z.rows(), m = kernel_.gain.empty() ? 0 : inputs(),
                     padded = (n + kPanel - 1) / kPanel * kPanel;
  const double own = z.squaredNorm();
  ArrayXd squared = ArrayXd::Zero(n), inner = ArrayXd::Zero(n), value;
  for (Eigen::Index k = 0; k < z.size(); ++k) {
    squared += (data_.z.col(k).array() - z[k]).square();
    inner += data_.z.col(k).array() * z[k];
  }
  MatrixXd c = MatrixXd::Zero(padded, 1 + m);  // covariances of the drift and of each gain with the data
  evaluate(kernel_.drift, squared, inner, value);
  c.col(0).head(n) = value;
  if (m > 0) {
    evaluate(kernel_.gain, squared, inner, value);
    for (Eigen::Index i = 0; i < m; ++i) c.col(1 + i).head(n) = data_.u.col(i).array() * value;
  }
  // S = prior - (L^-1 c)' (L^-1 c), panel by panel.
  Prediction out;
  Prediction::Square s = Prediction::Square::Zero(1 + m, 1 + m);
  const double* panel = panels_.data();
  for (Eigen::Index p = 0; p < padded / kPanel; ++p) {
    std::array<Pack, kMostJoints + 1> sums;
    for (Eigen::Index j = 0; j <= m; ++j) sums[j].setZero();
    const Eigen::Index columns = kPanel * (p + 1);
    if (m == 2) {  // the usual robot, in registers
      Pack a = Pack::Zero(), b = Pack::Zero(), d = Pack::Zero();
      const double *c0 = &c(0, 0), *c1 = &c(0, 1), *c2 = &c(0, 2);
      for (Eigen::Index k = 0; k < columns; ++k, panel += kPanel) {
        const Pack rows = Eigen::Map<const Pack, Eigen::Aligned16>(panel);
        a += rows * c0[k];
        b += rows * c1[k];
        d += rows * c2[k];
      }
      sums[0] = a, sums[1] = b, sums[2] = d;
    } else {
      for (Eigen::Index k = 0; k < columns; ++k, panel += kPanel) {
        const Pack rows = Eigen::Map<const Pack, Eigen::Aligned16>(panel);
        for (Eigen::Index j = 0; j <= m; ++j) sums[j] += rows * c(k, j);
      }
    }
    for (Eigen::Index i = 0; i <= m; ++i) {
      for (Eigen::Index j = 0; j <= i; ++j) s(i, j) -= (sums[i] * sums[j]).sum();
    }
  }
  const double drift = evaluate(kernel_.drift, 0, own), gain = m > 0 ? evaluate(kernel_.gain, 0, own) : 0;
  s(0, 0) += drift;
  for (Eigen::Index i = 1; i <= m; ++i) s(i, i) += gain;
  // A factor of S, which rounding may have made slightly indefinite.
  out.root = Prediction::Square::Zero(1 + m, 1 + m);
  for (Eigen::Index j = 0; j <= m; ++j) {
    double pivot = s(j, j);
    for (Eigen::Index k = 0; k < j; ++k) pivot -= out.root(k, j) * out.root(k, j);
    const double least = 1e-14 * (j ? gain : drift);
    out.root(j, j) = std::sqrt(std::max(pivot, least));
    for (Eigen::Index i = j + 1; i <= m; ++i) {
      double sum = s(i, j);
      for (Eigen::Index k = 0; k < j; ++k) sum -= out.root(k, i) * out.root(k, j);
      out.root(j, i) = pivot > least ? sum / out.root(j, j) : 0;
    }
  }
  out.mean.resize(outputs(), 1 + m);
  for (Eigen::Index j = 0; j < outputs(); ++j) {
    for (Eigen::Index i = 0; i <= m; ++i) out.mean(j, i) = scale_[j] * c.col(i).head(n).dot(weights_.col(j));
  }
  return out;
}

Vector mean_at(const Prediction& p, const Vector& u) {
  Vector mean = p.mean.col(0);
  if (p.mean.cols() > 1) mean += p.mean.rightCols(u.size()) * u;
  return mean;
}

double deviation_at(const Prediction& p, const Vector& u) {
  auto v = p.root.col(0).eval();
  if (p.root.cols() > 1) v += p.root.rightCols(u.size()) * u;
  return v.norm();
}

double GaussianProcess::novelty(const Prediction& p, const Vector& u) const {
  // A fitted prior may be a thousand times as large as the data; the scaled outputs have variance 1.
  const double unknown = std::min(1., drift_prior_ + u.squaredNorm() * gain_prior_);
  return std::min(1., deviation_at(p, u) / std::sqrt(unknown));
}

double GaussianProcess::inverse_norm() const {
  // The smallest eigenvalue of K + s^2 I by inverse iteration with L^-1, which is at hand.
  const Eigen::Index n = data_.z.rows(), padded = (n + kPanel - 1) / kPanel * kPanel;
  VectorXd v = VectorXd::Ones(padded);
  v.tail(padded - n).setZero();
  v.normalize();
  double norm = 0;
  for (int round = 0; round < 200; ++round) {
    VectorXd w = VectorXd::Zero(padded), x = VectorXd::Zero(padded);
    Eigen::Index at = 0;
    for (Eigen::Index p = 0; p < padded / kPanel; ++p) {
      const Eigen::Index columns = kPanel * (p + 1);
      w.segment(kPanel * p, kPanel) = panels_.middleCols(at, columns) * v.head(columns);
      x.head(columns) += panels_.middleCols(at, columns).transpose() * w.segment(kPanel * p, kPanel);
      at += columns;
    }
    const double next = x.norm();
    if (std::abs(next - norm) <= 1e-6 * next) return next;
    norm = next;
    v = x / next;
  }
  return norm;
}

std::vector<std::string> data_warnings(const GpData& data) {
  std::vector<std::string> warnings;
  for (Eigen::Index i = 0; i < data.u.cols(); ++i) {
    const VectorXd u = data.u.col(i);
    const double spread = (u.array() - u.mean()).matrix().norm() / std::sqrt(static_cast<double>(u.size()));
    if (spread <= 1e-9 * (1 + std::abs(u.mean())))
      warnings.push_back(
          fmt::format("input {} is {:g} in all rows: its gain cannot be learnt from these data", i + 1, u.mean()));
  }
  return warnings;
}

UniformBound uniform_bound(const GaussianProcess& gp, double radius, double input_radius, double tau, double p,
                           const VectorXd& truth) {
  require(radius > 0 && tau > 0 && input_radius >= 0, "error bound: radius and grid width must be positive");
  require(p > 0 && p < 1, "error bound: the probability of failure must lie between 0 and 1, not {:g}", p);
  require(truth.size() == gp.outputs() && (truth.array() >= 0).all(),
          "error bound: one Lipschitz constant per output is needed");
  const bool affine = !gp.kernel().gain.empty();
  const auto inputs = affine ? gp.inputs() : 0;
  const double n = static_cast<double>(gp.data().z.rows()), top = evaluate(gp.kernel().gain, 0, radius * radius);
  const double u2 = affine ? input_radius * input_radius : 0;
  // The kernel over (z, u): its slopes in z and in u, and its largest value.
  const double in_z = lipschitz(gp.kernel().drift, radius) + u2 * lipschitz(gp.kernel().gain, radius),
               in_u = std::sqrt(u2) * top;
  const double slope = std::hypot(in_z, in_u), largest = evaluate(gp.kernel().drift, 0, radius * radius) + u2 * top;
  const double dimension = static_cast<double>(gp.dimension() + inputs),
               extent = std::hypot(radius, affine ? input_radius : 0.);
  UniformBound out;
  out.beta = std::sqrt(2 * (dimension * std::log1p(extent / tau) - std::log(p)));
  const double modulus = std::sqrt(2 * tau * slope * (1 + n * gp.inverse_norm() * largest));
  out.offset = gp.scale().array() * ((slope * std::sqrt(n) * gp.weight_norms().array()) * tau + out.beta * modulus) +
               truth.array() * tau;
  return out;
}

}  // namespace unbend::control
