// Local complexity: how many neurons fold the input space close to a point, layer by layer (Humayun, Balestriero and
// Baraniuk, "Deep Networks Always Grok and Here is Why", ICML 2024, arXiv 2402.15555).
//
// A neuron folds the input space along {x : z(x) = 0}, where z is its pre-activation. The neighbourhood of x is the
// orthoplex with the vertices x +- r v_p; a neuron is crossed there if its z does not have the same sign (-1, 0 or 1)
// at all vertices. Vertices go through the whole network, so beyond the first layer the neighbourhood is their image.
#pragma once

#include <ATen/ATen.h>

#include <string>
#include <vector>

#include "unbend/nets/network.h"

namespace unbend {

/// Orthonormal rows [P, D]: the Q of the QR factorisation of a standard normal D x P matrix with a positive diagonal of
/// R. The same seed gives the same frame everywhere, up to rounding. Make it once: curves over training are smooth only
/// on one frame. `type` is what is stored (float64 or float32); D may be large, sums are in float64. Input error unless
/// 1 <= P <= D.
at::Tensor orthoplex_frame(int64_t dimensions, int64_t directions, uint64_t seed, at::ScalarType type = at::kDouble);

/// Independent random unit rows [P, D], as the authors' older code draws them; P may be above D.
at::Tensor random_directions(int64_t dimensions, int64_t directions, uint64_t seed, at::ScalarType type = at::kDouble);

struct LocalComplexityOptions {
  double radius = .05;          ///< r, in units of the probes
  bool include_output = false;  ///< the last layer counts too, although no activation follows it (the authors do so)
  bool include_centre = false;  ///< the probe itself is a vertex too
  /// Names of the nodes whose values are looked at; empty: all that an activation reads.
  std::vector<std::string> layers = {};
  int64_t vertices_at_once = 0;  ///< through networks that are not chains of Linear; 0: by their size
};

struct LayerComplexity {
  std::string name;
  int64_t neurons;       ///< channels times places for convolutions
  at::Tensor crossings;  ///< [S] int64: crossed neurons at each probe
  double mean() const;   ///< over probes
  double fraction() const { return mean() / static_cast<double>(neurons); }
};

struct LocalComplexity {
  std::vector<LayerComplexity> layers;
  at::Tensor total() const;  ///< [S] int64: over layers
  double mean() const;       ///< of total(), over probes
  /// A line for each layer of which less than 0.1 % or more than half of the neurons are crossed: another radius shows
  /// more. Complexities compare only at equal radius, frame and scale of the inputs.
  std::vector<std::string> warnings() const;
};

/// Local complexity at probes [S, ..], of the shape that the network takes; `frame` [P, D], D numbers per probe.
/// Chains of Linear layers and activations on the CPU go through a fused kernel: the first layer costs one
/// pre-activation per probe (the exact test |w.x + b| <= r max_p |v_p.w|), and later layers see the vertices as a
/// centre, P half differences and one correction per neuron crossed so far, as long as that is cheaper than 2 P rows.
/// Other networks see blocks of vertices. Input error for r <= 0, no probes, probes that are integers or not finite,
/// a frame that does not fit, a network without such layers; Computation error, naming the layer, if values overflow.
LocalComplexity local_complexity(const Network& network, const at::Tensor& probes, const at::Tensor& frame,
                                 const LocalComplexityOptions& options = {});

/// The definition, by comparing signs of all vertices at once.
LocalComplexity local_complexity_naive(const Network& network, const at::Tensor& probes, const at::Tensor& frame,
                                       const LocalComplexityOptions& options = {});

}  // namespace unbend
