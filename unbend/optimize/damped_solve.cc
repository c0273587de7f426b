#include "unbend/optimize/damped_solve.h"

#include <algorithm>

#include "unbend/base/error.h"

namespace unbend::optimize {
namespace {

template <class... F>
struct Overloaded : F... {
  using F::operator()...;
};
template <class... F>
Overloaded(F...) -> Overloaded<F...>;

}  // namespace

void DampedSolve::at(const Vector& x) {
  const Eigen::Index n = problem_.size;
  std::visit(Overloaded{[&](const ZeroCurvature&) {},
                        [&](const DenseCurvature& c) {
                          h_.resize(n, n);
                          c.hessian(x, h_);
                          require(h_.rows() == n && h_.cols() == n, "the Hessian must be {} x {}, not {} x {}", n, n,
                                  h_.rows(), h_.cols());
                          if (!c.whole) return;
                          const double skew = (h_ - h_.transpose()).cwiseAbs().maxCoeff();
                          require(!(skew > 1e-8 * h_.cwiseAbs().maxCoeff()),
                                  "the Hessian is not symmetric: elements differ by {:.3g} from their mirror", skew);
                        },
                        [&](const DiagonalCurvature& c) {
                          diagonal_.resize(n);
                          c.diagonal(x, diagonal_);
                          require(diagonal_.size() == n, "the diagonal must have {} elements, not {}", n,
                                  diagonal_.size());
                        },
                        [&](const LowRankCurvature& c) {
                          c.factor(x, h_, shift_);
                          require(h_.rows() == n, "the low-rank factor must have {} rows, not {}", n, h_.rows());
                          thin_factor(h_, q_, small_);
                        },
                        [&](const ProductCurvature& c) { product_ = c.at(x); }},
             problem_.curvature);
}

bool DampedSolve::solve(double lambda, const Vector& g, Vector& d) {
  return std::visit(
      Overloaded{[&](const ZeroCurvature&) {
                   d = g / -lambda;
                   return true;
                 },
                 [&](const DenseCurvature&) {
                   work_ = h_;
                   work_.diagonal().array() += lambda;
                   if (!factorise(work_)) return false;
                   d = -g;
                   solve_factorised(work_, d);
                   return true;
                 },
                 [&](const DiagonalCurvature&) {
                   const auto damped = diagonal_.array() + lambda;
                   if (!(damped > 0).all()) return false;
                   d = -g.array() / damped;
                   return true;
                 },
                 [&](const LowRankCurvature&) {
                   // Inside the range of U: (R R' + lambda) there; outside: lambda. Nothing is inverted
                   // or cancels.
                   const double damping = lambda + shift_;
                   Matrix damped = small_;
                   damped.diagonal().array() += damping;
                   if (!(damping > 0) || !factorise(damped)) return false;
                   const Vector inside = transposed_times(q_, g);
                   Vector solved = inside;
                   solve_factorised(damped, solved);
                   Vector outside = g - times(q_, inside);
                   outside -=
                       times(q_, transposed_times(q_, outside));  // what rounding left inside would grow by 1/lambda
                   d = -times(q_, solved) - outside / damping;
                   return true;
                 },
                 [&](const ProductCurvature&) { return conjugate_gradients(lambda, g, d); }},
      problem_.curvature);
}

bool DampedSolve::conjugate_gradients(double lambda, const Vector& g, Vector& d) {
  const double norm = g.norm(), tolerance = std::min(.1, std::sqrt(norm)) * norm;
  d = Vector::Zero(g.size());
  Vector r = -g, p = r;
  double rr = r.squaredNorm();
  for (Eigen::Index i = 0; i < 2 * g.size() + 20 && std::sqrt(rr) > tolerance; ++i) {
    const Vector ap = product_(p) + lambda * p;
    ++products_;
    const double curvature = p.dot(ap);
    if (!(curvature > 0)) return false;
    const double alpha = rr / curvature;
    d += alpha * p;
    r -= alpha * ap;
    const double next = r.squaredNorm();
    p = r + next / rr * p;
    rr = next;
  }
  return std::isfinite(rr);
}

std::string_view name(Outcome outcome) {
  constexpr std::string_view kNames[] = {"converged",       "value_reached",    "rounding",
                                         "iteration_limit", "search_exhausted", "stopped"};
  return kNames[static_cast<std::size_t>(outcome)];
}

double check_start(const Problem& problem, const Vector& start, const MinimizeOptions& options, Vector& g) {
  require(problem.size > 0, "the problem has no variables");
  require(problem.evaluate != nullptr, "the problem has no function");
  require(start.size() == problem.size, "the start must have {} numbers, not {}", problem.size, start.size());
  require(start.allFinite(), "the start is not finite");
  require(options.gamma0 > 0 && std::isfinite(options.gamma0), "gamma0 must be positive, not {}", options.gamma0);
  require(options.gradient_tolerance >= 0 && !std::isnan(options.value_tolerance),
          "the tolerances must be numbers, of the gradient not negative");
  require(options.max_probes > 0 && options.max_iterations >= 0, "limits of iterations and probes must be positive");
  g.resize(problem.size);
  const double f = problem.evaluate(start, g);
  require(g.size() == problem.size, "the gradient must have {} numbers, not {}", problem.size, g.size());
  require(std::isfinite(f) && std::isfinite(g.norm()), "the function or its gradient is not finite at the start");
  return f;
}

void finish(Minimum& m, Outcome outcome) {
  m.outcome = outcome;
  switch (outcome) {
    case Outcome::Converged: m.message = "the gradient is small enough"; break;
    case Outcome::ValueReached: m.message = "the least value is reached"; break;
    case Outcome::Rounding:
      m.message = fmt::format("float64 does not let f fall further; |g| is {:.3g}", m.gradient_norm);
      break;
    case Outcome::IterationLimit: {
      const bool falling = m.trace.size() > 10 && m.gradient_norm < .9 * m.trace[m.trace.size() / 2].gradient_norm;
      m.message = fmt::format("the limit of iterations is reached with |g| {:.3g}, {}", m.gradient_norm,
                              falling ? "which still falls: allow more"
                                      : "which falls no longer: f may have no minimum, or H is too far off");
      break;
    }
    case Outcome::SearchExhausted:
      m.message = "no step was accepted: check gradient and Hessian against finite differences";
      break;
    case Outcome::Stopped: m.message = "stopped by the caller"; break;
  }
}

bool stops(Minimum& m, const MinimizeOptions& o) {
  if (m.gradient_norm <= o.gradient_tolerance) return finish(m, Outcome::Converged), true;
  if (m.value - o.f_star <= o.value_tolerance) return finish(m, Outcome::ValueReached), true;
  if (m.iterations() >= o.max_iterations) return finish(m, Outcome::IterationLimit), true;
  return false;
}

bool note(Minimum& m, const MinimizeOptions& o, const Iteration& iteration) {
  m.trace.push_back(iteration);
  m.probes += iteration.probes;
  m.products += iteration.products;
  if (!o.callback || o.callback(iteration, m.x)) return false;
  finish(m, Outcome::Stopped);
  return true;
}

}  // namespace unbend::optimize
