// Reverse mode through a network's operations, without an autograd graph.
#pragma once

#include <ATen/ATen.h>

#include "unbend/nets/network.h"

namespace unbend {

/// J of every sample, [B, k, n], for k outputs and n inputs per sample; `value` gets the output, flattened to [B, k].
/// A group of outputs at a time goes back through the operations. Float or double, on the CPU; makes no graph. Costs
/// less than one gradient per output: gates meet what a maximum lets through only, outputs stay together where all
/// samples have the same matrix, and convolutions of few channels go back as products of matrices.
at::Tensor sample_jacobians(const Network& network, const at::Tensor& x, at::Tensor& value);

}  // namespace unbend
