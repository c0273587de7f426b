// Every primitive: its push against differences, its pull against its push.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>

#include "tests/error_message.h"
#include "unbend/calculus/functional.h"

namespace unbend::functional {
namespace {

const Grid& line() {
  static const Grid grid = gauss_legendre(60);
  return grid;
}

// Smooth functions of one number that vanish with their derivatives at -1 and 1.
Fn bump(double a) {
  const Fn x = identity();
  return pow(1 - square(x), 4) * (sin(a * x) + a);
}
Fn bump2(double a) {
  const std::vector<Fn> xy = arguments(2);
  return bump(a)(xy[0]) * bump(a + .7)(xy[1]) * (1 + a * xy[0] * xy[1]);
}

double inner(const Fn& l, const Fn& r) {
  const std::vector<Grid> grids(l.arity(), line());
  return braket(on(l, grids), on(r, grids)).value();
}

// <O' df, c> = <df, O'^T c>, and O' df is what O changes by.
void check(const Functional& op, const Fn& f, const Fn& df, const Fn& c_alone, double tolerance = 1e-10) {
  const Fn c = on(c_alone, std::vector<Grid>(c_alone.arity(), line()));
  const FunctionalLinearization derivative = linearize(op, f);
  const Fn push = derivative.push(df);
  const Fn pull = derivative.pull(c)[0];
  EXPECT_EQ(push.type(), c.type());
  EXPECT_EQ(pull.type(), f.type());
  const double forward = inner(push, c), backward = inner(df, pull);
  EXPECT_NEAR(forward, backward, tolerance * std::max(1., std::abs(forward)));
  EXPECT_GT(std::abs(forward), 1e-6) << "the test must see something";
  const double h = 1e-5;
  const double difference = (inner(op(f + h * df), c) - inner(op(f + -h * df), c)) / (2 * h);
  EXPECT_NEAR(forward, difference, 1e-7 * std::max(1., std::abs(forward)));
}

TEST(Adjoint, Arithmetic) {
  const Fn f = bump(.4) + 2, df = bump(.9), c = bump(-.6), g = exp(identity());
  check([&](const Fn& y) { return y * g + g / y - 3 * y; }, f, df, c);
  check([](const Fn& y) { return exp(y) + log(y) + sin(y) * cos(y) + tanh(y) * sinh(y) / cosh(y); }, f, df, c);
  check([](const Fn& y) { return atan(y) + erf(y) + sigmoid(y) + abs(y - 2.2) + sqrt(y) + pow(y, 1.7); }, f, df, c,
        1e-9);
  check([&](const Fn& y) { return where(identity(), square(y), g * y) + step(y, 2.1) + sign(y); }, f, df, c);
}

TEST(Adjoint, ShapesOfResults) {
  const Fn f = bump(.4), df = bump(.9), c = bump(-.6);
  check([](const Fn& y) { return sum(stack({y, square(y), y * identity()})); }, f, df, c);
  check([](const Fn& y) { return component(stack({y, square(y)}) * y, 1); }, f, df, c);
  check([](const Fn& y) { return dot(expand(y, {3}), stack({exp(y), y, Fn(2.)})); }, f, df, c);
  const Fn c2 = stack({bump(.1), bump(.2)});
  check([](const Fn& y) { return stack({y, sin(y)}); }, f, df, c2);
  check([](const Fn& y) { return expand(y, {2}) * y; }, f, df, c2);
  check([](const Fn& y) { return zip({y, square(y)}); }, f, df, zip({bump(.1), bump(.3)}));
  check([](const Fn& y) { return split(zip({sin(y), square(y)}))[1]; }, f, df, c);
}

TEST(Adjoint, TupleValuedFunctions) {
  const Fn f = zip({bump(.4), bump(1)}), df = zip({bump(.9), bump(.2)});
  check([](const Fn& y) { return split(y)[0] * split(y)[1]; }, f, df, bump(-.6));
  check([](const Fn& y) { return split(y)[1]; }, f, df, bump(-.6));
}

TEST(Adjoint, NablaAndDivergence) {
  const Fn f = bump(.4), df = bump(.9), c = bump(-.6);
  check([](const Fn& y) { return nabla(y); }, f, df, c);
  check([](const Fn& y) { return nabla(nabla(y)) * y; }, f, df, c);
  check([](const Fn& y) { return square(nabla(y)) * exp(y); }, f, df, c);

  const Fn p = linearize([](const Fn& y) { return nabla(y); }, sin(identity())).pull(sin(identity()))[0];
  EXPECT_NEAR(p(.3), -std::cos(.3), 1e-14);

  check([](const Fn& y) { return nabla(y, 1) * nabla(y, 0); }, bump2(.4), bump2(.9), bump2(-.3));
  check(
      [](const Fn& y) {
        return nabla(y, std::vector<int>{0, 1});
      },
      bump2(.4), bump2(.9), zip({bump2(.1), bump2(.6)}));
}

// On R^2 -> R^n, over a tensor grid.
TEST(Adjoint, NablaOfVectors) {
  const Grid plane = tensor_product({gauss_legendre(24), gauss_legendre(24)});
  const Fn p = identity(real({2})), x = component(p, 0), y = component(p, 1);
  const auto field = [&](double a) {
    return pow(1 - square(x), 3) * pow(1 - square(y), 3) * (a + .5 * x + .3 * y + x * y);
  };
  const auto product = [&](const Fn& l, const Fn& r) { return integrate(dot(l, r), plane).value(); };
  const auto pair = [&](const Functional& op, const Fn& f, const Fn& df, const Fn& c) {
    const auto derivative = linearize(op, f);
    EXPECT_NEAR(product(derivative.push(df), c), product(df, derivative.pull(c)[0]), 1e-10);
    EXPECT_GT(std::abs(product(df, derivative.pull(c)[0])), 1e-4);
  };
  const Fn u = field(.3), du = field(.8);
  pair([](const Fn& f) { return nabla(f); }, u, du, stack({field(.1), field(.5)}));
  pair([](const Fn& f) { return laplacian(f); }, u, du, field(.2));
  const Fn v = stack({field(.3), field(-.4)}), dv = stack({field(.6), field(1.4)});
  pair([](const Fn& f) { return divergence(f); }, v, dv, field(.2));
  pair([](const Fn& f) { return nabla(component(f, 1)); }, v, dv, stack({field(.2), field(.9)}));
  // The derivative axis comes last.
  const at::Tensor at_point = at::tensor({.3, .5}, at::kDouble);
  const at::Tensor jacobian = nabla(stack({square(x), x * y, y * 3}))(at_point);
  EXPECT_TRUE(at::allclose(jacobian, at::tensor({.6, 0., .5, .3, 0., 3.}, at::kDouble).view({3, 2}), 1e-14, 1e-14));
}

TEST(Adjoint, ComposeWithALeaf) {
  const Fn lagrangian = leaf([](const Tensors& x) { return Tensors{(x[0] * x[1]).exp() + x[1] * x[2].square()}; },
                             FnType{Spec{}, {Spec{}, Spec{}, Spec{}}});
  check([&](const Fn& y) { return compose(lagrangian, {identity(), y, nabla(y)}); }, bump(.4), bump(.9), bump(-.6));
  const Fn pair = leaf(
      [](const Tensors& x) {
        return Tensors{x[0].sin(), x[0].square()};
      },
      FnType{SpecTree({Spec{}, Spec{}}), {Spec{}}});
  check([&](const Fn& y) { return compose(pair, {y}); }, bump(.4), bump(.9), zip({bump(.1), bump(.5)}));
  // Inner functions of their own arguments.
  const Fn times = leaf([](const Tensors& x) { return Tensors{x[0] * x[1].exp()}; }, FnType{Spec{}, {Spec{}, Spec{}}});
  check([&](const Fn& y) { return compose(times, {y, bump(.3)}, false) * bump2(.1); }, bump(.4), bump(.9), bump2(-.6));
  check([&](const Fn& y) { return compose(times, {y, square(y)}, false); }, bump(.4), bump(.9), bump2(-.6));
}

TEST(Adjoint, KernelsAndArguments) {
  const std::vector<Fn> xy = arguments(2);
  const std::vector<Grid> square_grid{line(), line()};
  const Fn kernel = on(exp(xy[0] * xy[1]) + xy[0], square_grid);
  check([&](const Fn& f) { return integrate(kernel * broadcast_arg(f, kernel, {0}), std::vector<int>{0}); }, bump(.4),
        bump(.9), bump(-.6));
  check([&](const Fn& f) { return integrate(kernel * square(f(xy[1])), 1, line()); }, bump(.4), bump(.9), bump(-.6));
  check([&](const Fn& f) { return permute_args(f, {1, 0}) * kernel; }, bump2(.4), bump2(.9), bump2(-.6));
  check([&](const Fn& f) { return integrate(on(f * kernel, square_grid), std::vector<int>{1}); }, bump2(.4), bump2(.9),
        bump(-.6));
  check([&](const Fn& f) { return bump2(.2) * f(xy[1]); }, bump(.4), bump(.9), bump2(-.6));

  const Fn g = on(bump(.2), {line()});
  check([&](const Fn& f) { return braket(on(f, {line()}), g * f); }, bump(.4), bump(.9),
        constant(at::scalar_tensor(1.3, at::kDouble)));
}

TEST(Adjoint, PermutedThreeWays) {
  const FnType type{Spec{}, {Spec{}, real({2}), real({3})}};
  const Fn f = leaf([](const Tensors& x) { return Tensors{x[0] * x[1].select(1, 0) + x[2].select(1, 2)}; }, type);
  const Fn g = permute_args(f, {2, 0, 1});
  EXPECT_EQ(signature(g), "(f64[3], f64, f64[2]) -> f64");
  const auto a = at::tensor({1., 2., 3.}, at::kDouble), b = at::scalar_tensor(5., at::kDouble),
             c = at::tensor({7., 8.}, at::kDouble);
  EXPECT_EQ(g(Tensors{a, b, c})[0].item<double>(), 38);
  EXPECT_TRUE(permute_args(g, {1, 2, 0}).is(f));
}

TEST(Adjoint, LinearTranspose) {
  // f(x, v) = a(x) v: its transpose is linear in c.
  const std::vector<Fn> xy = arguments(2);
  const auto linear = [&](double a) { return bump(a)(xy[0]) * xy[1]; };
  check([](const Fn& f) { return linear_transpose(f, {1}); }, linear(.4), linear(.9), linear(-.6));

  const Fn matrix = leaf(
      [](const Tensors& t) {
        const auto m =
            at::stack({t[0], t[0].square(), at::ones_like(t[0]), t[0].sin(), t[0], t[0] * 2}, 1).view({-1, 2, 3});
        return Tensors{at::matmul(m, t[1].unsqueeze(2)).squeeze(2)};
      },
      FnType{real({2}), {Spec{}, real({3})}});
  const Fn transposed = linear_transpose(matrix, {1});
  EXPECT_EQ(signature(transposed), "(f64, f64[2]) -> f64[3]");
  const auto t = at::scalar_tensor(.3, at::kDouble), c = at::tensor({1., 10.}, at::kDouble);
  const auto value = transposed(Tensors{t, c})[0];
  const auto expected = at::tensor({.3 + 10 * std::sin(.3), .09 + 3, 1 + 6.}, at::kDouble);
  EXPECT_TRUE(at::allclose(value, expected, 1e-14, 1e-14));
  EXPECT_TRUE(at::allclose(linear_transpose(transposed, {1})(Tensors{t, expected})[0], matrix(Tensors{t, expected})[0],
                           1e-14, 1e-14))
      << "twice is once";
}

TEST(Adjoint, SubstituteAndAntiderivative) {
  const Fn x = identity();
  const double e = std::exp(2.) - 1;
  const Fn g = (exp(x + 1) - 1) * (2 / e) - 1, back = log((x + 1) * (e / 2) + 1) - 1;
  check([&](const Fn& f) { return substitute(square(f), g, back); }, bump(.4), bump(.9), bump(-.6), 1e-9);
  check([](const Fn& f) { return antiderivative(square(f), -1, 1); }, bump(.4), bump(.9), bump(-.6));
  check([](const Fn& f) { return antiderivative(f, -1, 1, 30, false) * f; }, bump(.4), bump(.9), bump(-.6));
  EXPECT_NEAR(antiderivative(cos(x), 0, 1)(.8), std::sin(.8), 1e-14);
  EXPECT_NEAR(nabla(antiderivative(cos(x), 0, 1))(.8), std::cos(.8), 1e-13);
}

TEST(Push, OfJvpAndPartial) {
  const Fn x = identity();
  const Fn f = sin(x), df = exp(x);
  const Fn push = linearize([](const Fn& y) { return jvp(square(y), {0}); }, f).push(df);
  // d/de of 2 y y' v in the direction df
  EXPECT_NEAR(push(.3, 2), 2 * (df(.3) * std::cos(.3) + std::sin(.3) * df(.3)) * 2, 1e-12);
  EXPECT_NEAR(linearize([](const Fn& y) { return square(value_at(y, .3)); }, f).push(df).value(),
              2 * std::sin(.3) * std::exp(.3), 1e-14);
}

TEST(Pull, ThatIsUndefinedNamesTheOperator) {
  const Fn f = sin(identity()), one = constant(at::ones({}, at::kDouble));
  const auto pull = [&](const Functional& op) {
    return error_message([&] {
      const auto derivative = linearize(op, f);
      derivative.pull(zero(derivative.value().type()) + 1);
    });
  };
  EXPECT_THAT(pull([](const Fn& y) { return value_at(y, .3); }), testing::HasSubstr("partial: the pull"));
  EXPECT_THAT(pull([](const Fn& y) { return jvp(y, {0}); }), testing::HasSubstr("jvp: its pull"));
  EXPECT_THAT(pull([](const Fn& y) { return y(square(identity())); }),
              testing::HasSubstr("substitute(f, g, g_inverse)"));
}

// d/dv of a number in `partial` comes from autograd, which the source leaves out.
TEST(Partial, GivesGradientsOfItsValues) {
  const auto where = at::scalar_tensor(.7, at::kDouble).requires_grad_(true);
  const at::Tensor value = value_at(sin(identity()) * 2, Tensors{where}).tensor();
  value.backward();
  EXPECT_NEAR(where.grad().item<double>(), 2 * std::cos(.7), 1e-14);
}

}  // namespace
}  // namespace unbend::functional
