// A feed-forward network as a list of operations: what a method needs that reads a network, and does not only run it.
#pragma once

#include <ATen/ATen.h>

#include <functional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "unbend/base/random.h"
#include "unbend/nets/layers.h"
#include "unbend/tensor/parameter.h"

namespace unbend {

enum class Activation { Identity, Relu, LeakyRelu, Sigmoid, Tanh, Silu, Gelu, GeluTanh, Softplus };
std::string_view name_of(Activation activation);
/// Usage error that lists the names if there is none such.
Activation activation_named(std::string_view name);

/// An elementwise function; `slope` is that of LeakyRelu below zero.
struct Elementwise {
  Activation function = Activation::Relu;
  double slope = .01;
  at::Tensor operator()(const at::Tensor& x) const;
  /// Its derivative at x; at a kink that of the left side.
  at::Tensor derivative(const at::Tensor& x) const;
};

/// Convolution over the last one, two or three dimensions of [B, C, ..]; `transposed` as in torch.nn.ConvTranspose.
struct Convolution {
  at::Tensor weight;  ///< [out, in / groups, ..]; transposed: [in, out / groups, ..]
  at::Tensor bias;    ///< [out], or undefined
  std::vector<int64_t> stride, padding, dilation, output_padding;
  int64_t groups = 1;
  bool transposed = false;
  at::Tensor operator()(const at::Tensor& x) const;
};

/// Pooling over the last one, two or three dimensions of [B, C, ..], as many as `kernel` has entries; an entry 0 is the
/// whole extent. Averages count cells of the padding as zeros. The first of equal maxima is the one.
struct Pooling {
  bool maximum = true;
  std::vector<int64_t> kernel, stride, padding = {0, 0}, dilation = {1, 1};
  bool ceil = false;  ///< of maxima: windows that do not fit whole count too
  at::Tensor operator()(const at::Tensor& x) const;
};

/// MeanOver over dimensions, counted from the end if negative: global pooling.
struct MeanOver {
  std::vector<int64_t> dimensions;
  bool keep = true;
};

/// x * scale + shift, one number per channel or a scalar each: batch normalisation of a trained network.
struct ChannelAffine {
  at::Tensor scale, shift;
  int64_t dimension = 1;  ///< that of the channels, counted from the end if negative; never that of the samples
};

/// To [B, ..] of `shape`; one entry may be -1.
struct Reshape {
  std::vector<int64_t> shape;
};

/// Of two values, a residual connection: of the same shape, or of size 1 where the other one is repeated.
struct Addition {};
struct Concatenation {
  int64_t dimension = 1;
};

using Operation = std::variant<Linear, Convolution, ChannelAffine, LayerNorm, Elementwise, Pooling, MeanOver, Reshape,
                               Addition, Concatenation>;

/// One value of a network: an operation on earlier values. Value 0 is the network's input, value i + 1 that of
/// nodes[i].
struct NetworkNode {
  Operation operation;
  std::vector<int> inputs;
  std::string name;  ///< "layer1.0.conv1": for people
};

/// The last node's value is the output. Samples (dimension 0) never interact.
struct Network {
  std::vector<NetworkNode> nodes;

  /// [B, ..] -> [B, ..]. Input error, naming the node, if shapes do not fit. Differentiable.
  at::Tensor operator()(const at::Tensor& x) const;
};

/// The value of one operation.
at::Tensor value_of(const Operation& operation, const std::vector<at::Tensor>& inputs);
/// The same of a node; an input error names it if shapes do not fit.
at::Tensor value_at(const NetworkNode& node, const std::vector<at::Tensor>& inputs);

/// Runs the network and shows every value, in order, as it is made: 0 is the input. Values are dropped as soon as no
/// later node needs them. Returns the output.
at::Tensor run(const Network& network, const at::Tensor& x,
               const std::function<void(int value, const at::Tensor& x)>& show);

/// References to all trainable tensors, named "<node>.weight" and so on.
std::vector<Parameter> parameters(Network& network);

/// Appends an operation on the newest value (or on `inputs`) and returns the number of its value.
int append(Network& network, Operation operation, std::string name, std::vector<int> inputs = {});

/// Fully connected layers of these widths (input first, output last) with an activation between them. Weights and
/// biases start uniform within 1/sqrt(inputs), as torch.nn.Linear's.
Network multilayer_perceptron(const std::vector<int64_t>& widths, Elementwise activation, Random& random);

/// The same network with its tensors in another dtype or on another device.
Network to(const Network& network, const at::TensorOptions& options);

}  // namespace unbend
