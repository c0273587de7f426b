// Jets, and functions evaluated by them: the independent way to derivatives.
#include "unbend/calculus/series.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>

#include "tests/error_message.h"
#include "unbend/calculus/functional.h"

namespace unbend::functional {
namespace {

using Number = Jet<double>;

TEST(Jet, HasKnownSeries) {
  const Number x = Number::variable(0, 6);
  const auto expect = [](const Number& z, const std::vector<double>& c) {
    ASSERT_EQ(z.c.size(), c.size());
    for (std::size_t k = 0; k < c.size(); ++k) EXPECT_NEAR(z.c[k], c[k], 1e-15) << k;
  };
  expect(exp(x), {1, 1, 1. / 2, 1. / 6, 1. / 24, 1. / 120, 1. / 720});
  expect(log(1. + x), {0, 1, -1. / 2, 1. / 3, -1. / 4, 1. / 5, -1. / 6});
  expect(sin(x), {0, 1, 0, -1. / 6, 0, 1. / 120, 0});
  expect(cos(x), {1, 0, -1. / 2, 0, 1. / 24, 0, -1. / 720});
  expect(tanh(x), {0, 1, 0, -1. / 3, 0, 2. / 15, 0});
  expect(atan(x), {0, 1, 0, -1. / 3, 0, 1. / 5, 0});
  expect(sinh(x), {0, 1, 0, 1. / 6, 0, 1. / 120, 0});
  expect(cosh(x), {1, 0, 1. / 2, 0, 1. / 24, 0, 1. / 720});
  expect(pow(1. + x, .5), {1, 1. / 2, -1. / 8, 1. / 16, -5. / 128, 7. / 256, -21. / 1024});
  expect(1. / (1. - x), {1, 1, 1, 1, 1, 1, 1});
  const double s = 2 / std::sqrt(std::numbers::pi);
  expect(erf(x), {0, s, 0, -s / 3, 0, s / 10, 0});
  expect(sigmoid(x), {.5, .25, 0, -1. / 48, 0, 1. / 480, 0});
}

TEST(Jet, InvertsItsFunctions) {
  const Number x = Number::variable(.7, 8);
  const auto same = [&](const Number& z) {
    for (int k = 0; k <= 8; ++k) EXPECT_NEAR(z.c[k], x.c[k], 1e-13) << k;
  };
  same(log(exp(x)));
  same(pow(pow(x, 2.3), 1 / 2.3));
  same(sin(x) * sin(x) * x + cos(x) * cos(x) * x);
  same((x * exp(x)) / exp(x));
  same(atan(sin(x) / cos(x)));
  same(at_series(log(Number::variable(std::exp(.7), 8)), exp(x)));
}

TEST(Jet, Nests) {
  // d/ds d/dt of exp(s t) at (.5, .3): (1 + s t) e^(s t)
  const Jet<Number> s({Number::variable(.5, 1)}), t = Jet<Number>::variable(Number({.3}), 1);
  EXPECT_NEAR(exp(s * t).c[1].padded(1).c[1], 1.15 * std::exp(.15), 1e-14);
}

TEST(Derivatives, AgreeWithNestedReversePasses) {
  const Fn x = identity();
  const Fn f = exp(sin(2 * x)) / (1 + square(x)) + tanh(x) * pow(x + 2, 1.5) + erf(x) * atan(x) + sigmoid(3 * x);
  const auto points = at::linspace(-.9, 1.1, 7, at::kDouble);
  const Tensors series = derivatives(f, points, 5);
  Fn nested = f;
  for (int k = 0; k <= 5; ++k) {
    EXPECT_TRUE(at::allclose(series[k], nested(points), 1e-10, 1e-9)) << k;
    nested = nabla(nested);
  }
}

TEST(Derivatives, OfComposedAndDerivedFunctions) {
  const auto points = at::linspace(.1, .9, 5, at::kDouble);
  const Fn wave = series_leaf([](const auto& x) { return sin(x * 3.) * exp(-(x * x)); });
  const Fn f = compose(nabla(wave), {square(identity()) + 1});
  const Tensors series = derivatives(f * integrate(wave, gauss_legendre(20, 0, 1)), points, 3);
  Fn nested = f * integrate(wave, gauss_legendre(20, 0, 1));
  for (int k = 0; k <= 3; ++k) {
    EXPECT_TRUE(at::allclose(series[k], nested(points), 1e-10, 1e-10)) << k;
    nested = nabla(nested);
  }
  EXPECT_THAT(error_message([&] { derivatives(leaf([](const at::Tensor& x) { return x; }), points, 1); }),
              testing::HasSubstr("'leaf' has no Taylor series"));
}

TEST(SeriesLeaf, HasDerivativesOfEveryOrder) {
  int calls = 0;
  const Fn f = series_leaf([&calls](const Series& x) {
    ++calls;
    return sin(x);
  });
  const Fn fifth = nabla(nabla(nabla(nabla(nabla(f)))));
  EXPECT_NEAR(fifth(.3), std::cos(.3), 1e-14);
  EXPECT_EQ(calls, 1);
  const Fn g =
      gradient([](const Fn& y) { return integrate(square(nabla(nabla(y))) / 2, gauss_legendre(20, 0, 1)); }, f);
  EXPECT_NEAR(g(.3), std::sin(.3), 1e-13);
  EXPECT_EQ(series_leaf([](const Series&) { return Series({at::ones({}, at::kDouble)}); })(.2), 1);
}

}  // namespace
}  // namespace unbend::functional
