#include "unbend/optimize/curves.h"

#include <algorithm>
#include <cmath>

#include "unbend/base/error.h"

namespace unbend::optimize {
namespace {

/// c(x; p), its gradient and Hessian [k, k] with respect to the parameters.
struct Point {
  double value = 0;
  Vector gradient;
  Matrix hessian;
};

struct Curve {
  std::string name;
  std::vector<std::string> parameters;
  Point (*at)(double x, const Vector& p);
};

Point point(double value, std::initializer_list<double> gradient) {
  Point q{value, Vector::Map(gradient.begin(), static_cast<Eigen::Index>(gradient.size())), {}};
  q.hessian = Matrix::Zero(q.gradient.size(), q.gradient.size());
  return q;
}
void set(Matrix& h, Eigen::Index i, Eigen::Index j, double value) { h(i, j) = h(j, i) = value; }

Point exponential(double x, const Vector& p) {
  const double e = std::exp(p[1] * x);
  Point q = point(p[0] * e + p[2], {e, p[0] * x * e, 1});
  set(q.hessian, 0, 1, x * e), set(q.hessian, 1, 1, p[0] * x * x * e);
  return q;
}
Point power(double x, const Vector& p) {
  const double l = std::log(x), e = std::exp(p[1] * l);
  Point q = point(p[0] * e + p[2], {e, p[0] * l * e, 1});
  set(q.hessian, 0, 1, l * e), set(q.hessian, 1, 1, p[0] * l * l * e);
  return q;
}
Point saturation(double x, const Vector& p) {
  const double s = 1 / (p[1] + x);
  Point q = point(p[0] * x * s, {x * s, -p[0] * x * s * s});
  set(q.hessian, 0, 1, -x * s * s), set(q.hessian, 1, 1, 2 * p[0] * x * s * s * s);
  return q;
}
Point logistic(double x, const Vector& p) {
  const double a = p[0], c = p[2], z = (x - p[1]) / c;
  const double s = z > 0 ? 1 / (1 + std::exp(-z)) : std::exp(z) / (1 + std::exp(z));
  const double d1 = s * (1 - s), d2 = d1 * (1 - 2 * s);  // with respect to z; z_b = -1/c, z_c = -z/c
  Point q = point(a * s, {s, -a * d1 / c, -a * d1 * z / c});
  set(q.hessian, 0, 1, -d1 / c), set(q.hessian, 0, 2, -d1 * z / c);
  set(q.hessian, 1, 1, a * d2 / (c * c)), set(q.hessian, 1, 2, a * (d2 * z + d1) / (c * c));
  set(q.hessian, 2, 2, a * (d2 * z * z + 2 * d1 * z) / (c * c));
  return q;
}
Point gaussian(double x, const Vector& p) {
  const double a = p[0], c = p[2], z = (x - p[1]) / c, e = std::exp(-z * z / 2);
  const double d1 = -z * e, d2 = (z * z - 1) * e;
  Point q = point(a * e + p[3], {e, -a * d1 / c, -a * d1 * z / c, 1});
  set(q.hessian, 0, 1, -d1 / c), set(q.hessian, 0, 2, -d1 * z / c);
  set(q.hessian, 1, 1, a * d2 / (c * c)), set(q.hessian, 1, 2, a * (d2 * z + d1) / (c * c));
  set(q.hessian, 2, 2, a * (d2 * z * z + 2 * d1 * z) / (c * c));
  return q;
}

const Curve kCurves[] = {{"exponential", {"a", "b", "c"}, exponential},
                         {"power", {"a", "b", "c"}, power},
                         {"saturation", {"a", "b"}, saturation},
                         {"logistic", {"a", "b", "c"}, logistic},
                         {"gaussian", {"a", "b", "c", "d"}, gaussian}};

const Curve& find_curve(const std::string& name) {
  for (const Curve& curve : kCurves)
    if (curve.name == name) return curve;
  fail_usage("there is no curve '{}': use {}", name, fmt::join(curve_names(), ", "));
}

Matrix with_constant(const Matrix& x) {
  Matrix a = Matrix::Ones(x.rows(), x.cols() + 1);
  a.leftCols(x.cols()) = x;
  return a;
}

}  // namespace

std::vector<std::string> curve_names() {
  std::vector<std::string> names{"linear"};
  for (const Curve& curve : kCurves) names.push_back(curve.name);
  return names;
}

std::vector<std::string> curve_parameters(const std::string& curve, Eigen::Index columns) {
  if (curve != "linear") return find_curve(curve).parameters;
  std::vector<std::string> names;
  for (Eigen::Index j = 0; j < columns; ++j) names.push_back(fmt::format("w{}", j));
  names.emplace_back("constant");
  return names;
}

Vector curve_start(const std::string& curve, const Matrix& x, const Vector& y) {
  if (curve == "linear") return Vector::Zero(x.cols() + 1);
  const Vector at = x.col(0);
  const double low = y.minCoeff(), high = y.maxCoeff(), spread = std::max(1e-12, high - low);
  const double left = at.minCoeff(), width = std::max(1e-12, at.maxCoeff() - left), middle = left + width / 2;
  const double rising = (at.array() - at.mean()).matrix().dot((y.array() - y.mean()).matrix()) >= 0 ? 1 : -1;
  if (curve == "exponential")
    return Vector{{spread * std::exp(-rising * (left + (rising > 0 ? width : 0)) / width), rising / width, low}};
  if (curve == "power") return Vector{{spread / std::max(1e-12, at.maxCoeff()), 1, low}};
  if (curve == "saturation") return Vector{{high, middle}};
  if (curve == "logistic") return Vector{{high, middle, rising * width / 8}};
  Eigen::Index top = 0;
  y.maxCoeff(&top);
  return Vector{{spread, at[top], width / 6, low}};
}

Residuals curve_residuals(const std::string& name, const Matrix& x, const Vector& y) {
  require(x.rows() > 0 && x.cols() > 0 && x.rows() == y.size(), "there are {} rows of inputs and {} of outputs",
          x.rows(), y.size());
  require(x.allFinite() && y.allFinite(), "inputs and outputs must be finite");
  const double scale = 1 / std::sqrt(static_cast<double>(y.size()));
  if (name == "linear") {
    const Matrix a = scale * with_constant(x);
    const Vector b = scale * y;
    return {a.cols(), a.rows(), [a, b](const Vector& p, Vector& u) { u = times(a, p) - b; },
            [a](const Vector&, Matrix& j) { j = a; }, [](const Vector&, const Vector&, Matrix&) {}};
  }
  const Curve& curve = find_curve(name);
  require(x.cols() == 1, "the curve '{}' takes one column of inputs, not {}", name, x.cols());
  require(name != "power" || (x.array() > 0).all(), "the curve 'power' takes positive inputs");
  const Vector at = x.col(0);
  const auto c = curve.at;
  return {std::ssize(curve.parameters), y.size(),
          [=](const Vector& p, Vector& u) {
            for (Eigen::Index i = 0; i < y.size(); ++i) u[i] = scale * (c(at[i], p).value - y[i]);
          },
          [=](const Vector& p, Matrix& j) {
            for (Eigen::Index i = 0; i < y.size(); ++i) j.row(i) = scale * c(at[i], p).gradient;
          },
          [=](const Vector& p, const Vector& u, Matrix& h) {
            for (Eigen::Index i = 0; i < y.size(); ++i) h += scale * u[i] * c(at[i], p).hessian;
          }};
}

Vector standard_errors(const Residuals& r, const Vector& parameters) {
  const Eigen::Index n = r.variables;
  if (r.count <= n) return Vector::Constant(n, INFINITY);
  Vector u(r.count);
  Matrix j(r.count, n);
  r.value(parameters, u);
  r.jacobian(parameters, j);
  Matrix gram = Matrix::Zero(n, n), inverse = Matrix::Identity(n, n);
  add_gram(j, 1, gram);
  if (!factorise(gram)) return Vector::Constant(n, INFINITY);
  solve_factorised(gram, inverse);
  return (u.squaredNorm() / static_cast<double>(r.count - n) * inverse.diagonal()).cwiseSqrt();
}

}  // namespace unbend::optimize
