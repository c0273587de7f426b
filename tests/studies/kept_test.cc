// Kept trainings: an interrupted study goes on to the same weights.
#include "studies/kept.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <optional>

#include "studies/bytes.h"
#include "studies/images.h"
#include "studies/training.h"
#include "unbend/base/files.h"
#include "unbend/tensor/checkpoint.h"

namespace unbend {
namespace {

StudyOptions kept_options(const std::filesystem::path& folder, const std::string& run = "a") {
  StudyOptions options;
  options.quiet = true;
  options.kept = std::make_shared<KeptTrainings>(folder, run);
  return options;
}

at::Tensor random_text() {
  return at::randint(64, {4096}, at::make_generator<at::CPUGeneratorImpl>(1), at::kLong).to(at::kByte);
}

lm::Decoder small_start() {
  lm::DecoderConfig config;
  config.layers = 1, config.hidden = 16, config.heads = config.kv_heads = 2, config.head_dim = 8, config.ffn = 16;
  config.vocab = 64, config.context = 64;
  Random random(1);
  return lm::random_decoder(config, 1, .5, random);
}

/// Two trainings one after the other on the same batches, so that the second depends on where the first left them.
std::vector<lm::Decoder> two_trainings(const StudyOptions& options, std::int64_t steps) {
  std::vector<lm::Decoder> all;
  const auto source = byte_source(random_text(), 16, 2, 5);
  for (int i = 0; i < 2; ++i) {
    auto decoder = small_start();
    lm::Stage stage;
    stage.steps = steps;
    train_in_study(decoder, decoder, stage, *source, {""}, options);
    all.push_back(std::move(decoder));
  }
  return all;
}

TEST(Kept, ARunStartedAgainTrainsNothingTwice) {
  const TemporaryFolder folder;
  const auto alone = two_trainings({.quiet = true}, 4), first = two_trainings(kept_options(folder.path()), 4);
  // A run that would end elsewhere shows that the second one's weights come from the folder.
  const auto second = two_trainings(kept_options(folder.path()), 4), other = two_trainings({.quiet = true}, 9);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_TRUE(at::equal(alone[i].head, first[i].head)) << i;
    EXPECT_TRUE(at::equal(first[i].head, second[i].head)) << i;
    EXPECT_TRUE(at::equal(first[i].layers[0].down.weight, second[i].layers[0].down.weight)) << i;
    EXPECT_FALSE(at::equal(first[i].head, other[i].head)) << i;
  }
  EXPECT_FALSE(at::equal(first[0].head, first[1].head));
}

TEST(Kept, AnotherRunHasAFolderOfItsOwn) {
  const TemporaryFolder folder;
  EXPECT_EQ(KeptTrainings(folder.path(), "a").next(), KeptTrainings(folder.path(), "a").next());
  EXPECT_NE(KeptTrainings(folder.path(), "a").next(), KeptTrainings(folder.path(), "b").next());
  KeptTrainings run(folder.path(), "a");
  EXPECT_NE(run.next(), run.next());
}

TEST(Kept, ClassifiersComeBackWithTheirStatistics) {
  const TemporaryFolder folder;
  PyramidConfig config;
  config.channels = 3, config.classes = 2, config.stem_strides = {2, 2, 1}, config.grid = 7, config.drop = 0;
  config.stages = {{16, 1, 1, 7, 0}};
  config.mixing = TokenMixing::None;
  int calls = 0;
  const ImageSource source = [&, random = Random(2)](std::int64_t) mutable {
    ++calls;
    return colour_pairs(4, random);
  };
  const ImageTraining training{"test", 3};
  const auto first = train_classifier(config, source, training, 1, kept_options(folder.path()));
  EXPECT_EQ(calls, 3);
  const auto second = train_classifier(config, source, training, 1, kept_options(folder.path()));
  EXPECT_EQ(calls, 3);
  Random random(7);
  const auto images = colour_pairs(5, random).images;
  const at::NoGradGuard no_grad;
  EXPECT_TRUE(at::equal(first.logits(images), second.logits(images)));
}

TEST(Kept, ResidualsOfClassifiersComeBack) {
  const TemporaryFolder folder;
  const ImageSource source = [random = Random(2)](std::int64_t) mutable { return colour_pairs(4, random); };
  const auto residual = [&](TokenMixing mixing, const std::string& run) {
    const auto config = classifier_config(
        {.channels = 3, .classes = 2, .depth = 1, .width = 8, .mixing = mixing, .solver = InverseSolver::Newton});
    std::optional<double> result;
    train_classifier(config, source, {"test", 2}, 1, kept_options(folder.path(), run), &result);
    return result;
  };
  const auto first = residual(TokenMixing::Soft, "soft");
  ASSERT_TRUE(first.has_value());
  EXPECT_GT(*first, 0);
  EXPECT_EQ(residual(TokenMixing::Soft, "soft"), first);
  EXPECT_EQ(residual(TokenMixing::Softmax, "softmax"), std::nullopt);
  EXPECT_EQ(residual(TokenMixing::Softmax, "softmax"), std::nullopt);
}

}  // namespace
}  // namespace unbend
