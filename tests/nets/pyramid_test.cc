// The pyramid for images (methods/soft.md, section 7).
#include "unbend/nets/pyramid.h"

#include <gmock/gmock.h>
#include <torch/types.h>

#include <set>

#include "tests/error_message.h"
#include "unbend/tensor/adamw.h"

namespace unbend {
namespace {

using testing::HasSubstr;

at::Tensor random(at::IntArrayRef sizes, uint64_t seed) {
  return at::randn(sizes, at::make_generator<at::CPUGeneratorImpl>(seed));
}

Pyramid network(const PyramidConfig& config, uint64_t seed = 1) {
  Random seeds(seed);
  return random_pyramid(config, seeds);
}

// Two stages and a class stage for images of 32 x 32.
PyramidConfig small_config() {
  PyramidConfig config;
  config.channels = 2, config.classes = 3, config.stem_strides = {1, 2}, config.stem_width = 4, config.grid = 16;
  config.stages = {{8, 2, 1, 4, 3}, {12, 3, 2, 2, 0}};
  config.class_stage = StageConfig{16, 2, 2, 0, 0};
  return config;
}

double parameter_millions(const PyramidConfig& config) {
  auto net = network(config);
  int64_t count = 0;
  for (const auto& p : parameters(net)) count += p.tensor->numel();
  return static_cast<double>(count) / 1e6;
}

TEST(Pyramid, PresetsHaveThePublishedSizes) {
  EXPECT_NEAR(parameter_millions(pyramid_config("tiny", false)), 13, .5);
  EXPECT_NEAR(parameter_millions(pyramid_config("small", true)), 24, .5);
  EXPECT_EQ(pyramid_config("huge", false).stages[2].depth, 49);
  EXPECT_THAT(error_message([] { pyramid_config("giant", false); }), HasSubstr("tiny, small"));
}

TEST(Pyramid, TinyOnAnImageOfItsSize) {
  const at::NoGradGuard no_grad;
  for (const bool normalize : {false, true}) {
    const auto net = network(pyramid_config("tiny", normalize));
    std::vector<at::Tensor> residuals;
    const auto maps = net.features(random({1, 3, 224, 224}, 1), {.residuals = &residuals});
    ASSERT_EQ(maps.size(), 4);
    const int64_t widths[] = {64, 128, 320, 512}, sides[] = {56, 28, 14, 7};
    for (size_t i = 0; i < 4; ++i) {
      EXPECT_EQ(maps[i].sizes(), (std::vector<int64_t>{1, widths[i], sides[i], sides[i]}));
      EXPECT_TRUE(at::isfinite(maps[i]).all().item<bool>());
    }
    EXPECT_EQ(residuals.size(), 6);  // blocks of the softmax-free stages
    EXPECT_EQ(net.side_multiple(), 32);
  }
}

TEST(Pyramid, TakesOtherSizesThanItsOwn) {
  const auto net = network(small_config());
  EXPECT_EQ(net.side_multiple(), 8);
  EXPECT_EQ(net.logits(random({2, 2, 32, 32}, 1)).sizes(), (std::vector<int64_t>{2, 3}));
  const auto maps = net.features(random({2, 2, 24, 48}, 1));
  EXPECT_EQ(maps[0].sizes(), (std::vector<int64_t>{2, 8, 12, 24}));
  EXPECT_EQ(maps[1].sizes(), (std::vector<int64_t>{2, 12, 6, 12}));
  EXPECT_EQ(maps[2].sizes(), (std::vector<int64_t>{2, 16, 3, 6}));
  EXPECT_THAT(error_message([&] { net.logits(random({1, 2, 32, 36}, 1)); }), HasSubstr("multiples of 8"));
  EXPECT_THAT(error_message([&] { net.logits(random({1, 3, 32, 32}, 1)); }), HasSubstr("images"));
  EXPECT_THAT(error_message([&] { net.logits(random({1, 2, 32, 32}, 1).to(at::kDouble)); }), HasSubstr("weights"));
}

// Embeddings that rise linearly along the grid stay linear inside when they are resized, and an equal grid leaves them.
TEST(Pyramid, ResizesPositionsBilinearly) {
  PyramidConfig config;
  config.channels = 1, config.classes = 8, config.stem_strides = {1}, config.grid = 4;
  config.stages = {{8, 2, 0, 2, 0}};  // no block: tokens are relu(..) + position
  auto net = network(config);
  net.stages[0].entry[0].norm_weight.zero_();  // so that only the position remains
  net.stages[0].position =
      (at::arange(4).to(at::kFloat).view({1, 1, 4, 1}) + .5).expand({1, 4, 4, 8}).reshape({1, 16, 8});
  const auto same = net.features(at::zeros({1, 1, 4, 4}))[0], wide = net.features(at::zeros({1, 1, 4, 8}))[0];
  EXPECT_TRUE(at::allclose(same[0][0][1], at::tensor({.5f, 1.5f, 2.5f, 3.5f})));
  EXPECT_TRUE(at::allclose(wide[0][0][1], at::tensor({.5f, .75f, 1.25f, 1.75f, 2.25f, 2.75f, 3.25f, 3.5f})));
}

TEST(Pyramid, AnImageDoesNotDependOnItsBatchInUse) {
  const auto net = network(small_config());
  const auto images = random({3, 2, 32, 32}, 1);
  EXPECT_TRUE(at::allclose(net.logits(images).narrow(0, 1, 1), net.logits(images.narrow(0, 1, 1)), 1e-4, 1e-5));
}

TEST(Pyramid, TrainingMovesTheStatistics) {
  auto net = network(small_config());
  const auto images = random({4, 2, 32, 32}, 1) + 3;
  const auto before = net.logits(images);
  const Pass pass{.training = true, .generator = at::make_generator<at::CPUGeneratorImpl>(1)};
  net.logits(images, pass);
  for (const auto& p : statistics(net))
    EXPECT_GT(p.tensor->sub(p.name.ends_with("mean") ? 0 : 1).abs().max().item<double>(), 0) << p.name;
  EXPECT_FALSE(at::allclose(net.logits(images), before));
}

TEST(Pyramid, ParametersAreNamedOnceAndAllLearn) {
  for (const auto mixing : {TokenMixing::Soft, TokenMixing::Softmax, TokenMixing::Linear, TokenMixing::None}) {
    auto config = small_config();
    config.mixing = mixing;
    auto net = network(config);
    std::set<std::string> names;
    for (const auto& p : parameters(net)) {
      EXPECT_TRUE(names.insert(p.name).second) << p.name;
      *p.tensor = (*p.tensor + .1 * random(p.tensor->sizes(), names.size())).requires_grad_();
    }
    const Pass pass{.training = true, .generator = at::make_generator<at::CPUGeneratorImpl>(1)};
    net.logits(random({4, 2, 32, 32}, 1), pass).square().sum().backward();
    for (const auto& p : parameters(net)) {
      if (p.name.ends_with("entry.0.bias") || p.name.ends_with("entry.1.bias"))
        continue;  // normalisation takes it away
      ASSERT_TRUE(p.tensor->grad().defined()) << p.name;
      EXPECT_GT(p.tensor->grad().abs().max().item<double>(), 0) << p.name;
    }
  }
}

TEST(Pyramid, ForksShareNothing) {
  auto net = network(small_config());
  const auto images = random({1, 2, 32, 32}, 1);
  const auto before = net.logits(images);
  auto copy = net.fork();
  for (const auto& p : parameters(copy)) p.tensor->zero_();
  for (const auto& p : statistics(copy)) p.tensor->fill_(7);
  EXPECT_TRUE(at::equal(net.logits(images), before));
  const auto exact = net.to(at::kCPU, at::kDouble);
  EXPECT_TRUE(at::allclose(exact.logits(images.to(at::kDouble)).to(at::kFloat), before, 1e-3, 1e-4));
}

// Which of two quarters of the image is bright: every mixing learns it.
TEST(Pyramid, Learns) {
  for (const bool class_stage : {true, false}) {
    auto config = small_config();
    config.classes = 2, config.drop = 0;
    if (!class_stage) config.class_stage.reset();
    auto net = network(config);
    ParameterGroup group;
    for (const auto& p : parameters(net)) group.parameters.push_back(p.tensor->requires_grad_());
    group.lr = 3e-3;
    AdamW optimizer({group});
    const auto labels = at::arange(16, at::kLong).remainder(2);
    double accuracy = 0;
    for (int step = 0; step < 40; ++step) {
      auto images = .3 * random({16, 2, 32, 32}, step);
      for (int64_t i = 0; i < 16; ++i) images[i].narrow(1, 16 * (i % 2), 16).narrow(2, 0, 16) += 1;
      const auto logits = net.logits(images, {.training = true});
      accuracy = (logits.argmax(1) == labels).to(at::kDouble).mean().item<double>();
      optimizer.zero_grad();
      at::cross_entropy_loss(logits, labels).backward();
      optimizer.step();
    }
    EXPECT_GE(accuracy, 15. / 16) << (class_stage ? "class token" : "mean token");
  }
}

TEST(Pyramid, SaysWhatIsWrong) {
  const auto make = [](const std::function<void(PyramidConfig&)>& change) {
    auto config = small_config();
    change(config);
    return error_message([&] { network(config); });
  };
  EXPECT_THAT(make([](auto& c) { c.stages.clear(); }), HasSubstr("stage"));
  EXPECT_THAT(make([](auto& c) { c.stem_strides.clear(); }), HasSubstr("stem"));
  EXPECT_THAT(make([](auto& c) { c.drop = 1; }), HasSubstr("drop"));
  EXPECT_THAT(make([](auto& c) { c.classes = 0; }), HasSubstr("classes"));
  EXPECT_THAT(make([](auto& c) { c.stages[0].heads = 3; }), HasSubstr("3 heads"));
}

}  // namespace
}  // namespace unbend
