// A small random decoder in a GGUF file, for tests of the engine and of what stands on it.
#pragma once

#include <ggml.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "tests/engine/gguf_bytes.h"
#include "unbend/base/random.h"
#include "unbend/engine/gguf_write.h"
#include "unbend/engine/tokenizer.h"

namespace unbend::engine {

inline std::vector<float> random_floats(std::int64_t n, double scale, Random& random) {
  std::vector<float> out(static_cast<std::size_t>(n));
  for (auto& x : out) x = static_cast<float>(scale * random.normal());
  return out;
}

using ChangeTensors = std::function<void(std::vector<TensorSource>&)>;

/// A decoder of two layers with random weights and 50 tokens, written as F32, its tensors changed by `change`.
inline std::filesystem::path small_model(const Folder& folder, const std::string& mixer, const std::string& options,
                                         bool qwen = false, const ChangeTensors& change = {}) {
  const std::int64_t layers = 2, hidden = 48, heads = 6, kv = 2, d = 8, ffn = 64, vocab = 50;
  Random random(7);
  const std::string arch = qwen ? "qwen2" : "llama";
  std::vector<std::string> entries;
  const auto entry = [&](const std::string& key, const MetaValue& value) {
    entries.push_back(encode_entry(key, value));
  };
  entry("general.architecture", arch);
  for (const auto& [key, value] : std::vector<std::pair<std::string, std::uint64_t>>{{"block_count", layers},
                                                                                     {"embedding_length", hidden},
                                                                                     {"attention.head_count", heads},
                                                                                     {"attention.head_count_kv", kv},
                                                                                     {"feed_forward_length", ffn},
                                                                                     {"context_length", 512}})
    entry(arch + "." + key, value);
  entry(arch + ".attention.layer_norm_rms_epsilon", 1e-5);
  if (!mixer.empty()) {
    entry("unbend.mixers", std::vector<std::string>(layers, mixer));
    entry("unbend.options", options);
  }
  std::vector<TensorSource> tensors;
  const auto tensor = [&](const std::string& name, std::vector<std::int64_t> shape, double scale, double mean = 0) {
    const auto n = std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
    auto values = random_floats(n, scale, random);
    for (auto& x : values) x += static_cast<float>(mean);
    tensors.push_back({name, GGML_TYPE_F32, shape, [values](std::span<std::byte> bytes) {
                         std::memcpy(bytes.data(), values.data(), bytes.size());
                       }});
  };
  tensor("token_embd.weight", {vocab, hidden}, 1);
  tensor("output_norm.weight", {hidden}, .1, 1);
  for (std::int64_t i = 0; i < layers; ++i) {
    const std::string blk = "blk." + std::to_string(i) + ".";
    tensor(blk + "attn_norm.weight", {hidden}, .1, 1);
    tensor(blk + "ffn_norm.weight", {hidden}, .1, 1);
    for (const auto& [name, rows] : {std::pair{"q", heads * d}, {"k", kv * d}, {"v", kv * d}}) {
      tensor(blk + "attn_" + name + ".weight", {rows, hidden}, .2);
      if (qwen) tensor(blk + "attn_" + name + ".bias", {rows}, .2);
    }
    tensor(blk + "attn_output.weight", {hidden, heads * d}, .2);
    tensor(blk + "ffn_gate.weight", {ffn, hidden}, .2);
    tensor(blk + "ffn_up.weight", {ffn, hidden}, .2);
    tensor(blk + "ffn_down.weight", {hidden, ffn}, .2);
    if (mixer == "hybrid") {
      tensor(blk + "mixer.query_map", {heads, d, d / 2}, 1);
      tensor(blk + "mixer.key_map", {kv, d, d / 2}, 1);
      tensor(blk + "mixer.log_scale", {heads}, .5, -1);
      tensor(blk + "mixer.gate_weight", {kv, hidden}, .1);
      tensor(blk + "mixer.gate_bias", {kv}, .1, 3);
    }
  }
  if (change) change(tensors);
  const auto path = folder.path() / ("model-" + mixer + arch + ".gguf");
  write_gguf(path, entries, tensors);
  return path;
}

inline const char* const kHybrid = R"({"window": 9, "sinks": 2, "state_heads": "kv", "gate": true, "linear": true})";
inline const char* const kLiger =
    R"({"window": 9, "sinks": 0, "variant": "gla", "gate_source": "k", "gate": true, "gate_logit_normalizer": 16.0,
        "pool_size": 1, "feature_map": "softmax", "mix_linear": 0.5, "mix_window": 0.5})";

/// Names and options of mixers that small_model() makes.
inline std::vector<std::pair<std::string, std::string>> mixers() {
  return {{"", ""}, {"window", R"({"window": 9, "sinks": 2})"}, {"hybrid", kHybrid}, {"liger", kLiger}};
}

inline std::vector<TokenId> some_tokens(std::int64_t n, std::uint64_t seed) {
  Random random(seed);
  std::vector<TokenId> ids;
  for (std::int64_t i = 0; i < n; ++i) ids.push_back(static_cast<TokenId>(random.below(50)));
  return ids;
}

}  // namespace unbend::engine
