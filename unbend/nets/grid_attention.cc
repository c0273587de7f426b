#include "unbend/nets/grid_attention.h"

#include <torch/types.h>

#include <cmath>

#include "unbend/base/error.h"
#include "unbend/tensor/check.h"

namespace unbend {
namespace {

// [B, n, H d] -> [B, H, n, d].
at::Tensor heads_of(const at::Tensor& x, int64_t heads) { return x.unflatten(2, {heads, -1}).transpose(1, 2); }
at::Tensor tokens_of(const at::Tensor& heads) { return heads.transpose(1, 2).flatten(2); }

at::Tensor linear_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const auto of_q = at::elu(q) + 1, of_k = at::elu(k) + 1;
  const auto sums = at::matmul(of_k.transpose(2, 3), v), weight = of_k.sum(2).unsqueeze(3);
  return at::matmul(of_q, sums) / at::matmul(of_q, weight);
}

// Each head's filter runs over all its channels: the tokens are an image whose channels lie side by side.
at::Tensor filtered(const at::Tensor& values, const Grid& grid, const at::Tensor& filter) {
  const int64_t channels = values.size(2), heads = filter.size(0);
  const auto image = values.view({values.size(0), grid.height, grid.width, channels}).permute({0, 3, 1, 2});
  const auto result =
      at::conv2d(image, filter.repeat_interleave(channels / heads, 0), {}, 1, filter.size(2) / 2, 1, channels);
  return result.permute({0, 2, 3, 1}).reshape(values.sizes());
}

at::Tensor sampled(const GridAttention& layer, const at::Tensor& q, const Grid& grid) {
  const auto& config = layer.config;
  switch (config.sampling) {
    case LandmarkSampling::Convolution: return convolved_landmarks(q, grid, layer.landmarks);
    case LandmarkSampling::Mean: return mean_landmarks(q, grid, config.ratio);
    case LandmarkSampling::Random: break;
  }
  return random_landmarks(q, std::max<int64_t>(1, q.size(2) / (config.ratio * config.ratio)), Random(config.seed));
}

at::Tensor soft_heads(const GridAttention& layer, const at::Tensor& tokens, const at::Tensor& v, const Grid& grid,
                      const Pass& pass) {
  // Queries times d^(-1/4): kernels then have the bandwidth sqrt(d).
  const int64_t heads = layer.config.heads;
  const double scale = std::pow(static_cast<double>(layer.config.width / heads), -.25);
  const auto q = heads_of(at::linear(tokens, layer.q.weight * scale, layer.q.bias * scale), heads).contiguous();
  auto result = soft_attention(q, sampled(layer, q, grid), v, layer.config.soft);
  if (pass.residuals != nullptr) pass.residuals->push_back(result.residual);
  return result.out;
}

}  // namespace

at::Tensor GridAttention::operator()(const at::Tensor& tokens, const Grid& grid, const Pass& pass) const {
  check_shape(tokens, {-1, -1, config.width}, "grid attention: tokens");
  check_grid(tokens, grid, "grid attention");
  if (!output.weight.defined()) return at::zeros_like(tokens);  // neither mixing nor filter
  const auto values = v(tokens);
  const auto heads = [&](const at::Tensor& x) { return heads_of(x, config.heads); };
  at::Tensor mixed;
  switch (config.mixing) {
    case TokenMixing::Soft: mixed = tokens_of(soft_heads(*this, tokens, heads(values), grid, pass)); break;
    case TokenMixing::Softmax:
      mixed = tokens_of(at::scaled_dot_product_attention(heads(q(tokens)), heads(k(tokens)), heads(values)));
      break;
    case TokenMixing::Linear:
      mixed = tokens_of(linear_attention(heads(q(tokens)), heads(k(tokens)), heads(values)));
      break;
    case TokenMixing::None: break;
  }
  if (!value_filter.defined()) return output(mixed);
  const auto local = filtered(values, grid, value_filter);
  return output(mixed.defined() ? mixed + local : local);
}

GridAttention make_grid_attention(const GridAttentionConfig& config, Random& random) {
  require(config.heads >= 1 && config.width >= 1 && config.width % config.heads == 0,
          "grid attention: {} heads do not divide a width of {}", config.heads, config.width);
  require(config.value_filter == 0 || (config.value_filter > 0 && config.value_filter % 2 == 1),
          "grid attention: the side of the value filter must be odd, or 0 for none, not {}", config.value_filter);
  const bool soft = config.mixing == TokenMixing::Soft, convolution = config.sampling == LandmarkSampling::Convolution;
  require(!soft || config.ratio >= (convolution ? 2 : 1),
          "grid attention: the ratio of tokens to landmarks along a side "
          "must be at least {}, not {}",
          convolution ? 2 : 1, config.ratio);
  const int64_t d = config.width / config.heads;
  GridAttention layer{config, {}, {}, {}, {}, {}, {}};
  const auto projection = [&] { return make_linear(config.width, config.width, random); };
  if (config.mixing != TokenMixing::None) layer.q = projection();
  if (config.mixing == TokenMixing::Softmax || config.mixing == TokenMixing::Linear) layer.k = projection();
  if (config.mixing != TokenMixing::None || config.value_filter > 0) layer.v = projection();
  if (layer.v.weight.defined()) layer.output = projection();
  const auto uniform = [&](at::IntArrayRef shape, int64_t fan_in) {
    return uniform_tensor(shape, 1 / std::sqrt(static_cast<double>(fan_in)), random);
  };
  if (soft && convolution) {
    const auto norm = make_layer_norm(d);
    const int64_t r = config.ratio;
    layer.landmarks = {uniform({d, d, r, r}, d * r * r), norm.weight, norm.bias, norm.eps};
  }
  if (const int64_t side = config.value_filter; side > 0)
    layer.value_filter = uniform({config.heads, 1, side, side}, side * side);
  return layer;
}

at::Tensor GridBlock::operator()(const at::Tensor& tokens, const Grid& grid, const Pass& pass) const {
  if (norm == Norm::After) {
    const auto x = attention_norm(tokens + dropout(attention(tokens, grid, pass), drop, pass));
    return perceptron_norm(x + dropout(down(at::gelu(up(x), "tanh")), drop, pass));
  }
  const auto x = tokens + drop_samples(attention(attention_norm(tokens), grid, pass), drop, pass);
  return x + drop_samples(down(at::gelu(up(perceptron_norm(x)))), drop, pass);
}

GridBlock make_grid_block(const GridAttentionConfig& config, GridBlock::Norm norm, double drop, Random& random) {
  const double eps = norm == GridBlock::Norm::After ? 1e-5 : 1e-6;
  auto attention = make_grid_attention(config, random);
  auto up = make_linear(config.width, 4 * config.width, random),
       down = make_linear(4 * config.width, config.width, random);
  return {norm,
          drop,
          std::move(attention),
          make_layer_norm(config.width, eps),
          make_layer_norm(config.width, eps),
          std::move(up),
          std::move(down)};
}

void collect(const std::string& prefix, GridAttention& layer, std::vector<Parameter>& all) {
  for (const auto& [name, projection] :
       {std::pair{"q.", &layer.q}, {"k.", &layer.k}, {"v.", &layer.v}, {"output.", &layer.output}}) {
    if (projection->weight.defined()) collect(prefix + name, *projection, all);
  }
  if (layer.landmarks.filter.defined()) {
    all.push_back({prefix + "landmarks.filter", &layer.landmarks.filter});
    all.push_back({prefix + "landmarks.norm_weight", &layer.landmarks.norm_weight});
    all.push_back({prefix + "landmarks.norm_bias", &layer.landmarks.norm_bias});
  }
  if (layer.value_filter.defined()) all.push_back({prefix + "value_filter", &layer.value_filter});
}

void collect(const std::string& prefix, GridBlock& block, std::vector<Parameter>& all) {
  collect(prefix + "attention.", block.attention, all);
  collect(prefix + "attention_norm.", block.attention_norm, all);
  collect(prefix + "up.", block.up, all);
  collect(prefix + "down.", block.down, all);
  collect(prefix + "perceptron_norm.", block.perceptron_norm, all);
}

}  // namespace unbend
