// Derivatives of solutions against differences, dense formulas and each other.
#include <gmock/gmock.h>

#include "tests/calculus/maps.h"
#include "tests/error_message.h"
#include "unbend/calculus/check.h"
#include "unbend/calculus/implicit.h"

namespace unbend::test {
namespace {

using testing::HasSubstr;

SolveOptions tight() {
  SolveOptions options;
  options.rtol = 1e-13;
  return options;
}

TEST(Inverse, IsTheInverseWithItsAdjoint) {
  Random random(1);
  for (const int64_t n : {5, 90}) {  // directly, and by gmres
    const Space space = flat_space(n);
    const LinearMap a =
        opaque(dense_map(at::eye(n, at::kDouble) + .3 / std::sqrt(n) * random_matrix(n, n, random, at::kDouble)));
    const LinearMap b = inverse(a, tight());
    EXPECT_LT(distance(to_dense(b), at::linalg_inv(to_dense(a))), 1e-9);
    EXPECT_TRUE(dot_test(b));
  }
  const LinearMap psd = well_conditioned(flat_space(80), random, true);
  EXPECT_TRUE(inverse(psd).has(Property::Psd));
  EXPECT_TRUE(dot_test(inverse(psd, tight())));
  const LinearMap singular = opaque(diagonal_map({numbers({0, 1})}));
  EXPECT_THAT(error_message(
                  [&] {
                    inverse(singular).push({numbers({1, 1})});
                  },
                  ErrorKind::Computation),
              HasSubstr("ill_conditioned"));
}

TEST(SolveDerivative, EqualsDifferencesAndIsAdjoint) {
  Random random(2);
  const Space space = random_space(random, at::kDouble);
  const int64_t n = space.dim();
  const LinearMap a =
      dense_map(2 * at::eye(n, at::kDouble) + .3 * random_matrix(n, n, random, at::kDouble), space, space);
  const LinearMap da = random_dense(space, space, random);
  const Tensors b = random_normals(space, random), db = random_normals(space, random),
                c = random_normals(space, random);
  const auto solution = [&](double h) {
    return at::linalg_solve(to_dense(a) + h * to_dense(da), flatten(b, space) + h * flatten(db, space));
  };
  const Tensors x = unflatten(solution(0), space);
  const Tensors dx = solve_push(a, x, da, db, tight());
  EXPECT_LT(distance(flatten(dx, space), (solution(1e-5) - solution(-1e-5)) / 2e-5), 1e-7);
  const SolvePull pull = solve_pull(a, x, c, tight());
  const double through_a = (to_dense(pull.a) * to_dense(da)).sum().item<double>();
  EXPECT_NEAR(inner(c, dx), through_a + inner(pull.b, db), 1e-9);
}

TEST(LeastSquaresDerivative, EqualsDifferencesAndIsAdjoint) {
  Random random(3);
  const Space x_space = flat_space(4), b_space = flat_space(9);
  const LinearMap a = random_dense(x_space, b_space, random), da = random_dense(x_space, b_space, random);
  const Tensors b = random_normals(b_space, random), db = random_normals(b_space, random),
                c = random_normals(x_space, random);
  const auto solution = [&](double h) {
    return at::mv(at::linalg_pinv(to_dense(a) + h * to_dense(da)), b[0] + h * db[0]);
  };
  const Tensors x{solution(0)};
  const Tensors dx = least_squares_push(a, b, x, da, db, tight());
  EXPECT_LT(distance(dx[0], (solution(1e-5) - solution(-1e-5)) / 2e-5), 1e-6);
  const SolvePull pull = least_squares_pull(a, b, x, c, tight());
  EXPECT_NEAR(inner(c, dx), (to_dense(pull.a) * to_dense(da)).sum().item<double>() + inner(pull.b, db), 1e-8);
}

// Kepler's equation x - e sin x = m, for a few pairs (e, m) at once.
Tensors kepler(const Tensors& theta, const Tensors& x) { return {x[0] - theta[0] * x[0].sin() - theta[1]}; }

Tensors kepler_solution(const Tensors& theta) {
  at::Tensor x = theta[1].clone();
  for (int i = 0; i < 60; ++i) x = x - (x - theta[0] * x.sin() - theta[1]) / (1 - theta[0] * x.cos());
  return {x};
}

TEST(Implicit, KeplersEquation) {
  const Tensors theta{numbers({.1, .5, .8}), numbers({1, 2, 3})}, x = kepler_solution(theta);
  const auto slope = 1 / (1 - theta[0] * x[0].cos());
  const LinearMap d = implicit_derivative(kepler, theta, x);
  EXPECT_LT(distance(d.push({at::zeros({3}, at::kDouble), at::ones({3}, at::kDouble)})[0], slope), 1e-12);
  EXPECT_LT(distance(d.push({at::ones({3}, at::kDouble), at::zeros({3}, at::kDouble)})[0], slope * x[0].sin()), 1e-12);
  EXPECT_TRUE(dot_test(d));
  const Function solution = implicit_function(kepler, kepler_solution);
  const CheckResult result = check_linearization(solution, theta);
  EXPECT_TRUE(result) << result.message;
  // Composed with something else.
  const Function composed = [&](const Tensors& t) -> Tensors {
    return {solution({t[0].sigmoid(), t[0].exp()})[0].square().sum()};
  };
  const CheckResult through = check_linearization(composed, {numbers({-.5, .2, .3})});
  EXPECT_TRUE(through) << through.message;
  EXPECT_THAT(error_message(
                  [&] {
                    implicit_derivative(kepler, theta, {numbers({1, 2})});
                  },
                  ErrorKind::Computation),
              HasSubstr("size"));
}

}  // namespace
}  // namespace unbend::test
