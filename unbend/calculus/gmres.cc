#include <algorithm>
#include <vector>

#include "unbend/base/error.h"
#include "unbend/calculus/krylov.h"

namespace unbend {
namespace {

using krylov::Cycle;

// Arnoldi from r with M on the right, its Hessenberg matrix made triangular by plane rotations; adds to it.x.
struct Gmres {
  krylov::Iteration& it;
  const int64_t restart;
  at::Tensor basis, z, update;  // basis [restart + 1, n]
  std::vector<std::vector<double>> r_columns;
  std::vector<double> cs, sn, g;

  Gmres(krylov::Iteration& iteration, int64_t steps) : it(iteration), restart(std::min(steps, it.a.columns())) {
    z = it.a.vector(it.a.columns());
    update = it.a.vector(it.a.columns());
    basis = at::zeros({restart + 1, it.a.columns()}, z.options());
  }

  // Makes basis row j + 1 orthogonal to those before, twice; its coefficients and, last, its norm.
  std::vector<double> orthogonalise(int64_t j) {
    const auto before = basis.narrow(0, 0, j + 1);
    at::Tensor w = basis.select(0, j + 1);
    const auto first = at::mv(before, w);
    w.addmv_(before.t(), first, 1, -1);
    const auto second = at::mv(before, w);
    w.addmv_(before.t(), second, 1, -1);
    const auto sum = (first + second).to(at::kCPU, at::kDouble);
    std::vector<double> h(sum.const_data_ptr<double>(), sum.const_data_ptr<double>() + j + 1);
    h.push_back(krylov::flat_norm(w));
    return h;
  }

  Cycle run(const at::Tensor& r, double size) {
    basis.select(0, 0).copy_(r).mul_(1 / size);
    r_columns.clear(), cs.clear(), sn.clear();
    g.assign(1, size);
    Cycle cycle{Cycle::End::Limit};
    double largest = 0;
    int64_t j = 0;
    while (j < restart && it.count < it.limit) {
      at::Tensor w = basis.select(0, j + 1);
      if (it.m) {
        it.m->push(basis.select(0, j), z);
        it.a.push(z, w);
      } else {
        it.a.push(basis.select(0, j), w);
      }
      const double before = krylov::flat_norm(w);
      if (!std::isfinite(before)) {
        cycle = {Cycle::End::Stop, Outcome::NonfiniteResult, "A gave values that are not finite"};
        break;
      }
      std::vector<double> h = orthogonalise(j);
      const double next = h.back();
      const bool invariant = next <= 10 * it.eps * before;  // the space holds A's images of all of itself
      if (!invariant) w.mul_(1 / next);
      ++it.count;
      for (int64_t i = 0; i < j; ++i) {
        const double upper = h[i];
        h[i] = cs[i] * upper + sn[i] * h[i + 1];
        h[i + 1] = -sn[i] * upper + cs[i] * h[i + 1];
      }
      const double pivot = std::hypot(h[j], invariant ? 0 : next);
      largest = std::max(largest, pivot);
      if (pivot <= 10 * it.eps * std::max(largest, before)) {
        cycle = {Cycle::End::Stop, Outcome::Breakdown, "A is singular on the space that it spans from the residual"};
        break;
      }
      cs.push_back(h[j] / pivot);
      sn.push_back(invariant ? 0 : next / pivot);
      h[j] = pivot;
      r_columns.push_back(std::move(h));
      g.push_back(-sn[j] * g[j]);
      g[j] *= cs[j];
      ++j;
      if (invariant || std::abs(g[j]) <= .5 * it.target) {
        cycle = {Cycle::End::Claims};
        break;
      }
    }
    add(j);
    return cycle;
  }

  // x += M V y with R y = g.
  void add(int64_t steps) {
    if (steps == 0) return;
    std::vector<double> y(g.begin(), g.begin() + steps);
    for (int64_t i = steps; i-- > 0;) {
      y[i] /= r_columns[i][i];
      for (int64_t k = 0; k < i; ++k) y[k] -= r_columns[i][k] * y[i];
    }
    const auto coefficients = at::tensor(y, at::TensorOptions().dtype(at::kDouble)).to(basis.options());
    update.zero_().addmv_(basis.narrow(0, 0, steps).t(), coefficients);
    if (it.m) {
      it.m->push(update, z);
      it.x.add_(z);
    } else {
      it.x.add_(update);
    }
  }
};

}  // namespace

SolveResult gmres(const LinearMap& a, const Tensors& b, const SolveOptions& options, int64_t restart) {
  krylov::check_system("gmres", a, b, options, /*square=*/true);
  require(restart >= 1, "gmres: restart must be at least 1, not {}", restart);
  const at::NoGradGuard no_gradients;
  krylov::Iteration it("gmres", a, b, options);
  if (auto done = it.immediate()) return *done;

  Gmres method(it, restart);
  at::Tensor r = it.a.vector(it.a.rows());
  double size = it.residual(r);
  if (!std::isfinite(size)) return it.nonfinite();
  constexpr int kIdle = 20;
  int idle = 0;
  while (size > it.target) {
    const double before = size;
    const Cycle cycle = method.run(r, size);
    size = it.residual(r);
    if (size <= it.target) break;
    if (cycle.end == Cycle::End::Stop) return it.finish(cycle.outcome, cycle.why);
    if (!std::isfinite(size)) return it.nonfinite();
    if (it.cancelled(size)) return it.finish(Outcome::Cancelled, "");
    if (cycle.end == Cycle::End::Claims && size > .5 * before)
      return it.finish(Outcome::Stagnated, "the rounding of the dtype keeps the residual from falling further");
    if (it.count >= it.limit) return it.exhausted();
    idle = size > .999 * before ? idle + 1 : 0;
    if (idle >= kIdle) {
      return it.finish(Outcome::Stagnated,
                       fmt::format("{} restarts without progress; a larger restart than {} may help", kIdle, restart));
    }
  }
  return it.converged();
}

}  // namespace unbend
