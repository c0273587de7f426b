#include "unbend/calculus/krylov.h"

#include <algorithm>

#include "unbend/base/error.h"

namespace unbend::krylov {
namespace {

const char* advice(Outcome outcome) {
  switch (outcome) {
    case Outcome::Converged: return "";
    case Outcome::MaxIterations: return "allow more iterations, give a preconditioner, or ask for less (rtol)";
    case Outcome::Indefinite: return "use minres for symmetric maps, or add a shift or damping";
    case Outcome::Breakdown: return "use lsqr, or add a shift";
    case Outcome::Stagnated: return "use float64, a preconditioner, or a larger rtol";
    case Outcome::IllConditioned: return "add damping or a shift, or take x as it is where small residuals suffice";
    case Outcome::NonfiniteInput: return "look at the arguments";
    case Outcome::NonfiniteResult: return "look at where A was linearized, and at the sizes of its entries";
    case Outcome::Cancelled: return "x is the best so far";
  }
  return "";
}

bool finite(const Tensors& x) {
  return std::ranges::all_of(x, [](const at::Tensor& t) { return at::isfinite(t).all().item<bool>(); });
}

std::optional<FlatMap> optional_map(const std::optional<LinearMap>& m, at::ScalarType type) {
  if (!m) return std::nullopt;
  return FlatMap(*m, type);
}

}  // namespace

void check_system(const char* method, const LinearMap& a, const Tensors& b, const SolveOptions& options, bool square) {
  require(!square || a.square(), "{} needs a square map, not {} -> {}: use lsqr", method, to_string(a.domain()),
          to_string(a.codomain()));
  check_vector(b, a.codomain(), fmt::format("{}: the right-hand side", method));
  require(options.rtol.value_or(0) >= 0 && options.atol >= 0, "{}: rtol {} and atol {} must not be negative", method,
          options.rtol.value_or(0), options.atol);
  require(options.max_iterations >= 0, "{}: max_iterations must not be negative, as {} is", method,
          options.max_iterations);
  if (options.x0) check_vector(*options.x0, a.domain(), fmt::format("{}: x0", method));
  if (const auto& m = options.preconditioner) {
    require(m->square() && m->domain() == a.domain(), "{}: the preconditioner maps {} -> {}, expected {} -> itself",
            method, to_string(m->domain()), to_string(m->codomain()), to_string(a.domain()));
  }
}

SolveResult report(const char* method, Outcome outcome, const std::string& why, Tensors x, int64_t iterations,
                   double residual, double b_norm, double condition) {
  SolveResult result{std::move(x), outcome, iterations, residual, condition};
  result.message = fmt::format("{} {} after {} iterations, residual {:.3g} of {:.3g}", method, name(outcome),
                               iterations, residual, b_norm);
  if (!why.empty()) result.message += ": " + why;
  if (outcome != Outcome::Converged) result.message += std::string("; ") + advice(outcome);
  return result;
}

int64_t iteration_limit(const SolveOptions& options, int64_t dimension) {
  return options.max_iterations > 0 ? options.max_iterations : std::min<int64_t>(2 * dimension + 20, 10000);
}

double relative_tolerance(const SolveOptions& options, at::ScalarType type) {
  return options.rtol.value_or(type == at::kDouble ? 1e-8 : 1e-5);
}

Iteration::Iteration(const char* method, const LinearMap& map, const Tensors& rhs, const SolveOptions& options)
    : a(map, work_type(map)),
      m(optional_map(options.preconditioner, work_type(map))),
      eps(epsilon(work_type(map))),
      rtol(relative_tolerance(options, work_type(map))),
      limit(iteration_limit(options, a.columns())),
      method_(method),
      map_(map),
      options_(options) {
  b = a.vector(a.rows());
  x = a.vector(a.columns());
  best_ = a.vector(a.columns());
  flatten_into(rhs, map.codomain(), b);
  if (options.x0) flatten_into(*options.x0, map.domain(), x);
  b_norm = flat_norm(b);
  target = options.atol + rtol * b_norm;
}

std::optional<SolveResult> Iteration::immediate() {
  if (!std::isfinite(b_norm)) {
    return finish(Outcome::NonfiniteInput, "the right-hand side is not finite, or so large that its norm overflows");
  }
  if (options_.x0 && !finite(*options_.x0)) return finish(Outcome::NonfiniteInput, "x0 is not finite");
  if (b_norm == 0) {
    x.zero_();
    take(0);
    return converged();
  }
  return std::nullopt;
}

double Iteration::residual(at::Tensor& r) {
  a.push(x, r);
  r.neg_().add_(b);
  const double size = flat_norm(r);
  if (size < best_residual_) take(size);  // never NaN
  return size;
}

void Iteration::take(double residual) {
  best_residual_ = residual;
  best_.copy_(x);
}

SolveResult Iteration::finish(Outcome outcome, const std::string& why, double condition) const {
  return report(method_, outcome, why, unflatten(best_, map_.domain()), count,
                std::isfinite(best_residual_) ? best_residual_ : b_norm, b_norm, condition);
}

SolveResult Iteration::exhausted(double condition) const {
  return finish(Outcome::MaxIterations, fmt::format("the limit of {} iterations came first", limit), condition);
}

}  // namespace unbend::krylov
