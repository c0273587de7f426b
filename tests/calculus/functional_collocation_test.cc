// Integral equations with known solutions.
#include "unbend/calculus/collocation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>
#include <numbers>

#include "tests/error_message.h"
#include "unbend/calculus/dense.h"

namespace unbend::functional {
namespace {

const Grid& unit() {
  static const Grid grid = gauss_legendre(24, 0, 1);
  return grid;
}
double largest_error(const Fn& u, const std::function<at::Tensor(const at::Tensor&)>& exact) {
  const auto x = at::linspace(0, 1, 41, at::kDouble);
  return (u(x) - exact(x)).abs().max().item<double>();
}

TEST(Equations, Fredholm) {
  const auto xy = arguments(2);
  const Functional residual = [&](const Fn& f) {
    return f - integrate(xy[0] * xy[1] * f(xy[1]), 1, unit()) - identity();
  };
  const EquationSolution s = solve_equation(residual, {legendre_basis(8, 0, 1), unit()});
  EXPECT_EQ(s.outcome, Outcome::Converged);
  EXPECT_LT(largest_error(s.u, [](const at::Tensor& x) { return 1.5 * x; }), 1e-13);
}

TEST(Equations, IntegroDifferential) {
  // u' = 1 - integral of u from 0, u(0) = 0: sin x
  const Functional residual = [](const Fn& u) { return nabla(u) - 1 + antiderivative(u, 0, 1); };
  const Collocation where{legendre_basis(16, 0, 1), unit(), {[](const Fn& u) { return value_at(u, 0); }}};
  const EquationSolution s = solve_equation(residual, where);
  EXPECT_LT(largest_error(s.u, [](const at::Tensor& x) { return x.sin(); }), 1e-13);
}

TEST(Equations, NonlinearByNewton) {
  // u = x - 1/4 + integral of t u(t)^2: u = x
  const Functional hammerstein = [](const Fn& u) {
    return u - identity() + .25 - integrate(identity() * square(u), unit());
  };
  const EquationSolution s = solve_equation(hammerstein, {legendre_basis(6, 0, 1), unit()});
  EXPECT_EQ(s.outcome, Outcome::Converged);
  EXPECT_LT(largest_error(s.u, [](const at::Tensor& x) { return x; }), 1e-12);
  ASSERT_GE(s.residuals.size(), 3U);
  // u'' = u^2 6, u(0) = 1, u(1) = 1/4: (1 + x)^-2
  const Collocation where{
      legendre_basis(22, 0, 1),
      gauss_legendre(40, 0, 1),
      {[](const Fn& u) { return value_at(u, 0) - 1; }, [](const Fn& u) { return value_at(u, 1) - .25; }}};
  EquationOptions options;
  options.tolerance = 1e-11;
  const EquationSolution t =
      solve_equation([](const Fn& u) { return nabla(nabla(u)) - 6 * square(u); }, where, options);
  EXPECT_LT(largest_error(t.u, [](const at::Tensor& x) { return (1 + x).pow(-2); }), 1e-10);
}

TEST(Collocate, VolterraHasItsSingularValues) {
  const auto volterra = [](const Fn& f) { return antiderivative(f, 0, 1, 30); };
  const LinearMap map = collocate(volterra, {legendre_basis(24, 0, 1), gauss_legendre(30, 0, 1)});
  const auto values = std::get<1>(at::linalg_svd(to_dense(map)));
  for (int k = 1; k <= 3; ++k) EXPECT_NEAR(values[k - 1].item<double>(), 2 / ((2 * k - 1) * std::numbers::pi), 1e-12);
  // The map's adjoint is the operator's: <V f, g> = <f, V* g>.
  const LinearMap adjoint = collocate([](const Fn& f) { return antiderivative(f, 0, 1, 30, false); },
                                      {legendre_basis(24, 0, 1), gauss_legendre(30, 0, 1)});
  const Basis basis = legendre_basis(24, 0, 1);
  const auto phi =
      basis.functions(gauss_legendre(30, 0, 1).nodes()) * gauss_legendre(30, 0, 1).weights().sqrt().unsqueeze(1);
  EXPECT_TRUE(at::allclose(at::matmul(phi.t(), to_dense(map)).slice(0, 0, 20).slice(1, 0, 20),
                           at::matmul(phi.t(), to_dense(adjoint)).t().slice(0, 0, 20).slice(1, 0, 20), 1e-12, 1e-12));
}

TEST(Collocate, AgreesWithTheFunctionalPush) {
  const auto xy = arguments(2);
  const Functional op = [&](const Fn& u) {
    return exp(u) + integrate(cos(xy[0] * xy[1]) * square(u(xy[1])), 1, unit());
  };
  const Basis basis = legendre_basis(5, 0, 1);
  const auto c = at::tensor({.3, -.2, .5, .1, 0.}, at::kDouble), v = at::tensor({1., 2., -1., .5, 3.}, at::kDouble);
  const Fn push = functional::linearize(op, combination(basis, c)).push(combination(basis, v));
  const auto tape = at::zeros({5}, at::kDouble).requires_grad_(true);
  const at::Tensor values = op(combination(basis, c + tape))(unit().nodes());
  const auto u = at::zeros_like(values).requires_grad_(true);
  const auto pulled = torch::autograd::grad({values}, {tape}, {u}, true, true)[0];
  const auto pushed = torch::autograd::grad({pulled}, {u}, {v})[0];
  EXPECT_TRUE(at::allclose(push(unit().nodes()), pushed, 1e-12, 1e-12));
}

TEST(Collocate, RefusesWhatIsNoEquation) {
  const Collocation where{legendre_basis(5, 0, 1), unit()};
  EXPECT_THAT(error_message([&] { collocate([](const Fn& u) { return integrate(u, unit()); }, where); }),
              testing::HasSubstr("not R -> R"));
  Collocation bad = where;
  bad.conditions = {[](const Fn& u) { return u; }};
  EXPECT_THAT(error_message([&] { collocate([](const Fn& u) { return u; }, bad); }),
              testing::HasSubstr("a condition is"));
}

}  // namespace
}  // namespace unbend::functional
