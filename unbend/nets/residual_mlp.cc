#include "unbend/nets/residual_mlp.h"

#include <fmt/format.h>

#include "unbend/base/error.h"
#include "unbend/tensor/check.h"

namespace unbend {

at::Tensor ResidualMlp::logits(const at::Tensor& x, Taps* taps) const {
  require(x.dim() >= 1 && x.size(-1) == config.inputs, "residual perceptron: inputs {} where the last dimension is {}",
          shape_string(x.sizes()), config.inputs);
  const auto scaled = [](const at::Tensor& t, double factor) { return factor == 1 ? t : t * factor; };
  auto stream = scaled(at::linear(x, embedding), multipliers.input);
  for (const auto& block : blocks) {
    const auto mapped = block.down(at::relu(block.up(block.norm(stream))));
    stream = at::add(stream, mapped, multipliers.residual);
    if (taps) taps->perceptron.push_back(mapped), taps->streams.push_back(stream);
  }
  if (taps) taps->stream = stream;
  return at::linear(scaled(final_norm(stream), multipliers.logits), unembedding);
}

ResidualMlp make_residual_mlp(const ResidualMlpConfig& config) {
  require(config.inputs > 0 && config.classes > 0 && config.width > 0 && config.depth > 0 && config.hidden >= 0,
          "residual perceptron: inputs {}, classes {}, width {}, depth {}: all must be above 0", config.inputs,
          config.classes, config.width, config.depth);
  const int64_t n = config.width, hidden = config.hidden > 0 ? config.hidden : 2 * n;
  ResidualMlp net{config, {}, at::zeros({n, config.inputs}), {}, make_layer_norm(n), at::zeros({config.classes, n})};
  net.config.hidden = hidden;
  for (int64_t i = 0; i < config.depth; ++i)
    net.blocks.push_back(
        {make_layer_norm(n), {at::zeros({hidden, n}), at::zeros({hidden})}, {at::zeros({n, hidden}), at::zeros({n})}});
  return net;
}

std::vector<Parameter> parameters(ResidualMlp& net) {
  std::vector<Parameter> all{{"embedding.weight", &net.embedding}};
  for (std::size_t i = 0; i < net.blocks.size(); ++i) {
    const auto prefix = fmt::format("blocks.{}.", i);
    collect(prefix + "norm.", net.blocks[i].norm, all);
    collect(prefix + "up.", net.blocks[i].up, all);
    collect(prefix + "down.", net.blocks[i].down, all);
  }
  collect("final_norm.", net.final_norm, all);
  all.push_back({"unembedding.weight", &net.unembedding});
  return all;
}

}  // namespace unbend
