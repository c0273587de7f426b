// Optimal partial transport between discrete measures, solved exactly: mass is moved at its squared distance, or given
// up at the price lambda per unit and side,
//   OPT(mu, nu) = min over gamma >= 0, gamma 1 <= p, gamma^T 1 <= q of sum c gamma + lambda (|p| + |q| - 2 |gamma|),
// c_ij = |x_i - y_j|^2, so nothing moves further than sqrt(2 lambda) (Figalli 2010; Bai et al. 2023, section 2).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "unbend/transport/measure.h"

namespace unbend::transport {

struct PlanEntry {
  std::int64_t source, target;  ///< atoms of mu and of nu
  double mass;
};

struct PartialPlan {
  std::vector<PlanEntry> entries;  ///< by source, then target; masses are positive
  double transported = 0;          ///< |gamma|
  double cost = 0;                 ///< sum c gamma
  double value = 0;                ///< OPT(mu, nu)
  /// u, v <= 0 with u_i + v_j <= c_ij - 2 lambda: they prove the value. Of atoms without mass 0; none for solver
  /// "line".
  std::vector<double> source_potentials, target_potentials;
  std::optional<double> gap;  ///< value minus the dual value lambda (|p| + |q|) + p u + q v; none for solver "line"
  std::string solver;         ///< "line", "assignment" or "network simplex"
  std::int64_t steps = 0;     ///< pairs, rows scanned, or pivots
};

enum class Solver {
  Automatic,       ///< line in one dimension where all masses are equal; network simplex otherwise
  NetworkSimplex,  ///< any masses, any dimension
  Assignment,      ///< shortest augmenting paths: only equal masses; slower than the simplex, independent of it
};

/// Measures of the same dimension; either may be empty, atoms may have no mass. Ties are broken by the order of the
/// atoms, always in the same way. Input error for lambda <= 0 or so large that the
/// value overflows and for what `check` refuses; computation
/// error with the duality gap when `most_pivots` (0: 1,000 per atom, at least a million) do not suffice.
PartialPlan partial_transport(const Measure& mu, const Measure& nu, double lambda, Solver solver = Solver::Automatic,
                              std::int64_t most_pivots = 0);

/// Balanced transport as the case of a lambda that no distance exceeds: all mass moves. Input error unless both masses
/// are positive and equal to 1e-9 of their size.
PartialPlan balanced_transport(const Measure& mu, const Measure& nu);

}  // namespace unbend::transport
