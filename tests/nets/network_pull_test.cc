#include "unbend/nets/network_pull.h"

#include <gtest/gtest.h>

#include "unbend/base/error.h"
#include "unbend/nets/network_sweep.h"

namespace unbend {
namespace {

struct Case {
  std::string name;
  Network net;
  std::vector<int64_t> shape;
};

class Builder {
 public:
  Network net;
  at::Tensor tensor(std::vector<int64_t> shape) { return normal_tensor(shape, .5, random_).to(at::kDouble); }
  Builder& add(Operation operation, std::vector<int> inputs = {}) {
    append(net, std::move(operation), "layer", std::move(inputs));
    return *this;
  }
  Builder& relu() { return add(Elementwise{Activation::Relu}); }
  Builder& linear(int64_t in, int64_t out) { return add(Linear{tensor({out, in}), tensor({out})}); }

 private:
  Random random_{3};
};

std::vector<Case> cases() {
  std::vector<Case> all;
  {
    Builder b;  // few channels and many, a maximum over what an activation lets through
    b.add(Convolution{b.tensor({4, 2, 3, 3}), b.tensor({4}), {1, 1}, {1, 1}, {1, 1}, {0, 0}}).relu();
    b.add(Pooling{true, {2, 2}, {2, 2}});
    b.add(Convolution{b.tensor({6, 4, 3, 4}), {}, {2, 1}, {1, 2}, {1, 2}, {0, 0}});
    b.add(Elementwise{Activation::Silu}).add(Pooling{true, {3, 2}, {1, 2}, {1, 1}, {1, 1}, true});
    b.add(Reshape{{-1}});
    all.push_back({"plane", b.net, {3, 2, 8, 8}});
  }
  {
    Builder b;  // strides that leave cells over, dilation, groups, both ways
    b.add(Convolution{b.tensor({6, 2, 3}), b.tensor({6}), {3}, {2}, {2}, {0}, 2}).relu();
    b.add(Convolution{b.tensor({6, 2, 4}), {}, {2}, {1}, {1}, {1}, 3, true});
    b.add(Pooling{true, {3}, {2}, {1}, {2}}).add(Pooling{false, {2}, {1}, {1}, {1}});
    b.add(MeanOver{{-1}, false}).linear(6, 3);
    all.push_back({"line", b.net, {4, 4, 21}});
  }
  {
    Builder b;
    b.add(Convolution{b.tensor({2, 1, 2, 3, 2}), b.tensor({2}), {1, 2, 1}, {0, 1, 1}, {1, 1, 1}, {0, 0, 0}}).relu();
    b.add(Pooling{true, {0, 2, 2}, {1, 1, 2}, {0, 0, 0}, {1, 1, 1}});
    b.add(Pooling{false, {1, 2, 1}, {1, 1, 1}, {0, 1, 0}, {1, 1, 1}}).add(MeanOver{{2, -1}, true});
    b.add(Reshape{{2, -1}}).linear(3, 3).add(Reshape{{-1}});
    all.push_back({"space", b.net, {2, 1, 3, 5, 4}});
  }
  {
    Builder b;  // a value that an activation and a sum read; parts side by side; the input itself is read twice
    b.linear(5, 6).add(Elementwise{Activation::Tanh}).add(Addition{}, {1, 2});
    b.add(LayerNorm{b.tensor({6}), b.tensor({6}), 1e-5}).add(Concatenation{1}, {4, 0, 2});
    b.add(ChannelAffine{b.tensor({17}), b.tensor({17})}).add(Elementwise{Activation::LeakyRelu}).linear(17, 4);
    b.add(ChannelAffine{b.tensor({1}), b.tensor({1})});
    all.push_back({"branches", b.net, {3, 5}});
  }
  {
    Builder b;  // nothing before the first gate depends on the sample
    b.add(Convolution{b.tensor({3, 1, 3, 3}), {}, {1, 1}, {0, 0}, {1, 1}, {0, 0}}).add(Pooling{false, {2, 2}, {2, 2}});
    b.add(ChannelAffine{b.tensor({3}), b.tensor({3})}).add(Reshape{{-1}}).linear(12, 2);
    all.push_back({"affine", b.net, {3, 1, 6, 6}});
  }
  {
    Builder b;  // an activation whose maxima are read, and who is read itself
    b.linear(6, 8).relu().add(Reshape{{2, 4}}, {2}).add(Pooling{true, {2}, {1}, {0}, {1}}, {3}).add(Reshape{{6}}, {4});
    b.add(Concatenation{-1}, {5, 2});
    all.push_back({"maxima beside", b.net, {3, 6}});
  }
  {
    Builder b;  // sums of a value and its means, which are smaller; of two that are each smaller than the sum
    b.linear(5, 4).add(Elementwise{Activation::Tanh}).add(MeanOver{{1}, true}).add(Addition{}, {2, 3});
    b.add(Reshape{{2, 2}}).add(MeanOver{{1}, true}).add(MeanOver{{2}, true}, {5}).add(Addition{}, {6, 7});
    b.add(Addition{}, {7, 8}).relu().add(Reshape{{-1}}).linear(4, 3);
    all.push_back({"repeated", b.net, {3, 5}});
  }
  {
    Builder b;  // [B, C, H, W] + [B, C, 1, 1]
    b.add(Convolution{b.tensor({3, 2, 3, 3}), {}, {1, 1}, {1, 1}, {1, 1}, {0, 0}}).add(MeanOver{{2, 3}, true});
    b.add(Addition{}, {2, 1}).relu().add(Reshape{{-1}}).linear(60, 2);
    all.push_back({"planes and their means", b.net, {2, 2, 4, 5}});
  }
  return all;
}

TEST(NetworkPull, IsWhatAutogradGives) {
  for (const auto& [name, net, shape] : cases()) {
    const auto x = at::randn(shape, at::make_generator<at::CPUGeneratorImpl>(1), at::kDouble);
    at::Tensor value, expected_value;
    const auto expected = sample_jacobians([&](const at::Tensor& v) { return net(v); }, x, false, expected_value);
    const auto jacobian = sample_jacobians(net, x, value);
    EXPECT_TRUE(at::allclose(jacobian, expected, 1e-9, 1e-11)) << name;
    EXPECT_TRUE(at::allclose(value, expected_value)) << name;
    EXPECT_FALSE(jacobian.requires_grad());
    const auto single = sample_jacobians(to(net, at::kFloat), x.to(at::kFloat), value);
    EXPECT_TRUE(at::allclose(single.to(at::kDouble), expected, 1e-4, 1e-4)) << name;
  }
}

// Wider than one group of outputs, and a maximum of equal values: the first one.
TEST(NetworkPull, GroupsAndTies) {
  Builder b;
  b.linear(40, 600).relu().linear(600, 30);
  const auto x = at::randn({900, 40}, at::make_generator<at::CPUGeneratorImpl>(2), at::kDouble);
  at::Tensor value;
  const auto expected = sample_jacobians([&](const at::Tensor& v) { return b.net(v); }, x, false, value);
  EXPECT_TRUE(at::allclose(sample_jacobians(b.net, x, value), expected));
  Network ties;
  append(ties, Pooling{true, {2}, {2}, {0}, {1}}, "max");
  const auto flat = at::ones({1, 1, 4}, at::kDouble);
  EXPECT_TRUE(at::equal(sample_jacobians(ties, flat, value)[0],
                        at::tensor({1., 0., 0., 0., 0., 0., 1., 0.}, at::kDouble).view({2, 4})));
  EXPECT_THROW(sample_jacobians(ties, flat.to(at::kHalf), value), Error);
  EXPECT_THROW(sample_jacobians(ties, flat.narrow(2, 0, 1), value), Error);  // no window fits
}

}  // namespace
}  // namespace unbend
