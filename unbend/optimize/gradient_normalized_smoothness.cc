#include "unbend/optimize/gradient_normalized_smoothness.h"

#include <algorithm>

#include "unbend/base/error.h"
#include "unbend/optimize/damped_solve.h"

namespace unbend::optimize {
namespace {

double guaranteed_gamma(const std::vector<SmoothnessTerm>& terms, double gradient_norm) {
  double sum = 0;
  for (const auto& [alpha, constant] : terms) sum += constant * std::pow(gradient_norm, -alpha);
  return sum > 0 ? 1 / sum : 0;
}

/// The same problem in y = L' x for B = L L', where the metric is the identity.
Problem in_own_metric(const Problem& p, const Matrix& l) {
  const auto lower = [&l](auto v) {
    solve_lower(l, v);
    return v;
  };
  const auto back = [&l](Vector y) {
    solve_upper(l, y);
    return y;
  };
  Problem q;
  q.size = p.size;
  q.evaluate = [&p, lower, back](const Vector& y, Vector& g) {
    const double f = p.evaluate(back(y), g);
    g = lower(g);
    return f;
  };
  const auto conjugated = [lower](const Matrix& h) {  // L^-1 H L^-T
    return lower(Matrix(lower(h).transpose()));
  };
  if (const auto* dense = std::get_if<DenseCurvature>(&p.curvature)) {
    q.curvature = DenseCurvature{[dense, back, conjugated](const Vector& y, Matrix& h) {
                                   dense->hessian(back(y), h);
                                   if (!dense->whole) h = h.selfadjointView<Eigen::Lower>().toDenseMatrix();
                                   h = conjugated(h);
                                 },
                                 dense->whole};
  } else if (const auto* diagonal = std::get_if<DiagonalCurvature>(&p.curvature)) {
    q.curvature = DenseCurvature{[diagonal, back, conjugated](const Vector& y, Matrix& h) {
      Vector d(y.size());
      diagonal->diagonal(back(y), d);
      h = conjugated(Matrix(d.asDiagonal()));
    }};
  } else if (const auto* low = std::get_if<LowRankCurvature>(&p.curvature)) {
    q.curvature = LowRankCurvature{[low, back, lower](const Vector& y, Matrix& u, double& shift) {
      low->factor(back(y), u, shift);
      u = lower(u);
    }};
  } else if (const auto* product = std::get_if<ProductCurvature>(&p.curvature)) {
    q.curvature = ProductCurvature{[product, back, lower](const Vector& y) -> std::function<Vector(const Vector&)> {
      return [at = product->at(back(y)), back, lower](const Vector& v) -> Vector { return lower(at(back(v))); };
    }};
  }
  return q;
}

Minimum in_metric(const Problem& problem, const Vector& start, const MinimizeOptions& options) {
  const Eigen::Index n = problem.size;
  require(problem.metric.rows() == n && problem.metric.cols() == n, "the metric B must be {} x {}", n, n);
  const double skew = (problem.metric - problem.metric.transpose()).cwiseAbs().maxCoeff();
  require(skew <= 1e-8 * problem.metric.cwiseAbs().maxCoeff(), "the metric B is not symmetric");
  Matrix l = problem.metric;
  require(factorise(l), "the metric B is not positive definite");
  l = l.triangularView<Eigen::Lower>().toDenseMatrix();
  require(start.size() == n, "the start must have {} numbers, not {}", n, start.size());
  const auto back = [&l](Vector y) {
    solve_upper(l, y);
    return y;
  };
  MinimizeOptions inner = options;
  if (options.callback)
    inner.callback = [&](const Iteration& i, const Vector& y) { return options.callback(i, back(y)); };
  Minimum m = minimize(in_own_metric(problem, l), transposed_times(l, start), inner);
  m.x = back(m.x);
  return m;
}

}  // namespace

Minimum minimize(const Problem& problem, const Vector& start, const MinimizeOptions& options) {
  if (problem.metric.size() > 0) return in_metric(problem, start, options);
  Minimum m;
  Vector g, g_next(problem.size), d(problem.size), x_next, previous = start, base = start, g_base;
  m.value = check_start(problem, start, options, g);
  m.x = start;
  m.gradient_norm = g.norm();
  m.gamma = options.gamma0;
  m.evaluations = 1;
  DampedSolve damped(problem, options);
  double least = m.value;
  int since_restart = 0;
  while (!stops(m, options)) {
    // The step starts at x, or with acceleration at an extrapolated point.
    double f = m.value, norm = m.gradient_norm;
    base = m.x;
    g_base = g;
    if (options.accelerate && since_restart > 0) {
      base += since_restart / (since_restart + 3.) * (m.x - previous);
      f = problem.evaluate(base, g_base);
      ++m.evaluations;
      if (!std::isfinite(f) || !g_base.allFinite() || g_base.norm() == 0) {
        base = m.x, g_base = g, f = m.value;
        since_restart = 0;
      }
      norm = g_base.norm();
    }
    damped.at(base);
    const int products = damped.products();
    int probes = 0;
    bool accepted = false, rounding = false;
    double f_next = 0, lambda = 0, next_norm = 0, decrease = 0;
    while (probes < options.max_probes && !accepted) {
      ++probes;
      lambda = norm / m.gamma;
      if (lambda > 0 && std::isfinite(lambda) && damped.solve(lambda, g_base, d) && d.allFinite()) {
        x_next = base + d;
        f_next = problem.evaluate(x_next, g_next);
        ++m.evaluations;
        next_norm = g_next.norm();
        if (std::isfinite(f_next) && std::isfinite(next_norm)) {
          // Where f - f+ is mostly rounding, the trapezoidal rule along d has more digits of it; the two must agree,
          // and f must not creep up.
          rounding = std::abs(f - f_next) < 1e-11 * std::abs(f);
          decrease = rounding ? -.5 * (g_base + g_next).dot(d) : f - f_next;
          const double noise = 1e-13 * std::abs(f);
          const bool agree = !rounding || (std::abs(decrease - (f - f_next)) <= noise && f_next <= least + noise);
          accepted = agree && decrease >= next_norm * next_norm / (8 * lambda);
          if (!accepted && rounding && d.norm() <= 1e-15 * base.norm()) break;
        }
      }
      if (!accepted) m.gamma /= 2;
    }
    if (!accepted) {
      m.probes += probes;
      finish(m, rounding ? Outcome::Rounding : Outcome::SearchExhausted);
      break;
    }
    const Iteration iteration{m.iterations() + 1,
                              f_next,
                              next_norm,
                              m.gamma,
                              lambda,
                              d.norm(),
                              probes,
                              damped.products() - products,
                              f - f_next,
                              next_norm * next_norm / (8 * lambda),
                              guaranteed_gamma(options.smoothness, norm)};
    since_restart = options.accelerate && g_next.dot(x_next - m.x) > 0 ? 0 : since_restart + 1;
    previous = m.x;
    m.x = x_next;
    g = g_next;
    m.value = f_next;
    least = std::min(least, f_next);
    m.gradient_norm = next_norm;
    m.gamma = std::max(2 * m.gamma, 1e-9 * m.x.norm());
    if (note(m, options, iteration)) break;
  }
  return m;
}

}  // namespace unbend::optimize
