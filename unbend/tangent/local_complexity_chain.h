// The fused kernel of local complexity: chains of Linear layers and activations on the CPU. Internal to
// local_complexity.cc.
#pragma once

#include <ATen/ATen.h>

#include <optional>
#include <string>
#include <vector>

#include "unbend/nets/network.h"

namespace unbend {

/// A Linear layer and the activation that reads it; the last layer may have none.
struct ChainLayer {
  std::string name;
  Linear linear;
  std::optional<Elementwise> activation;
};

/// The network as such a chain (a Reshape to one dimension may come first); nothing if it is none, or not on the CPU in
/// float32 or float64.
std::optional<std::vector<ChainLayer>> linear_chain(const Network& network);

/// Crossed neurons [layers, S] int64 of a chain, for probes [S, D] and directions [P, D] that are scaled by the radius,
/// all of the chain's type.
at::Tensor chain_crossings(const std::vector<ChainLayer>& chain, const at::Tensor& probes, const at::Tensor& directions,
                           bool include_centre);

}  // namespace unbend
