// Jacobians of networks, one per sample, many vectors at a time: what `stable_distribution` is made of.
#pragma once

#include <ATen/ATen.h>

#include <functional>
#include <optional>
#include <vector>

#include "unbend/nets/network.h"

namespace unbend {

/// A network of linear layers and elementwise functions at the samples x: y = A_m D_m-1 ... D_1 A_0 x with diagonal
/// D, one per sample.
struct GatedChain {
  /// Of matrices [out, in] (of all samples), gates [B, width] (one row per sample), and factors [width] or [].
  struct Step {
    enum class Kind { Matrix, Gate, Factor } kind;
    at::Tensor values;
  };
  at::Tensor value;  ///< [B, k]
  std::vector<Step> steps;
  int64_t inputs;  ///< elements of a sample

  /// Steps before the first gate: the same linear map for all samples.
  size_t affine() const;
  /// The steps from `first` on, times vectors: [1 or B, r, width] -> [1 or B, r, k].
  at::Tensor push(at::Tensor rows, size_t first) const;
  /// Their matrix, rows first: [1 or B, k, width].
  at::Tensor matrix(size_t first) const;
  /// The same of the leading affine steps alone: [width, inputs]; undefined if there are none.
  at::Tensor leading() const;
};

/// Nothing if the network has other operations, or values of more than two dimensions beside its input. Runs it once.
/// Differentiable in the weights.
std::optional<GatedChain> gated_chain(const Network& network, const at::Tensor& x);

/// J of every sample, [B, k, n], of a function whose samples do not interact, by reverse mode: k pull-backs, each the
/// gradient of the sum over the batch of one output. `value` gets f(x), flattened to [B, k]. With `create_graph` both
/// can be differentiated in what f depends on.
at::Tensor sample_jacobians(const std::function<at::Tensor(const at::Tensor&)>& f, const at::Tensor& x,
                            bool create_graph, at::Tensor& value);

/// J v of every sample for r vectors each: [B, n, r] (or [n, r], of all samples) -> [B, k, r], by r pushes.
at::Tensor sample_pushes(const std::function<at::Tensor(const at::Tensor&)>& f, const at::Tensor& x,
                         const at::Tensor& vectors, at::Tensor& value);

}  // namespace unbend
