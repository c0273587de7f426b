// Functional gradients against closed forms.
#include "unbend/calculus/functional.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>
#include <numbers>

namespace unbend::functional {
namespace {

using std::numbers::pi;

const Grid& unit() {
  static const Grid grid = gauss_legendre(40, 0, 1);
  return grid;
}

TEST(FunctionalGradient, OfLocalFunctionals) {
  const Fn x = identity();
  const Fn g = gradient([](const Fn& f) { return integrate(exp(f), unit()); }, -square(x));
  EXPECT_NEAR(g(1), .3678794412, 1e-10);
  EXPECT_NEAR(g(7), std::exp(-49.), 1e-15) << "callable off the grid";

  const Fn dirichlet = gradient([](const Fn& f) { return integrate(square(f) + square(nabla(f)), unit()); }, sin(x));
  EXPECT_NEAR(dirichlet(.4), 4 * std::sin(.4), 1e-12);

  const Fn boundary_only =
      gradient([](const Fn& f) { return integrate(f + nabla(f) + nabla(nabla(f)), unit()); }, sin(x));
  EXPECT_NEAR(boundary_only(.4), 1, 1e-12);

  const Fn pendulum = gradient([](const Fn& f) { return integrate(cos(f) + square(nabla(f)) / 2, unit()); }, sin(x));
  EXPECT_NEAR(pendulum(.3), .0042826611, 1e-10);
  EXPECT_NEAR(pendulum(1), .0958468431, 1e-10);
}

TEST(FunctionalGradient, OfSecondDerivatives) {
  // Elastic beam: integral of f''^2 / 2 has the gradient f''''.
  const Fn bend =
      gradient([](const Fn& f) { return integrate(square(nabla(nabla(f))) / 2, unit()); }, sin(2 * identity()));
  EXPECT_NEAR(bend(.3), 16 * std::sin(.6), 1e-11);
}

TEST(FunctionalGradient, OfTheMinimalSurfaceInBothForms) {
  const Grid plane = tensor_product({unit(), unit()});
  const Fn p = identity(real({2}));
  const Fn of_vector = component(p, 0) * component(p, 0) + component(p, 0) * square(component(p, 1));
  const Fn g = gradient([&](const Fn& u) { return integrate(sqrt(1 + dot(nabla(u), nabla(u))), plane); }, of_vector);
  EXPECT_NEAR(g(at::tensor({1., 2.}, at::kDouble)).item<double>(), .2177035353, 1e-10);

  const std::vector<Fn> xy = arguments(2);
  const Fn of_two = square(xy[0]) + xy[0] * square(xy[1]);
  const Fn h = gradient(
      [&](const Fn& u) {
        return integrate(sqrt(1 + square(nabla(u, 0)) + square(nabla(u, 1))), std::vector<Grid>{unit(), unit()});
      },
      of_two);
  EXPECT_NEAR(h(1, 2), .2177035353, 1e-10);
}

TEST(FunctionalGradient, OfANonLocalFunctional) {
  const std::vector<Fn> xy = arguments(2);
  const Functional energy = [&](const Fn& f) {
    return .5 * integrate(exp(xy[0] * xy[1]) * f(xy[0]) * f(xy[1]), std::vector<Grid>{unit(), unit()});
  };
  EXPECT_NEAR(gradient(energy, square(identity()))(.5), .4872127070, 1e-10);
}

// ---- Brachistochrone

const Functional& travel_time() {
  static const Grid grid = through(gauss_legendre(50, 0, 1), [](const at::Tensor& s) { return s.pow(3); });
  static const Functional time = [](const Fn& y) { return integrate(sqrt(1 + square(nabla(y))) / sqrt(-y), grid); };
  return time;
}

// y(x) on x = R (t - sin t), y = -R (1 - cos t). The last steps of Newton's iteration carry the derivatives of t(x).
Fn cycloid() {
  constexpr double kRadius = .5729170375;
  return leaf([](const at::Tensor& x) {
    const auto step = [&](const at::Tensor& t) {
      return t - (kRadius * (t - t.sin()) - x) / (kRadius * (1 - t.cos()));
    };
    at::Tensor t = at::full_like(x, 2.);
    for (int i = 0; i < 60; ++i) t = step(t).detach().clamp(1e-9, 2.5);
    for (int i = 0; i < 3; ++i) t = step(t);
    return -kRadius * (1 - t.cos());
  });
}

TEST(FunctionalGradient, OfTheBrachistochrone) {
  const Fn line = -identity();
  const Fn speed = sqrt(1 + square(nabla(line))) / sqrt(-line);
  EXPECT_NEAR(integrate(speed, tanh_sinh(4, 0, 1)).value(), 2 * std::sqrt(2), 1e-9);
  EXPECT_NEAR(travel_time()(line).value(), 2 * std::sqrt(2), 1e-5) << "x = s^3 suits the cycloid";
  const Fn on_line = gradient(travel_time(), line);
  EXPECT_NEAR(on_line(.5), std::pow(.5, -1.5) / (2 * std::sqrt(2)), 1e-10);

  EXPECT_NEAR(travel_time()(cycloid()).value(), 2.5819045128, 1e-9);
  EXPECT_NEAR(gradient(travel_time(), cycloid())(.37), 0, 1e-7) << "the end point's R is given to 10 digits";

  const Fn x = identity();
  const Fn eta = square(x) * sin(pi * x);
  EXPECT_NEAR(linearize(travel_time(), line).push(eta).value(), .1546273954, 1e-10);
  const double h = 1e-5;
  const double difference = (travel_time()(line + h * eta).value() - travel_time()(line - h * eta).value()) / (2 * h);
  EXPECT_NEAR(difference, .1546273954, 1e-9);
}

TEST(FunctionalGradient, InANaturalDirectionIsThePush) {
  const Fn x = identity();
  const Functional f = [](const Fn& y) { return integrate(exp(y) * square(nabla(y)) + sin(y), unit()); };
  const Fn y = x * x + .3 * sin(3 * x), eta = square(x) * square(1 - x);  // vanishes at both ends
  const Fn g = gradient(f, y);
  EXPECT_NEAR(linearize(f, y).push(eta).value(), integrate(g * eta, unit()).value(), 1e-12);
}

TEST(SecondVariation, IsTheDerivativeOfTheGradient) {
  const Fn x = identity();
  const Functional f = [](const Fn& y) { return integrate(square(square(y)) + y * square(nabla(y)), unit()); };
  const Fn y = sin(x) + 2, v = cos(2 * x);
  const Fn hessian = second_variation(f, y, v);
  const double h = 1e-5;
  const Fn ahead = gradient(f, y + h * v), behind = gradient(f, y - h * v);
  EXPECT_NEAR(hessian(.6), (ahead(.6) - behind(.6)) / (2 * h), 1e-8);
  // It is symmetric, on variations that vanish at the ends.
  const Fn a = square(x * (1 - x)), b = a * exp(x);
  EXPECT_NEAR(integrate(second_variation(f, y, a) * b, unit()).value(),
              integrate(second_variation(f, y, b) * a, unit()).value(), 1e-13);
}

TEST(FunctionalGradient, DiffersFromNodalGradientsByTheWeights) {
  const auto values = unit().nodes().sin().requires_grad_(true);
  // The table is a function of its nodal values; a local functional without derivatives sees nothing else.
  const auto sum = (unit().weights() * (values.exp() + values.pow(3))).sum();
  sum.backward();
  const Fn g = gradient([](const Fn& f) { return integrate(exp(f) + pow(f, 3), unit()); }, sin(identity()));
  EXPECT_TRUE(at::allclose(values.grad(), unit().weights() * g(unit().nodes()), 1e-12, 1e-14));
}

TEST(FunctionalGradient, OfSeveralFunctions) {
  const Fn x = identity();
  const FunctionalOfMany f = [](const std::vector<Fn>& u) { return integrate(u[0] * square(u[1]), unit()); };
  const std::vector<Fn> g = gradients(f, {sin(x), exp(x)});
  EXPECT_NEAR(g[0](.3), std::exp(.6), 1e-14);
  EXPECT_NEAR(g[1](.3), 2 * std::sin(.3) * std::exp(.3), 1e-14);
  const std::vector<Fn> none = gradients([](const std::vector<Fn>& u) { return integrate(u[1], unit()); }, {x, x});
  EXPECT_EQ(none[0](.3), 0) << "of a function that is not used";
}

TEST(FunctionalGradient, OfAGradientsNorm) {
  // G[f] = integral of (dF/df)^2 for F = integral of f^3 / 3: dF/df = f^2, dG/df = 4 f^3.
  const Functional f = [](const Fn& y) { return integrate(pow(y, 3) / 3, unit()); };
  const Functional g = [&](const Fn& y) { return integrate(square(gradient(f, y)), unit()); };
  EXPECT_NEAR(gradient(g, cos(identity()))(.4), 4 * std::pow(std::cos(.4), 3), 1e-13);
}

TEST(FunctionalGradient, OfAFunctionAppliedToItself) {
  // F[f] = integral of f(f(x)): push only, since the pull would need the inverse of f.
  const Functional twice = [](const Fn& f) { return integrate(f(f), unit()); };
  const Fn f = sin(identity()), v = cos(identity());
  const double h = 1e-5;
  const double difference = (twice(f + h * v).value() - twice(f - h * v).value()) / (2 * h);
  EXPECT_NEAR(linearize(twice, f).push(v).value(), difference, 1e-9);
}

TEST(BoundaryResidual, IsTheNaturalCondition) {
  const Fn x = identity();
  const Functional f = [](const Fn& y) { return integrate(exp(y) * square(nabla(y)), unit()); };
  const std::vector<Fn> residual = boundary_residual(f, sin(x));
  ASSERT_EQ(residual.size(), 1U);  // dL/dy' = 2 e^y y'
  EXPECT_NEAR(residual[0](1), 2 * std::exp(std::sin(1.)) * std::cos(1.), 1e-13);
  // With them the gradient gives the derivative in directions that move the ends.
  const Fn eta = cos(x);
  const double inside = integrate(gradient(f, sin(x)) * eta, unit()).value();
  const double ends = residual[0](1) * eta(1) - residual[0](0) * eta(0);
  EXPECT_NEAR(linearize(f, sin(x)).push(eta).value(), inside + ends, 1e-12);

  // A beam: integral of y''^2 / 2 leaves -y''' dy + y'' dy'.
  const std::vector<Fn> beam =
      boundary_residual([](const Fn& y) { return integrate(square(nabla(nabla(y))) / 2, unit()); }, sin(x));
  ASSERT_EQ(beam.size(), 2U);
  EXPECT_NEAR(beam[0](1), std::cos(1.), 1e-12);
  EXPECT_NEAR(beam[1](1), -std::sin(1.), 1e-12);
}

}  // namespace
}  // namespace unbend::functional
