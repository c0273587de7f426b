// Linear optimal partial transport (LOPT; Bai et al. 2023, arXiv 2302.03232): each measure is solved once against a
// reference, and becomes a vector field on the reference's atoms, a mass per atom and what no reference mass reaches.
// From then on pairs cost O(N dim), without a solver. All squared-cost quantities, as OPT itself: not square-rooted.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "unbend/transport/measure.h"
#include "unbend/transport/partial_transport.h"

namespace unbend::transport {

struct Embedding {
  std::vector<double> displacement;  ///< [N, dim], u_n = (mean target of atom n) - x_n; 0 where nothing is transported
  std::vector<double> mass;          ///< [N], transported mass, between 0 and the reference's
  Measure rest;                      ///< of the target: atoms with the mass that no reference mass reached
  double value = 0;                  ///< OPT between reference and target
  bool scaled = false;               ///< of measures scaled to mass 1 (lot_embed), so of another reference than given
};

/// The embedding of `target` (it may be empty). Input error for a reference without mass and as partial_transport.
Embedding lopt_embed(const Measure& reference, const Measure& target, double lambda);
/// The same with balanced transport of both measures scaled to mass 1 (linear optimal transport, Wang et al. 2013).
Embedding lot_embed(const Measure& reference, const Measure& target);
/// From a plan that is known; atoms with less than 1e-10 of the largest reference mass count as not transported.
Embedding embed_plan(const Measure& reference, const Measure& target, const PartialPlan& plan);

/// All targets on `threads` (0: one per core); `done` is told how many are finished, from any thread, one at a time.
std::vector<Embedding> embed_all(std::span<const Measure> targets,
                                 const std::function<Embedding(const Measure&)>& embed, int threads = 0,
                                 const std::function<void(std::int64_t)>& done = {});

/// LOPT(mu_i, mu_j) = sum_n min(|u_n^i - u_n^j|^2, 2 lambda) min(p_n^i, p_n^j)
///                    + lambda (sum_n |p_n^i - p_n^j| + M_i + M_j).
double lopt_discrepancy(const Embedding& a, const Embedding& b, double lambda);

/// Of all pairs, [K, K], symmetric, zeros on the diagonal. Input error for embeddings of different references' sizes.
std::vector<double> lopt_matrix(std::span<const Embedding> embeddings, double lambda, int threads = 0);

/// A lambda beyond which no pair of these embeddings is capped: with it lopt_matrix is the matrix of squared LOT
/// distances.
double uncapped_lambda(std::span<const Embedding> embeddings, std::int64_t dim);

/// The measure that the embedding keeps: moved atoms, and the rest.
Measure projected(const Measure& reference, const Embedding& e);

/// The way from the reference (t = 0) to the target (t = 1): transported atoms move, what is destroyed or created fades
/// linearly. Atoms without mass are left out. Input error for t outside [0, 1].
Measure interpolate(const Measure& reference, const Embedding& e, double t);
/// From one target to another through the reference: exact at both ends where plans are maps. Total mass is linear in
/// t.
Measure interpolate(const Measure& reference, const Embedding& from, const Embedding& to, double t);

struct BarycenterOptions {
  std::vector<double> weights = {};  ///< of the measures, positive; empty: equal. They are scaled to sum 1
  bool weigh_by_mass = true;  ///< moves x_n by sum w p_n u_n / sum w p_n; otherwise by sum w u_n, as the authors' code
  int most_rounds = 100;
  double tolerance = 1e-4;  ///< stops when |change|^2 / |points|^2 is at most its square
  int threads = 0;
};
struct Barycenter {
  Measure measure;  ///< the start's masses at their new places
  int rounds = 0;
  double change = 0;  ///< of the last round, |change| / |points|
};
/// Fixed-point iteration: embed all targets, move the reference's atoms, again. Atoms out of reach of everything stay.
Barycenter barycenter(Measure start, std::span<const Measure> targets, double lambda, const BarycenterOptions& options);

/// Rows for PCA and classifiers, [K, N dim (+ N)]: sqrt(p_n) u_n, so that Euclidean distance is the LOT distance; with
/// `mass_feature` also sqrt(lambda) times the share of the atom's mass that is transported, scaled by sqrt(p_n).
std::vector<double> features(const Measure& reference, std::span<const Embedding> embeddings, bool mass_feature,
                             double lambda);

}  // namespace unbend::transport
