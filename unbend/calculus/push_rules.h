// How operations that LibTorch recorded for its backward pass map tangents forwards, from what they saved for it.
#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/autograd/function.h>

#include <vector>

namespace unbend {

/// Tangents of what an operation took and of what it gave; undefined ones are zero. A rule may write into tangents of
/// `in` that are its own (`is_own`).
struct Tangents {
  std::vector<at::Tensor> in, out;
  at::IntArrayRef shape;  ///< of what the operation gave first
};

using PushRule = void (*)(torch::autograd::Node& operation, Tangents& t);

/// The rule for an operation, or null: then the push is the transpose of its backward (recorded_map.h).
PushRule push_rule(const torch::autograd::Node& operation);

/// Whether an operation works on each number alone, so that its derivative is a tensor to multiply with: its backward
/// of ones.
bool is_pointwise(const torch::autograd::Node& operation);

/// Whether nobody else sees the numbers of t.
bool is_own(const at::Tensor& t);

/// t * factor, in t where it is own and as large.
at::Tensor times(at::Tensor t, const at::Tensor& factor);

}  // namespace unbend
