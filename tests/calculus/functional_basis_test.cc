// Projections.
#include "unbend/calculus/fn_basis.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>
#include <numbers>

#include "tests/error_message.h"
#include "unbend/calculus/functional.h"

namespace unbend::functional {
namespace {

using std::numbers::pi;

TEST(Bases, AreOrthonormal) {
  const Grid grid = gauss_legendre(60, -1, 2);
  for (const Basis& basis :
       {legendre_basis(12, -1, 2), sine_basis(12, -1, 2), cosine_basis(12, -1, 2), fourier_basis(11, -1, 2)}) {
    const auto phi = basis.functions(grid.nodes());
    const auto gram = at::matmul(phi.t(), grid.weights().unsqueeze(1) * phi);
    EXPECT_TRUE(at::allclose(gram, at::eye(basis.size, at::kDouble), 1e-12, 1e-12));
  }
}

TEST(Projection, ReproducesWhatTheBasisSpans) {
  const Fn x = identity();
  const Fn f = pow(x, 3) - 2 * x + 1;
  const Fn p = project(f, legendre_basis(5, 0, 1), gauss_legendre(10, 0, 1));
  EXPECT_NEAR(p(.37), f(.37), 1e-13);
  EXPECT_NEAR(nabla(p)(.37), nabla(f)(.37), 1e-12);
  const Fn series = project(exp(x), legendre_basis(14, 0, 1), gauss_legendre(14, 0, 1));
  EXPECT_NEAR(series(.5), std::exp(.5), 1e-13);
  EXPECT_THAT(
      error_message([&] { project(f, legendre_basis(9, 0, 1), gauss_legendre(8, 0, 1)); }, ErrorKind::Computation),
      testing::HasSubstr("9 functions cannot be told apart on 8 nodes"));
}

TEST(Projection, SolvesForTheSobolevGradient) {
  // g - l^2 g'' = sin(3 pi x) with g = 0 at both ends: g = sin(3 pi x) / (1 + (3 pi l)^2).
  const double length = .2, factor = 1 / (1 + std::pow(3 * pi * length, 2));
  const Fn f = sin(3 * pi * identity());
  const Fn g = project(f, sine_basis(8, 0, 1), gauss_legendre(40, 0, 1), length);
  EXPECT_NEAR(g(.3), factor * std::sin(.9 * pi), 1e-12);
  // With free ends, g'(0) = g'(1) = 0 comes by itself.
  const Fn x = identity();
  const Fn h = project(x, legendre_basis(16, 0, 1), gauss_legendre(30, 0, 1), length);
  EXPECT_NEAR(nabla(h)(0), 0, 1e-8);
  EXPECT_NEAR(nabla(h)(1), 0, 1e-8);
  EXPECT_NEAR((h - length * length * nabla(nabla(h)))(.4), .4, 1e-8);
}

TEST(Projection, OntoNodesIsExactThere) {
  const std::vector<Fn> xy = arguments(2);
  const Fn f = sin(xy[0]) * exp(xy[1]);
  const Grid a = gauss_legendre(9, 0, 1), b(at::tensor({.9, .1, .4}, at::kDouble), at::ones({3}, at::kDouble));
  const Fn p = project(f, {a, b});
  const Tensors points{a.nodes().unsqueeze(1), b.nodes()};
  EXPECT_TRUE(at::allclose(p(points)[0], f(points)[0], 0, 1e-15));
  EXPECT_TRUE(at::allclose(p(Tensors{a.nodes(), b.nodes().unsqueeze(1)})[0], f(points)[0].t(), 0, 1e-15));
  const auto same = at::linspace(0, 1, 3, at::kDouble);
  const Fn diagonal = project(f, {Grid(same, same), Grid(same, same)});
  EXPECT_TRUE(at::allclose(diagonal(Tensors{same, same})[0], f(Tensors{same, same})[0], 0, 1e-15));
  // Bilinear between, linear beyond.
  const Fn plane = project(3 * xy[0] - 2 * xy[1] + xy[0] * xy[1], {a, b});
  EXPECT_NEAR(plane(.33, .77), .99 - 1.54 + .33 * .77, 1e-14);
  EXPECT_NEAR(plane(-1, 2), -3 - 4 - 2, 1e-12);
  EXPECT_NEAR(nabla(plane, 0)(.33, .77), 3.77, 1e-13);
  EXPECT_TRUE(p.grids()[1].id() == b.id());
}

TEST(Combination, IsDifferentiableInItsCoefficients) {
  const auto c = at::tensor({1., 2., 3.}, at::kDouble).requires_grad_(true);
  const Basis basis = sine_basis(3, 0, 1);
  const Grid grid = gauss_legendre(30, 0, 1);
  // integral of (f')^2 = sum of (k pi c_k)^2
  const at::Tensor energy = integrate(square(nabla(combination(basis, c))), grid).tensor();
  energy.backward();
  const auto k = at::arange(1, 4, at::kDouble) * pi;
  EXPECT_NEAR(energy.item<double>(), (k * c.detach()).square().sum().item<double>(), 1e-10);
  EXPECT_TRUE(at::allclose(c.grad(), 2 * k * k * c.detach(), 1e-11, 1e-10));

  const auto table = at::rand({3, 4}, at::make_generator<at::CPUGeneratorImpl>(1), at::kDouble);
  const Basis other = legendre_basis(4, 0, 1);
  const auto x = at::tensor({.2, .7}, at::kDouble), y = at::tensor({.5, .1}, at::kDouble);
  const auto expected = at::einsum("ni,ij,nj->n", {basis.functions(x), table, other.functions(y)});
  EXPECT_TRUE(at::allclose(combination({basis, other}, table)(Tensors{x, y})[0], expected, 1e-13, 1e-13));
}

}  // namespace
}  // namespace unbend::functional
