#include <algorithm>

#include "unbend/base/error.h"
#include "unbend/calculus/algebra.h"
#include "unbend/calculus/krylov.h"

namespace unbend {
namespace {

using krylov::Cycle;

// Golub-Kahan bidiagonalisation from r, with the plane rotations that make its matrix triangular; adds to it.x.
struct Lsqr {
  krylov::Iteration& it;
  const double damping, condition_limit;
  double size = 0, condition = 0;  // estimates of |A| and |A| |A^-1| in the Frobenius norm
  at::Tensor u, v, w, of_u, of_v;

  Lsqr(krylov::Iteration& iteration, double lambda, double limit)
      : it(iteration), damping(lambda), condition_limit(limit) {
    for (at::Tensor* t : {&u, &of_u}) *t = it.a.vector(it.a.rows());
    for (at::Tensor* t : {&v, &w, &of_v}) *t = it.a.vector(it.a.columns());
  }

  static double normalise(at::Tensor& t) {
    const double length = krylov::flat_norm(t);
    if (length > 0) t.mul_(1 / length);
    return length;
  }

  double advance_u(double alpha) {  // beta u = A v - alpha u
    it.a.push(v, of_u);
    u.mul_(-alpha).add_(of_u);
    return normalise(u);
  }
  double advance_v(double beta) {  // alpha v = A^T u - beta v
    it.a.pull(u, of_v);
    v.mul_(-beta).add_(of_v);
    return normalise(v);
  }

  Cycle run(const at::Tensor& r) {
    const Cycle nonfinite{Cycle::End::Stop, Outcome::NonfiniteResult, "A gave values that are not finite"};
    u.copy_(r);
    const double start = normalise(u);
    v.zero_();
    double alpha = advance_v(0);
    if (!std::isfinite(alpha)) return nonfinite;
    if (alpha == 0) return {Cycle::End::Claims};  // A^T r = 0
    w.copy_(v);
    double phi_bar = start, rho_bar = alpha, squares = 0, inverse_squares = 0, damped = 0;
    while (it.count < it.limit) {
      const double beta = advance_u(alpha);
      squares += alpha * alpha + beta * beta + damping * damping;
      if (!std::isfinite(beta)) return nonfinite;
      alpha = beta > 0 ? advance_v(beta) : 0;
      if (!std::isfinite(alpha)) return nonfinite;

      const double rho_1 = std::hypot(rho_bar, damping);
      damped = std::hypot(damped, damping / rho_1 * phi_bar);
      phi_bar *= rho_bar / rho_1;
      const double rho = std::hypot(rho_1, beta), c = rho_1 / rho, s = beta / rho, theta = s * alpha;
      rho_bar = -c * alpha;
      const double phi = c * phi_bar;
      phi_bar *= s;
      inverse_squares += std::pow(krylov::flat_norm(w) / rho, 2);
      it.x.add_(w, phi / rho);
      w.mul_(-theta / rho).add_(v);
      ++it.count;

      size = std::max(size, std::sqrt(squares));
      condition = std::max(condition, std::sqrt(squares * inverse_squares));
      const double residual = std::hypot(phi_bar, damped), gradient = alpha * std::abs(s * phi);
      if (residual <= .5 * (it.target + it.rtol * size * krylov::flat_norm(it.x)) || alpha == 0 || beta == 0 ||
          gradient <= .5 * it.rtol * size * residual) {
        return {Cycle::End::Claims};
      }
      if (condition > condition_limit) {
        return {Cycle::End::Stop, Outcome::IllConditioned,
                fmt::format("the condition number is at least {:.2g}, above the limit of {:.2g}", condition,
                            condition_limit)};
      }
      if (gradient <= it.eps * size * residual) return {Cycle::End::Claims};
      if (it.count % 10 == 0 && it.cancelled(residual)) return {Cycle::End::Stop, Outcome::Cancelled};
    }
    return {Cycle::End::Limit};
  }
};

// With a start and a preconditioner: x = x0 + M y where y minimises |A M y - (b - A x0)|^2 + |lambda (x0 + M y)|^2.
SolveResult transformed(const LinearMap& a, const Tensors& b, const SolveOptions& options, const LsqrOptions& extra) {
  const Tensors x0 = options.x0.value_or(zeros(a.domain())), of_x0 = a.push(x0);
  Tensors rest;
  for (size_t i = 0; i < b.size(); ++i) rest.push_back(b[i] - of_x0[i]);
  SolveOptions plain = options;
  plain.x0.reset();
  plain.preconditioner.reset();
  plain.atol += krylov::relative_tolerance(options, krylov::work_type(a)) * std::max(0., norm(b) - norm(rest));
  LinearMap map = a;
  if (extra.damping > 0) {
    map = block_column({a, extra.damping * identity_map(a.domain())});
    for (const at::Tensor& t : x0) rest.push_back(t * -extra.damping);
  }
  if (options.preconditioner) map = map * *options.preconditioner;
  SolveResult result = lsqr(map, rest, plain, {.damping = 0, .condition_limit = extra.condition_limit});
  if (options.preconditioner) result.x = options.preconditioner->push(result.x);
  for (size_t i = 0; i < x0.size(); ++i) result.x[i] = result.x[i] + x0[i];
  Tensors r = a.push(result.x);
  for (size_t i = 0; i < b.size(); ++i) r[i] = b[i] - r[i];
  result.residual = norm(r);
  return result;
}

}  // namespace

SolveResult lsqr(const LinearMap& a, const Tensors& b, const SolveOptions& options, const LsqrOptions& extra) {
  krylov::check_system("lsqr", a, b, options, /*square=*/false);
  require(extra.damping >= 0 && std::isfinite(extra.damping), "lsqr: damping must be finite and not negative, not {}",
          extra.damping);
  const at::NoGradGuard no_gradients;
  krylov::Iteration it("lsqr", a, b, options);
  if (auto done = it.immediate()) return *done;
  if (options.x0 || options.preconditioner) return transformed(a, b, options, extra);

  const bool wide = krylov::work_type(a) == at::kDouble;
  Lsqr method(it, extra.damping, extra.condition_limit.value_or(wide ? 1e8 : 1e6));
  at::Tensor r = it.a.vector(it.a.rows()), gradient = it.a.vector(it.a.columns());
  double size = it.residual(r);
  while (true) {
    const double before = size;
    const Cycle cycle = method.run(r);
    size = it.residual(r);
    if (!std::isfinite(size)) return it.nonfinite();
    it.take(size);  // with damping, the best x need not have the smallest residual
    if (cycle.end == Cycle::End::Stop) return it.finish(cycle.outcome, cycle.why, method.condition);
    const double consistent = it.target + it.rtol * method.size * krylov::flat_norm(it.x);
    it.a.pull(r, gradient);
    gradient.sub_(it.x, extra.damping * extra.damping);
    const double slope = krylov::flat_norm(gradient);
    const double with_damping = std::hypot(size, extra.damping * krylov::flat_norm(it.x));
    if (size <= consistent) return it.finish(Outcome::Converged, "", method.condition);
    // What rounding makes of a residual; where the residual is more than that, its gradient may still be no more.
    const double noise = 10 * it.eps * (it.b_norm + method.size * krylov::flat_norm(it.x));
    if (slope <= it.rtol * method.size * with_damping || (with_damping > noise && slope <= noise * method.size))
      return it.finish(Outcome::Converged, "least squares: A^T r vanishes and r does not", method.condition);
    if (cycle.end == Cycle::End::Limit) return it.exhausted(method.condition);
    // The recurrences have lost contact with the residual. Without damping they can start again from it.
    if (extra.damping > 0 || size > .5 * before) {
      return it.finish(Outcome::Stagnated, "the rounding of the dtype keeps the residual from falling further",
                       method.condition);
    }
  }
}

}  // namespace unbend
