// Many small kernel GANs at once, one per lane of a vector: one true point at 0 and one generated point on a line, each
// with its own parameters. For phase diagrams that are measured, not predicted.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "unbend/tangent/kernel_gan.h"

namespace unbend::gan {

struct Cell {
  double sigma = 1;
  Steps steps = {};  ///< `order` is that of the call
  double p = 1, q = 1;
};

enum class Fate { Converged, Diverged };

struct CellOptions {
  std::int64_t steps = 2000;
  double start = 1e-3;     ///< |e_0| / sigma
  double grown = 10;       ///< diverged once |e| > grown |e_0| ..
  double vanished = 1e-8;  ///< .. and converged once two consecutive |e| are below this
};

struct CellResult {
  Fate fate;
  std::int64_t steps;  ///< taken: fewer than asked for where a limit was reached
  double last;         ///< |e| / |e_0| then
};

/// The exact dynamics, f from 0, nothing forgotten. A cell that meets no limit converged if the largest |e| of its
/// second half is below that of its first. O(steps^2) per cell; `kernel` gives kind and shape, each cell its width.
/// Input error for bad cells and kernels that are not smooth.
std::vector<CellResult> run_cells(const Kernel& kernel, Order order, std::span<const Cell> cells,
                                  const CellOptions& options = {});

}  // namespace unbend::gan
