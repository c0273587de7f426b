// A decoder of transformer blocks with norms before their branches (GPT-2's shape), made to be trained from scratch,
// with the multipliers of a parameterization (methods/completep.md; Dey et al. 2025, arXiv 2505.01618).
#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "unbend/nets/layers.h"
#include "unbend/nets/parameterization.h"

namespace unbend {

/// What scores of attention are multiplied with: 1 / d_head, as muP and CompleteP have it, or 1 / sqrt(d_head).
enum class AttentionScale { InverseWidth, InverseRoot };

struct TransformerConfig {
  int64_t vocabulary, context;  ///< context: the most tokens of a sequence
  int64_t width, depth, heads;  ///< heads divides width
  int64_t hidden = 0;           ///< of the perceptrons; 0: 4 width
  bool tied = false;            ///< the token embedding is the unembedding
  AttentionScale attention_scale = AttentionScale::InverseWidth;
  int64_t head_dim() const { return width / heads; }
  NetworkSize size() const { return {width, depth, head_dim()}; }
};

struct TransformerBlock {
  LayerNorm attention_norm;
  Linear qkv, output;  ///< queries, keys and values packed: [3 width, width]
  LayerNorm perceptron_norm;
  Linear up, down;  ///< GELU between them
};

/// What happens on the way, for diagnostics.
struct Taps {
  at::Tensor stream;                              ///< [.., width]: the residual stream after the last block
  std::vector<at::Tensor> attention, perceptron;  ///< per block: what the branch gives, before its multiplier
  std::vector<at::Tensor> streams;                ///< per block: the stream after it
};

/// Keys and values of the tokens so far.
struct TransformerState {
  std::vector<at::Tensor> keys, values;  ///< per block [B, H, context, d]; the first `tokens` count
  int64_t tokens = 0;
};

/// A value: copies share tensors.
struct Transformer {
  TransformerConfig config;
  ForwardMultipliers multipliers;
  at::Tensor tokens, positions;  ///< [V, width], [context, width]
  std::vector<TransformerBlock> blocks;
  LayerNorm final_norm;
  at::Tensor unembedding;  ///< [V, width]; undefined if tied

  /// ids [B, T] int64 with T <= context -> logits [B, T, V]. Input error for ids outside of the vocabulary.
  at::Tensor logits(const at::Tensor& ids, Taps* taps = nullptr) const;

  /// Generation: the logits of the next tokens [B, T] after those of the state, which grows. The numbers are those of
  /// logits() but for the last bits, and for multipliers.generation_logits in place of multipliers.logits.
  TransformerState start(int64_t batch) const;
  at::Tensor extend(const at::Tensor& ids, TransformerState& state) const;
};

/// All weights 0 and gains 1; initialize() of parameterization.h draws them. Input error for sizes that do not fit.
Transformer make_transformer(const TransformerConfig& config);

/// References to all trainable tensors: "embedding.tokens", "embedding.positions", "blocks.0.qkv.weight", "final_norm.
/// weight", "unembedding.weight" and so on.
std::vector<Parameter> parameters(Transformer& net);

}  // namespace unbend
