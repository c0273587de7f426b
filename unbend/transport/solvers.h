// The solvers behind partial_transport.h. All minimise sum (c - 2 lambda) gamma over partial plans between the rows and
// the columns of `Pairs`; masses are positive.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "unbend/transport/pairs.h"

namespace unbend::transport {

struct Flow {
  std::int64_t row, column;  ///< columns in the order of Pairs
  double mass;
};

struct Solution {
  std::vector<Flow> flows;
  std::vector<double> row_potentials, column_potentials;  ///< at most 0; empty where the solver has none
  std::int64_t steps = 0;                                 ///< pivots, or rows scanned
};

/// Network simplex on rows, columns and one root that takes what is not transported: primal, strongly feasible trees
/// (Cunningham 1976), rows priced one at a time, a short list of candidates. Computation error with the duality gap
/// after `most_pivots`.
Solution network_simplex(const Pairs& pairs, double lambda, std::span<const double> row_masses,
                         std::span<const double> column_masses, std::int64_t most_pivots);

/// Every mass is 1: an assignment in which a row may stay alone, by row reduction and shortest augmenting paths
/// (Jonker and Volgenant 1987).
Solution assignment(const Pairs& pairs, double lambda);

/// Every mass is 1, points on a line, `rows` and `columns` increasing: optimal plans are monotone, so dynamic
/// programming over pairs closer than sqrt(2 lambda). Flows number the columns in their own order.
Solution line_assignment(std::span<const double> rows, std::span<const double> columns, double lambda);

}  // namespace unbend::transport
