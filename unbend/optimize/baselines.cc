// The methods beside which GNS-Newton is set: super-universal and cubic Newton, gradient and accelerated gradient.
#include <algorithm>

#include "unbend/base/error.h"
#include "unbend/optimize/damped_solve.h"

namespace unbend::optimize {
namespace {

Minimum begin(const Problem& problem, const Vector& start, const MinimizeOptions& options, Vector& g) {
  require(problem.metric.size() == 0, "the baselines know no metric but the identity");
  Minimum m;
  m.value = check_start(problem, start, options, g);
  m.x = start;
  m.gradient_norm = g.norm();
  m.evaluations = 1;
  return m;
}

constexpr double kLeastConstant = 1e-5;

/// x - g / l with the least l = constant 2^k that makes f fall by |g|^2 / (2 l). The constant is halved for next time.
bool descend(const Problem& problem, const MinimizeOptions& options, Minimum& m, double f, const Vector& from,
             const Vector& g, double& constant, Vector& x_next, Vector& g_next, double& f_next, int& probes) {
  const double squared = g.squaredNorm();
  for (probes = 1; probes <= options.max_probes; ++probes) {
    x_next = from - g / constant;
    f_next = problem.evaluate(x_next, g_next);
    ++m.evaluations;
    const bool fell = f - f_next >= squared / (2 * constant) * (1 - 1e-12) ||
                      (std::abs(f - f_next) < 1e-14 * std::abs(f) && g_next.norm() <= g.norm());
    if (std::isfinite(f_next) && g_next.allFinite() && fell) return true;
    constant *= 2;
  }
  return false;
}

}  // namespace

Minimum gradient_method(const Problem& problem, const Vector& start, const MinimizeOptions& options) {
  Vector g, g_next(problem.size), x_next;
  Minimum m = begin(problem, start, options, g);
  double constant = 1, f_next = 0;
  while (!stops(m, options)) {
    int probes = 0;
    if (!descend(problem, options, m, m.value, m.x, g, constant, x_next, g_next, f_next, probes)) {
      finish(m, Outcome::SearchExhausted);
      break;
    }
    const double step = (x_next - m.x).norm(), fell = m.value - f_next;
    m.x = x_next;
    g = g_next;
    m.value = f_next;
    m.gradient_norm = g.norm();
    const Iteration iteration{m.iterations() + 1, f_next, m.gradient_norm, step, constant, step, probes, 0, fell, 0};
    constant = std::max(kLeastConstant, constant / 2);
    if (note(m, options, iteration)) break;
  }
  return m;
}

Minimum accelerated_gradient(const Problem& problem, const Vector& start, const MinimizeOptions& options) {
  Vector g, g_y, g_next(problem.size), x_next, y = start;
  Minimum m = begin(problem, start, options, g);
  g_y = g;
  double constant = 1, f_y = m.value, f_next = 0, t = 1;
  while (!stops(m, options)) {
    int probes = 0;
    if (!descend(problem, options, m, f_y, y, g_y, constant, x_next, g_next, f_next, probes)) {
      finish(m, Outcome::SearchExhausted);
      break;
    }
    const double t_next = (1 + std::sqrt(1 + 4 * t * t)) / 2, step = (x_next - m.x).norm(), fell = m.value - f_next;
    y = x_next + (t - 1) / t_next * (x_next - m.x);
    t = t_next;
    m.x = x_next;
    m.value = f_next;
    m.gradient_norm = g_next.norm();
    const Iteration iteration{m.iterations() + 1, f_next, m.gradient_norm, step, constant, step, probes, 0, fell, 0};
    constant = std::max(kLeastConstant, constant / 2);
    if (note(m, options, iteration)) break;
    g_y.resize(problem.size);
    f_y = problem.evaluate(y, g_y);
    ++m.evaluations;
    if (!std::isfinite(f_y) || !g_y.allFinite()) y = m.x, f_y = m.value, g_y = g_next, t = 1;
  }
  return m;
}

Minimum super_universal_newton(const Problem& problem, const Vector& start, const MinimizeOptions& options,
                               double alpha) {
  Vector g, g_next(problem.size), d(problem.size), x_next;
  Minimum m = begin(problem, start, options, g);
  DampedSolve damped(problem, options);
  double strength = 1;
  while (!stops(m, options)) {
    damped.at(m.x);
    const int products = damped.products();
    int probes = 0;
    double f_next = 0, lambda = 0, next_norm = 0;
    bool accepted = false;
    while (probes < options.max_probes && !accepted) {
      ++probes;
      lambda = strength * std::pow(m.gradient_norm, alpha);
      if (lambda > 0 && std::isfinite(lambda) && damped.solve(lambda, g, d) && d.allFinite()) {
        x_next = m.x + d;
        f_next = problem.evaluate(x_next, g_next);
        ++m.evaluations;
        next_norm = g_next.norm();
        accepted = std::isfinite(f_next) && -g_next.dot(d) >= next_norm * next_norm / (4 * lambda);
      }
      strength *= accepted ? .25 : 4;
    }
    if (!accepted) {
      finish(m, Outcome::SearchExhausted);
      break;
    }
    const Iteration iteration{
        m.iterations() + 1,           f_next,           next_norm, m.gradient_norm / lambda, lambda, d.norm(), probes,
        damped.products() - products, m.value - f_next, 0};
    m.x = x_next;
    g = g_next;
    m.value = f_next;
    m.gradient_norm = next_norm;
    if (note(m, options, iteration)) break;
  }
  return m;
}

Minimum cubic_newton(const Problem& problem, const Vector& start, const MinimizeOptions& options) {
  require(std::holds_alternative<DenseCurvature>(problem.curvature), "cubic Newton needs a dense Hessian");
  Vector g, g_next(problem.size), x_next;
  Minimum m = begin(problem, start, options, g);
  DampedSolve damped(problem, options);
  double constant = 1;
  while (!stops(m, options)) {
    damped.at(m.x);
    Vector values;
    Matrix vectors;
    decompose(damped.dense(), values, vectors);
    const Vector along = transposed_times(vectors, g);
    int probes = 0;
    double f_next = 0, r = 0;
    Vector d;
    bool accepted = false;
    while (probes < options.max_probes && !accepted) {
      ++probes;
      // Least of <g, d> + d'Hd / 2 + constant |d|^3 / 6: (H + constant r / 2) d = -g with r = |d|, a falling equation.
      const auto length = [&](double radius) {
        return (along.array() / (values.array() + constant * radius / 2)).matrix().norm();
      };
      double low = std::max(0., -2 * values[0] / constant), high = std::max(1., 2 * low);
      while (length(high) > high) high *= 2;
      for (int i = 0; i < 200 && high - low > 1e-15 * high; ++i) {
        r = low + (high - low) / 2;
        (length(r) > r ? low : high) = r;
      }
      r = high;
      const Vector scaled = along.array() / (values.array() + constant * r / 2);
      d = -times(vectors, scaled);
      x_next = m.x + d;
      f_next = problem.evaluate(x_next, g_next);
      ++m.evaluations;
      const double model =
          -along.dot(scaled) + .5 * (values.array() * scaled.array().square()).sum() + constant * r * r * r / 6;
      accepted = std::isfinite(f_next) && g_next.allFinite() &&
                 (f_next <= m.value + model ||
                  (std::abs(f_next - m.value) < 1e-14 * std::abs(m.value) && g_next.norm() <= m.gradient_norm));
      constant = accepted ? std::max(1e-8, constant / 2) : 2 * constant;
    }
    if (!accepted) {
      finish(m, Outcome::SearchExhausted);
      break;
    }
    const Iteration iteration{m.iterations() + 1, f_next, g_next.norm(), r, constant * r, d.norm(), probes, 0,
                              m.value - f_next,   0};
    m.x = x_next;
    g = g_next;
    m.value = f_next;
    m.gradient_norm = g.norm();
    if (note(m, options, iteration)) break;
  }
  return m;
}

}  // namespace unbend::optimize
