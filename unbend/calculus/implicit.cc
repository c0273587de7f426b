#include "unbend/calculus/implicit.h"

#include <ATen/core/grad_mode.h>

#include "unbend/base/error.h"
#include "unbend/calculus/algebra.h"

namespace unbend {
namespace {

Tensors solved(const char* what, SolveResult result) {
  if (!result.converged()) fail_computation("{}: {}", what, result.message);
  return std::move(result.x);
}

struct InverseKind : Kind {
  LinearMap of;
  SolveOptions options, transposed;
  InverseKind(const LinearMap& a, const SolveOptions& with)
      : Kind(a.codomain(), a.domain()), of(a), options(with), transposed(with) {
    if (with.preconditioner) transposed.preconditioner = adjoint(*with.preconditioner);
  }
  Tensors push(const Tensors& v) const override { return solved("inverse", solve(of, v, options)); }
  Tensors pull(const Tensors& c) const override { return solved("inverse", solve(adjoint(of), c, transposed)); }
};

Tensors combine(const Tensors& x, double factor, const Tensors& y) {  // x + factor y
  Tensors sum;
  for (size_t i = 0; i < x.size(); ++i) sum.push_back(x[i] + factor * y[i]);
  return sum;
}

// factor * left right^T as a map from right's space to left's.
LinearMap outer(double factor, const Tensors& left, const Space& codomain, const Tensors& right, const Space& domain) {
  const bool wide = domain.dtype() == at::kDouble || codomain.dtype() == at::kDouble;
  const auto type = wide ? at::kDouble : at::kFloat;
  return low_rank_map(factor * flatten(left, codomain).to(type).unsqueeze(1),
                      flatten(right, domain).to(type).unsqueeze(1), domain, codomain);
}

Tensors joined(const Tensors& a, const Tensors& b) {
  Tensors all = a;
  all.insert(all.end(), b.begin(), b.end());
  return all;
}

}  // namespace

LinearMap inverse(const LinearMap& a, const SolveOptions& options) {
  require(a.square(), "inverse needs a square map, not {} -> {}", to_string(a.domain()), to_string(a.codomain()));
  require(!options.x0, "inverse: x0 is not for many solves");
  const Properties kept = a.properties() & Properties{Property::Symmetric, Property::Psd,      Property::Nsd,
                                                      Property::Diagonal,  Property::Identity, Property::Orthogonal};
  return LinearMap(std::make_shared<InverseKind>(a, options), kept);
}

Tensors solve_push(const LinearMap& a, const Tensors& x, const LinearMap& da, const Tensors& db,
                   const SolveOptions& options) {
  require(da.domain() == a.domain() && da.codomain() == a.codomain(), "solve_push: A is {} -> {}, dA {} -> {}",
          to_string(a.domain()), to_string(a.codomain()), to_string(da.domain()), to_string(da.codomain()));
  check_vector(db, a.codomain(), "solve_push: db");
  return inverse(a, options).push(combine(db, -1, da.push(x)));
}

SolvePull solve_pull(const LinearMap& a, const Tensors& x, const Tensors& c, const SolveOptions& options) {
  check_vector(x, a.domain(), "solve_pull: x");
  const Tensors z = inverse(a, options).pull(c);
  return {outer(-1, z, a.codomain(), x, a.domain()), z};
}

Tensors least_squares_push(const LinearMap& a, const Tensors& b, const Tensors& x, const LinearMap& da,
                           const Tensors& db, const SolveOptions& options) {
  check_vector(db, a.codomain(), "least_squares_push: db");
  const Tensors r = combine(b, -1, a.push(x));
  const Tensors first = solved("least_squares_push", lsqr(a, combine(db, -1, da.push(x)), options));
  // (A^T A)^-1 w = A^+ (A^+T w).
  const Tensors y = solved("least_squares_push", lsqr(adjoint(a), da.pull(r), options));
  return combine(first, 1, solved("least_squares_push", lsqr(a, y, options)));
}

SolvePull least_squares_pull(const LinearMap& a, const Tensors& b, const Tensors& x, const Tensors& c,
                             const SolveOptions& options) {
  const Tensors r = combine(b, -1, a.push(x));
  const Tensors y = solved("least_squares_pull", lsqr(adjoint(a), c, options));
  const Tensors z = solved("least_squares_pull", lsqr(a, y, options));
  return {outer(-1, y, a.codomain(), x, a.domain()) + outer(1, r, a.codomain(), z, a.domain()), y};
}

LinearMap implicit_derivative(const Residual& f, const Tensors& theta, const Tensors& x, Properties jacobian,
                              const SolveOptions& options) {
  const size_t count = theta.size();
  const Function both = [&f, count](const Tensors& all) {
    const auto middle = all.begin() + static_cast<std::ptrdiff_t>(count);
    return f(Tensors(all.begin(), middle), Tensors(middle, all.end()));
  };
  const Linearization l = linearize(both, joined(theta, x));
  std::vector<size_t> of_theta, of_x;
  for (size_t i = 0; i < theta.size() + x.size(); ++i) (i < count ? of_theta : of_x).push_back(i);
  const LinearMap by_theta = restrict_domain(l.jacobian, of_theta), by_x = restrict_domain(l.jacobian, of_x);
  require(by_x.square(), "implicit_derivative: F gives {}, but x is {}", to_string(by_x.codomain()),
          to_string(by_x.domain()));
  return -1 * (inverse(declare(by_x, jacobian), options) * by_theta);
}

Function implicit_function(Residual f, Function solver, Properties jacobian, const SolveOptions& options) {
  return [f = std::move(f), solver = std::move(solver), jacobian, options](const Tensors& theta) {
    Tensors x, plain;
    {
      const at::NoGradGuard no_gradients;
      for (const at::Tensor& t : theta) plain.push_back(t.detach());
      for (const at::Tensor& t : solver(plain)) x.push_back(t.detach());
    }
    if (!at::GradMode::is_enabled()) return x;
    // x + D (theta - theta): the value of x with the derivative D.
    const LinearMap derivative = implicit_derivative(f, plain, x, jacobian, options);
    Tensors zero_change;
    for (size_t i = 0; i < theta.size(); ++i) zero_change.push_back(theta[i] - plain[i]);
    return combine(x, 1, derivative.push(zero_change));
  };
}

}  // namespace unbend
