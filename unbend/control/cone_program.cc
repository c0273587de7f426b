#include "unbend/control/cone_program.h"

#include <algorithm>
#include <cmath>

#include "unbend/control/cholesky.h"

namespace unbend::control {
namespace {

using Eigen::MatrixXd;
using Eigen::VectorXd;

/// t^2 - |v|^2, by its factors.
double determinant(const double* x, int size) {
  double square = 0;
  for (int i = 1; i < size; ++i) square += x[i] * x[i];
  const double norm = std::sqrt(square);
  return (x[0] - norm) * (x[0] + norm);
}

/// The largest step in [0, most] that keeps x + step d in the cone.
double longest_step(const double* x, const double* d, int size, double most) {
  if (size == 1) return d[0] < 0 ? std::min(most, -x[0] / d[0]) : most;
  // (x + s d) leaves the cone at the first positive root of c + 2 b s + a s^2.
  double a = d[0] * d[0], b = x[0] * d[0];
  for (int i = 1; i < size; ++i) {
    a -= d[i] * d[i];
    b -= x[i] * d[i];
  }
  const double c = std::max(determinant(x, size), 0.), disc = b * b - a * c;
  double step = most;
  if (d[0] < 0) step = std::min(step, -x[0] / d[0]);
  if (disc >= 0) {
    const double root = std::sqrt(disc), t = b > 0 ? -b - root : -b + root;
    for (const double s : {a != 0 ? t / a : -1, t != 0 ? c / t : -1}) {
      if (s > 0) step = std::min(step, s);
    }
    if (c == 0 && b < 0) step = 0;
  }
  return step;
}

/// Nesterov-Todd scaling of one cone: W z = W^-1 s = lambda, W = eta [w0, w'; w, I + w w' / (1 + w0)].
struct Scaling {
  double eta = 1;
  VectorXd w;
};

void apply(const Scaling& scaling, bool inverse, const double* x, double* out) {
  const auto& w = scaling.w;
  const auto size = w.size();
  const double sign = inverse ? -1 : 1, eta = inverse ? 1 / scaling.eta : scaling.eta;
  double dot = 0;
  for (Eigen::Index i = 1; i < size; ++i) dot += w[i] * x[i];
  const double x0 = x[0], along = sign * x0 + dot / (1 + w[0]);
  out[0] = eta * (w[0] * x0 + sign * dot);
  for (Eigen::Index i = 1; i < size; ++i) out[i] = eta * (x[i] + along * w[i]);
}

class Solver {
 public:
  Solver(const ConeProgram& program, double tolerance) : pr_(program), tolerance_(tolerance) {
    n_ = program.q.size();
    rows_ = program.h.size();
    scalings_.resize(program.sizes.size());
    int at = 0;
    for (std::size_t i = 0; i < program.sizes.size(); ++i) {
      offsets_.push_back(at);
      scalings_[i].w.resize(program.sizes[i]);
      at += program.sizes[i];
    }
    scaled_.resize(rows_, n_);
  }

  ConeSolution run() {
    ConeSolution out;
    if (!start()) return out;
    const double size =
        1 + std::max({pr_.h.size() ? pr_.h.lpNorm<Eigen::Infinity>() : 0., pr_.q.lpNorm<Eigen::Infinity>()});
    double best = INFINITY;
    for (out.iterations = 0; out.iterations < 60; ++out.iterations) {
      const VectorXd px = pr_.p.cwiseProduct(x_), gz = pr_.g.transpose() * z_;
      const double xpx = x_.dot(px), hz = pr_.h.dot(z_), qx = pr_.q.dot(x_);
      const VectorXd rx = px + gz + pr_.q * tau_, rz = pr_.g * x_ + s_ - pr_.h * tau_;
      const double rt = qx + hz + kappa_ + xpx / tau_;
      const double gap = s_.dot(z_) / (tau_ * tau_);
      const double objective = std::abs(xpx / 2 / (tau_ * tau_) + qx / tau_);
      const double residual = std::max(rx.lpNorm<Eigen::Infinity>(), rz.lpNorm<Eigen::Infinity>()) / (size * tau_);
      // The angle between a cone's s and z closes with the root of the gap only: go on while it helps, keep the best.
      const double error = std::max(residual, std::sqrt(gap / (1 + objective)) * 1e-2);
      if (error < best && residual <= tolerance_ && gap <= tolerance_ * (1 + objective)) {
        best = error;
        out.status = ConeSolution::Status::Solved;
        out.x = x_ / tau_;
        out.z = z_ / tau_;
        if (gap <= 1e-16 * (1 + objective)) return out;
      }
      if (hz < 0 && gz.lpNorm<Eigen::Infinity>() <= 1e-8 * -hz && tau_ < kappa_) {
        out.status = ConeSolution::Status::Infeasible;
        out.z = z_ / -hz;
        out.x = VectorXd::Zero(n_);
        return out;
      }
      if (!scale() || !step(rx, rz, rt)) break;
    }
    return out;
  }

 private:
  template <class Call>
  void each(const Call& call) const {
    for (std::size_t i = 0; i < offsets_.size(); ++i) call(i, offsets_[i], pr_.sizes[i]);
  }

  /// Into the interior: adds a multiple of (1, 0, ..) where needed.
  void shift(VectorXd& v) const {
    double least = 1;
    each([&](std::size_t, int at, int size) { least = std::min(least, v[at] - v.segment(at + 1, size - 1).norm()); });
    if (least >= 1e-2) return;
    each([&](std::size_t, int at, int) { v[at] += 1 - least; });
  }

  bool start() {
    for (auto& s : scalings_) {
      s.eta = 1;
      s.w.setZero();
      s.w[0] = 1;
    }
    if (!factor()) return false;
    kkt(-pr_.q, pr_.h, x_, z_);
    s_ = -z_;
    shift(s_);
    shift(z_);
    tau_ = kappa_ = 1;
    return true;
  }

  bool scale() {
    bool good = true;
    lambda_.resize(rows_);
    each([&](std::size_t i, int at, int size) {
      const double ds = determinant(&s_[at], size), dz = determinant(&z_[at], size);
      if (!(ds > 0) || !(dz > 0)) {
        good = false;
        return;
      }
      const double sn = std::sqrt(ds), zn = std::sqrt(dz);
      double dot = 0;
      for (int k = 0; k < size; ++k) dot += s_[at + k] / sn * (z_[at + k] / zn);
      const double gamma = std::sqrt((1 + dot) / 2);
      auto& w = scalings_[i].w;
      for (int k = 0; k < size; ++k) w[k] = (s_[at + k] / sn + (k ? -1 : 1) * z_[at + k] / zn) / (2 * gamma);
      scalings_[i].eta = std::sqrt(sn / zn);
      apply(scalings_[i], false, &z_[at], &lambda_[at]);
    });
    return good && factor();
  }

  /// P + G' W^-2 G, factored; W^-1 G is kept.
  bool factor() {
    for (Eigen::Index j = 0; j < n_; ++j)
      each([&](std::size_t i, int at, int) { apply(scalings_[i], true, &pr_.g(at, j), &scaled_(at, j)); });
    normal_.noalias() = scaled_.transpose() * scaled_;
    normal_.diagonal() += pr_.p;
    // A direction that nothing curves yet (a slack) must not stop the factor.
    normal_.diagonal().array() += 1e-15 * normal_.diagonal().maxCoeff();
    return cholesky(normal_);
  }

  VectorXd scaled(const VectorXd& v, bool inverse) const {
    VectorXd out(rows_);
    each([&](std::size_t i, int at, int) { apply(scalings_[i], inverse, &v[at], &out[at]); });
    return out;
  }

  /// Solves P x + G' z = a, G x - W^2 z = b.
  void kkt(const VectorXd& a, const VectorXd& b, VectorXd& x, VectorXd& z) const {
    const VectorXd wb = scaled(b, true);
    x = a + scaled_.transpose() * wb;
    cholesky_solve(normal_, x);
    z = scaled(scaled_ * x - wb, true);
    // One step of refinement.
    const VectorXd ra = a - pr_.p.cwiseProduct(x) - pr_.g.transpose() * z;
    const VectorXd rb = b - pr_.g * x + scaled(scaled(z, false), false);
    const VectorXd wr = scaled(rb, true);
    VectorXd dx = ra + scaled_.transpose() * wr;
    cholesky_solve(normal_, dx);
    z += scaled(scaled_ * dx - wr, true);
    x += dx;
  }

  struct Direction {
    VectorXd x, s, z;
    double tau = 0, kappa = 0;
  };

  /// With residuals times `rest`, and the right side `ds` of lambda o (W dz + W^-1 ds).
  Direction direction(double rest, const VectorXd& rx, const VectorXd& rz, double rt, const VectorXd& ds,
                      double dk) const {
    // lambda \ ds, then W of it.
    VectorXd quotient(rows_);
    each([&](std::size_t, int at, int size) {
      double dot = lambda_[at] * ds[at];
      for (int k = 1; k < size; ++k) dot -= lambda_[at + k] * ds[at + k];
      const double first = dot / determinant(&lambda_[at], size);
      quotient[at] = first;
      for (int k = 1; k < size; ++k) quotient[at + k] = (ds[at + k] - first * lambda_[at + k]) / lambda_[at];
    });
    const VectorXd shift = scaled(quotient, false);
    Direction d;
    VectorXd x2, z2;
    kkt(-rest * rx, -rest * rz - shift, x2, z2);
    const VectorXd xi = x_ / tau_, row = pr_.q + 2 * pr_.p.cwiseProduct(xi);
    const double slope = row.dot(x1_) + pr_.h.dot(z1_) - kappa_ / tau_ - xi.dot(pr_.p.cwiseProduct(xi));
    d.tau = (-rest * rt - dk / tau_ - row.dot(x2) - pr_.h.dot(z2)) / slope;
    d.x = x2 + d.tau * x1_;
    d.z = z2 + d.tau * z1_;
    d.s = -rest * rz - pr_.g * d.x + pr_.h * d.tau;
    d.kappa = (dk - kappa_ * d.tau) / tau_;
    return d;
  }

  double longest(const Direction& d) const {
    double step = 1;
    each([&](std::size_t, int at, int size) {
      step = longest_step(&s_[at], &d.s[at], size, step);
      step = longest_step(&z_[at], &d.z[at], size, step);
    });
    if (d.tau < 0) step = std::min(step, -tau_ / d.tau);
    if (d.kappa < 0) step = std::min(step, -kappa_ / d.kappa);
    return step;
  }

  bool step(const VectorXd& rx, const VectorXd& rz, double rt) {
    kkt(-pr_.q, pr_.h, x1_, z1_);
    const double mu = (s_.dot(z_) + tau_ * kappa_) / (static_cast<double>(offsets_.size()) + 1);
    VectorXd ds(rows_);
    const auto product = [&](const VectorXd& a, const VectorXd& b, double sign) {  // ds += sign a o b
      each([&](std::size_t, int at, int size) {
        for (int k = 0; k < size; ++k) ds[at] += sign * a[at + k] * b[at + k];
        for (int k = 1; k < size; ++k) ds[at + k] += sign * (a[at] * b[at + k] + b[at] * a[at + k]);
      });
    };
    ds.setZero();
    product(lambda_, lambda_, -1);
    const Direction affine = direction(1, rx, rz, rt, ds, -tau_ * kappa_);
    const double reach = longest(affine), sigma = std::pow(1 - reach, 3);
    product(scaled(affine.s, true), scaled(affine.z, false), -1);
    each([&](std::size_t, int at, int) { ds[at] += sigma * mu; });
    const double dk = -tau_ * kappa_ - affine.tau * affine.kappa + sigma * mu;
    const Direction d = direction(1 - sigma, rx, rz, rt, ds, dk);
    const double length = .99 * longest(d);
    if (!(length > 1e-10) || !d.x.allFinite() || !std::isfinite(d.tau)) return false;
    x_ += length * d.x;
    s_ += length * d.s;
    z_ += length * d.z;
    tau_ += length * d.tau;
    kappa_ += length * d.kappa;
    return tau_ > 0 && kappa_ > 0;
  }

  const ConeProgram& pr_;
  double tolerance_, tau_ = 1, kappa_ = 1;
  Eigen::Index n_ = 0, rows_ = 0;
  std::vector<int> offsets_;
  std::vector<Scaling> scalings_;
  MatrixXd scaled_, normal_;
  VectorXd x_, s_, z_, lambda_, x1_, z1_;
};

}  // namespace

ConeSolution solve(const ConeProgram& program, double tolerance) { return Solver(program, tolerance).run(); }

}  // namespace unbend::control
