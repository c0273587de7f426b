// Classifiers and transformers on other devices beside the same on the CPU.
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/types.h>

#include "tests/other_device.h"
#include "unbend/nets/classifier.h"
#include "unbend/nets/transformer.h"

namespace unbend::test {
namespace {

at::Generator generator(uint64_t seed) { return at::make_generator<at::CPUGeneratorImpl>(seed); }

void expect_close(const at::Tensor& there, const at::Tensor& here, double tolerance, const std::string& where) {
  EXPECT_LT((there.to(at::kCPU) - here).abs().max().item<double>(), tolerance) << where;
}

struct Kind {
  TokenMixing mixing;
  LandmarkSampling sampling = LandmarkSampling::Mean;
  bool normalize = false;
  InverseSolver solver = InverseSolver::Cholesky;
};

TEST(Device, ClassifiersTrainElsewhereAsOnTheCpu) {
  const ImageSet set{at::rand({16, 3, 16, 16}, generator(1)), at::arange(16).remainder(2)};
  const auto large = at::upsample_bilinear2d(set.images, {32, 32}, false);
  for (const auto& kind :
       {Kind{TokenMixing::Soft}, Kind{TokenMixing::Soft, LandmarkSampling::Convolution, true},
        Kind{TokenMixing::Soft, LandmarkSampling::Convolution, true, InverseSolver::Newton},
        Kind{TokenMixing::Soft, LandmarkSampling::Random}, Kind{TokenMixing::Softmax}, Kind{TokenMixing::Linear}}) {
    auto config = classifier_config({.side = 16,
                                     .channels = 3,
                                     .classes = 2,
                                     .stages = 2,
                                     .depth = 1,
                                     .width = 8,
                                     .mixing = kind.mixing,
                                     .normalize = kind.normalize,
                                     .sampling = kind.sampling,
                                     .solver = kind.solver});
    config.drop = .2;
    config.class_stage = StageConfig{16, 2, 1, 0, 0};
    // The loss, its gradients and logits of larger images, in float64.
    const auto passed = [&](at::Device device) {
      Random random(1);
      auto net = random_pyramid(config, random).to(device, at::kDouble);
      std::vector<at::Tensor> weights, all;
      for (const auto& p : parameters(net)) weights.push_back(p.tensor->requires_grad_());
      const Pass pass{.training = true, .generator = generator(2)};
      const auto loss =
          at::cross_entropy_loss(net.logits(set.images.to(device, at::kDouble), pass), set.labels.to(device));
      all = torch::autograd::grad({loss}, weights, {}, {}, false, /*allow_unused=*/true);
      all.push_back(loss.detach());
      const at::NoGradGuard no_grad;
      all.push_back(net.logits(large.to(device, at::kDouble)));
      return all;
    };
    // A few steps in float32, which rounds otherwise there: Adam makes much of gradients that are nearly zero.
    const auto trained = [&](at::Device device) {
      std::optional<double> residual;
      auto net = train_classifier(config, shuffled(set, 8, 1), {"test", 4, 1e-4, device}, 1, true, &residual);
      EXPECT_EQ(residual.has_value(), kind.mixing == TokenMixing::Soft) << device.str();
      return net;
    };
    const auto here = passed(at::kCPU);
    const auto cpu = trained(at::kCPU);
    for (const auto device : other_devices()) {
      const auto where = fmt::format("mixing {}, landmarks {}, {}", int(kind.mixing), int(kind.sampling), device.str());
      const auto there = passed(device);
      for (size_t i = 0; i < here.size(); ++i) {
        ASSERT_EQ(there[i].defined(), here[i].defined()) << where;
        if (here[i].defined()) expect_close(there[i], here[i], 1e-9, where);
      }
      const auto other = trained(device);
      EXPECT_EQ(other.head.weight.device(), device) << where;
      const at::NoGradGuard no_grad;
      expect_close(other.logits(set.images.to(device)), cpu.logits(set.images), 1e-3, where);
      EXPECT_EQ(predicted(other, set.images).device(), at::kCPU) << where;
    }
  }
}

TEST(Device, TransformersRunElsewhereAsOnTheCpu) {
  auto net = make_transformer({.vocabulary = 11, .context = 12, .width = 8, .depth = 2, .heads = 2});
  Random random(1);
  for (const auto& p : parameters(net)) *p.tensor = normal_tensor(p.tensor->sizes(), .3, random);
  const auto ids = at::randint(11, {2, 9}, generator(2), at::kLong);
  const auto extended = [&](at::Device device) {
    auto state = net.start(2);
    std::vector<at::Tensor> parts;
    for (const auto& [first, last] : {std::pair{0, 5}, {5, 6}, {6, 9}})
      parts.push_back(net.extend(ids.slice(1, first, last).to(device), state));
    return at::cat(parts, 1);
  };
  const auto logits = net.logits(ids), streamed = extended(at::kCPU);
  for (const auto device : other_devices()) {
    for (const auto& p : parameters(net)) *p.tensor = p.tensor->to(device);
    expect_close(net.logits(ids.to(device)), logits, 1e-5, "whole");
    expect_close(extended(device), streamed, 1e-5, "in pieces");
  }
}

}  // namespace
}  // namespace unbend::test
