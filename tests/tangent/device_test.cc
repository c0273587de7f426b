// Methods that read networks, on other devices beside the same on the CPU.
#include <gtest/gtest.h>
#include <torch/types.h>

#include "tests/other_device.h"
#include "unbend/tangent/local_complexity.h"
#include "unbend/tangent/scaling.h"
#include "unbend/tangent/stable_distribution.h"
#include "unbend/tangent/uncertainty.h"

namespace unbend::test {
namespace {

at::Tensor normal(at::IntArrayRef shape, uint64_t seed) {
  return at::randn(shape, at::make_generator<at::CPUGeneratorImpl>(seed), at::kDouble);
}

Network convolutions() {
  Random random(5);
  Network net;
  const auto w = [&](std::vector<int64_t> shape) { return normal_tensor(shape, .4, random); };
  append(net, Convolution{w({4, 2, 3, 3}), w({4}), {1, 1}, {1, 1}, {1, 1}, {0, 0}}, "conv");
  append(net, Elementwise{Activation::Silu}, "silu");
  append(net, Pooling{true, {2, 2}, {2, 2}}, "max");
  append(net, ChannelAffine{w({4}), w({4})}, "norm");
  append(net, Reshape{{-1}}, "flat");
  append(net, Linear{w({6, 16}), w({6})}, "middle");
  append(net, make_layer_norm(6), "layer_norm");
  append(net, Elementwise{Activation::Relu}, "relu");
  append(net, Linear{w({3, 6}), w({3})}, "last");
  return to(net, at::kDouble);
}

Network perceptron() {
  Random random(3);
  return to(multilayer_perceptron({32, 9, 7, 3}, {Activation::Relu}, random), at::kDouble);
}

void expect_close(const at::Tensor& there, const at::Tensor& here, const std::string& where) {
  EXPECT_LT((there.to(at::kCPU) - here).abs().max().item<double>(), 1e-9) << where;
}

TEST(Device, NoiseGoesThroughNetworksElsewhereAsOnTheCpu) {
  const auto x = normal({5, 2, 4, 4}, 1), root = .2 * normal({32, 32}, 2);
  const std::vector<Noise> noises{independent_noise(gaussian_law(), .1), gaussian_noise(root.matmul(root.t())),
                                  independent_noise(cauchy_law(), .1), factor_noise(cauchy_law(), normal({32, 4}, 3)),
                                  independent_noise(stable_law(1.5), .1)};
  for (const bool flat : {false, true})
    for (size_t i = 0; i < noises.size(); ++i) {
      const auto& noise = noises[i];
      const auto net = flat ? perceptron() : convolutions();
      const auto input = flat ? x.flatten(1) : x;
      const auto here = propagate(net, input, noise);
      for (const auto device : other_devices()) {
        const auto where = fmt::format("noise {}, {} on {}", i, flat ? "perceptron" : "convolutions", device.str());
        const auto moved = to(net, at::TensorOptions(device));
        const auto point = input.to(device);
        const auto there = propagate(moved, point, to(noise, device));
        EXPECT_EQ(there.location.device(), device) << where;
        expect_close(there.location, here.location, where);
        expect_close(scale(there), scale(here), where);
        const BatchFunction f = moved;
        expect_close(scale(propagate(f, point, to(noise, device))), scale(here), where);
        expect_close(intervals(there, .9).low, intervals(here, .9).low, where);
        if (noise.law.alpha != 1.5) expect_close(confidence(there), confidence(here), where);
        auto one = at::make_generator<at::CPUGeneratorImpl>(7), two = at::make_generator<at::CPUGeneratorImpl>(7);
        expect_close(draw(point, to(noise, device), one), draw(input, noise, two), where);
        if (noise.scale.defined())
          expect_close(scale(propagate_marginal(moved, point, to(noise, device))),
                       scale(propagate_marginal(net, input, noise)), where);
      }
    }
}

TEST(Device, FoldsAreCountedElsewhereAsOnTheCpu) {
  const auto x = normal({6, 32}, 1);
  const auto frame = orthoplex_frame(32, 8, 1);
  const auto here = local_complexity(perceptron(), x, frame, {.radius = .3}).total();
  for (const auto device : other_devices()) {
    const auto there =
        local_complexity(to(perceptron(), at::TensorOptions(device)), x.to(device), frame, {.radius = .3});
    EXPECT_TRUE(at::equal(there.total().to(at::kCPU), here)) << device.str();
  }
}

TEST(Device, SizesAreComparedElsewhereAsOnTheCpu) {
  const Family cpu =
      transformer_family({.vocabulary = 11, .context = 8, .width = 8, .depth = 2, .heads = 2}, {8, 2, 4});
  const std::vector<NetworkSize> sizes{{8, 2, 4}, {8, 4, 4}};
  const auto source = [](uint64_t seed) -> ExampleSource {
    return [seed](int64_t step) -> Examples {
      const auto random = at::make_generator<at::CPUGeneratorImpl>(100 * seed + static_cast<uint64_t>(step));
      const auto ids = at::randint(11, {3, 9}, random, at::kLong);
      return {ids.slice(1, 0, 8).contiguous(), ids.slice(1, 1).contiguous()};
    };
  };
  const auto p = find_parameterization("completep");
  const auto check = [&](const Family& family) {
    return coordinate_check(family, sizes, BaseSettings(), p, source, 2, 1, true);
  };
  const auto laziness = [&](const Family& family) {
    auto net = family(sizes[0], BaseSettings(), p, 1);
    return block_laziness(net, source(1)(0)).relative();
  };
  const auto here = check(cpu);
  for (const auto device : other_devices()) {
    const auto family = on_device(cpu, device);
    EXPECT_EQ(family(sizes[0], BaseSettings(), p, 1).parameters[0].tensor->device(), device);
    const auto there = check(family);
    EXPECT_LT((there.size - here.size).abs().max().item<double>(), 1e-4) << device.str();
    EXPECT_LT((there.change - here.change).abs().max().item<double>(), 1e-4) << device.str();
    EXPECT_NEAR(laziness(family), laziness(cpu), 1e-9) << device.str();
  }
}

}  // namespace
}  // namespace unbend::test
