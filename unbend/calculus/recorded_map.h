// Pushes and pulls through the graph that LibTorch recorded of a function for its backward pass: it is walked forwards
// for the one, backwards for the other, and pointwise operations multiply with derivatives that are computed once
// (methods/autofd.md, B2; what it says of recorded backwards holds here operation by operation).
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <vector>

namespace unbend {

/// v -> J v and c -> J^T c for the results y of leaves x. An operation with a rule (push_rules.h) pushes by what it
/// saved. Any other, custom ones too, is pushed by the transpose of its own backward N: since g = N u is linear in u,
/// its push of v is d<g, v>/du. Pulls call the operations' own backwards. The graph must live as long; may be used by
/// several threads.
class RecordedMap {
 public:
  /// y: results that depend on x, in order. Computes the derivatives of pointwise operations: to be called outside of
  /// LibTorch's transformations.
  RecordedMap(const std::vector<at::Tensor>& x, const std::vector<at::Tensor>& y);
  RecordedMap(RecordedMap&&) noexcept;
  RecordedMap& operator=(RecordedMap&&) noexcept;
  ~RecordedMap();

  /// Records the backward of each operation without a rule; `verify` compares it with its transpose: Error
  /// (Computation) for an operation whose backward is not differentiable in its cotangent, and for hooks on gradients,
  /// which pulls run and pushes do not. To be called before the first push, outside of LibTorch's transformations.
  void prepare_pushes(bool verify);

  /// v: one tangent per leaf. Gives one per result; undefined ones are zero.
  std::vector<at::Tensor> push(const std::vector<at::Tensor>& v) const;

  /// Whether `pull` may be used: not for graphs with hooks on gradients or with other leaves than x, whose gradients it
  /// would compute in vain, nor on devices with streams, nor within a backward pass. LibTorch's engine knows all these.
  bool can_pull() const;

  /// c: one cotangent per result. Gives one per leaf; undefined ones are zero.
  std::vector<at::Tensor> pull(const std::vector<at::Tensor>& c) const;

 private:
  struct Plan;
  std::unique_ptr<Plan> plan_;
};

}  // namespace unbend
