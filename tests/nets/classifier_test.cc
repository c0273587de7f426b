// Classifiers: images from files, training, and the way to a file and back.
#include "unbend/nets/classifier.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>
#include <optional>

#include "tests/error_message.h"
#include "unbend/base/files.h"
#include "unbend/nets/pyramid_file.h"
#include "unbend/tensor/npy.h"
#include "unbend/tensor/safetensors.h"

namespace unbend {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// Noise with a bright half, whose side is the class.
ImageSet halves(int64_t count, uint64_t seed) {
  auto images = at::rand({count, 1, 16, 16}, at::make_generator<at::CPUGeneratorImpl>(seed)) * 100;
  const auto labels = at::arange(count).remainder(2);
  for (int64_t i = 0; i < count; ++i) images[i].narrow(2, i % 2 == 0 ? 0 : 8, 8).add_(100);
  return {images.to(at::kByte), labels};
}

ClassifierShape small_shape(TokenMixing mixing = TokenMixing::Soft) {
  return {.side = 16, .channels = 1, .classes = 2, .stages = 2, .depth = 1, .width = 8, .mixing = mixing};
}

TEST(Classifier, LearnsAndComesBackFromItsFileBitForBit) {
  const TemporaryFolder folder;
  for (const auto mixing : {TokenMixing::Soft, TokenMixing::Softmax, TokenMixing::Linear}) {
    const auto net = train_classifier(classifier_config(small_shape(mixing)), shuffled(halves(64, 1), 16, 1),
                                      {"test", 40, 3e-3}, 1, true);
    const auto test = halves(50, 2);
    EXPECT_GT(accuracy(net, test), 95);
    const auto file = folder.path() / "net.safetensors";
    save_pyramid(file, net, {{"classes", {"left", "right"}}});
    const auto stored = load_pyramid(file);
    EXPECT_EQ(stored.about.at("classes").at(1), "right");
    const at::NoGradGuard no_grad;
    EXPECT_TRUE(at::equal(stored.net.logits(pixels(test.images)), net.logits(pixels(test.images))));
  }
}

TEST(Classifier, KeepsAbout49LandmarksWhateverTheSide) {
  const auto landmarks = [](ClassifierShape shape) {  // along a side, by stage
    const auto config = classifier_config(shape);
    std::vector<int64_t> counts;
    for (size_t i = 0; i < config.stages.size(); ++i) {
      const int64_t grid = config.grid >> i, ratio = config.stages[i].ratio;
      EXPECT_EQ(grid % ratio, 0);
      counts.push_back(grid / ratio);
    }
    return counts;
  };
  for (const auto sampling : {LandmarkSampling::Convolution, LandmarkSampling::Mean, LandmarkSampling::Random}) {
    EXPECT_EQ(classifier_config({.sampling = sampling}).stages[0].ratio, 2);  // the set-up of study soft
    for (const int64_t side : {28, 56, 112, 224, 448, 896})
      EXPECT_THAT(landmarks({.side = side, .sampling = sampling}), ElementsAre(7));
    EXPECT_THAT(landmarks({.side = 224, .stages = 3, .sampling = sampling}), ElementsAre(7, 7, 7));
    EXPECT_THAT(landmarks({.side = 64, .stages = 2, .sampling = sampling}), ElementsAre(8, 8));
    EXPECT_THAT(landmarks({.side = 132, .sampling = sampling}), ElementsAre(11));  // 66 tokens: 6 or 11
    EXPECT_THAT(landmarks({.side = 30, .sampling = sampling}), ElementsAre(5));    // 15 tokens: none of 7 to 14
  }
  // Grids that are small: a convolution needs 2 x 2 tokens per landmark.
  const auto convolution = LandmarkSampling::Convolution, average = LandmarkSampling::Mean;
  EXPECT_THAT(landmarks({.side = 16, .stages = 2, .sampling = convolution}), ElementsAre(4, 2));
  EXPECT_THAT(landmarks({.side = 16, .stages = 2, .sampling = average}), ElementsAre(8, 4));

  const auto refused = [](const ClassifierShape& shape) { return error_message([&] { classifier_config(shape); }); };
  EXPECT_THAT(refused({.side = 29}), HasSubstr("multiple of 2"));
  EXPECT_THAT(refused({.side = 36, .stages = 3}), HasSubstr("multiple of 8"));
  EXPECT_THAT(refused({.side = 0}), HasSubstr("multiple of 2"));
  EXPECT_THAT(refused({.side = 62, .sampling = average}), HasSubstr("60 or 64"));  // 31 tokens
  EXPECT_THAT(refused({.side = 124}), HasSubstr("120 or 126"));                    // 62 tokens: 2 or 31
  EXPECT_THAT(refused({.side = 26}), HasSubstr("24 or 28"));                       // 13 tokens
  EXPECT_THAT(landmarks({.side = 26, .sampling = average}), ElementsAre(13));
  EXPECT_THAT(refused({.side = 4, .stages = 2}), HasSubstr("take 8"));
  EXPECT_EQ(classifier_config({.side = 62, .mixing = TokenMixing::Softmax}).grid, 31);  // needs no landmarks
}

TEST(Classifier, TellsHowFarInversesWereFromInverses) {
  // Averages of a fresh network's queries are nearly equal: 20 of Newton's steps are by far not enough.
  const auto residual = [](InverseSolver solver, TokenMixing mixing) {
    auto shape = small_shape(mixing);
    shape.sampling = LandmarkSampling::Mean, shape.solver = solver;
    std::optional<double> result;
    train_classifier(classifier_config(shape), shuffled(halves(16, 1), 8, 1), {"test", 3}, 1, true, &result);
    return result;
  };
  EXPECT_EQ(ClassifierShape{}.solver, InverseSolver::Cholesky);
  EXPECT_GT(residual(InverseSolver::Newton, TokenMixing::Soft).value(), .1);
  EXPECT_LT(residual(InverseSolver::Cholesky, TokenMixing::Soft).value(), 1e-2);
  EXPECT_FALSE(residual(InverseSolver::Cholesky, TokenMixing::Softmax).has_value());
}

TEST(Classifier, FilesKeepEveryOption) {
  const TemporaryFolder folder;
  PyramidConfig config;
  config.channels = 2, config.classes = 3, config.stem_strides = {1, 2}, config.stem_width = 4, config.grid = 16;
  config.stages = {{8, 2, 1, 4, 3}, {12, 3, 2, 2, 0}};
  config.class_stage = StageConfig{16, 2, 2, 0, 0};
  config.sampling = LandmarkSampling::Random;
  config.soft.normalize = true;
  config.soft.inverse = {.ridge = .02,
                         .solver = InverseSolver::Cholesky,
                         .start = NewtonStart::BeforeRidge,
                         .iterations = 7,
                         .tolerance = 1e-5};
  config.drop = .2;
  const auto json = to_json(config);
  EXPECT_EQ(to_json(pyramid_config(json, "test")), json);
  Random random(3);
  const auto net = random_pyramid(config, random);
  save_pyramid(folder.path() / "net", net, nullptr);
  const auto stored = load_pyramid(folder.path() / "net").net;
  EXPECT_EQ(to_json(stored.config), json);
  const auto images = at::rand({2, 2, 32, 32});
  const at::NoGradGuard no_grad;
  EXPECT_TRUE(at::equal(stored.logits(images), net.logits(images)));  // with the same random landmarks
}

TEST(Classifier, RefusesFilesThatDoNotFit) {
  const TemporaryFolder folder;
  const auto file = folder.path() / "net.safetensors";
  Random random(1);
  save_pyramid(file, random_pyramid(classifier_config(small_shape()), random), {});
  const auto good = load_safetensors(file);
  const auto refused = [&](const std::function<void(Json&)>& change, bool drop = false) {
    auto tensors = good.tensors;
    if (drop) tensors.erase("head.bias");
    auto json = Json::parse(good.metadata.at("unbend.pyramid"));
    change(json);
    save_safetensors(folder.path() / "bad", tensors, {{"unbend.pyramid", json.dump()}});
    return error_message([&] { load_pyramid(folder.path() / "bad"); });
  };
  EXPECT_THAT(refused([](Json& j) { j["version"] = 9; }), HasSubstr("version 9"));
  EXPECT_THAT(refused([](Json& j) { j["config"]["mixing"] = "hard"; }), HasSubstr("soft, softmax, linear, none"));
  EXPECT_THAT(refused([](Json& j) { j["config"]["stages"][0]["width"] = 60000; }), HasSubstr("too few"));
  EXPECT_THAT(refused([](Json& j) { j["config"]["stages"][0]["width"] = -1; }), HasSubstr("width"));
  EXPECT_THAT(refused([](Json& j) { j["config"]["stages"][0]["heads"] = 3; }), HasSubstr("heads"));
  EXPECT_THAT(refused([](Json& j) { j["config"]["classes"] = 1; }), HasSubstr("head.weight"));
  EXPECT_THAT(refused([](Json& j) { j["seeds"] = Json::array(); }), HasSubstr("seeds"));
  EXPECT_THAT(refused([](Json&) {}, true), HasSubstr("head.bias is missing"));
  save_safetensors(folder.path() / "bad", good.tensors, {});
  EXPECT_THAT(error_message([&] { load_pyramid(folder.path() / "bad"); }), HasSubstr("not a pyramid"));
}

TEST(Images, ArraysAreReadAndBroughtToASize) {
  const TemporaryFolder folder;
  const auto bytes = at::arange(2 * 4 * 6).view({2, 4, 6}).to(at::kByte);
  save_npy(folder.path() / "images.npy", bytes);
  save_npy(folder.path() / "labels.npy", at::tensor({1, 0}, at::kInt));
  const auto named = read_images(folder.path(), {4});
  EXPECT_THAT(named.classes, ElementsAre("0", "1"));
  EXPECT_EQ(named.set.images.sizes(), (std::vector<int64_t>{2, 1, 4, 4}));
  EXPECT_EQ(named.set.images.scalar_type(), at::kByte);
  EXPECT_NEAR(named.set.images[0].to(at::kFloat).mean().item<float>(), 11.5, .6);
  EXPECT_EQ(read_images(folder.path(), {4, 3}).set.images.size(1), 3);
  EXPECT_TRUE(at::equal(pixels(bytes), bytes.to(at::kFloat) / 255));

  const auto refused = [&](const at::Tensor& images, const at::Tensor& labels,
                           const std::vector<std::string>& classes = {}) {
    save_npy(folder.path() / "images.npy", images);
    save_npy(folder.path() / "labels.npy", labels);
    return error_message([&] { read_images(folder.path(), {4}, classes); });
  };
  const auto labels = at::tensor({1, 0}, at::kLong);
  EXPECT_THAT(refused(at::zeros({2, 4}), labels), HasSubstr("images.npy: images are [N, h, w]"));
  EXPECT_THAT(refused(at::zeros({2, 4, 4, 3}), labels), HasSubstr("4 channels"));
  EXPECT_THAT(refused(at::zeros({2, 4, 4}, at::kLong), labels), HasSubstr("uint8"));
  EXPECT_THAT(refused(at::full({2, 4, 4}, NAN), labels), HasSubstr("images.npy"));
  EXPECT_THAT(refused(bytes, at::zeros({3}, at::kLong)), HasSubstr("labels.npy"));
  EXPECT_THAT(refused(bytes, at::zeros({2})), HasSubstr("integers"));
  EXPECT_THAT(refused(bytes, at::tensor({-1, 0}, at::kLong)), HasSubstr("labels.npy"));
  EXPECT_THAT(refused(bytes, at::tensor({1, 70}, at::kLong)), HasSubstr("label 70"));
  EXPECT_THAT(refused(bytes, labels, {"only"}), HasSubstr("labels.npy"));
}

TEST(Images, SplitsEveryImageOnce) {
  const ImageSet set{at::arange(10).to(at::kFloat).view({10, 1, 1, 1}), at::arange(10)};
  Random random(1);
  const auto [a, b] = split(set, 7, random);
  EXPECT_EQ(a.size(), 7);
  EXPECT_TRUE(at::equal(std::get<0>(at::cat({a.labels, b.labels}).sort()), set.labels));
  EXPECT_TRUE(at::equal(b.images.flatten().to(at::kLong), b.labels));
}

}  // namespace
}  // namespace unbend
