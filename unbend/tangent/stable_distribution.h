// Method `stable_distribution`: the distribution of a network's output for a noisy input, by local linearization
// (Petersen et al. 2024, "Uncertainty Quantification via Stable Distribution Propagation", arXiv 2402.08324).
//
// For x = m + L s with independent standard stable s, the output is f(m) + J L s, J the Jacobian at m: location f(m),
// and for a Gaussian covariance J L L^T J^T. It is what the noise does to the output; it says nothing of what the
// network does not know. The location is f(m), not the mean of f.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>

#include "unbend/nets/network.h"
#include "unbend/tangent/stable_law.h"

namespace unbend {

/// Noise on the input, one and the same for all samples of a batch, or one for each. Exactly one tensor is there.
struct Noise {
  Law law;
  at::Tensor scale;   ///< of independent elements: [], the shape of one sample, or of the batch
  at::Tensor factor;  ///< L: [n, r], or [B, n, r]; n elements of a sample in row-major order
};

/// Input error for scales that are negative or not finite.
Noise independent_noise(const Law& law, const at::Tensor& scale);
Noise independent_noise(const Law& law, double scale);
/// Low rank or correlated: x = m + L s.
Noise factor_noise(const Law& law, const at::Tensor& factor);
/// Gaussian of covariance [n, n] or [B, n, n]. Input error unless symmetric and positive semi-definite: no eigenvalue
/// below -1e-8 of the largest (in float32 below its rounding).
Noise gaussian_noise(const at::Tensor& covariance);

/// Input error unless x is a batch [B, ..] of finite floating numbers whose shape the noise fits.
void check_noise(const at::Tensor& x, const Noise& noise);

/// Distribution of the output [B, k] (outputs of more dimensions are flattened). One of the three tensors is there.
struct Propagated {
  Law law;
  at::Tensor location;    ///< [B, k]
  at::Tensor covariance;  ///< [B, k, k]: Gaussian
  at::Tensor factor;      ///< [B, k, r]: other laws; output = location + factor s
  at::Tensor power;       ///< [B, k]: marginal mode: scale^alpha, correlations are not known
};

/// [B, ..] -> [B, ..], differentiable; samples do not interact.
using BatchFunction = std::function<at::Tensor(const at::Tensor&)>;

enum class Sweep {
  Auto,     ///< the one with fewer vectors
  Reverse,  ///< k pull-backs
  Forward,  ///< as many pushes as the noise has columns
};

struct PropagateOptions {
  Sweep sweep = Sweep::Auto;
  /// Of a BatchFunction: results can be differentiated in what it depends on. Networks whose weights ask for gradients
  /// need no option: their results always can.
  bool create_graph = false;
};

/// The whole network in one pass. x: [B, ..] of one floating dtype. Networks of linear layers and activations run
/// fused, without an autograd graph. Results of many samples are made a part of the batch after the other. Input error
/// for a missing batch dimension, integers, numbers that are not finite, and noise of other shapes.
Propagated propagate(const Network& network, const at::Tensor& x, const Noise& noise,
                     const PropagateOptions& options = {});
/// Any differentiable function. Input error if its samples interact (batch statistics) or its values are random
/// (dropout), which one more run finds.
Propagated propagate(const BatchFunction& f, const at::Tensor& x, const Noise& noise,
                     const PropagateOptions& options = {});

/// Layer by layer, every value taken for independent of the others ("mar-SDP"): two forward passes, no backward. The
/// noise must be independent (`scale`).
Propagated propagate_marginal(const Network& network, const at::Tensor& x, const Noise& noise);

/// The same noise, the same distribution, on a device.
Noise to(const Noise& noise, at::Device device);
Propagated to(const Propagated& p, at::Device device);

/// The output's distribution as the noise of the next network's input, whose sample has k elements.
Noise as_noise(const Propagated& p);

/// x + noise, drawn: [B, ..].
at::Tensor draw(const at::Tensor& x, const Noise& noise, at::Generator& generator);

/// [B, k]: standard deviations of a Gaussian, else scales.
at::Tensor scale(const Propagated& p);
/// [B, k, k] (diagonal in marginal mode). Input error for laws without variance.
at::Tensor covariance(const Propagated& p);
/// [B, k]: scale of Y_label - Y_j; labels [B] int64.
at::Tensor difference_scale(const Propagated& p, const at::Tensor& labels);

/// Outputs first .. first + count - 1.
Propagated outputs(const Propagated& p, int64_t first, int64_t count);
/// Adds the outputs' own independent noise, as a probabilistic network predicts it: variances [B, k] of a Gaussian,
/// else scales. Throws Error (Input) where one is negative.
Propagated with_own_noise(const Propagated& p, const at::Tensor& own);

}  // namespace unbend
