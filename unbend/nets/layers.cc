#include "unbend/nets/layers.h"

#include <cmath>

#include "unbend/base/error.h"

namespace unbend {
namespace {

at::Tensor keep(at::IntArrayRef shape, const at::Tensor& like, double probability, const Pass& pass) {
  require(probability < 1, "dropout: the probability must be below 1, not {}", probability);
  require(pass.generator.has_value(), "dropout: training needs a generator in the pass");
  const auto options = like.options().device(pass.generator->device());
  return at::empty(shape, options).bernoulli_(1 - probability, pass.generator).div_(1 - probability).to(like.device());
}

}  // namespace

at::Tensor normal_tensor(at::IntArrayRef shape, double deviation, Random& random) {
  auto out = at::empty(shape, at::kFloat);
  auto* data = out.mutable_data_ptr<float>();
  for (int64_t i = 0; i < out.numel(); ++i) data[i] = static_cast<float>(deviation * random.normal());
  return out;
}

at::Tensor uniform_tensor(at::IntArrayRef shape, double bound, Random& random) {
  auto out = at::empty(shape, at::kFloat);
  auto* data = out.mutable_data_ptr<float>();
  for (int64_t i = 0; i < out.numel(); ++i) data[i] = static_cast<float>(bound * (2 * random.uniform() - 1));
  return out;
}

Linear make_linear(int64_t in, int64_t out, Random& random) {
  return {normal_tensor({out, in}, .02, random), at::zeros({out})};
}

LayerNorm make_layer_norm(int64_t width, double eps) { return {at::ones({width}), at::zeros({width}), eps}; }

ConvolutionUnit make_convolution_unit(int64_t in, int64_t out, int64_t stride, Random& random) {
  const double bound = 1 / std::sqrt(9. * static_cast<double>(in));
  const auto weight = uniform_tensor({out, in, 3, 3}, bound, random), bias = uniform_tensor({out}, bound, random);
  return {weight, bias, at::ones({out}), at::zeros({out}), at::zeros({out}), at::ones({out}), stride};
}

at::Tensor ConvolutionUnit::operator()(const at::Tensor& images, const Pass& pass) const {
  const auto convolved = at::conv2d(images, weight, bias, stride, 1);
  return at::relu(
      at::batch_norm(convolved, norm_weight, norm_bias, running_mean, running_variance, pass.training, .1, 1e-5, true));
}

at::Tensor dropout(const at::Tensor& x, double probability, const Pass& pass) {
  if (!pass.training || probability <= 0) return x;
  return x * keep(x.sizes(), x, probability, pass);
}

at::Tensor drop_samples(const at::Tensor& x, double probability, const Pass& pass) {
  if (!pass.training || probability <= 0) return x;
  std::vector<int64_t> shape(x.dim(), 1);
  shape[0] = x.size(0);
  return x * keep(shape, x, probability, pass);
}

void collect(const std::string& prefix, Linear& layer, std::vector<Parameter>& all) {
  all.push_back({prefix + "weight", &layer.weight});
  all.push_back({prefix + "bias", &layer.bias});
}

void collect(const std::string& prefix, LayerNorm& layer, std::vector<Parameter>& all) {
  all.push_back({prefix + "weight", &layer.weight});
  all.push_back({prefix + "bias", &layer.bias});
}

void collect(const std::string& prefix, ConvolutionUnit& layer, std::vector<Parameter>& all) {
  all.push_back({prefix + "weight", &layer.weight});
  all.push_back({prefix + "bias", &layer.bias});
  all.push_back({prefix + "norm_weight", &layer.norm_weight});
  all.push_back({prefix + "norm_bias", &layer.norm_bias});
}

}  // namespace unbend
