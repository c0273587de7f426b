#include "unbend/nets/network.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include "unbend/base/error.h"
#include "unbend/calculus/linearize.h"

namespace unbend {
namespace {

constexpr Activation kAll[] = {Activation::Identity, Activation::Relu,     Activation::LeakyRelu,
                               Activation::Sigmoid,  Activation::Tanh,     Activation::Silu,
                               Activation::Gelu,     Activation::GeluTanh, Activation::Softplus};

TEST(Network, PerceptronIsItsFormula) {
  Random random(1);
  const auto net = multilayer_perceptron({3, 5, 2}, {Activation::Tanh}, random);
  ASSERT_EQ(net.nodes.size(), 3U);
  const auto x = normal_tensor({4, 3}, 1, random);
  const auto& first = std::get<Linear>(net.nodes[0].operation);
  const auto& second = std::get<Linear>(net.nodes[2].operation);
  const auto hidden = at::tanh(at::matmul(x, first.weight.t()) + first.bias);
  EXPECT_TRUE(at::allclose(net(x), at::matmul(hidden, second.weight.t()) + second.bias, 1e-5, 1e-6));
  EXPECT_LE(first.weight.abs().max().item<float>(), 1 / std::sqrt(3.F));
}

TEST(Network, ActivationsKnowTheirDerivativesAndNames) {
  const auto x = at::linspace(-3, 3, 24, at::kDouble).requires_grad_();  // without 0
  for (const auto activation : kAll) {
    SCOPED_TRACE(name_of(activation));
    EXPECT_EQ(activation_named(name_of(activation)), activation);
    const Elementwise f{activation, .2};
    const auto gradient = torch::autograd::grad({f(x).sum()}, {x})[0];
    EXPECT_TRUE(at::allclose(f.derivative(x), gradient, 1e-9, 1e-12));
  }
  EXPECT_THROW(activation_named("rellu"), Error);
}

// A residual block with a convolution, a norm, pools, a concatenation: every kind of operation, against plain calls.
TEST(Network, EveryOperation) {
  Random random(2);
  Network net;
  const auto w1 = normal_tensor({4, 3, 3, 3}, .5, random), b1 = normal_tensor({4}, .5, random);
  const auto w2 = normal_tensor({4, 2, 2, 2}, .5, random);
  const auto scale = normal_tensor({4}, 1, random), shift = normal_tensor({4}, 1, random);
  const int c = append(net, Convolution{w1, b1, {1, 1}, {1, 1}, {1, 1}, {0, 0}}, "conv");
  const int n = append(net, ChannelAffine{scale, shift}, "norm");
  const int r = append(net, Elementwise{}, "relu");
  const int s = append(net, Addition{}, "add", {c, r});
  const int p = append(net, Pooling{true, {2, 2}, {2, 2}}, "max", {s});
  const int q = append(net, Pooling{false, {2, 2}, {2, 2}}, "average", {n});
  const int k = append(net, Concatenation{1}, "both", {p, q});
  const int t = append(net, Convolution{at::cat({w2, w2}), {}, {2, 2}, {0, 0}, {1, 1}, {0, 0}, 2, true}, "up", {k});
  append(net, MeanOver{{-2, -1}, true}, "mean", {t});
  append(net, Reshape{{-1}}, "flat");
  append(net, make_layer_norm(4), "layer_norm");

  const auto x = normal_tensor({2, 3, 6, 6}, 1, random);
  const auto conv = at::conv2d(x, w1, b1, 1, 1);
  const auto norm = conv * scale.view({1, 4, 1, 1}) + shift.view({1, 4, 1, 1});
  const auto both = at::cat({at::max_pool2d(conv + at::relu(norm), 2), at::avg_pool2d(norm, 2)}, 1);
  const auto up = at::conv_transpose2d(both, at::cat({w2, w2}), {}, 2, 0, 0, 2);
  const auto y = at::layer_norm(up.mean(at::IntArrayRef{2, 3}), {4});
  EXPECT_TRUE(at::allclose(net(x), y, 1e-4, 1e-5));
  EXPECT_EQ(parameters(net).size(), 7U);
  EXPECT_EQ(parameters(net)[0].name, "conv.weight");

  std::vector<int> shown;
  run(net, x, [&](int value, const at::Tensor&) { shown.push_back(value); });
  ASSERT_EQ(shown.size(), net.nodes.size() + 1);
  EXPECT_EQ(shown.front(), 0);
  EXPECT_EQ(shown.back(), static_cast<int>(net.nodes.size()));

  const auto twice = to(net, at::kDouble);
  EXPECT_EQ(twice(x.to(at::kDouble)).scalar_type(), at::kDouble);
  EXPECT_EQ(net(x).scalar_type(), at::kFloat);
}

TEST(Network, IsAFunctionToLinearize) {
  Random random(3);
  const auto net = to(multilayer_perceptron({4, 6, 3}, {Activation::Gelu}, random), at::kDouble);
  const auto x = normal_tensor({1, 4}, 1, random).to(at::kDouble);
  const auto l = linearize([&](const Tensors& in) { return Tensors{net(in[0])}; }, {x});
  const auto v = normal_tensor({1, 4}, 1, random).to(at::kDouble);
  const double h = 1e-6;
  const auto difference = (net(x + h * v) - net(x - h * v)) / (2 * h);
  EXPECT_TRUE(at::allclose(l.jacobian.push({v})[0], difference, 1e-6, 1e-8));
}

TEST(Network, BadInputNamesTheLayer) {
  Random random(4);
  const auto net = multilayer_perceptron({3, 2}, {}, random);
  try {
    net(at::ones({1, 4}));
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("layer1"), std::string::npos) << error.what();
  }
  EXPECT_THROW(Network{}(at::ones({1, 1})), Error);
  Network loop;
  append(loop, Addition{}, "loop", {0, 5});
  EXPECT_THROW(loop(at::ones({1, 1})), Error);
  Network coupled;  // adds the mean of sample j to number j of every sample
  append(coupled, MeanOver{{1}, false}, "mean");
  append(coupled, Addition{}, "sum", {0, 1});
  EXPECT_THROW(coupled(at::ones({3, 3})), Error);
  EXPECT_THROW(multilayer_perceptron({3}, {}, random), Error);
}

}  // namespace
}  // namespace unbend
