// Density functionals: energies against libxc, potentials against closed forms.
#include "unbend/calculus/xc.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>
#include <numbers>

#include "unbend/calculus/functional.h"
#include "unbend/calculus/jet.h"

namespace unbend::functional {
namespace {

using std::numbers::pi;

at::Tensor numbers(std::vector<double> values) { return at::tensor(values, at::kDouble); }

// Computed by libxc (PySCF 2.14, unpolarised): energy per volume, its derivatives by rho and sigma.
TEST(Energies, AgreeWithLibxc) {
  const auto rho = numbers({.7, .31, .05, 1e-3, 2.5}), sigma = numbers({.9, .2, .11, 2e-3, 0}).square();
  const auto expect = [&](const GradientEnergy& energy, std::vector<double> e, std::vector<double> by_rho,
                          std::vector<double> by_sigma) {
    const auto r = rho.clone().requires_grad_(true), s = sigma.clone().requires_grad_(true);
    const auto value = energy(r, s);
    value.sum().backward();
    EXPECT_TRUE(at::allclose(value, numbers(e), 1e-12, 0)) << value;
    EXPECT_TRUE(at::allclose(r.grad(), numbers(by_rho), 1e-11, 0)) << r.grad();
    if (by_sigma.empty()) return;
    EXPECT_TRUE(at::allclose(s.grad(), numbers(by_sigma), 1e-10, 0)) << s.grad();
  };
  expect([](const at::Tensor& r, const at::Tensor&) { return lda_exchange(r); },
         {-0.4590384989348733, -0.15495323558071716, -0.013604368794741785, -7.385587663820225e-05, -2.505946157947454},
         {-0.8743590455902349, -0.6664655293794288, -0.36278316785978093, -0.09847450218426965, -1.3365046175719755},
         {});
  expect(
      [](const at::Tensor& r, const at::Tensor&) { return pw92_correlation(r); },
      {-0.0477953360460202, -0.019156626339484402, -0.0024149617272514936, -2.493608153608928e-05,
       -0.19729285618927103},
      {-0.07640049179704025, -0.06959014623338801, -0.05528122764448117, -0.029813367522085747, -0.08749883685449528},
      {});
  expect(
      b88_exchange,
      {-0.46552830963390757, -0.15593199357449092, -0.015898955155014383, -0.00013451570790294087, -2.505946157947454},
      {-0.8631950559206516, -0.66247647554159, -0.32998300341449904, -0.09000271596698387, -1.3365046175719755},
      {-0.0076240156022008825, -0.023827662638390958, -0.14564431929630864, -8.376708865962867, -0.001559573848093893});
  expect(
      pbe_exchange,
      {-0.46447621444220316, -0.15575543211170667, -0.0158221654401533, -0.00011782352380191996, -2.505946157947454},
      {-0.8643067020590713, -0.6630596553600393, -0.3276251570068549, -0.12666583436478793, -1.3365046175719755},
      {-0.00661431843283376, -0.019925778006219346, -0.14612487819819173, -2.853018503541126, -0.0012481167241376156});
  expect(
      pbe_correlation,
      {-0.04288081103748993, -0.01838140174674538, -0.0009607266487651445, -6.923113408443572e-07,
       -0.19729285618927106},
      {-0.08401186141760081, -0.07269376100796346, -0.05911036986178998, -0.003976427610145444, -0.08749883685449528},
      {0.005420617551465768, 0.018615216748681034, 0.06043983245356099, 0.30511447880835896, 0.0012481167241376154});
}

TEST(Energies, OfTwoSpinsAgreeWithLibxc) {
  const auto up = numbers({.5, .2, .04}), down = numbers({.2, .2, .001});
  const auto sigma = (numbers({.4, .1, .05}) + numbers({.1, .3, .002})).square();
  EXPECT_TRUE(at::allclose(pw92_correlation_polarized(up, down),
                           numbers({-0.04480341127462385, -0.025518302346181895, -0.0011550211769727175}), 1e-12, 0));
  EXPECT_TRUE(at::allclose(pbe_correlation_polarized(up, down, sigma),
                           numbers({-0.04320137568765272, -0.023410137777672313, -0.0006817771196080309}), 1e-12, 0));
}

// ---- Hydrogen: rho = e^(-2 r) / pi

Fn hydrogen() {
  const Fn p = identity(real({3}));
  return exp(-2 * sqrt(dot(p, p))) / pi;
}
const Grid& space() {
  static const Grid grid = atomic(radial(80), lebedev(6));
  return grid;
}
// Points at distances 1/2, 1 and 2 in a direction that is none of the grid's.
at::Tensor at_distances() {
  const auto direction = numbers({2, -1, 2}) / 3;
  return numbers({.5, 1, 2}).unsqueeze(1) * direction;
}

template <class Energy>
void expect_hydrogen(const Energy& energy, double total, std::vector<double> potential, double tolerance = 2e-10) {
  const Functional e = [&](const Fn& rho) { return integrate(density_functional(energy, rho), space()); };
  EXPECT_NEAR(e(hydrogen()).value(), total, 6e-9);  // to the digits given
  const at::Tensor v = gradient(e, hydrogen())(at_distances());
  EXPECT_TRUE(at::allclose(v, numbers(potential), 0, tolerance)) << v;
}

TEST(Hydrogen, HasItsEnergiesAndPotentials) {
  expect_hydrogen(LocalEnergy(thomas_fermi), .2891272935, {1.1453927628, .5880642524, .1550120540});
  expect_hydrogen(GradientEnergy(von_weizsaecker), .5, {1.5, .5, 0});
  expect_hydrogen(LocalEnergy(lda_exchange), -.2127415031, {-.4817728728, -.3452053479, -.1772343352});
  expect_hydrogen(spin_scaled(GradientEnergy(b88_exchange)), -.30975556, {-.6867171972, -.4711584649, -.2346673302});
  expect_hydrogen(GradientEnergy(b88_exchange), -.25882267, {-.5717230796, -.3850255371, -.1911111643});
  const Fn lsda = integrate(density_functional(spin_scaled(LocalEnergy(lda_exchange)), hydrogen()), space());
  EXPECT_NEAR(lsda.value(), -.2680374979, 1e-9);
}

// PBE's potential of a radial density by another road: v = e_rho - (1 / r^2) d/dr (r^2 2 e_sigma rho'), with all
// derivatives by nested jets in r and in rho or sigma.
using Number = Jet<double>;
template <class T>
T pbe_exchange_of(const T& rho, const T& sigma) {
  const double kappa = .804, mu = .06672455060314922 * pi * pi / 3;
  const T s2 = sigma / (pow(rho, 8. / 3) * (4 * std::pow(3 * pi * pi, 2. / 3)));
  return pow(rho, 4. / 3) * (-.75 * std::cbrt(3 / pi)) * ((1 + kappa) - kappa / (1. + s2 * (mu / kappa)));
}

TEST(Potentials, OfPbeAgreeWithJets) {
  const auto density = [](const Number& r) { return exp(-(r * r) * .8) * .6 + exp(r * -1.5) * .1; };
  const Fn p = identity(real({3}));
  const Fn r = sqrt(dot(p, p));
  const Fn rho = .6 * exp(-.8 * square(r)) + .1 * exp(-1.5 * r);
  const Functional e = [](const Fn& n) {
    return integrate(density_functional(GradientEnergy(pbe_exchange), n), space());
  };
  const Fn v = gradient(e, rho);
  for (const double radius : {.2, .7, 1.9}) {
    const Number x = Number::variable(radius, 2);
    const Number n = density(x), slope = n.slope();  // to orders 2 and 1
    const Number n1({n.c[0], n.c[1]}), sigma = slope * slope;
    using Nested = Jet<Number>;
    const Number by_rho = pbe_exchange_of(Nested({n1, Number({1., 0.})}), Nested({sigma})).c[1];
    const Number by_sigma = pbe_exchange_of(Nested({n1}), Nested({sigma, Number({1., 0.})})).c[1];
    const Number r1({radius, 1.});
    const Number flux = r1 * r1 * by_sigma * slope * 2.;
    const double expected = by_rho.c[0] - flux.c[1] / (radius * radius);
    const double value = v(radius * numbers({2, -1, 2}) / 3).item<double>();
    EXPECT_NEAR(value, expected, 1e-11) << radius;
  }
}

TEST(Potentials, VanishBelowTheThreshold) {
  const Functional e = [](const Fn& n) {
    return integrate(density_functional(GradientEnergy(pbe_exchange), n), space());
  };
  const Fn v = gradient(e, hydrogen());
  const auto far = numbers({60, 0, 0});
  EXPECT_EQ(v(far).item<double>(), 0);
  EXPECT_TRUE(std::isfinite(e(hydrogen()).value()));
  EXPECT_EQ(first_nan(v, {at::cat({at_distances(), far.unsqueeze(0)})}), std::nullopt);
}

TEST(MetaFunctionals, TakeLaplacianAndKineticEnergyDensity) {
  // The gradient expansion of the kinetic energy: Thomas-Fermi + von Weizsaecker / 9 + laplacian / 6, whose last term
  // has no potential.
  const MetaEnergy expansion = [](const at::Tensor& rho, const at::Tensor& sigma, const at::Tensor& laplacian,
                                  const at::Tensor&) {
    return thomas_fermi(rho) + von_weizsaecker(rho, sigma) / 9 + laplacian / 6;
  };
  const Fn none = 0. * hydrogen();
  const Functional e = [&](const Fn& rho) { return integrate(density_functional(expansion, rho, none), space()); };
  const at::Tensor v = gradient(e, hydrogen())(at_distances());
  const auto expected = numbers({1.1453927628 + 1.5 / 9, .5880642524 + .5 / 9, .1550120540});
  EXPECT_TRUE(at::allclose(v, expected, 0, 1e-9)) << v;
  // laplacian with a potential: e = rho lapl / 2 has v = lapl.
  const MetaEnergy product = [](const at::Tensor& rho, const at::Tensor&, const at::Tensor& laplacian,
                                const at::Tensor&) { return rho * laplacian / 2; };
  const at::Tensor w =
      gradient([&](const Fn& rho) { return integrate(density_functional(product, rho, none), space()); },
               hydrogen())(at_distances());
  EXPECT_TRUE(at::allclose(w, laplacian(hydrogen())(at_distances()), 1e-10, 1e-11));
  // tau of the 1s orbital is |grad rho|^2 / (8 rho).
  const Fn p = identity(real({3}));
  const Fn orbital = exp(-sqrt(dot(p, p))) / std::sqrt(pi);
  EXPECT_NEAR(integrate(kinetic_energy_density({orbital}), space()).value(), .5, 1e-9);
}

}  // namespace
}  // namespace unbend::functional
