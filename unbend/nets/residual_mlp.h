// A perceptron of residual blocks: h += residual * down(relu(up(norm(h)))). The smallest network with all that a
// parameterization has rules for (methods/completep.md, reproductions B to D).
#pragma once

#include "unbend/nets/transformer.h"

namespace unbend {

struct ResidualMlpConfig {
  int64_t inputs, classes, width, depth;
  int64_t hidden = 0;  ///< 0: 2 width
  NetworkSize size() const { return {width, depth}; }
};

struct ResidualMlp {
  ResidualMlpConfig config;
  ForwardMultipliers multipliers;
  at::Tensor embedding;  ///< [width, inputs]
  struct Block {
    LayerNorm norm;
    Linear up, down;
  };
  std::vector<Block> blocks;
  LayerNorm final_norm;
  at::Tensor unembedding;  ///< [classes, width]

  at::Tensor logits(const at::Tensor& x, Taps* taps = nullptr) const;  ///< x [.., inputs] -> [.., classes]
};

/// All weights 0 and gains 1; initialize() of parameterization.h draws them. Input error for sizes that are not above
/// 0.
ResidualMlp make_residual_mlp(const ResidualMlpConfig& config);

/// "embedding.weight", "blocks.0.norm.weight", "blocks.0.up.weight", "final_norm.weight", "unembedding.weight", ...
std::vector<Parameter> parameters(ResidualMlp& net);

}  // namespace unbend
