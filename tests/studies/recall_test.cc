// The recall task's harness: exact facts that hold before anything is trained.
#include "studies/recall.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include "unbend/lm/tasks.h"

namespace unbend {
namespace {

lm::Decoder untrained_teacher() {
  lm::DecoderConfig config;
  config.layers = 2, config.hidden = 64, config.heads = config.kv_heads = 2, config.head_dim = 32, config.ffn = 128;
  config.vocab = lm::RecallOptions{}.vocabulary(), config.context = 256, config.tied = false;
  Random random(1);
  return lm::random_decoder(config, 1, .5, random);
}

lm::Student converted(const lm::Decoder& teacher, const std::string& name, const Json& options) {
  const auto& recipe = lm::find_recipe(name);
  return lm::convert(teacher, recipe, lm::recipe_options(recipe, options), 1);
}

TEST(Recall, NothingOfTheStoredValuesReachesTheQueriesThroughTheWindow) {
  const auto teacher = untrained_teacher();
  EXPECT_GT(stored_value_effect(teacher), .1);
  EXPECT_EQ(stored_value_effect(converted(teacher, "window", {{"window", kRecallWindow}, {"sinks", 0}}).decoder), 0);
  EXPECT_GT(stored_value_effect(converted(teacher, "window", {{"window", kRecallWindow + 2}, {"sinks", 0}}).decoder),
            0);
  const auto liger = converted(teacher, "liger", {{"window", kRecallWindow}});
  EXPECT_GT(stored_value_effect(liger.decoder), .01);
  EXPECT_EQ(stored_value_effect(lm::with_options(liger, {{"mix_linear", 0.}}).decoder), 0);
}

TEST(Recall, UntrainedModelsAnswerByChance) {
  const auto accuracy = recall_accuracy(untrained_teacher());
  ASSERT_EQ(accuracy.at_query.size(), 8);
  EXPECT_LT(accuracy.mean(), 5);
  EXPECT_LE(accuracy.lowest(), accuracy.mean());
}

TEST(Recall, FormsAgreeAcrossBordersOfChunksAndPieces) {
  const auto teacher = untrained_teacher();
  EXPECT_LT(streaming_error(teacher), 1e-4);
  EXPECT_LT(streaming_error(converted(teacher, "liger", {{"window", kRecallWindow}}).decoder), 1e-4);
}

}  // namespace
}  // namespace unbend
