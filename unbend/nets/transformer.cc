#include "unbend/nets/transformer.h"

#include <fmt/format.h>

#include <cmath>
#include <optional>

#include "unbend/attention/window.h"
#include "unbend/base/error.h"
#include "unbend/nets/fused.h"
#include "unbend/tensor/check.h"

namespace unbend {
namespace {

double score_scale(const TransformerConfig& c) {
  const auto d = static_cast<double>(c.head_dim());
  return c.attention_scale == AttentionScale::InverseWidth ? 1 / d : 1 / std::sqrt(d);
}

at::Tensor scaled(const at::Tensor& x, double factor) { return factor == 1 ? x : x * factor; }

struct QueryKeyValue {
  at::Tensor q, k, v;  // [B, H, T, d]
};

QueryKeyValue project(const TransformerBlock& block, const TransformerConfig& c, const at::Tensor& stream) {
  const auto packed = block.qkv(block.attention_norm(stream));
  auto heads = split_heads(packed, c.head_dim(), {{0, c.heads}, {c.heads, c.heads}, {2 * c.heads, c.heads}},
                           std::nullopt, packed.scalar_type());
  return {heads[0], heads[1], heads[2]};
}

at::Tensor joined(const at::Tensor& heads) { return heads.transpose(1, 2).flatten(2); }

at::Tensor perceptron(const TransformerBlock& block, const at::Tensor& stream) {
  return block.down(at::gelu(block.up(block.perceptron_norm(stream))));
}

Linear zero_linear(int64_t in, int64_t out) { return {at::zeros({out, in}), at::zeros({out})}; }

void check_ids(const Transformer& net, const at::Tensor& ids, int64_t before) {
  check_shape(ids, {-1, -1}, "transformer: ids");
  check_indices(ids, net.config.vocabulary, "transformer: ids");
  require(before + ids.size(1) <= net.config.context, "transformer: {} tokens for a context of {}",
          before + ids.size(1), net.config.context);
}

at::Tensor embedded(const Transformer& net, const at::Tensor& ids, int64_t before) {
  const auto sum = at::embedding(net.tokens, ids) + net.positions.narrow(0, before, ids.size(1));
  return scaled(sum, net.multipliers.input);
}

at::Tensor unembedded(const Transformer& net, const at::Tensor& stream, double factor) {
  return at::linear(scaled(net.final_norm(stream), factor), net.config.tied ? net.tokens : net.unembedding);
}

}  // namespace

at::Tensor Transformer::logits(const at::Tensor& ids, Taps* taps) const {
  check_ids(*this, ids, 0);
  auto stream = embedded(*this, ids, 0);
  for (const auto& block : blocks) {
    const auto [q, k, v] = project(block, config, stream);
    const auto attended =
        block.output(joined(window_attention(q, k, v, {.window = ids.size(1), .scale = score_scale(config)}).out));
    stream = at::add(stream, attended, multipliers.residual);
    const auto mapped = perceptron(block, stream);
    stream = at::add(stream, mapped, multipliers.residual);
    if (taps) taps->attention.push_back(attended), taps->perceptron.push_back(mapped), taps->streams.push_back(stream);
  }
  if (taps) taps->stream = stream;
  return unembedded(*this, stream, multipliers.logits);
}

TransformerState Transformer::start(int64_t batch) const {
  TransformerState state;
  for (std::size_t i = 0; i < blocks.size(); ++i)
    for (auto* cache : {&state.keys, &state.values})
      cache->push_back(at::empty({batch, config.heads, config.context, config.head_dim()}, tokens.options()));
  return state;
}

at::Tensor Transformer::extend(const at::Tensor& ids, TransformerState& state) const {
  const at::NoGradGuard no_grad;
  check_ids(*this, ids, state.tokens);
  require(state.keys.size() == blocks.size() && (blocks.empty() || state.keys[0].size(0) == ids.size(0)),
          "transformer: the state is of another network or batch than ids {}", shape_string(ids.sizes()));
  const int64_t count = ids.size(1), total = state.tokens + count;
  auto stream = embedded(*this, ids, state.tokens);
  const auto at_positions = at::arange(total, ids.options());
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    const auto& block = blocks[i];
    const auto [q, k, v] = project(block, config, stream);
    state.keys[i].narrow(2, state.tokens, count).copy_(k);
    state.values[i].narrow(2, state.tokens, count).copy_(v);
    const auto heads = window_attention_at(q, state.keys[i].narrow(2, 0, total), state.values[i].narrow(2, 0, total),
                                           at_positions.slice(0, state.tokens), at_positions,
                                           {.window = total, .scale = score_scale(config)})
                           .out;
    stream = at::add(stream, block.output(joined(heads)), multipliers.residual);
    stream = at::add(stream, perceptron(block, stream), multipliers.residual);
  }
  state.tokens = total;
  return unembedded(*this, stream, multipliers.generation_logits);
}

Transformer make_transformer(const TransformerConfig& config) {
  require(config.vocabulary > 0 && config.context > 0 && config.width > 0 && config.depth > 0 && config.heads > 0 &&
              config.hidden >= 0,
          "transformer: vocabulary {}, context {}, width {}, depth {}, heads {}: all must be above 0",
          config.vocabulary, config.context, config.width, config.depth, config.heads);
  require(config.width % config.heads == 0, "transformer: {} heads do not divide a width of {}", config.heads,
          config.width);
  Transformer net{config, {}, {}, {}, {}, make_layer_norm(config.width), {}};
  const int64_t n = config.width;
  net.config.hidden = config.hidden > 0 ? config.hidden : 4 * n;
  net.tokens = at::zeros({config.vocabulary, n});
  net.positions = at::zeros({config.context, n});
  for (int64_t i = 0; i < config.depth; ++i)
    net.blocks.push_back({make_layer_norm(n), zero_linear(n, 3 * n), zero_linear(n, n), make_layer_norm(n),
                          zero_linear(n, net.config.hidden), zero_linear(net.config.hidden, n)});
  if (!config.tied) net.unembedding = at::zeros({config.vocabulary, n});
  return net;
}

std::vector<Parameter> parameters(Transformer& net) {
  std::vector<Parameter> all{{"embedding.tokens", &net.tokens}, {"embedding.positions", &net.positions}};
  for (std::size_t i = 0; i < net.blocks.size(); ++i) {
    auto& block = net.blocks[i];
    const auto prefix = fmt::format("blocks.{}.", i);
    collect(prefix + "attention_norm.", block.attention_norm, all);
    collect(prefix + "qkv.", block.qkv, all);
    collect(prefix + "output.", block.output, all);
    collect(prefix + "perceptron_norm.", block.perceptron_norm, all);
    collect(prefix + "up.", block.up, all);
    collect(prefix + "down.", block.down, all);
  }
  collect("final_norm.", net.final_norm, all);
  if (!net.config.tied) all.push_back({"unembedding.weight", &net.unembedding});
  return all;
}

}  // namespace unbend
