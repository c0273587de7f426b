// Traces and diagonals of maps that are too large to be looked at entry by entry, from random vectors.
#pragma once

#include <string>
#include <vector>

#include "unbend/calculus/linear_map.h"
#include "unbend/calculus/outcome.h"

namespace unbend {

struct Estimate {
  double value;
  double standard_error;  ///< from the spread of the samples; infinite for a single one
  Outcome outcome = Outcome::Converged;
  std::string message;
};

struct DiagonalEstimate {
  Tensors diagonal;
  double relative_spread;  ///< norm of the standard errors over the norm of the diagonal
};

/// Hutchinson's estimates (1990): the means of <z, A z> and of z * (A z) over `samples` vectors z of random signs. The
/// trace's standard deviation for one sample is sqrt(2) times the norm of the off-diagonal part (of a symmetric A).
/// Throws Error (Input) for maps that are not square and samples < 1.
Estimate estimate_trace(const LinearMap& a, int64_t samples, Random& random);
DiagonalEstimate estimate_diagonal(const LinearMap& a, int64_t samples, Random& random);

/// The trace as above, and those of the blocks on the diagonal that belong to the leaves of the map's space, from the
/// same vectors.
struct TraceByLeaf {
  Estimate whole;
  std::vector<Estimate> leaves;
};
TraceByLeaf estimate_trace_by_leaf(const LinearMap& a, int64_t samples, Random& random);

/// Mean and standard error of samples: what estimates are made of.
Estimate mean_of(const std::vector<double>& samples);

}  // namespace unbend
