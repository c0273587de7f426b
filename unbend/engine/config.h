// Shape of a Llama-family decoder, read from a GGUF file's metadata or from JSON.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "unbend/base/json.h"
#include "unbend/engine/gguf.h"

namespace unbend::engine {

/// How rotary angles are stretched beyond the training context.
struct RopeScaling {
  enum class Kind { None, Linear, Yarn };
  Kind kind = Kind::None;
  double factor = 1;  ///< positions are divided by it (Linear), or partly (Yarn)
  std::int64_t original_context = 0;
  double beta_fast = 32, beta_slow = 1, attention_factor = 1;  ///< Yarn (Peng et al. 2023)
  std::vector<float> frequency_factors;  ///< [head_dim/2] or empty; divides each frequency (Llama 3's scaling)
};

struct DecoderConfig {
  std::string architecture = "llama";  ///< GGUF's general.architecture
  std::int64_t layers = 0, hidden = 0, heads = 0, kv_heads = 0, head_dim = 0, ffn = 0, vocab = 0, context = 0;
  double rms_eps = 1e-5;
  double rope_base = 10000;
  RopeScaling rope;
  bool qkv_bias = false;       ///< Qwen2
  bool tied = true;            ///< head shares the embedding
  double attention_scale = 0;  ///< 0: 1/sqrt(head_dim)

  double scale() const;
};

/// Reads the shape of a model of a supported family (architectures llama and qwen2, without experts). Input error that
/// says what is unsupported otherwise.
DecoderConfig read_config(const Gguf& file);

/// Checks that the sizes fit together; Input error otherwise.
void check_config(const DecoderConfig& config);

Json to_json(const DecoderConfig& config);

}  // namespace unbend::engine
