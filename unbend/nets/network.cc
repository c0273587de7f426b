#include "unbend/nets/network.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <utility>

#include "unbend/base/error.h"
#include "unbend/base/methods.h"

namespace unbend {
namespace {

constexpr std::array<std::pair<Activation, std::string_view>, 9> kNames = {{{Activation::Identity, "identity"},
                                                                            {Activation::Relu, "relu"},
                                                                            {Activation::LeakyRelu, "leaky_relu"},
                                                                            {Activation::Sigmoid, "sigmoid"},
                                                                            {Activation::Tanh, "tanh"},
                                                                            {Activation::Silu, "silu"},
                                                                            {Activation::Gelu, "gelu"},
                                                                            {Activation::GeluTanh, "gelu_tanh"},
                                                                            {Activation::Softplus, "softplus"}}};

// d/dx of 0.5 x (1 + tanh(c (x + 0.044715 x^3))).
at::Tensor gelu_tanh_derivative(const at::Tensor& x) {
  const double c = std::sqrt(2 / std::numbers::pi);
  const auto t = at::tanh(c * (x + .044715 * x * x * x));
  return .5 * (1 + t) + .5 * x * (1 - t * t) * c * (1 + 3 * .044715 * x * x);
}

at::Tensor reshaped(const at::Tensor& x, const std::vector<int64_t>& shape) {
  std::vector<int64_t> whole = {x.size(0)};
  whole.insert(whole.end(), shape.begin(), shape.end());
  return x.reshape(whole);
}

at::Tensor per_channel(const at::Tensor& v, int64_t dimension, const at::Tensor& x) {
  if (v.numel() == 1) return v;
  if (dimension < 0) dimension += x.dim();
  require(dimension >= 1 && dimension < x.dim() && x.size(dimension) == v.numel(), "{} channels, but a value of [{}]",
          v.numel(), fmt::join(x.sizes(), ", "));
  std::vector<int64_t> shape(x.dim(), 1);
  shape[dimension] = -1;
  return v.view(shape);
}

template <class... F>
struct Overload : F... {
  using F::operator()...;
};
template <class... F>
Overload(F...) -> Overload<F...>;

// The tensors of an operation, by name.
template <class Visit>
void each_tensor(Operation& operation, const Visit& visit) {
  const auto defined = [&](const char* name, at::Tensor& t) {
    if (t.defined()) visit(name, t);
  };
  std::visit(Overload{[&](Linear& o) { defined("weight", o.weight), defined("bias", o.bias); },
                      [&](Convolution& o) { defined("weight", o.weight), defined("bias", o.bias); },
                      [&](ChannelAffine& o) { defined("scale", o.scale), defined("shift", o.shift); },
                      [&](LayerNorm& o) { defined("weight", o.weight), defined("bias", o.bias); }, [](auto&) {}},
             operation);
}

}  // namespace

std::string_view name_of(Activation activation) {
  return std::ranges::find(kNames, activation, &std::pair<Activation, std::string_view>::first)->second;
}

Activation activation_named(std::string_view name) {
  std::vector<std::string> known;
  for (const auto& [value, text] : kNames) {
    if (text == name) return value;
    known.emplace_back(text);
  }
  fail_usage("there is no activation '{}': it is one of {}", name, fmt::join(known, ", "));
}

at::Tensor Elementwise::operator()(const at::Tensor& x) const {
  switch (function) {
    case Activation::Identity: return x;
    case Activation::Relu: return at::relu(x);
    case Activation::LeakyRelu: return at::leaky_relu(x, slope);
    case Activation::Sigmoid: return at::sigmoid(x);
    case Activation::Tanh: return at::tanh(x);
    case Activation::Silu: return at::silu(x);
    case Activation::Gelu: return at::gelu(x);
    case Activation::GeluTanh: return at::gelu(x, "tanh");
    case Activation::Softplus: return at::softplus(x);
  }
  fail_computation("not an activation");
}

at::Tensor Elementwise::derivative(const at::Tensor& x) const {
  switch (function) {
    case Activation::Identity: return at::ones_like(x);
    case Activation::Relu: return (x > 0).to(x.scalar_type());
    case Activation::LeakyRelu: return at::where(x > 0, at::ones_like(x), at::full_like(x, slope));
    case Activation::Sigmoid: {
      const auto s = at::sigmoid(x);
      return s * (1 - s);
    }
    case Activation::Tanh: return 1 - at::tanh(x).square();
    case Activation::Silu: {
      const auto s = at::sigmoid(x);
      return s * (1 + x * (1 - s));
    }
    case Activation::Gelu:
      return .5 * (1 + at::erf(x / std::numbers::sqrt2)) +
             x * at::exp(-.5 * x.square()) / std::sqrt(2 * std::numbers::pi);
    case Activation::GeluTanh: return gelu_tanh_derivative(x);
    case Activation::Softplus: return at::sigmoid(x);
  }
  fail_computation("not an activation");
}

at::Tensor Convolution::operator()(const at::Tensor& x) const {
  return at::convolution(x, weight, bias, stride, padding, dilation, transposed, output_padding, groups);
}

at::Tensor Pooling::operator()(const at::Tensor& x) const {
  const auto dims = static_cast<int64_t>(kernel.size());
  require(dims >= 1 && dims <= 3 && x.dim() > dims, "a pool over {} dimensions of [{}]", dims,
          fmt::join(x.sizes(), ", "));
  auto size = kernel;
  for (int64_t d = 0; d < dims; ++d)
    if (size[d] == 0) size[d] = x.size(d - dims);
  if (dims == 3)
    return maximum ? at::max_pool3d(x, size, stride, padding, dilation, ceil)
                   : at::avg_pool3d(x, size, stride, padding);
  if (dims == 1)
    return maximum ? at::max_pool1d(x, size, stride, padding, dilation, ceil)
                   : at::avg_pool1d(x, size, stride, padding);
  return maximum ? at::max_pool2d(x, size, stride, padding, dilation, ceil) : at::avg_pool2d(x, size, stride, padding);
}

at::Tensor value_of(const Operation& operation, const std::vector<at::Tensor>& inputs) {
  const auto& x = inputs.front();
  return std::visit(Overload{[&](const MeanOver& o) { return x.mean(o.dimensions, o.keep); },
                             [&](const ChannelAffine& o) {
                               return x * per_channel(o.scale, o.dimension, x) + per_channel(o.shift, o.dimension, x);
                             },
                             [&](const Reshape& o) { return reshaped(x, o.shape); },
                             [&](const Addition&) {
                               const auto& y = inputs.at(1);
                               require(x.dim() == y.dim(), "a sum of [{}] and [{}] couples the samples",
                                       fmt::join(x.sizes(), ", "), fmt::join(y.sizes(), ", "));
                               return x + y;
                             },
                             [&](const Concatenation& o) { return at::cat(inputs, o.dimension); },
                             [&](const auto& layer) { return layer(x); }},
                    operation);
}

at::Tensor value_at(const NetworkNode& node, const std::vector<at::Tensor>& inputs) {
  try {
    return value_of(node.operation, inputs);
  } catch (const c10::Error& error) {
    fail_input("layer '{}' does not take [{}]: {}", node.name, fmt::join(inputs.front().sizes(), ", "),
               error.what_without_backtrace());
  }
}

at::Tensor run(const Network& network, const at::Tensor& x,
               const std::function<void(int value, const at::Tensor& x)>& show) {
  require(!network.nodes.empty(), "the network has no layers");
  const int count = static_cast<int>(network.nodes.size());
  std::vector<int> last(count + 1, 0);  // the last node that reads each value
  for (int i = 0; i < count; ++i) {
    for (const int input : network.nodes[i].inputs) {
      require(input >= 0 && input <= i, "node '{}' reads value {}, which is not there yet", network.nodes[i].name,
              input);
      last[input] = i;
    }
  }
  std::vector<at::Tensor> values(count + 1);
  values[0] = x;
  if (show) show(0, x);
  for (int i = 0; i < count; ++i) {
    const auto& node = network.nodes[i];
    require(!node.inputs.empty(), "node '{}' has no input", node.name);
    std::vector<at::Tensor> inputs;
    for (const int input : node.inputs) inputs.push_back(values[input]);
    values[i + 1] = value_at(node, inputs);
    if (show) show(i + 1, values[i + 1]);
    for (const int input : node.inputs) {
      if (last[input] == i) values[input] = at::Tensor();
    }
  }
  return values[count];
}

at::Tensor Network::operator()(const at::Tensor& x) const { return run(*this, x, nullptr); }

std::vector<Parameter> parameters(Network& network) {
  std::vector<Parameter> all;
  for (auto& node : network.nodes) {
    each_tensor(node.operation, [&](const char* name, at::Tensor& t) {
      all.push_back({fmt::format("{}.{}", node.name, name), &t});
    });
  }
  return all;
}

int append(Network& network, Operation operation, std::string name, std::vector<int> inputs) {
  const int newest = static_cast<int>(network.nodes.size());
  if (inputs.empty()) inputs = {newest};
  network.nodes.push_back({std::move(operation), std::move(inputs), std::move(name)});
  return newest + 1;
}

Network multilayer_perceptron(const std::vector<int64_t>& widths, Elementwise activation, Random& random) {
  require(widths.size() >= 2, "a perceptron needs the widths of its input and its output");
  Network network;
  for (size_t i = 0; i + 1 < widths.size(); ++i) {
    require(widths[i] >= 1 && widths[i + 1] >= 1, "widths must be positive");
    const double bound = 1 / std::sqrt(static_cast<double>(widths[i]));
    const auto weight = uniform_tensor({widths[i + 1], widths[i]}, bound, random);
    append(network, Linear{weight, uniform_tensor({widths[i + 1]}, bound, random)}, fmt::format("layer{}", i + 1));
    if (i + 2 < widths.size()) append(network, activation, fmt::format("activation{}", i + 1));
  }
  return network;
}

Network to(const Network& network, const at::TensorOptions& options) {
  auto moved = network;
  for (auto& node : moved.nodes)
    each_tensor(node.operation, [&](const char*, at::Tensor& t) { t = t.detach().to(options, false, true); });
  return moved;
}

}  // namespace unbend
