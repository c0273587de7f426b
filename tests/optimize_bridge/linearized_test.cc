#include "unbend/optimize/bridge/linearized.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include "unbend/base/error.h"
#include "unbend/optimize/objectives.h"

namespace unbend::optimize {
namespace {

at::Tensor rosenbrock(const Tensors& x) { return at::stack({1 - x[0][0], 10 * (x[1][0] - x[0][0] * x[0][0])}); }

// The same iterates as with hand-written derivatives.
TEST(Linearized, RosenbrockByHandAndByLinearize) {
  const Tensors like{at::zeros({1}, at::kDouble), at::zeros({1}, at::kDouble)};
  const Vector start = Vector::Map(std::vector<double>{-2, 2}.data(), 2);
  MinimizeOptions o;
  o.f_star = 0;
  for (const double p : {2., 4.}) {
    const Problem problem = gauss_newton_problem([](const Tensors& x) { return Tensors{rosenbrock(x)}; }, like, p);
    Residuals by_hand{2, 2, [](const Vector& x, Vector& u) { u << 1 - x[0], 10 * (x[1] - x[0] * x[0]); },
                      [](const Vector& x, Matrix& j) { j << -1, 0, -20 * x[0], 10; }};
    const Problem reference = power_problem(by_hand, p);
    EXPECT_LT((dense_hessian(problem, start) - dense_hessian(reference, start)).norm(),
              1e-9 * dense_hessian(reference, start).norm());
    const Minimum m = minimize(problem, start, o);
    EXPECT_TRUE(m.converged()) << m.message;
    EXPECT_LT(m.iterations(), 100);
  }
  const Problem exact =
      newton_problem([](const Tensors& x) { return Tensors{rosenbrock(x).square().sum() / 2}; }, like);
  const auto check = check_derivatives(exact, start);
  EXPECT_LT(check.gradient, 1e-7);
  EXPECT_LT(check.hessian, 1e-7);
  const Minimum m = minimize(exact, start, o);
  EXPECT_TRUE(m.converged()) << m.message;
  EXPECT_GT(m.products, 0);
}

TEST(Linearized, AFunctionMustGiveOneNumber) {
  const Tensors like{at::ones({3}, at::kDouble)};
  EXPECT_THROW(minimize(newton_problem([](const Tensors& x) { return Tensors{x[0] * 2}; }, like), Vector::Ones(3)),
               Error);
  EXPECT_THROW(newton_problem({}, {at::ones({2}, at::kLong)}), Error);
  EXPECT_LT((flatten(unflatten(Vector::LinSpaced(3, 0, 2), like)) - Vector::LinSpaced(3, 0, 2)).norm(), 1e-15);
}

}  // namespace
}  // namespace unbend::optimize
