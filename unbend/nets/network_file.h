// Trained networks from TorchScript files (torch.jit.script or torch.jit.trace, then torch.jit.save).
#pragma once

#include <filesystem>

#include "unbend/nets/network.h"

namespace unbend {

/// The network of a module with one input and one output, as it evaluates: linear layers, convolutions (transposed
/// too), batch and layer norms, the activations of network.h, pools, means, reshapes, sums, concatenations, and sums
/// and products with constants; dropout is nothing. Nodes are named after the modules that they come from.
///
/// Input error that names the operation, its module and its line for everything else: operations that Network lacks,
/// branches that depend on the input, batch statistics and dropout that stay active in evaluation, several inputs.
Network read_network(const std::filesystem::path& path);

}  // namespace unbend
