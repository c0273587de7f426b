#include <algorithm>

#include "unbend/calculus/krylov.h"

namespace unbend {
namespace {

using krylov::Cycle;
using krylov::flat_dot;

// Lanczos on M A from r, with the plane rotations that make its tridiagonal matrix triangular; adds to it.x.
struct Minres {
  krylov::Iteration& it;
  double size = 0, condition = 0;  // estimates of |A| and of its condition number, over all cycles
  at::Tensor r1, r2, y, v, w, w1, w2;

  explicit Minres(krylov::Iteration& iteration) : it(iteration) {
    for (at::Tensor* t : {&r1, &r2, &y, &v, &w, &w1, &w2}) *t = it.a.vector(it.a.columns());
  }

  double precondition() {  // y = M r2, and r2.y
    if (it.m) {
      it.m->push(r2, y);
    } else {
      y.copy_(r2);
    }
    return flat_dot(r2, y);
  }

  // Claims to be done where the estimate of |r| (in the norm of M) has fallen to `factor` of its start, or that of
  // |A r| / |A| |r| to rounding.
  Cycle run(const at::Tensor& r, double factor) {
    const Cycle indefinite{Cycle::End::Stop, Outcome::Indefinite,
                           "the preconditioner is not positive definite: r.Mr <= 0"};
    for (at::Tensor* t : {&r1, &w, &w1, &w2}) t->zero_();
    r2.copy_(r);
    const double start_squared = precondition();
    if (start_squared <= 0) return indefinite;
    const double start = std::sqrt(start_squared);
    double beta = start, old_beta = 0, phi_bar = start, d_bar = 0, epsilon = 0, cs = -1, sn = 0;
    double largest = 0, smallest = std::numeric_limits<double>::infinity();
    while (it.count < it.limit) {
      v.copy_(y).mul_(1 / beta);
      it.a.push(v, y);
      if (old_beta > 0) y.sub_(r1, beta / old_beta);
      const double alpha = flat_dot(v, y);
      y.sub_(r2, alpha / beta);
      std::swap(r1, r2);
      r2.copy_(y);
      size = std::max(size, std::hypot(alpha, beta * (old_beta > 0 ? 1 : 0)));
      old_beta = beta;
      const double squared = precondition();
      if (!std::isfinite(squared) || !std::isfinite(alpha))
        return {Cycle::End::Stop, Outcome::NonfiniteResult, "A gave values that are not finite"};
      if (squared < 0) return indefinite;
      beta = std::sqrt(squared);
      size = std::max(size, std::hypot(alpha, beta));

      const double old_epsilon = epsilon, delta = cs * d_bar + sn * alpha, g_bar = sn * d_bar - cs * alpha;
      epsilon = sn * beta;
      d_bar = -cs * beta;
      const double root = std::hypot(g_bar, d_bar), gamma = std::hypot(g_bar, beta);
      ++it.count;
      // A step that would add nothing: what is left of r lies in the null space.
      if (gamma <= 4 * it.eps * size) return {Cycle::End::Claims, Outcome::IllConditioned};
      cs = g_bar / gamma;
      sn = beta / gamma;
      const double phi = cs * phi_bar;
      phi_bar = sn * phi_bar;
      std::swap(w1, w2);
      std::swap(w2, w);
      w.copy_(v).sub_(w1, old_epsilon).sub_(w2, delta).mul_(1 / gamma);
      it.x.add_(w, phi);
      largest = std::max(largest, gamma);
      smallest = std::min(smallest, gamma);
      condition = std::max(condition, largest / smallest);

      if (phi_bar <= factor * start || beta <= 4 * it.eps * size || root <= 100 * it.eps * size)
        return {Cycle::End::Claims};
      if (largest / smallest >= .1 / it.eps) return {Cycle::End::Claims, Outcome::IllConditioned};
      if (it.count % 10 == 0 && it.cancelled(phi_bar)) return {Cycle::End::Stop, Outcome::Cancelled};
    }
    return {Cycle::End::Limit};
  }
};

}  // namespace

SolveResult minres(const LinearMap& a, const Tensors& b, const SolveOptions& options) {
  krylov::check_system("minres", a, b, options, /*square=*/true);
  const at::NoGradGuard no_gradients;
  krylov::Iteration it("minres", a, b, options);
  if (auto done = it.immediate()) return *done;

  Minres method(it);
  at::Tensor r = it.a.vector(it.a.rows()), ar = it.a.vector(it.a.rows());
  double size = it.residual(r);
  if (!std::isfinite(size)) return it.nonfinite();
  while (size > it.target) {
    const double before = size;
    const Cycle cycle = method.run(r, .5 * it.target / size);
    size = it.residual(r);
    if (cycle.end == Cycle::End::Stop) return it.finish(cycle.outcome, cycle.why, method.condition);
    if (!std::isfinite(size)) return it.nonfinite();
    if (size <= it.target) break;
    if (cycle.end == Cycle::End::Limit) return it.exhausted(method.condition);
    if (size <= .5 * before) continue;  // it has helped: once more from here
    it.a.push(r, ar);
    if (cycle.outcome == Outcome::IllConditioned || krylov::flat_norm(ar) <= std::sqrt(it.eps) * method.size * size) {
      return it.finish(Outcome::IllConditioned,
                       "A is singular to the precision of its dtype, and b has a part outside its range: x minimises "
                       "the residual",
                       method.condition);
    }
    return it.finish(Outcome::Stagnated, "the rounding of the dtype keeps the residual from falling further",
                     method.condition);
  }
  return it.finish(Outcome::Converged, "", method.condition);
}

}  // namespace unbend
