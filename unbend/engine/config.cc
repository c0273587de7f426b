#include "unbend/engine/config.h"

#include <cmath>

#include "unbend/base/error.h"

namespace unbend::engine {
namespace {

RopeScaling read_rope(const Gguf& file, const std::string& arch) {
  RopeScaling rope;
  const std::string kind = file.text(arch + ".rope.scaling.type", "none");
  rope.factor = file.real(arch + ".rope.scaling.factor", file.real(arch + ".rope.scale_linear", 1));
  if (rope.factor == 0) rope.factor = 1;
  if (kind == "linear" || (kind == "none" && rope.factor != 1)) {
    rope.kind = RopeScaling::Kind::Linear;
  } else if (kind == "yarn") {
    rope.kind = RopeScaling::Kind::Yarn;
    rope.original_context = file.integer(arch + ".rope.scaling.original_context_length");
    rope.beta_fast = file.real(arch + ".rope.scaling.yarn_beta_fast", 32);
    rope.beta_slow = file.real(arch + ".rope.scaling.yarn_beta_slow", 1);
    rope.attention_factor = file.real(arch + ".rope.scaling.attn_factor", 1);
  } else if (kind != "none") {
    fail_input("{}: rotary scaling '{}' is not supported (none, linear, yarn and Llama 3's frequency factors are)",
               file.path().string(), kind);
  }
  if (const auto* factors = file.find("rope_freqs.weight")) {
    rope.frequency_factors.resize(factors->elements());
    file.dequantize(*factors, 0, 1, rope.frequency_factors.data());
  }
  return rope;
}

}  // namespace

double DecoderConfig::scale() const {
  return attention_scale != 0 ? attention_scale : 1 / std::sqrt(static_cast<double>(head_dim));
}

DecoderConfig read_config(const Gguf& file) {
  DecoderConfig config;
  const std::string where = file.path().string();
  const std::string arch = config.architecture = file.text("general.architecture");
  require(arch == "llama" || arch == "qwen2",
          "{}: models of the family '{}' are not supported (llama, which includes Mistral and SmolLM2, and qwen2 are)",
          where, arch);
  require(file.integer(arch + ".expert_count", 0) == 0, "{}: mixtures of experts are not supported", where);
  require(file.flag(arch + ".attention.causal", true),
          "{}: {}.attention.causal is false: models whose tokens see later ones are not supported", where, arch);
  config.layers = file.integer(arch + ".block_count");
  require(config.layers <= std::ssize(file.tensors()), "{}: {} layers in {} tensors", where, config.layers,
          file.tensors().size());
  config.hidden = file.integer(arch + ".embedding_length");
  config.heads = file.integer(arch + ".attention.head_count");
  config.kv_heads = file.integer(arch + ".attention.head_count_kv", config.heads);
  require(config.heads > 0 && config.layers > 0, "{}: {} layers with {} heads", where, config.layers, config.heads);
  config.head_dim = file.integer(arch + ".attention.key_length", config.hidden / config.heads);
  config.ffn = file.integer(arch + ".feed_forward_length");
  config.context = file.integer(arch + ".context_length");
  config.rms_eps = file.real(arch + ".attention.layer_norm_rms_epsilon");
  config.rope_base = file.real(arch + ".rope.freq_base", 10000);
  config.attention_scale = file.real(arch + ".attention.scale", 0);
  config.rope = read_rope(file, arch);
  config.vocab = file.tensor("token_embd.weight").shape.front();
  config.qkv_bias = file.find("blk.0.attn_q.bias") != nullptr;
  config.tied = file.find("output.weight") == nullptr;
  require(file.integer(arch + ".rope.dimension_count", config.head_dim) == config.head_dim,
          "{}: rotation of only part of a head is not supported ({} of {})", where,
          file.integer(arch + ".rope.dimension_count", 0), config.head_dim);
  require(file.integer(arch + ".attention.value_length", config.head_dim) == config.head_dim,
          "{}: keys and values of different width are not supported", where);
  check_config(config);
  return config;
}

void check_config(const DecoderConfig& c) {
  constexpr std::int64_t kLimit = std::int64_t{1} << 31;
  for (const auto& [name, value] : {std::pair{"layers", c.layers},
                                    {"hidden", c.hidden},
                                    {"heads", c.heads},
                                    {"kv_heads", c.kv_heads},
                                    {"head_dim", c.head_dim},
                                    {"ffn", c.ffn},
                                    {"vocab", c.vocab},
                                    {"context", c.context}})
    require(value > 0 && value < kLimit, "decoder: {} is {}, which is not a usable size", name, value);
  require(c.heads % c.kv_heads == 0, "decoder: {} query heads cannot share {} key heads evenly", c.heads, c.kv_heads);
  require(c.head_dim % 2 == 0, "decoder: head width {} is odd, but rotary positions need pairs", c.head_dim);
  require(c.rms_eps > 0 && std::isfinite(c.rms_eps), "decoder: RMS epsilon is {}", c.rms_eps);
  require(c.rope_base > 0 && std::isfinite(c.rope_base), "decoder: rotary base is {}", c.rope_base);
  require(c.rope.factor > 0 && std::isfinite(c.rope.factor), "decoder: rotary scaling factor is {}", c.rope.factor);
  require(
      c.rope.frequency_factors.empty() || static_cast<std::int64_t>(c.rope.frequency_factors.size()) == c.head_dim / 2,
      "decoder: {} rotary frequency factors for a head width of {}", c.rope.frequency_factors.size(), c.head_dim);
}

Json to_json(const DecoderConfig& c) {
  Json json{{"architecture", c.architecture},
            {"layers", c.layers},
            {"hidden", c.hidden},
            {"heads", c.heads},
            {"kv_heads", c.kv_heads},
            {"head_dim", c.head_dim},
            {"ffn", c.ffn},
            {"vocab", c.vocab},
            {"context", c.context},
            {"rms_eps", c.rms_eps},
            {"rope_base", c.rope_base},
            {"qkv_bias", c.qkv_bias},
            {"tied_head", c.tied}};
  if (c.rope.kind == RopeScaling::Kind::Linear) json["rope_scaling"] = {{"type", "linear"}, {"factor", c.rope.factor}};
  if (c.rope.kind == RopeScaling::Kind::Yarn)
    json["rope_scaling"] = {{"type", "yarn"}, {"factor", c.rope.factor}, {"original_context", c.rope.original_context}};
  if (!c.rope.frequency_factors.empty()) json["rope_frequency_factors"] = true;
  return json;
}

}  // namespace unbend::engine
