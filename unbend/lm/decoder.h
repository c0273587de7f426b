// A decoder of the Llama family on LibTorch, with a mixer per layer.
#pragma once

#include <ATen/ATen.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "unbend/base/random.h"
#include "unbend/engine/gguf.h"
#include "unbend/lm/mixer.h"
#include "unbend/lm/projection.h"

namespace unbend::lm {

struct Layer {
  at::Tensor attention_norm, ffn_norm;  ///< [hidden], float32
  Projection qkv;                       ///< parts q, k, v; rows in head order, rotation pairs (i, i + d/2)
  Projection output;                    ///< part o
  Projection gate_up;                   ///< parts gate, up
  Projection down;                      ///< part down
  std::shared_ptr<Mixer> mixer;
};

/// Where a stream of tokens stands: one MixerState per layer.
struct DecoderState {
  std::vector<std::unique_ptr<MixerState>> layers;
  std::int64_t batch = 1, position = 0;
  std::int64_t bytes() const;
  DecoderState clone() const;
  void pretend(std::int64_t tokens);  ///< see MixerState::pretend
};

/// Sees every layer's mixer input and output heads [B, H, T, d] during a forward pass.
using Tap = std::function<void(std::int64_t layer, const MixerInput& input, const at::Tensor& heads)>;

/// Weights in `type` (bfloat16, float32 or float64); the residual stream, norms and mixers compute in float32 (float64
/// for float64). Copies share tensors; fork() gives the copy its own mixers so that training it leaves the original
/// alone.
class Decoder {
 public:
  DecoderConfig config;
  at::Tensor embedding;    ///< [vocab, hidden]
  at::Tensor head;         ///< [vocab, hidden]; the embedding itself when tied
  at::Tensor output_norm;  ///< [hidden]
  std::vector<Layer> layers;

  at::ScalarType type() const { return embedding.scalar_type(); }
  at::Device device() const { return embedding.device(); }
  at::ScalarType residual_type() const { return type() == at::kDouble ? at::kDouble : at::kFloat; }
  Decoder fork() const;
  Decoder to(at::Device device, at::ScalarType type) const;

  /// ids [B, T] int64 -> normed hidden states [B, T, hidden] in type(). Whole sequences from position 0,
  /// differentiable.
  at::Tensor hidden(const at::Tensor& ids, Form form = Form::Chunked, const Tap& tap = {}) const;

  /// The next T tokens of each sequence. No gradients. Input error beyond the limit of `state` (there is none for
  /// linear mixers).
  at::Tensor extend(const at::Tensor& ids, DecoderState& state) const;
  DecoderState start(std::int64_t batch = 1) const;

  /// [.., hidden] -> [.., vocab], float32 (float64 for float64).
  at::Tensor logits(const at::Tensor& hidden) const;

 private:
  at::Tensor run(const at::Tensor& ids, std::int64_t position,
                 const std::function<at::Tensor(std::int64_t, const MixerInput&)>& mix) const;
};

/// Reads a GGUF model of the Llama family, dequantised to `type`. Input error naming the file and tensor.
Decoder load_decoder(const engine::Gguf& file, at::ScalarType type);

/// Rows of a q or k weight (or bias) from our rotation order (pairs (i, i + d/2)) to that of llama models in GGUF
/// (adjacent pairs), and back.
at::Tensor pairs_from_halves(const at::Tensor& rows, std::int64_t heads);
at::Tensor halves_from_pairs(const at::Tensor& rows, std::int64_t heads);

/// A fresh decoder with random weights: embedding N(0, embedding_std), matrices N(0, 1/fan_in), output and down
/// projections scaled by `residual_gain`. float32.
Decoder random_decoder(const DecoderConfig& config, double embedding_std, double residual_gain, Random& random);

/// Every weight of a decoder by reference, for training all of it ("embedding", "layers.0.qkv.weight", ...).
std::vector<Parameter> weights(Decoder& decoder);

/// Mixer parameters and Lora factors by reference ("layers.0.mixer.c", "layers.0.qkv.q.lora_a", ...).
std::vector<Parameter> adapter(Decoder& decoder);

}  // namespace unbend::lm
