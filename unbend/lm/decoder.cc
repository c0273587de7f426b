#include "unbend/lm/decoder.h"

#include <torch/types.h>

#include "unbend/base/error.h"
#include "unbend/lm/softmax_mixer.h"
#include "unbend/nets/fused.h"
#include "unbend/tensor/check.h"

namespace unbend::lm {

std::int64_t DecoderState::bytes() const {
  std::int64_t total = 0;
  for (const auto& layer : layers) total += layer->bytes();
  return total;
}

DecoderState DecoderState::clone() const {
  DecoderState copy;
  copy.batch = batch;
  copy.position = position;
  for (const auto& layer : layers) copy.layers.push_back(layer->clone());
  return copy;
}

void DecoderState::pretend(std::int64_t tokens) {
  for (auto& layer : layers) layer->pretend(tokens);
  position = tokens;
}

Decoder Decoder::fork() const {
  Decoder copy = *this;
  for (auto& layer : copy.layers) layer.mixer = layer.mixer->clone();
  return copy;
}

Decoder Decoder::to(at::Device device, at::ScalarType type) const {
  Decoder copy = fork();
  const auto residual = type == at::kDouble ? at::kDouble : at::kFloat;
  copy.embedding = embedding.to(device, type);
  copy.head = config.tied ? copy.embedding : head.to(device, type);
  copy.output_norm = output_norm.to(device, residual);
  for (auto& layer : copy.layers) {
    layer.attention_norm = layer.attention_norm.to(device, residual);
    layer.ffn_norm = layer.ffn_norm.to(device, residual);
    for (auto* projection : {&layer.qkv, &layer.output, &layer.gate_up, &layer.down}) {
      projection->weight = projection->weight.to(device, type);
      if (projection->bias.defined()) projection->bias = projection->bias.to(device, type);
      for (auto& part : projection->parts)
        if (part.lora.defined())
          part.lora = {part.lora.a.to(device, residual), part.lora.b.to(device, residual), part.lora.scale};
    }
    for (const auto& parameter : layer.mixer->parameters()) *parameter.tensor = parameter.tensor->to(device, residual);
  }
  return copy;
}

at::Tensor Decoder::run(const at::Tensor& ids, std::int64_t position,
                        const std::function<at::Tensor(std::int64_t, const MixerInput&)>& mix) const {
  require(ids.dim() == 2 && ids.scalar_type() == at::kLong && ids.numel() > 0,
          "decoder: token ids must be int64 [batch, time], not {} {}", toString(ids.scalar_type()),
          fmt::join(ids.sizes(), "x"));
  check_indices(ids, config.vocab, "decoder: token ids");
  const std::int64_t batch = ids.size(0), tokens = ids.size(1);
  const auto residual_options = embedding.options().dtype(residual_type());
  const auto rope = rope_table(config, position, tokens, residual_options);
  auto x = at::embedding(embedding, ids.to(device())).to(residual_type());
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const auto& layer = layers[i];
    const auto normed = rms_norm(x, layer.attention_norm, config.rms_eps, type());
    const MixerInput input{config, rope, normed, layer.qkv(normed), position};
    const auto heads = mix(static_cast<std::int64_t>(i), input);
    x = x + layer.output(heads.transpose(1, 2).reshape({batch, tokens, config.heads * config.head_dim}));
    x = x + layer.down(swiglu(layer.gate_up(rms_norm(x, layer.ffn_norm, config.rms_eps, type()))));
  }
  return rms_norm(x, output_norm, config.rms_eps, type());
}

at::Tensor Decoder::hidden(const at::Tensor& ids, Form form, const Tap& tap) const {
  return run(ids, 0, [&](std::int64_t i, const MixerInput& input) {
    auto heads = layers[i].mixer->forward(input, form);
    if (tap) tap(i, input, heads);
    return heads;
  });
}

DecoderState Decoder::start(std::int64_t batch) const {
  DecoderState state;
  state.batch = batch;
  for (const auto& layer : layers)
    state.layers.push_back(layer.mixer->start(config, batch, embedding.options().dtype(residual_type())));
  return state;
}

at::Tensor Decoder::extend(const at::Tensor& ids, DecoderState& state) const {
  const at::NoGradGuard no_grad;
  require(ids.dim() == 2 && ids.size(0) == state.batch, "decoder: {} sequences for a state of {}", ids.size(0),
          state.batch);
  auto hidden = run(ids, state.position, [&](std::int64_t i, const MixerInput& input) {
    return layers[i].mixer->extend(input, *state.layers[i]);
  });
  state.position += ids.size(1);
  return hidden;
}

at::Tensor Decoder::logits(const at::Tensor& hidden) const {
  return at::linear(hidden.to(type()), head).to(residual_type());
}

Decoder random_decoder(const DecoderConfig& config, double embedding_std, double residual_gain, Random& random) {
  check_config(config);
  Decoder decoder;
  decoder.config = config;
  const auto matrix = [&](std::int64_t out, std::int64_t in, double gain = 1) {
    return random_normal({out, in}, gain / std::sqrt(static_cast<double>(in)), random);
  };
  const std::int64_t q = config.heads * config.head_dim, kv = config.kv_heads * config.head_dim;
  decoder.embedding = random_normal({config.vocab, config.hidden}, embedding_std, random);
  decoder.head = config.tied ? decoder.embedding : matrix(config.vocab, config.hidden);
  decoder.output_norm = at::ones({config.hidden});
  for (std::int64_t i = 0; i < config.layers; ++i) {
    Layer layer;
    layer.attention_norm = at::ones({config.hidden});
    layer.ffn_norm = at::ones({config.hidden});
    layer.qkv = {matrix(q + 2 * kv, config.hidden),
                 config.qkv_bias ? at::zeros({q + 2 * kv}) : at::Tensor(),
                 {{"q", q, {}}, {"k", kv, {}}, {"v", kv, {}}}};
    layer.output = {matrix(config.hidden, q, residual_gain), {}, {{"o", config.hidden, {}}}};
    layer.gate_up = {matrix(2 * config.ffn, config.hidden), {}, {{"gate", config.ffn, {}}, {"up", config.ffn, {}}}};
    layer.down = {matrix(config.hidden, config.ffn, residual_gain), {}, {{"down", config.hidden, {}}}};
    layer.mixer = softmax_mixer();
    decoder.layers.push_back(std::move(layer));
  }
  return decoder;
}

std::vector<Parameter> weights(Decoder& d) {
  std::vector<Parameter> all{{"embedding", &d.embedding}, {"output_norm", &d.output_norm}};
  if (!d.config.tied) all.push_back({"head", &d.head});
  for (std::size_t i = 0; i < d.layers.size(); ++i) {
    auto& layer = d.layers[i];
    const std::string prefix = fmt::format("layers.{}.", i);
    all.push_back({prefix + "attention_norm", &layer.attention_norm});
    all.push_back({prefix + "ffn_norm", &layer.ffn_norm});
    for (const auto& [name, projection] : {std::pair{"qkv", &layer.qkv},
                                           {"output", &layer.output},
                                           {"gate_up", &layer.gate_up},
                                           {"down", &layer.down}}) {
      all.push_back({prefix + name + ".weight", &projection->weight});
      if (projection->bias.defined()) all.push_back({prefix + name + ".bias", &projection->bias});
    }
  }
  return all;
}

std::vector<Parameter> adapter(Decoder& d) {
  std::vector<Parameter> all;
  for (std::size_t i = 0; i < d.layers.size(); ++i) {
    auto& layer = d.layers[i];
    const std::string prefix = fmt::format("layers.{}.", i);
    for (const auto& parameter : layer.mixer->parameters())
      all.push_back({prefix + "mixer." + parameter.name, parameter.tensor});
    for (auto* projection : {&layer.qkv, &layer.output, &layer.gate_up, &layer.down})
      for (auto& part : projection->parts)
        if (part.lora.defined()) {
          all.push_back({prefix + part.name + ".lora_a", &part.lora.a});
          all.push_back({prefix + part.name + ".lora_b", &part.lora.b});
        }
  }
  return all;
}

}  // namespace unbend::lm
