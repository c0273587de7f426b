// Phase diagrams of a kernel GAN over width and regularisation: predicted, and measured by simulation.
#pragma once

#include <vector>

#include "unbend/report/html.h"
#include "unbend/tangent/kernel_gan_batch.h"
#include "unbend/tangent/kernel_gan_local.h"

namespace unbend {

struct PhaseDiagram {
  gan::Order order;
  std::vector<double> sigmas, lambdas;         ///< columns, rows
  std::vector<gan::Verdict> predicted;         ///< [rows, columns]
  std::vector<gan::CellResult> measured = {};  ///< likewise; empty if nothing was simulated

  std::vector<bool> disagreements() const;  ///< cells whose simulation ends otherwise than predicted
  std::size_t disagreeing() const;
  /// Those that are more than one cell away from a predicted boundary between convergence and divergence.
  std::size_t disagreeing_inside() const;
};

/// `count` numbers from 10^low to 10^high, evenly spaced by their logarithms.
std::vector<double> powers_of_ten(double low, double high, int count);

/// One generated point of mass q on one true point of mass p; eta_d, eta_g and the order are those of `steps`.
PhaseDiagram phase_diagram(const gan::Kernel& kernel, const gan::Steps& steps, double p, double q,
                           std::vector<double> sigmas, std::vector<double> lambdas, bool measure);

/// The predicted phases; cells that simulation disagrees with have a frame.
CellPlot plot_of(const PhaseDiagram& diagram);

}  // namespace unbend
