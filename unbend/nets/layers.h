// The common layers of networks, as values: weights and a call. They start from an explicit generator, in float32.
#pragma once

#include <ATen/ATen.h>

#include <optional>
#include <string>
#include <vector>

#include "unbend/base/random.h"
#include "unbend/tensor/parameter.h"

namespace unbend {

/// How a network runs.
struct Pass {
  bool training = false;                                  ///< batch statistics (which move the running ones), dropout
  std::optional<at::Generator> generator = std::nullopt;  ///< dropout draws from it, on its own device
  /// If given, every softmax-free attention layer appends the residuals of its inverse, [B, H].
  std::vector<at::Tensor>* residuals = nullptr;
};

struct Linear {
  at::Tensor weight;  ///< [out, in], starts N(0, 0.02^2)
  at::Tensor bias;    ///< [out], starts at 0
  at::Tensor operator()(const at::Tensor& x) const { return at::linear(x, weight, bias); }
};
Linear make_linear(int64_t in, int64_t out, Random& random);

/// (x - mean) / sqrt(variance + eps) * weight + bias over the last dimension (Ba et al. 2016, arXiv 1607.06450).
struct LayerNorm {
  at::Tensor weight, bias;  ///< [width], start at 1 and 0
  double eps;
  at::Tensor operator()(const at::Tensor& x) const { return at::layer_norm(x, weight.sizes(), weight, bias, eps); }
};
LayerNorm make_layer_norm(int64_t width, double eps = 1e-5);

/// relu(batch_norm(convolution 3 x 3)), padding 1 (Ioffe and Szegedy 2015, arXiv 1502.03167).
struct ConvolutionUnit {
  at::Tensor weight, bias;                    ///< [out, in, 3, 3] and [out], uniform within 1/sqrt(9 in)
  at::Tensor norm_weight, norm_bias;          ///< [out], start at 1 and 0
  at::Tensor running_mean, running_variance;  ///< [out]: no parameters, moved by 1/10 in every pass for training
  int64_t stride;
  at::Tensor operator()(const at::Tensor& images, const Pass& pass) const;
};
ConvolutionUnit make_convolution_unit(int64_t in, int64_t out, int64_t stride, Random& random);

/// float32 numbers that are equal on every platform: N(0, deviation^2), and uniform in [-bound, bound).
at::Tensor normal_tensor(at::IntArrayRef shape, double deviation, Random& random);
at::Tensor uniform_tensor(at::IntArrayRef shape, double bound, Random& random);

/// In training each element is 0 with this probability and 1 / (1 - probability) times itself otherwise.
at::Tensor dropout(const at::Tensor& x, double probability, const Pass& pass);
/// The same for whole entries of the first dimension (stochastic depth, Huang et al. 2016, arXiv 1603.09382).
at::Tensor drop_samples(const at::Tensor& x, double probability, const Pass& pass);

/// Appends references to all trainable tensors, named "<prefix>weight" and so on.
void collect(const std::string& prefix, Linear& layer, std::vector<Parameter>& all);
void collect(const std::string& prefix, LayerNorm& layer, std::vector<Parameter>& all);
void collect(const std::string& prefix, ConvolutionUnit& layer, std::vector<Parameter>& all);

}  // namespace unbend
