#include "unbend/base/error.h"
#include "unbend/calculus/krylov.h"

namespace unbend {

SolveResult cg(const LinearMap& a, const Tensors& b, const SolveOptions& options, double quadratic_tolerance) {
  using krylov::flat_dot;
  krylov::check_system("cg", a, b, options, /*square=*/true);
  require(quadratic_tolerance >= 0, "cg: quadratic_tolerance must not be negative, as {} is", quadratic_tolerance);
  const at::NoGradGuard no_gradients;
  krylov::Iteration it("cg", a, b, options);
  if (auto done = it.immediate()) return *done;

  const int64_t n = it.a.columns();
  at::Tensor r = it.a.vector(n), z = it.m ? it.a.vector(n) : r, ap = it.a.vector(n), truth = it.a.vector(n);
  double size = it.residual(r);
  if (!std::isfinite(size)) return it.nonfinite();
  if (size <= it.target) return it.converged();
  double q = -flat_dot(it.x, it.b) - flat_dot(it.x, r);  // Q = x.Ax - 2 b.x
  double last_start = std::numeric_limits<double>::infinity();

  const auto precondition = [&] {
    if (it.m) it.m->push(r, z);
    return flat_dot(r, z);
  };
  double rz = precondition();
  at::Tensor p = z.clone();
  double largest = 0;  // curvature p.Ap / p.p seen so far
  while (it.count < it.limit) {
    if (!std::isfinite(rz)) return it.nonfinite();
    if (rz <= 0) return it.finish(Outcome::Indefinite, "the preconditioner is not positive definite: r.Mr <= 0");
    it.a.push(p, ap);
    const double pap = flat_dot(p, ap), curvature = pap / flat_dot(p, p);
    if (!std::isfinite(curvature)) return it.nonfinite();
    largest = std::max(largest, std::abs(curvature));
    if (largest == 0) {  // the first direction: either A p = 0 or p.Ap = 0 with A p elsewhere
      if (krylov::flat_norm(ap) > 0) return it.finish(Outcome::Indefinite, "p.Ap = 0 for a direction with A p != 0");
      return it.finish(Outcome::IllConditioned, "A p = 0 for a direction of the residual: A is singular");
    }
    if (curvature <= 4 * it.eps * largest) {
      it.residual(truth);
      if (curvature < -100 * it.eps * largest)
        return it.finish(Outcome::Indefinite, fmt::format("p.Ap / p.p = {:.3g} for a direction", curvature));
      return it.finish(Outcome::IllConditioned,
                       fmt::format("p.Ap / p.p = {:.3g} where it has been {:.3g}: A is singular to the precision of "
                                   "its dtype, and b has a part outside its range",
                                   curvature, largest));
    }
    const double alpha = rz / pap;
    it.x.add_(p, alpha);
    r.sub_(ap, alpha);
    ++it.count;
    size = krylov::flat_norm(r);
    if (!std::isfinite(size)) return it.nonfinite();
    q -= alpha * rz;

    if (size <= it.target || it.count % 10 == 0) {
      const double real = it.residual(truth);
      if (!std::isfinite(real)) return it.nonfinite();
      if (real <= it.target) return it.converged();
      if (it.cancelled(real)) return it.finish(Outcome::Cancelled, "");
      const bool lost = size <= it.target || krylov::flat_norm(r.sub_(truth)) > .5 * real;
      r.copy_(truth);
      if (lost) {
        if (real > .5 * last_start)
          return it.finish(Outcome::Stagnated, "the rounding of the dtype keeps the residual from falling further");
        last_start = real;
        rz = precondition();
        p.copy_(z);
        continue;
      }
    }
    if (quadratic_tolerance > 0 && q < 0 && static_cast<double>(it.count) * alpha * rz < -q * quadratic_tolerance) {
      it.residual(truth);
      return it.finish(Outcome::Converged, "by the decrease of x.Ax - 2 b.x");
    }
    const double next = precondition();
    p.mul_(next / rz).add_(z);
    rz = next;
  }
  const double real = it.residual(truth);
  return real <= it.target ? it.converged() : it.exhausted();
}

}  // namespace unbend
