// Pushes through the graph that LibTorch recorded of a function for its backward pass: the graph is walked forwards
// (methods/autofd.md, B2; what it says of recorded backwards holds here operation by operation).
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <vector>

namespace unbend {

/// v -> J v for the results y of leaves x. An operation with a rule (push_rules.h) pushes by what it saved. Any other,
/// custom ones too, is pushed by the transpose of its own backward N: since g = N u is linear in u, its push of v is
/// d<g, v>/du. The graph must live as long; may be used by several threads.
class RecordedPush {
 public:
  /// y: results that depend on x, in order.
  RecordedPush(const std::vector<at::Tensor>& x, const std::vector<at::Tensor>& y);
  RecordedPush(RecordedPush&&) noexcept;
  RecordedPush& operator=(RecordedPush&&) noexcept;
  ~RecordedPush();

  /// Factors of pointwise operations, and recorded backwards of those without a rule; `verify` compares each of the
  /// latter with its transpose: Error (Computation) for an operation whose backward is not differentiable in its
  /// cotangent, and for hooks on gradients, which pulls run and pushes do not. To be called before the first push,
  /// outside of LibTorch's transformations.
  void prepare(bool verify);

  /// v: one tangent per leaf. Gives one per result; undefined ones are zero.
  std::vector<at::Tensor> operator()(const std::vector<at::Tensor>& v) const;

 private:
  struct Plan;
  std::unique_ptr<Plan> plan_;
};

}  // namespace unbend
