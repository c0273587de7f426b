// Density functionals: kinetic and exchange-correlation energies in atomic units, as leaves to integrate.
//
//   const Fn v = gradient([&](const Fn& rho) { return integrate(density_functional(pbe_exchange, rho), space); }, rho);
//
// is the potential de/drho - div(2 de/dsigma grad rho) for e(rho, sigma), sigma = |grad rho|^2, with no formula for it.
// Energies are per volume, of spin-unpolarised densities unless said; `spin_scaled` gives the polarised exchange.
#pragma once

#include "unbend/calculus/fn.h"

namespace unbend::functional {

/// Energy per volume [N] of rho [N]; of rho and sigma [N].
using LocalEnergy = std::function<at::Tensor(const at::Tensor& rho)>;
using GradientEnergy = std::function<at::Tensor(const at::Tensor& rho, const at::Tensor& sigma)>;

/// x -> e(rho(x)), and e(rho(x), |grad rho(x)|^2), for rho of one argument. Where rho <= threshold the energy and its
/// derivatives are 0.
Fn density_functional(const LocalEnergy& energy, const Fn& rho, double threshold = 1e-15);
Fn density_functional(const GradientEnergy& energy, const Fn& rho, double threshold = 1e-15);
/// e(rho, sigma, laplacian of rho, tau): meta-GGA.
using MetaEnergy = std::function<at::Tensor(const at::Tensor& rho, const at::Tensor& sigma, const at::Tensor& laplacian,
                                            const at::Tensor& tau)>;
Fn density_functional(const MetaEnergy& energy, const Fn& rho, const Fn& tau, double threshold = 1e-15);

/// 1/2 sum over orbitals of |grad phi_i|^2.
Fn kinetic_energy_density(const std::vector<Fn>& orbitals);

/// Exchange of one spin's density from the unpolarised form: e(2 rho) / 2 (Oliver and Perdew, 1979). Exchange of a
/// polarised density is the sum over its spins.
LocalEnergy spin_scaled(LocalEnergy energy);
GradientEnergy spin_scaled(GradientEnergy energy);

at::Tensor thomas_fermi(const at::Tensor& rho);                              ///< kinetic, 3/10 (3 pi^2)^(2/3) rho^(5/3)
at::Tensor von_weizsaecker(const at::Tensor& rho, const at::Tensor& sigma);  ///< kinetic, sigma / (8 rho)
at::Tensor lda_exchange(const at::Tensor& rho);                              ///< Slater and Dirac
at::Tensor b88_exchange(const at::Tensor& rho, const at::Tensor& sigma);     ///< Becke, Phys. Rev. A 38, 3098 (1988)
at::Tensor pbe_exchange(const at::Tensor& rho, const at::Tensor& sigma);     ///< Perdew, Burke, Ernzerhof, PRL 77, 3865
at::Tensor pw92_correlation(const at::Tensor& rho);                          ///< Perdew and Wang, PRB 45, 13244
at::Tensor pbe_correlation(const at::Tensor& rho, const at::Tensor& sigma);

/// The same for two spins; sigma is |grad (up + down)|^2.
at::Tensor pw92_correlation_polarized(const at::Tensor& up, const at::Tensor& down);
at::Tensor pbe_correlation_polarized(const at::Tensor& up, const at::Tensor& down, const at::Tensor& sigma);

}  // namespace unbend::functional
