// Linear circular optimal transport (LCOT; Diaz Martin et al. 2024, arXiv 2310.06002): a measure on the circle becomes
// the map M that carries the uniform measure (or another reference) to it; the embedding is e(t) = M(t) - t, and
//   LCOT_p^p(nu1, nu2) = integral over [0, 1] of |wrap(e_1 - e_2)|^p, wrap(z) = z - round(z),
// is exact here: M is piecewise linear (constant for atoms), so that sums over the merged pieces suffice.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "unbend/transport/circle.h"

namespace unbend::transport {

/// A map from [0, 1) to the circle, lifted to the line: on [starts[k], starts[k + 1]) it goes from left[k] to right[k].
struct CircularMap {
  std::vector<double> starts;  ///< increasing, the first 0, one more than pieces: the last is 1
  std::vector<double> left, right;
  std::vector<std::int64_t> stretch;  ///< the stretch of the measure behind each piece; empty where there is none
  double shift = 0;                   ///< alpha
  bool constant = true;               ///< all pieces are

  std::int64_t size() const { return static_cast<std::int64_t>(left.size()); }
  double operator()(double t) const;  ///< t in [0, 1)
};

/// For the uniform reference: alpha = mean - 1/2, M(t) = Q(t - alpha). Optimal for p = 2.
CircularMap lcot_embed(const CircularMeasure& nu);
/// For any reference and p >= 1, over the reference's quantile levels: alpha by circular_transport. Embeddings compare
/// with others of the same reference and p.
CircularMap lcot_embed(const CircularMeasure& nu, const CircularMeasure& reference, double p = 2);

/// LCOT_p^p. Input error for p < 1.
double lcot(const CircularMap& a, const CircularMap& b, double p = 2);
/// Of all pairs, [K, K].
std::vector<double> lcot_matrix(std::span<const CircularMap> maps, double p = 2, int threads = 0);

/// M(t) - t at the midpoints t = (k + 1/2) / L: [L]; e where the reference is uniform. Input error for L < 2.
std::vector<double> lcot_grid(const CircularMap& map, std::int64_t nodes);
/// (cos 2 pi M, sin 2 pi M) / (2 pi sqrt(L)) at the midpoints: [2 L], for tools that know only Euclidean distance,
/// which is here that of chords, and close to LCOT for near measures.
std::vector<double> chordal_features(const CircularMap& map, std::int64_t nodes);
/// (1 / L) sum wrap(e_i - e_j)^2 of rows [K, L] of lcot_grid: [K, K].
std::vector<double> grid_matrix(std::span<const double> rows, std::int64_t nodes, int threads = 0);

/// The measure of a map of constant pieces: positions in [0, 1), increasing, with masses; equal places are joined.
struct CircleAtoms {
  std::vector<double> positions, masses;
};
/// Input error where the map is not of constant pieces.
CircleAtoms inverse_atoms(const CircularMap& map);
/// Mass per bin, exactly conserved, for any map, also one that is not monotone.
std::vector<double> inverse_histogram(const CircularMap& map, std::int64_t bins);
/// The same smoothed by a von Mises kernel of concentration kappa.
std::vector<double> smoothed(std::span<const double> histogram, double kappa);

/// e_1 + tau wrap(e_2 - e_1); without `wrapped`, (1 - tau) e_1 + tau e_2 as in the authors' code, which sends mass the
/// long way round where embeddings differ by more than half a turn.
CircularMap interpolate(const CircularMap& from, const CircularMap& to, double tau, bool wrapped = true);

/// Circular mean of the maps for each t (without `wrapped`: the plain one). Sloped pieces are cut at `cuts` even nodes
/// too, because which way round is shorter may change within them.
CircularMap barycenter(std::span<const CircularMap> maps, std::span<const double> weights, bool wrapped = true,
                       std::int64_t cuts = 720);

/// d LCOT_2^2(nu1, nu2) by the positions and masses that `nu1` was made of (by masses as given, not scaled), for
/// measures of atoms embedded with the uniform reference. Exact away from ties of breaks and from wrap's jump:
///   d/dx_i = integral over plateau i of 2 D + w_i G, G = sum over breaks of nu1 of (D_left^2 - D_right^2),
/// the second term because alpha moves every break. D = wrap(M_1 - M_2).
struct CircularGradient {
  double value = 0;  ///< LCOT_2^2
  std::vector<double> values,
      masses;  ///< as many as were given to circular_atoms; by positions in turns: divide by the period
};
CircularGradient lcot_gradient(const CircularMeasure& nu1, const CircularMap& map1, const CircularMap& map2,
                               std::int64_t given);

}  // namespace unbend::transport
