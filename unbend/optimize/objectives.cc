#include "unbend/optimize/objectives.h"

#include <algorithm>
#include <array>
#include <memory>

#include "unbend/base/error.h"

namespace unbend::optimize {
namespace {

using Eigen::Index;
constexpr std::array<std::string_view, 6> kHessians{"exact", "gauss-newton", "fisher", "diagonal", "product", "zero"};

Vector spread_ridge(const Vector& ridge, Index n) {
  require(ridge.size() == 1 || ridge.size() == n, "ridge must have 1 or {} elements, not {}", n, ridge.size());
  require((ridge.array() >= 0).all() && ridge.allFinite(), "ridge must not be negative");
  return ridge.size() == n ? ridge : Vector::Constant(n, ridge[0]);
}

void check_samples(const Matrix& a) {
  require(a.rows() > 0 && a.cols() > 0, "there are no samples or no features");
  require(a.allFinite(), "a feature is not finite");
}

/// What value and Hessian share, remembered for the last point.
struct Last {
  Vector x;
  bool is(const Vector& other) const { return x.size() == other.size() && x == other; }
};

/// Lower triangle of (1/m) A' diag(weight) A, weights at least 0. `scratch` is reused: as many rows as the cache holds.
void weighted_gram(const Matrix& a, const Eigen::ArrayXd& weight, Matrix& scratch, Matrix& h) {
  const Index rows = a.rows(), panel = std::clamp<Index>((1 << 17) / a.cols(), 64, 2048);
  h.setZero();
  for (Index i = 0; i < rows; i += panel) {
    const Index count = std::min(panel, rows - i);
    scratch = a.middleRows(i, count).array().colwise() * weight.segment(i, count).sqrt();
    add_gram(scratch, 1. / static_cast<double>(rows), h);
  }
}

struct Logistic {
  Matrix a;
  Vector y, ridge;
  Last last;
  Eigen::ArrayXd weight, alpha;  // sigmoid' and -slope y of the margins
  Matrix scratch;

  double evaluate(const Vector& x, Vector& g) {
    const auto m = static_cast<double>(a.rows());
    const Eigen::ArrayXd margin = y.array() * times(a, x).array(), e = (-margin.abs()).exp();
    alpha = (margin > 0).select(e, Eigen::ArrayXd::Ones(e.size())) / (1 + e);
    weight = e / (1 + e).square();
    g = transposed_times(a, (alpha * y.array() / -m).matrix());
    g += ridge.cwiseProduct(x);
    last.x = x;
    return (e.log1p() - margin.min(0.)).sum() / m + .5 * x.dot(ridge.cwiseProduct(x));
  }
  void at(const Vector& x) {
    Vector g(x.size());
    if (!last.is(x)) evaluate(x, g);
  }
};

struct Softmax {
  Matrix a;
  std::vector<int> labels;
  Index classes;
  Vector ridge;
  Last last;
  Matrix p, scratch, block;  // probabilities [m, K]

  double evaluate(const Vector& x, Vector& g) {
    const Index n = a.cols(), rows = a.rows();
    const auto m = static_cast<double>(rows);
    p = product(a, Eigen::Map<const Matrix>(x.data(), n, classes));
    double sum = 0;
    for (Index i = 0; i < rows; ++i) sum -= p(i, labels[static_cast<std::size_t>(i)]);
    const Vector top = p.rowwise().maxCoeff();
    p = (p.colwise() - top).array().exp();
    const Vector total = p.rowwise().sum();
    sum += total.array().log().sum() + top.sum();
    p.array().colwise() /= total.array();
    for (Index i = 0; i < rows; ++i) p(i, labels[static_cast<std::size_t>(i)]) -= 1;
    g.resize(n * classes);
    Eigen::Map<Matrix> gradient(g.data(), n, classes);
    gradient = transposed_product(a, p) / m;
    for (Index i = 0; i < rows; ++i) p(i, labels[static_cast<std::size_t>(i)]) += 1;
    const Eigen::Map<const Matrix> w(x.data(), n, classes);
    gradient.array() += w.array().colwise() * ridge.array();
    last.x = x;
    return sum / m + .5 * (w.array().square().colwise() * ridge.array()).sum();
  }
  void at(const Vector& x) {
    Vector g;
    if (!last.is(x)) evaluate(x, g);
  }
  /// Residual probabilities p - e_y [m, K].
  Matrix residual() const {
    Matrix r = p;
    for (Index i = 0; i < r.rows(); ++i) r(i, labels[static_cast<std::size_t>(i)]) -= 1;
    return r;
  }
  template <class Weight>
  void blocks(Matrix& h, const Weight& weight, bool off_diagonal) {
    const Index n = a.cols();
    if (!off_diagonal) h.setZero();
    block.resize(n, n);
    for (Index k = 0; k < classes; ++k) {
      for (Index l = off_diagonal ? 0 : k; l <= k; ++l) {
        const Eigen::ArrayXd w = weight(k, l);  // of one sign where exact: A' diag(|w|) A is symmetric, half the work
        if ((w >= 0).all() || (w <= 0).all()) {
          weighted_gram(a, w.abs(), scratch, block);
          if (w.sum() < 0) block = -block;
        } else {
          scratch = a.array().colwise() * w;
          block.setZero();
          add_symmetric(a, scratch, 1. / static_cast<double>(a.rows()), block);
        }
        h.block(k * n, l * n, n, n) = block.selfadjointView<Eigen::Lower>();
      }
      h.block(k * n, k * n, n, n).diagonal() += ridge;
    }
  }
};

}  // namespace

std::vector<std::string> hessian_names() { return {kHessians.begin(), kHessians.end()}; }

Hessian hessian_named(std::string_view name) {
  const auto found = std::find(kHessians.begin(), kHessians.end(), name);
  if (found == kHessians.end()) fail_usage("there is no Hessian '{}': use {}", name, fmt::join(kHessians, ", "));
  return static_cast<Hessian>(found - kHessians.begin());
}

Problem logistic_problem(Matrix a, const Vector& y, const Vector& ridge, Hessian hessian) {
  check_samples(a);
  require(y.size() == a.rows(), "there are {} samples and {} labels", a.rows(), y.size());
  require((y.array().abs() == 1).all(), "labels must be -1 and 1");
  const auto s = std::make_shared<Logistic>();
  s->ridge = spread_ridge(ridge, a.cols());
  s->a = std::move(a);
  s->y = y;
  Problem p;
  p.size = s->a.cols();
  p.evaluate = [s](const Vector& x, Vector& g) { return s->evaluate(x, g); };
  const auto m = static_cast<double>(s->a.rows());
  switch (hessian) {
    case Hessian::Exact:
    case Hessian::GaussNewton:  // a linear model: the same
      p.curvature = DenseCurvature{[s](const Vector& x, Matrix& h) {
        s->at(x);
        weighted_gram(s->a, s->weight, s->scratch, h);
        h.diagonal() += s->ridge;
      }};
      break;
    case Hessian::Fisher:
      if (s->a.rows() < s->a.cols() && (s->ridge.array() == s->ridge[0]).all()) {
        p.curvature = LowRankCurvature{[s, m](const Vector& x, Matrix& u, double& shift) {
          s->at(x);
          u = (s->a.array().colwise() * (s->alpha / std::sqrt(m))).transpose();
          shift = s->ridge[0];
        }};
        break;
      }
      p.curvature = DenseCurvature{[s](const Vector& x, Matrix& h) {
        s->at(x);
        weighted_gram(s->a, s->alpha.square(), s->scratch, h);
        h.diagonal() += s->ridge;
      }};
      break;
    case Hessian::Diagonal:
      p.curvature = DiagonalCurvature{[s, m](const Vector& x, Vector& h) {
        s->at(x);
        h = transposed_times(s->a.array().square().matrix(), s->weight.matrix() / m) + s->ridge;
      }};
      break;
    case Hessian::Product:
      p.curvature = ProductCurvature{[s, m](const Vector& x) -> std::function<Vector(const Vector&)> {
        s->at(x);
        return [s, m](const Vector& v) -> Vector {
          const Vector along = s->weight * times(s->a, v).array() / m;
          return transposed_times(s->a, along) + s->ridge.cwiseProduct(v);
        };
      }};
      break;
    case Hessian::Zero: break;
  }
  return p;
}

Problem softmax_problem(Matrix a, const std::vector<int>& labels, int classes, const Vector& ridge, Hessian hessian) {
  check_samples(a);
  require(classes >= 2, "softmax needs at least 2 classes, not {}", classes);
  require(std::ssize(labels) == a.rows(), "there are {} samples and {} labels", a.rows(), labels.size());
  for (const int label : labels)
    require(label >= 0 && label < classes, "the label {} is none of 0 .. {}", label, classes - 1);
  const auto s = std::make_shared<Softmax>();
  s->ridge = spread_ridge(ridge, a.cols());
  s->a = std::move(a);
  s->labels = labels;
  s->classes = classes;
  Problem p;
  const Index n = s->a.cols();
  const auto m = static_cast<double>(s->a.rows());
  p.size = n * classes;
  p.evaluate = [s](const Vector& x, Vector& g) { return s->evaluate(x, g); };
  switch (hessian) {
    case Hessian::Exact:
      p.curvature = DenseCurvature{[s](const Vector& x, Matrix& h) {
        s->at(x);
        const auto weight = [&](Index k, Index l) -> Eigen::ArrayXd {
          if (k == l) return s->p.col(k).array() * (1 - s->p.col(k).array());
          return -s->p.col(k).array() * s->p.col(l).array();
        };
        s->blocks(h, weight, true);
      }};
      break;
    case Hessian::GaussNewton:
      p.curvature = DenseCurvature{[s](const Vector& x, Matrix& h) {
        s->at(x);
        s->blocks(
            h, [&](Index k, Index) -> Eigen::ArrayXd { return s->p.col(k); }, false);
      }};
      break;
    case Hessian::Fisher:
      p.curvature = DenseCurvature{[s](const Vector& x, Matrix& h) {
        s->at(x);
        const Matrix r = s->residual();
        s->blocks(
            h, [&](Index k, Index l) -> Eigen::ArrayXd { return r.col(k).array() * r.col(l).array(); }, true);
      }};
      break;
    case Hessian::Diagonal:
      p.curvature = DiagonalCurvature{[s, n, m](const Vector& x, Vector& h) {
        s->at(x);
        const Matrix weight = s->p.array() * (1 - s->p.array());
        Eigen::Map<Matrix> diagonal(h.data(), n, s->classes);
        diagonal = transposed_product(s->a.array().square().matrix(), weight) / m;
        diagonal.colwise() += s->ridge;
      }};
      break;
    case Hessian::Product:
      p.curvature = ProductCurvature{[s, n, m](const Vector& x) -> std::function<Vector(const Vector&)> {
        s->at(x);
        return [s, n, m](const Vector& v) -> Vector {
          const Eigen::Map<const Matrix> direction(v.data(), n, s->classes);
          Matrix z = product(s->a, direction);
          const Vector mean = s->p.cwiseProduct(z).rowwise().sum();
          z = s->p.cwiseProduct(z.colwise() - mean) / m;
          Vector out(v.size());
          Eigen::Map<Matrix> image(out.data(), n, s->classes);
          image = transposed_product(s->a, z);
          image.array() += direction.array().colwise() * s->ridge.array();
          return out;
        };
      }};
      break;
    case Hessian::Zero: break;
  }
  return p;
}

Problem log_sum_exp_problem(Matrix a, Vector b, double mu, Hessian hessian) {
  check_samples(a);
  require(b.size() == a.rows() && b.allFinite(), "b must have {} finite numbers", a.rows());
  require(mu > 0 && std::isfinite(mu), "mu must be positive, not {}", mu);
  struct State {
    Matrix a, scratch;
    Vector b, s;
    double mu;
    Last last;
    double evaluate(const Vector& x, Vector& g) {
      s = (times(a, x) - b) / mu;
      const double top = s.maxCoeff();
      s = (s.array() - top).exp();
      const double sum = s.sum();
      s /= sum;
      g = transposed_times(a, s);
      last.x = x;
      return mu * (top + std::log(sum));
    }
    void at(const Vector& x) {
      Vector g;
      if (!last.is(x)) evaluate(x, g);
    }
  };
  const auto s = std::make_shared<State>();
  s->a = std::move(a), s->b = std::move(b), s->mu = mu;
  Problem p;
  p.size = s->a.cols();
  p.evaluate = [s](const Vector& x, Vector& g) { return s->evaluate(x, g); };
  const auto dense = [s](bool exact) {
    return [s, exact](const Vector& x, Matrix& h) {
      s->at(x);
      const auto m = static_cast<double>(s->a.rows());
      weighted_gram(s->a, s->s.array() * (m / s->mu), s->scratch, h);
      if (exact) add_outer(transposed_times(s->a, s->s), -1 / s->mu, h);
    };
  };
  switch (hessian) {
    case Hessian::Exact: p.curvature = DenseCurvature{dense(true)}; break;
    case Hessian::GaussNewton: p.curvature = DenseCurvature{dense(false)}; break;
    case Hessian::Diagonal:
      p.curvature = DiagonalCurvature{[s](const Vector& x, Vector& h) {
        s->at(x);
        h = (transposed_times(s->a.array().square().matrix(), s->s) - transposed_times(s->a, s->s).cwiseAbs2()) / s->mu;
      }};
      break;
    case Hessian::Product:
      p.curvature = ProductCurvature{[s](const Vector& x) -> std::function<Vector(const Vector&)> {
        s->at(x);
        return [s](const Vector& v) -> Vector {
          const Vector z = times(s->a, v);
          return transposed_times(s->a, s->s.cwiseProduct((z.array() - z.dot(s->s)).matrix()) / s->mu);
        };
      }};
      break;
    case Hessian::Fisher: fail_usage("log-sum-exp has no Fisher matrix: use gauss-newton");
    case Hessian::Zero: break;
  }
  return p;
}

Problem power_problem(Residuals residuals, double p, Hessian hessian) {
  require(p >= 2 && std::isfinite(p), "the power p must be at least 2, not {}", p);
  require(residuals.variables > 0 && residuals.count > 0 && residuals.value && residuals.jacobian,
          "residuals need variables, a value and a Jacobian");
  require(hessian != Hessian::Exact || residuals.second, "an exact Hessian needs the residuals' second derivatives");
  struct State {
    Residuals of;
    double p;
    Last last;
    Vector u, ju;  // J'u
    Matrix j;
    double norm = 0;
    double evaluate(const Vector& x, Vector& g) {
      u.resize(of.count), j.resize(of.count, of.variables);
      of.value(x, u);
      of.jacobian(x, j);
      norm = u.norm();
      ju = transposed_times(j, u);
      g = std::pow(norm, p - 2) * ju;
      last.x = x;
      return std::pow(norm, p) / p;
    }
    void at(const Vector& x) {
      Vector g;
      if (!last.is(x)) evaluate(x, g);
    }
    double outer() const { return p == 2 || norm == 0 ? 0 : (p - 2) * std::pow(norm, p - 4); }  // of (J'u)(J'u)'
    double inner() const { return std::pow(norm, p - 2); }
  };
  const auto s = std::make_shared<State>();
  s->of = std::move(residuals), s->p = p;
  Problem problem;
  problem.size = s->of.variables;
  problem.evaluate = [s](const Vector& x, Vector& g) { return s->evaluate(x, g); };
  switch (hessian) {
    case Hessian::Exact:
    case Hessian::GaussNewton:
      problem.curvature = DenseCurvature{[s, exact = hessian == Hessian::Exact](const Vector& x, Matrix& h) {
        s->at(x);
        h.setZero();
        if (exact) {
          s->of.second(x, s->u, h);
          h *= s->inner();
        }
        add_gram(s->j, s->inner(), h);
        add_outer(s->ju, s->outer(), h);
      }};
      break;
    case Hessian::Fisher:
      problem.curvature = LowRankCurvature{[s](const Vector& x, Matrix& u, double& shift) {
        s->at(x);
        u = std::sqrt(s->outer()) * s->ju;
        shift = 0;
      }};
      break;
    case Hessian::Diagonal:
      problem.curvature = DiagonalCurvature{[s](const Vector& x, Vector& h) {
        s->at(x);
        h = s->inner() * s->j.colwise().squaredNorm().transpose() + s->outer() * s->ju.array().square().matrix();
      }};
      break;
    case Hessian::Product:
      problem.curvature = ProductCurvature{[s](const Vector& x) -> std::function<Vector(const Vector&)> {
        s->at(x);
        return [s](const Vector& v) -> Vector {
          return s->inner() * transposed_times(s->j, times(s->j, v)) + s->outer() * s->ju.dot(v) * s->ju;
        };
      }};
      break;
    case Hessian::Zero: break;
  }
  return problem;
}

std::vector<SmoothnessTerm> logistic_smoothness(const Matrix& a, const Vector& ridge, Hessian hessian) {
  Matrix gram = Matrix::Zero(a.cols(), a.cols()), vectors;
  add_gram(a, 1. / static_cast<double>(a.rows()), gram);
  Vector values;
  decompose(gram, values, vectors);
  const double top = values.maxCoeff();
  if (hessian == Hessian::Zero) return {{1, top / 4 + ridge.maxCoeff()}};
  // |phi'''| <= 1 / (6 sqrt 3).
  if (hessian == Hessian::Exact)
    return {{.5, std::sqrt(top * a.rowwise().norm().maxCoeff() / (6 * std::sqrt(3.)) / 2)}};
  return {};
}

Matrix dense_hessian(const Problem& problem, const Vector& x) {
  const Index n = problem.size;
  Matrix h = Matrix::Zero(n, n);
  if (const auto* dense = std::get_if<DenseCurvature>(&problem.curvature)) {
    dense->hessian(x, h);
    if (!dense->whole) h = Matrix(h.selfadjointView<Eigen::Lower>());
  } else if (const auto* diagonal = std::get_if<DiagonalCurvature>(&problem.curvature)) {
    Vector d(n);
    diagonal->diagonal(x, d);
    h = d.asDiagonal();
  } else if (const auto* low = std::get_if<LowRankCurvature>(&problem.curvature)) {
    Matrix u;
    double shift = 0;
    low->factor(x, u, shift);
    h = product(u, u.transpose().eval());
    h += problem.metric.size() > 0 ? Matrix(shift * problem.metric) : Matrix(shift * Matrix::Identity(n, n));
  } else if (const auto* product = std::get_if<ProductCurvature>(&problem.curvature)) {
    const auto times = product->at(x);
    for (Index i = 0; i < n; ++i) h.col(i) = times(Vector::Unit(n, i));
  }
  return h;
}

DerivativeCheck check_derivatives(const Problem& problem, const Vector& x, double step) {
  const Index n = problem.size;
  Vector g(n), high(n), low(n), numeric(n);
  problem.evaluate(x, g);
  const Matrix h = dense_hessian(problem, x);
  Matrix numeric_h(n, n);
  for (Index i = 0; i < n; ++i) {
    const double f_high = problem.evaluate(x + step * Vector::Unit(n, i), high);
    const double f_low = problem.evaluate(x - step * Vector::Unit(n, i), low);
    numeric[i] = (f_high - f_low) / (2 * step);
    numeric_h.col(i) = (high - low) / (2 * step);
  }
  return {(g - numeric).norm() / std::max(1e-300, g.norm()), (h - numeric_h).norm() / std::max(1e-300, h.norm())};
}

}  // namespace unbend::optimize
