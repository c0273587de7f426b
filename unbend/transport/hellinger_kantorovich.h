// Linearised Hellinger-Kantorovich distance (Liero, Mielke and Savare 2018; Cai, Cheng, Schmitzer and Thorpe 2022):
// moving and growing at once, for comparison with partial transport. An atom of mass m at x and one of mass n at y are
//   length^2 (m + n - 2 sqrt(m n) cos(min(|x - y| / length, pi / 2)))
// apart, so nothing moves further than length pi / 2.
#pragma once

#include <span>
#include <vector>

#include "unbend/transport/measure.h"

namespace unbend::transport {

struct HkOptions {
  double length = 1;   ///< in units of the points
  double blur = 2e-3;  ///< entropic regularisation, in units of length^2; the bias falls with it, the time grows
  int most_rounds = 5000;
  double tolerance = 1e-6;  ///< of the potentials
};

struct HkEmbedding {
  std::vector<double> velocity;  ///< [N, dim], where the reference's atoms move, in units of length
  std::vector<double> growth;    ///< [N], rate at which their mass grows; -2 where nothing is in reach
  Measure rest;                  ///< of the target: atoms in reach of nothing
  double value = 0;              ///< squared distance to the target
  double left = 0;               ///< change of the potentials in the last round
};

/// Solved by unbalanced scaling in the log domain. Input error for what `check` refuses, a reference without mass and
/// options that are not positive; computation error if `most_rounds` do not bring the change below 1e-3.
HkEmbedding hk_embed(const Measure& reference, const Measure& target, const HkOptions& options);

/// Rows [K, N (dim + 1)], length sqrt(m_n) (velocity, growth / 2): Euclidean distance is the linearised distance, apart
/// from the rests.
std::vector<double> hk_features(const Measure& reference, std::span<const HkEmbedding> embeddings, double length);

}  // namespace unbend::transport
