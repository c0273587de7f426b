// Many vectors through one call of a function of one vector, by LibTorch's batching rules.
#pragma once

#include <functional>
#include <optional>

#include "unbend/tensor/tree.h"

namespace unbend {

/// What `one` gives for each of the K vectors along the leading axes of `many`, from a single call in which every
/// tensor carries a hidden axis. Nothing if an operation inside cannot have that (kernels of our own, for example).
std::optional<Tensors> batched(const std::function<Tensors(const Tensors&)>& one, const Tensors& many);

}  // namespace unbend
