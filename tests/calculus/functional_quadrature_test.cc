#include "unbend/calculus/quadrature.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>
#include <numbers>

namespace unbend::functional {
namespace {

using std::numbers::pi;

double sum(const Grid& grid, const std::function<at::Tensor(const at::Tensor&)>& f) {
  return (grid.weights() * f(grid.nodes())).sum().item<double>();
}
double moment(const Grid& grid, int k) {
  return sum(grid, [k](const at::Tensor& x) { return x.pow(k); });
}

TEST(GaussLegendre, IsExactToItsDegree) {
  for (const std::int64_t n : {1, 2, 5, 20, 64}) {
    const Grid grid = gauss_legendre(n);
    for (const std::int64_t k : {std::int64_t{0}, n, 2 * n - 2, 2 * n - 1}) {
      EXPECT_NEAR(moment(grid, static_cast<int>(k)), k % 2 == 0 ? 2. / static_cast<double>(k + 1) : 0, 2e-14)
          << n << " " << k;
    }
    EXPECT_GT(n > 1 ? grid.nodes().diff().min().item<double>() : 1, 0);
  }
  EXPECT_GT(std::abs(moment(gauss_legendre(3), 6) - 2. / 7), 1e-3) << "and no further";
  EXPECT_NEAR(sum(gauss_legendre(12, 1, 3), [](const at::Tensor& x) { return x.exp(); }), std::exp(3.) - std::exp(1.),
              1e-13);
}

TEST(GaussRules, WithWeightsHaveTheirMoments) {
  const double a = .5, b = -.3;
  const Grid jacobi = gauss_jacobi(9, a, b);
  const double total = std::pow(2, a + b + 1) * std::tgamma(a + 1) * std::tgamma(b + 1) / std::tgamma(a + b + 2);
  EXPECT_NEAR(moment(jacobi, 0), total, 1e-13);
  EXPECT_NEAR(moment(jacobi, 1), total * (b - a) / (a + b + 2), 1e-13);
  // integral of (1+x)^17 times the weight: exact to degree 17
  EXPECT_NEAR(sum(jacobi, [](const at::Tensor& x) { return (1 + x).pow(17); }) /
                  (std::pow(2, a + b + 18) * std::tgamma(a + 1) * std::tgamma(b + 18) / std::tgamma(a + b + 19)),
              1, 1e-12);
  EXPECT_NEAR(moment(gauss_jacobi(1, 2, 3), 0), 64 * 2 * 6. / 720, 1e-13);
  EXPECT_NEAR(moment(gauss_laguerre(10), 7), 5040, 1e-8);
  EXPECT_NEAR(moment(gauss_laguerre(10, .5), 3), std::tgamma(4.5), 1e-10);
  EXPECT_NEAR(moment(gauss_hermite(12), 8), 105. / 16 * std::sqrt(pi), 1e-11);
  EXPECT_NEAR(moment(gauss_hermite(12), 7), 0, 1e-11);
}

TEST(OtherRules, IntegrateWhatTheyAreFor) {
  EXPECT_NEAR(moment(clenshaw_curtis(9), 8), 2. / 9, 1e-14);
  EXPECT_NEAR(moment(clenshaw_curtis(8), 6), 2. / 7, 1e-14);
  EXPECT_NEAR(sum(clenshaw_curtis(20, 0, 1), [](const at::Tensor& x) { return x.exp(); }), std::numbers::e - 1, 1e-14);
  EXPECT_NEAR(moment(trapezoid(11, 0, 1), 2), 1. / 3 + .01 / 6, 1e-14);
  // e^cos over a period: 2 pi I_0(1)
  EXPECT_NEAR(sum(periodic_trapezoid(20, 0, 2 * pi), [](const at::Tensor& x) { return x.cos().exp(); }),
              2 * pi * 1.2660658777520084, 1e-13);
  EXPECT_NEAR(sum(tanh_sinh(4, 0, 1), [](const at::Tensor& x) { return x.rsqrt(); }), 2, 1e-12);
  EXPECT_NEAR(sum(tanh_sinh(4, 0, 1), [](const at::Tensor& x) { return x.log(); }), -1, 1e-12);
}

TEST(OtherRules, ThroughAMap) {
  // x = s^3 removes x^(-1/3) at 0.
  const Grid grid = through(gauss_legendre(10, 0, 1), [](const at::Tensor& s) { return s.pow(3); });
  EXPECT_NEAR(sum(grid, [](const at::Tensor& x) { return x.pow(-1. / 3); }), 1.5, 1e-13);
  // The disc in polar coordinates: r dr dphi; integral of x^2 = pi / 4.
  const Grid polar = tensor_product({gauss_legendre(6, 0, 1), periodic_trapezoid(8, 0, 2 * pi)});
  const Grid disc = through(polar, [](const at::Tensor& p) {
    const auto r = p.select(1, 0), phi = p.select(1, 1);
    return at::stack({r * phi.cos(), r * phi.sin()}, 1);
  });
  EXPECT_NEAR(sum(disc, [](const at::Tensor& p) { return p.select(1, 0).square(); }), pi / 4, 1e-13);
  EXPECT_NEAR(disc.weights().sum().item<double>(), pi, 1e-13);
}

TEST(Spheres, AreExactToTheirDegree) {
  const std::vector<std::pair<std::int64_t, int>> rules{{6, 3}, {14, 5}, {26, 7}, {38, 9}, {50, 11}};
  for (const auto& [points, degree] : rules) {
    const Grid grid = lebedev(points);
    ASSERT_EQ(grid.size(), points);
    const auto x = grid.nodes().select(1, 0), y = grid.nodes().select(1, 1), z = grid.nodes().select(1, 2);
    EXPECT_TRUE(at::allclose(x.square() + y.square() + z.square(), at::ones_like(x), 1e-14, 0));
    const auto mean = [&](int a, int b, int c) {
      return (grid.weights() * x.pow(a) * y.pow(b) * z.pow(c)).sum().item<double>();
    };
    const auto odd = [](int n) { return n <= 0 ? 1. : std::tgamma(n / 2. + .5) * std::pow(2, n / 2.) / std::sqrt(pi); };
    for (int a = 0; a <= degree; a += 2) {
      for (int b = 0; a + b <= degree; b += 2) {
        for (int c = 0; a + b + c <= degree; c += 2) {
          // (a-1)!! (b-1)!! (c-1)!! / (a+b+c+1)!!
          double below = 1;
          for (int k = a + b + c + 1; k > 0; k -= 2) below *= k;
          EXPECT_NEAR(mean(a, b, c), odd(a) * odd(b) * odd(c) / below, 1e-13) << points << ": " << a << b << c;
        }
      }
    }
  }
}

TEST(Atoms, IntegrateDensities) {
  const Grid space = atomic(radial(60), lebedev(14));
  const auto hydrogen = [](const at::Tensor& p) { return (-2 * p.square().sum(1).sqrt()).exp() / pi; };
  EXPECT_NEAR(sum(space, hydrogen), 1, 1e-11);
  EXPECT_NEAR(sum(space, [&](const at::Tensor& p) { return hydrogen(p) * p.select(1, 0).square(); }), 1,
              1e-10);  // <x^2>
}

TEST(RandomGrid, IsUnbiased) {
  Random random(5);
  double mean = 0;
  for (int i = 0; i < 100; ++i) {
    mean += sum(random_grid(1000, {0, 1}, {1, 3}, random),
                [](const at::Tensor& p) { return p.select(1, 0) * p.select(1, 1); });
  }
  EXPECT_NEAR(mean / 100, 2, .02);
}

}  // namespace
}  // namespace unbend::functional
