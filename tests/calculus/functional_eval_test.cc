// Building and evaluating expressions: sharing, batches, gradients, what is refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>
#include <limits>

#include "tests/error_message.h"
#include "unbend/calculus/functional.h"

namespace unbend::functional {
namespace {

using testing::HasSubstr;

Fn counted(int& calls, std::int64_t* points = nullptr) {
  return leaf([&calls, points](const at::Tensor& x) {
    ++calls;
    if (points) *points += x.size(0);
    return x.sin();
  });
}

TEST(Expressions, ThatAreEqualAreOne) {
  const Fn f = sin(identity()), g = exp(identity());
  EXPECT_TRUE((f * g + 2).is(f * g + 2));
  EXPECT_TRUE(nabla(f * g).is(nabla(f * g)));
  EXPECT_FALSE((f * g).is(f + g));
  EXPECT_FALSE(pow(f, 2).is(pow(f, 3)));
  EXPECT_FALSE(expand(f, {2}).is(expand(f, {3})));
  const std::vector<Fn> xy = arguments(2);
  EXPECT_FALSE(xy[0].is(xy[1]));
  EXPECT_FALSE(xy[0].is(arguments(3)[0]));
}

TEST(Expressions, DropZeros) {
  const Fn f = sin(identity());
  EXPECT_TRUE((f + 0.).is(f));
  EXPECT_TRUE((f * 1.).is(f));
  EXPECT_TRUE((f * 0.).is(nabla(Fn(3.) + 0. * f)));
  EXPECT_TRUE(linearize([](const Fn& y) { return step(y); }, f).push(f).is(f * 0.));
}

TEST(Evaluation, ComputesEachPartOnce) {
  int f_calls = 0, g_calls = 0;
  const Fn f = counted(f_calls), g = counted(g_calls);
  Fn h = identity();
  constexpr int kDepth = 29;
  for (int i = 0; i < kDepth; ++i) h = f(h) + g(h);
  EXPECT_TRUE(std::isfinite(h(.1)));
  EXPECT_EQ(f_calls + g_calls, 2 * kDepth);  // 2^30 - 2 without sharing
}

TEST(Evaluation, SharesValuesBetweenDerivatives) {
  int calls = 0;
  const Fn f = counted(calls);
  const Fn all = f + nabla(f) * nabla(nabla(f)) + nabla(nabla(nabla(f)));
  EXPECT_NEAR(all(.3), std::sin(.3) - std::cos(.3) * std::sin(.3) - std::cos(.3), 1e-14);
  EXPECT_EQ(calls, 1);
}

TEST(Evaluation, OfAProductNeedsNoPairs) {
  int calls = 0;
  std::int64_t points = 0;
  const Fn f = counted(calls, &points);
  const std::vector<Fn> xy = arguments(2);
  const Grid grid = gauss_legendre(100, 0, 1);
  integrate(exp(xy[0] * xy[1]) * f(xy[0]) * f(xy[1]), std::vector<Grid>{grid, grid}).value();
  EXPECT_EQ(points, 200);
}

TEST(Evaluation, TakesAnyBatches) {
  const std::vector<Fn> xy = arguments(2);
  const Fn f = leaf([](const Tensors& x) { return Tensors{x[0] * 10 + x[1]}; }, FnType{Spec{}, {Spec{}, Spec{}}});
  const auto x = at::arange(3, at::kDouble).view({3, 1}), y = at::arange(4, at::kDouble);
  EXPECT_TRUE(at::equal(f(Tensors{x, y})[0], x * 10 + y));
  EXPECT_TRUE(at::equal(xy[1](Tensors{x, y})[0], y.expand({3, 4})));
  EXPECT_TRUE(at::equal(nabla(f, 0)(Tensors{x, y})[0], at::full({3, 4}, 10., at::kDouble)));
  EXPECT_TRUE(at::equal(nabla(f * f, 1)(Tensors{x, y})[0], 2 * (x * 10 + y)));
  const Fn cross = nabla(nabla(exp(xy[0] * xy[1]), 0), 1);  // (1 + x y) e^(x y)
  EXPECT_TRUE(at::allclose(cross(Tensors{x, y})[0], (1 + x * y) * (x * y).exp(), 1e-13, 0));
}

TEST(Evaluation, GivesGradientsOfPointsAndParameters) {
  const auto theta = at::tensor({1.5, .5}, at::kDouble).requires_grad_(true);
  const Fn y = leaf([theta](const at::Tensor& x) { return theta[0] * (theta[1] * x).sin(); }, {}, {},
                    {.name = "wave", .parameters = {theta}});
  const Grid grid = gauss_legendre(30, 0, 1);
  const at::Tensor energy = integrate(square(nabla(y)), grid).tensor();  // a^2 b^2 (1/2 + sin(2 b) / (4 b))
  energy.backward();
  const double a = 1.5, b = .5;
  EXPECT_NEAR(energy.item<double>(), a * a * b * b * (.5 + std::sin(2 * b) / (4 * b)), 1e-13);
  EXPECT_NEAR(theta.grad()[0].item<double>(), 2 * a * b * b * (.5 + std::sin(2 * b) / (4 * b)), 1e-13);

  const auto x = at::tensor({.2, .9}, at::kDouble).requires_grad_(true);
  nabla(sin(identity()))(x).sum().backward();
  EXPECT_TRUE(at::allclose(x.grad(), -x.detach().sin(), 1e-14, 1e-14));
  const at::NoGradGuard no_grad;
  EXPECT_FALSE(integrate(square(nabla(y)), grid).tensor().requires_grad());
}

// The three losses of a parametric function have the same derivative where they must.
TEST(Evaluation, SurrogateLossHasTheChainRulesGradient) {
  const auto theta = at::tensor({.7, -.3}, at::kDouble).requires_grad_(true);
  const Fn x = identity();
  const Fn wave = leaf([theta](const at::Tensor& t) { return theta[0] * t + theta[1] * t.square(); }, {}, {},
                       {.name = "wave", .parameters = {theta}});
  const Fn y = wave * x * (1 - x);  // fixed ends, so that no boundary term is lost
  const Grid grid = gauss_legendre(40, 0, 1);
  const Functional f = [&](const Fn& u) { return integrate(square(nabla(u)) + exp(u), grid); };
  const auto gradient_of = [&](const at::Tensor& loss) {
    theta.mutable_grad() = at::Tensor();
    loss.backward();
    return theta.grad().clone();
  };
  const auto direct = gradient_of(f(y).tensor());
  const auto surrogate = gradient_of(integrate(stop_gradient(gradient(f, y)) * y, grid).tensor());
  EXPECT_TRUE(at::allclose(direct, surrogate, 1e-11, 1e-12)) << direct << surrogate;
  const auto residual = gradient_of(integrate(square(gradient(f, y)), grid).tensor());
  const double h = 1e-5;
  const auto loss_at = [&](double shift) {
    const at::NoGradGuard no_grad;
    theta[0] += shift;
    const double value = integrate(square(gradient(f, y)), grid).value();
    theta[0] -= shift;
    return value;
  };
  EXPECT_NEAR(residual[0].item<double>(), (loss_at(h) - loss_at(-h)) / (2 * h), 1e-7);
}

TEST(Evaluation, WorksInFloat32) {
  const Spec spec{{}, at::kFloat};
  const Fn x = identity(spec);
  const Fn g = gradient([](const Fn& f) { return integrate(exp(f) * 2., gauss_legendre(20, 0, 1)); }, -square(x));
  EXPECT_EQ(signature(g), "(f32) -> f32");
  EXPECT_NEAR(g(at::scalar_tensor(1., at::kFloat)).item<float>(), .7357589f, 1e-6);
}

TEST(Evaluation, DestroysDeepExpressionsWithoutRecursion) {
  Fn f = sin(identity());
  for (int i = 0; i < 300000; ++i) f = f * 1.0000001;
  f = identity();
  SUCCEED();
}

TEST(FirstNan, NamesTheLeaf) {
  const Fn good = leaf([](const at::Tensor& x) { return x - 1; }, {}, {}, {.name = "shift"});
  const Fn bad = leaf([](const at::Tensor& x) { return x.sqrt(); }, {}, {}, {.name = "root"});
  const auto x = at::tensor({.5, 2.}, at::kDouble);
  EXPECT_EQ(first_nan(exp(bad(good)) + 1, {x}), "root");
  EXPECT_EQ(first_nan(exp(good), {x}), std::nullopt);
}

// ---- What is refused

TEST(Refused, TypesThatDoNotFitShowBothSignatures) {
  const Fn f = identity(), g = component(identity(real({3})), 0);
  EXPECT_EQ(error_message([&] { f + g; }), "add: (f64) -> f64 and (f64[3]) -> f64 have different arguments");
  EXPECT_THAT(error_message([&] { compose(f, {identity(real({3}))}); }),
              testing::AllOf(HasSubstr("(f64) -> f64"), HasSubstr("(f64[3]) -> f64[3]")));
  EXPECT_THAT(error_message([&] { stack({f, f}) * stack({f, f, f}); }), HasSubstr("f64[2]"));
  EXPECT_THAT(error_message([&] { compose(f, {f, f}); }), HasSubstr("takes 1 functions, not 2"));
  EXPECT_THAT(error_message([&] { linearize([](const Fn& y) { return y; }, f).push(g); }), HasSubstr("(f64[3])"));
  EXPECT_THAT(error_message([&] { gradient([](const Fn& y) { return y; }, f); }), HasSubstr("not a number"));
  EXPECT_THAT(error_message([&] { nabla(f, 1); }), HasSubstr("no argument 1"));
  EXPECT_THAT(error_message([&] { f(at::zeros({3}, at::kFloat)); }), HasSubstr("Float"));
}

TEST(Refused, LeavesThatBreakTheirWord) {
  const Fn scalar = leaf([](const at::Tensor& x) { return x.sum(); }, {}, {}, {.name = "total"});
  EXPECT_THAT(error_message([&] { scalar(at::zeros({5}, at::kDouble)); }),
              testing::AllOf(HasSubstr("'total'"), HasSubstr("[5]"), HasSubstr("[]")));
  const Fn single = leaf([](const at::Tensor& x) { return x.to(at::kFloat); }, {}, {}, {.name = "single"});
  EXPECT_THAT(error_message([&] { single(.5); }), HasSubstr("'single' gives Float"));
  EXPECT_THAT(error_message([] {
                leaf([](const at::Tensor& x) { return x; }, Spec{{}, at::kLong});
              }),
              HasSubstr("cannot be differentiated"));
}

TEST(Refused, IntegralsWithoutGrid) {
  EXPECT_THAT(error_message([] { integrate(sin(identity())); }), HasSubstr("argument 0 of (f64) -> f64 has no grid"));
  EXPECT_THAT(error_message([] {
                integrate(identity(), tensor_product({gauss_legendre(3), gauss_legendre(3)}));
              }),
              HasSubstr("cannot serve argument 0"));
}

TEST(Refused, TransposesOfNonlinearCode) {
  const Fn f = leaf([](const Tensors& x) { return Tensors{x[0] * x[1].square()}; }, FnType{Spec{}, {Spec{}, Spec{}}},
                    {.name = "square law"});
  const Fn t = linear_transpose(f, {1});
  const auto one = at::ones({}, at::kDouble);
  EXPECT_THAT(error_message([&] {
                t(Tensors{one, one});
              }),
              testing::AllOf(HasSubstr("square law"), HasSubstr("not linear in argument 1")));
}

TEST(Refused, DerivativesThroughAStop) {
  const Fn f = stop_gradient(sin(identity()));
  EXPECT_NEAR(nabla(f)(.3), std::cos(.3), 1e-15);
  EXPECT_THAT(error_message([&] { nabla(f * identity()); }), HasSubstr("stop_gradient"));
}

TEST(Refused, BadGrids) {
  const auto x = at::linspace(0, 1, 5, at::kDouble), w = at::full({5}, .2, at::kDouble);
  EXPECT_THAT(error_message([&] { Grid(x, w.slice(0, 0, 4)); }), HasSubstr("as many nodes as weights"));
  EXPECT_THAT(error_message([&] { Grid(x / 0, w); }), HasSubstr("nodes"));
  EXPECT_THAT(error_message([&] { Grid(x, w - .5); }), HasSubstr("not negative"));
  EXPECT_NO_THROW(Grid(x, w - .5, true));
  EXPECT_THROW(gauss_legendre(0), Error);
  EXPECT_THROW(gauss_legendre(3, 1, 1), Error);
  EXPECT_THROW(gauss_jacobi(3, -1, 0), Error);
  EXPECT_THROW(lebedev(7), Error);
}

}  // namespace
}  // namespace unbend::functional
