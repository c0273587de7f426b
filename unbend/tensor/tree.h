// Flat trees of tensors.
#pragma once

#include <ATen/ATen.h>

#include <vector>

namespace unbend {

/// The leaves of a tree, in a fixed order.
using Tensors = std::vector<at::Tensor>;

}  // namespace unbend
