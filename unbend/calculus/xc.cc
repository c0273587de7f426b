#include "unbend/calculus/xc.h"

#include <array>
#include <cmath>
#include <numbers>

#include "unbend/base/error.h"
#include "unbend/calculus/fn_math.h"

namespace unbend::functional {
namespace {

using std::numbers::pi;

// The energy where the density exceeds the threshold, 0 elsewhere. Inputs are masked before the energy sees them: the
// branch that is not taken has a gradient too.
template <class Energy>
Fn thresholded(const Energy& energy, const std::vector<Fn>& inputs, double threshold) {
  FnType type{Spec{}, std::vector<SpecTree>(inputs.size())};
  const Fn guarded = leaf(
      [energy, threshold](const Tensors& x) {
        const at::Tensor mask = x[0] > threshold;
        Tensors safe;
        for (std::size_t i = 0; i < x.size(); ++i) {
          safe.push_back(at::where(mask, x[i], i == 0 ? at::ones_like(x[i]) : at::zeros_like(x[i])));
        }
        const at::Tensor e = energy(safe);
        return Tensors{at::where(mask, e, at::zeros_like(e))};
      },
      std::move(type), {.name = "density functional"});
  return compose(guarded, inputs);
}

void check_density(const Fn& rho) {
  require(rho.arity() == 1 && rho.type().ret == SpecTree(Spec{}) && !rho.type().args[0].is_tuple(),
          "density_functional: {} is not a density, (f64[3]) -> f64 for example", signature(rho));
}

// F'' ~ 1 / sqrt at 0: functions of |grad rho| that are smooth in its square need a root that is.
at::Tensor safe_root(const at::Tensor& square, double least) { return square.clamp_min(least).sqrt(); }

// Perdew and Wang's interpolation of the correlation energy per particle.
at::Tensor pw92_g(const at::Tensor& rs, double a, double alpha, const std::array<double, 4>& beta) {
  const at::Tensor root = rs.sqrt();
  const at::Tensor series = root * (beta[0] + root * (beta[1] + root * (beta[2] + root * beta[3])));
  return -2 * a * (1 + alpha * rs) * (1 / (2 * a * series)).log1p();
}

struct Correlation {
  at::Tensor total, rs, zeta, per_particle;
};

at::Tensor spin_power(const at::Tensor& zeta, double power) { return (1 + zeta).pow(power) + (1 - zeta).pow(power); }

// zeta beyond +-(1 - 1e-14) has infinite derivatives.
Correlation pw92(const at::Tensor& up, const at::Tensor& down) {
  const at::Tensor total = up + down;
  const at::Tensor zeta = ((up - down) / total).clamp(-1 + 1e-14, 1 - 1e-14);
  const at::Tensor rs = (3 / (4 * pi * total)).pow(1. / 3);
  constexpr double kCurvature = 1.709920934161365617563962776245;  // f''(0)
  const at::Tensor f = (spin_power(zeta, 4. / 3) - 2) / (std::pow(2., 4. / 3) - 2);
  const at::Tensor none = pw92_g(rs, .0310907, .21370, {7.5957, 3.5876, 1.6382, .49294});
  const at::Tensor full = pw92_g(rs, .01554535, .20548, {14.1189, 6.1977, 3.3662, .62517});
  const at::Tensor stiffness = -pw92_g(rs, .0168869, .11125, {10.357, 3.6231, .88026, .49671});
  const at::Tensor z4 = zeta.square().square();
  return {total, rs, zeta, none + stiffness * f * (1 - z4) / kCurvature + (full - none) * f * z4};
}

}  // namespace

Fn density_functional(const LocalEnergy& energy, const Fn& rho, double threshold) {
  check_density(rho);
  return thresholded([energy](const Tensors& x) { return energy(x[0]); }, {rho}, threshold);
}

Fn density_functional(const GradientEnergy& energy, const Fn& rho, double threshold) {
  check_density(rho);
  const Fn slope = nabla(rho);
  return thresholded([energy](const Tensors& x) { return energy(x[0], x[1]); }, {rho, dot(slope, slope)}, threshold);
}

Fn density_functional(const MetaEnergy& energy, const Fn& rho, const Fn& tau, double threshold) {
  check_density(rho);
  const Fn slope = nabla(rho);
  return thresholded([energy](const Tensors& x) { return energy(x[0], x[1], x[2], x[3]); },
                     {rho, dot(slope, slope), laplacian(rho), tau}, threshold);
}

Fn kinetic_energy_density(const std::vector<Fn>& orbitals) {
  require(!orbitals.empty(), "kinetic_energy_density: no orbitals");
  Fn total = 0;
  for (const Fn& orbital : orbitals) total = total + dot(nabla(orbital), nabla(orbital));
  return .5 * total;
}

LocalEnergy spin_scaled(LocalEnergy energy) {
  return [energy = std::move(energy)](const at::Tensor& rho) { return energy(2 * rho) / 2; };
}

GradientEnergy spin_scaled(GradientEnergy energy) {
  return [energy = std::move(energy)](const at::Tensor& rho, const at::Tensor& sigma) {
    return energy(2 * rho, 4 * sigma) / 2;
  };
}

at::Tensor thomas_fermi(const at::Tensor& rho) { return .3 * std::pow(3 * pi * pi, 2. / 3) * rho.pow(5. / 3); }

at::Tensor von_weizsaecker(const at::Tensor& rho, const at::Tensor& sigma) { return sigma / (8 * rho); }

at::Tensor lda_exchange(const at::Tensor& rho) { return -.75 * std::cbrt(3 / pi) * rho.pow(4. / 3); }

at::Tensor b88_exchange(const at::Tensor& rho, const at::Tensor& sigma) {
  constexpr double kBeta = .0042;
  const at::Tensor spin = (rho / 2).pow(4. / 3);          // of each of the two spins
  const at::Tensor square = (sigma / 4) / spin.square();  // x^2
  const at::Tensor x = safe_root(square, 1e-12);
  // x asinh(x) = x^2 (1 - x^2 / 6 + ..), within rounding of x^2 for small ones.
  const at::Tensor product = at::where(square < 1e-12, square, x * x.asinh());
  return lda_exchange(rho) - 2 * kBeta * spin * square / (1 + 6 * kBeta * product);
}

at::Tensor pbe_exchange(const at::Tensor& rho, const at::Tensor& sigma) {
  constexpr double kKappa = .804, kMu = .06672455060314922 * pi * pi / 3;
  const double unit = 4 * std::pow(3 * pi * pi, 2. / 3);  // s^2 = sigma / (unit rho^(8/3))
  const at::Tensor s2 = sigma / (unit * rho.pow(8. / 3));
  return lda_exchange(rho) * (1 + kKappa - kKappa / (1 + kMu / kKappa * s2));
}

at::Tensor pw92_correlation_polarized(const at::Tensor& up, const at::Tensor& down) {
  const Correlation c = pw92(up, down);
  return c.total * c.per_particle;
}

at::Tensor pbe_correlation_polarized(const at::Tensor& up, const at::Tensor& down, const at::Tensor& sigma) {
  constexpr double kBeta = .06672455060314922;
  const double gamma = (1 - std::numbers::ln2) / (pi * pi);
  const Correlation c = pw92(up, down);
  const at::Tensor phi = spin_power(c.zeta, 2. / 3) / 2;
  const at::Tensor cube = gamma * phi * phi * phi;
  const at::Tensor fermi = (3 * pi * pi * c.total).pow(1. / 3);
  const at::Tensor t2 = sigma / (16 / pi * fermi * (phi * c.total).square());  // (|grad| / (2 phi k_s rho))^2
  const at::Tensor a = kBeta / gamma / (-c.per_particle / cube).expm1();
  const at::Tensor at2 = a * t2;
  const at::Tensor gain = cube * (kBeta / gamma * t2 * (1 + at2) / (1 + at2 + at2 * at2)).log1p();
  return c.total * (c.per_particle + gain);
}

at::Tensor pw92_correlation(const at::Tensor& rho) { return pw92_correlation_polarized(rho / 2, rho / 2); }

at::Tensor pbe_correlation(const at::Tensor& rho, const at::Tensor& sigma) {
  return pbe_correlation_polarized(rho / 2, rho / 2, sigma);
}

}  // namespace unbend::functional
