#include "unbend/optimize/curves.h"

#include <gtest/gtest.h>

#include <cmath>

#include "unbend/base/error.h"
#include "unbend/base/random.h"

namespace unbend::optimize {
namespace {

TEST(Curves, DerivativesAndParametersComeBack) {
  const std::vector<std::pair<std::string, Vector>> cases{
      {"linear", Vector{{2, -1}}},        {"exponential", Vector{{1.5, .6, -.3}}},
      {"power", Vector{{.7, 1.8, .5}}},   {"saturation", Vector{{3, 1.2}}},
      {"logistic", Vector{{4, 2.5, .4}}}, {"gaussian", Vector{{2, 2.2, .6, .3}}}};
  Random random(1);
  for (const auto& [curve, truth] : cases) {
    Matrix x(80, 1);
    for (double& value : x.reshaped()) value = .1 + 4 * random.uniform();
    const Residuals zero = curve_residuals(curve, x, Vector::Zero(80));
    Vector y(80);
    zero.value(truth, y);
    y *= std::sqrt(80.);
    const Residuals r = curve_residuals(curve, x, y);
    ASSERT_EQ(std::ssize(curve_parameters(curve, 1)), truth.size());
    const Vector near = truth + .1 * Vector::Ones(truth.size());
    const auto check = check_derivatives(power_problem(r, 2, Hessian::Exact), near);
    EXPECT_LT(check.gradient, 1e-6) << curve;
    EXPECT_LT(check.hessian, 1e-5) << curve;
    MinimizeOptions o;
    o.gradient_tolerance = 1e-10;
    for (const auto hessian : {Hessian::GaussNewton, Hessian::Exact}) {
      const Minimum m = minimize(power_problem(r, 2, hessian), curve_start(curve, x, y), o);
      EXPECT_TRUE(m.converged()) << curve << ": " << m.message;
      EXPECT_LT((m.x - truth).norm(), 1e-5) << curve;
      EXPECT_LT(standard_errors(r, m.x).maxCoeff(), 1e-4) << curve;
    }
  }
  EXPECT_THROW(curve_residuals("spline", Matrix::Ones(2, 1), Vector::Ones(2)), Error);
  EXPECT_THROW(curve_residuals("power", -Matrix::Ones(2, 1), Vector::Ones(2)), Error);
  EXPECT_THROW(curve_residuals("gaussian", Matrix::Ones(2, 2), Vector::Ones(2)), Error);
}

TEST(Curves, StandardErrorsOfALine) {  // against the formula for a mean: s / sqrt(m)
  const Vector y{{1, 2, 3, 4, 10}};
  const Residuals r = curve_residuals("linear", Matrix::Zero(5, 1), y);
  EXPECT_TRUE(std::isinf(standard_errors(r, Vector{{0, 4}})[0]));  // a column of zeros says nothing
}

}  // namespace
}  // namespace unbend::optimize
