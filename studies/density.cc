#include "studies/density.h"

#include <fmt/format.h>
#include <torch/types.h>

#include <cmath>
#include <numbers>

#include "unbend/base/random.h"
#include "unbend/calculus/functional.h"
#include "unbend/calculus/jet.h"
#include "unbend/calculus/xc.h"

namespace unbend {
namespace {

using functional::Fn;
using functional::Functional;
using functional::GradientEnergy;
using functional::Jet;
using std::numbers::pi;

// ---- The other road: energies written once more, for any kind of number, and v = e_rho - (1/r^2) d/dr (2 r^2 e_sigma
// rho') by jets in r and, nested, in rho and sigma.

template <class T>
T tf(const T& rho, const T&) {
  return pow(rho, 5. / 3) * (.3 * std::pow(3 * pi * pi, 2. / 3));
}
template <class T>
T vw(const T& rho, const T& sigma) {
  return sigma / (rho * 8.);
}
template <class T>
T lda(const T& rho, const T&) {
  return pow(rho, 4. / 3) * (-.75 * std::cbrt(3 / pi));
}
template <class T>
T b88(const T& rho, const T& sigma) {
  const double beta = .0042;
  const T spin = pow(rho * .5, 4. / 3), x = sqrt(sigma * .25) / spin;
  const T asinh = log(x + sqrt(x * x + 1.));
  return lda(rho, sigma) - spin * x * x * (2 * beta) / (1. + x * asinh * (6 * beta));
}
template <class T>
T pbe(const T& rho, const T& sigma) {
  const double beta = .06672455060314922, kappa = .804, mu = beta * pi * pi / 3, gamma = (1 - std::log(2)) / (pi * pi);
  const T s2 = sigma / (pow(rho, 8. / 3) * (4 * std::pow(3 * pi * pi, 2. / 3)));
  const T exchange = lda(rho, sigma) * (1 + kappa - kappa / (1. + s2 * (mu / kappa)));
  const T rs = pow(rho * (4 * pi / 3), -1. / 3), root = sqrt(rs);
  const double a = .0310907;
  const T series = root * (root * (root * (root * .49294 + 1.6382) + 3.5876) + 7.5957);
  const T ec = (rs * .21370 + 1.) * log(1. + 1. / (series * (2 * a))) * (-2 * a);
  const T t2 = sigma / (pow(rho * (3 * pi * pi), 1. / 3) * rho * rho * (16 / pi));
  const T cap = (beta / gamma) / (exp(ec * (-1 / gamma)) - 1.);
  const T at2 = cap * t2;
  const T gain = log(1. + t2 * (beta / gamma) * (1. + at2) / (1. + at2 + at2 * at2)) * gamma;
  return exchange + rho * (ec + gain);
}

using Number = Jet<double>;
using Nested = Jet<Number>;

double radial_potential(Nested (*energy)(const Nested&, const Nested&), const Number& rho, double r) {
  const Number slope = rho.slope(), n({rho.c[0], rho.c[1]}), sigma = slope * slope, one({1., 0.});
  const Number by_rho = energy(Nested({n, one}), Nested({sigma})).c[1];
  const Number by_sigma = energy(Nested({n}), Nested({sigma, one})).padded(1).c[1].padded(1);
  const Number radius({r, 1.}), flux = radius * radius * by_sigma * slope * 2.;
  return by_rho.c[0] - flux.c[1] / (r * r);
}

struct Density {
  const char* name;
  Fn rho;
  Number (*at)(const Number& r);
};

struct Energy {
  const char* name;
  GradientEnergy energy;
  Nested (*again)(const Nested&, const Nested&);
};

GradientEnergy local(const functional::LocalEnergy& e) {
  return [e](const at::Tensor& rho, const at::Tensor&) { return e(rho); };
}

}  // namespace

void study_density(StudyResult& result) {
  const Fn p = functional::identity(functional::real({3}));
  const Fn r2 = dot(p, p);
  const Density densities[] = {
      {"Gaussian", exp(-r2) / std::pow(pi, 1.5), [](const Number& r) { return exp(-(r * r)) * std::pow(pi, -1.5); }},
      {"hydrogen", exp(-2 * sqrt(r2)) / pi, [](const Number& r) { return exp(r * -2.) * (1 / pi); }}};
  const Energy energies[] = {{"LDA exchange", local(functional::lda_exchange), lda<Nested>},
                             {"B88 exchange", functional::b88_exchange, b88<Nested>},
                             {"PBE",
                              [](const at::Tensor& rho, const at::Tensor& sigma) {
                                return functional::pbe_exchange(rho, sigma) + functional::pbe_correlation(rho, sigma);
                              },
                              pbe<Nested>},
                             {"Thomas-Fermi", local(functional::thomas_fermi), tf<Nested>},
                             {"von Weizsaecker", functional::von_weizsaecker, vw<Nested>}};
  const functional::Grid space = functional::atomic(functional::radial(80), functional::lebedev(6));
  constexpr int64_t kPoints = 1000;
  Random random(1);
  std::vector<double> radii;
  auto points = at::empty({kPoints, 3}, at::kDouble);
  for (int64_t i = 0; i < kPoints; ++i) {
    const double r = .05 + 4.95 * static_cast<double>(i) / kPoints;
    double v[3], norm = 0;
    for (double& c : v) c = random.normal(), norm += c * c;
    for (int j = 0; j < 3; ++j) points.mutable_data_ptr<double>()[3 * i + j] = r * v[j] / std::sqrt(norm);
    radii.push_back(r);
  }
  Table table{"Potentials at 1000 points, r from 0.05 to 5 bohr",
              {"functional", "density", "energy", "largest relative error"},
              {}};
  LinePlot plot{"Potentials of hydrogen's density", {"r (bohr)"}, {"v (hartree)", Scale::Linear, -2, 2}, {}};
  for (const auto& [density_name, rho, at_radius] : densities) {
    for (const auto& [energy_name, energy, again] : energies) {
      const Functional total = [&](const Fn& n) { return integrate(density_functional(energy, n), space); };
      const at::Tensor v = functional::gradient(total, rho)(points);
      double worst = 0;
      std::vector<double> values;
      for (int64_t i = 0; i < kPoints; ++i) {
        const double r = radii[static_cast<size_t>(i)];
        const double expected = radial_potential(again, at_radius(Number::variable(r, 2)), r);
        values.push_back(v[i].item<double>());
        // Where a potential crosses zero its relative error says nothing: at least a hundredth of a hartree below.
        worst = std::max(worst, std::abs(values.back() - expected) / std::max(std::abs(expected), .01));
      }
      table.rows.push_back(
          {energy_name, density_name, fmt::format("{:.8f}", total(rho).value()), fmt::format("{:.1e}", worst)});
      record(result, fmt::format("potential of {}, {} density: largest relative error", energy_name, density_name),
             "energies of libxc to 1e-14", worst, "", Bar::at_most(1e-9));
      if (density_name == std::string("hydrogen")) plot.series.push_back({energy_name, radii, values});
    }
  }
  const auto energy_of = [&](const auto& energy) {
    return integrate(functional::density_functional(energy, densities[1].rho), space).value();
  };
  record(result, "hydrogen: B88 exchange of the polarised density", "-0.30975556",
         energy_of(functional::spin_scaled(GradientEnergy(functional::b88_exchange))), "hartree",
         Bar::within(-.30975556, 1e-8));
  record(result, "hydrogen: LSDA exchange", "-0.2680374979",
         energy_of(functional::spin_scaled(functional::LocalEnergy(functional::lda_exchange))), "hartree",
         Bar::within(-.2680374979, 1e-9));
  result.tables.push_back(table);
  result.plots.push_back(plot);
}

}  // namespace unbend
