// Recipes side by side: who competes, with which controls, and that all learn from the same tokens.
#include "unbend/lm/contest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <algorithm>

#include "tests/error_message.h"
#include "unbend/base/files.h"
#include "unbend/lm/delta.h"

namespace unbend::lm {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

Decoder small_teacher(std::int64_t head_dim = 8) {
  DecoderConfig c;
  c.layers = 2, c.hidden = 32, c.heads = 4, c.kv_heads = 2, c.head_dim = head_dim, c.ffn = 48, c.vocab = 40;
  c.context = 256;
  Random random(1);
  return random_decoder(c, 1, .5, random);
}

std::vector<std::string> names(const std::vector<Entrant>& all) {
  std::vector<std::string> out;
  for (const auto& entrant : all) out.push_back(entrant.name);
  return out;
}

std::shared_ptr<const TokenFile> text() {
  TokenFile file;
  Random random(2);
  for (int i = 0; i < 2000; ++i) file.ids.push_back(static_cast<TokenId>(random.below(40)));
  file.starts = {0, 2000};
  file.vocabulary = 40;
  return std::make_shared<TokenFile>(file);
}

TEST(Contest, GivesEachWindowAControl) {
  ContestOptions options;
  options.recipes = {"liger", "lolcats", "lawcat", "hybrid"};
  EXPECT_THAT(names(entrants(small_teacher(), options)),
              ElementsAre("control, softmax", "control, window 64 + 4 sinks", "control, window 256 + 4 sinks",
                          "liger, window 64", "lolcats, window 64", "lawcat", "hybrid, window 256 + 4 sinks"));
  options.window = 16, options.sinks = 2, options.control_sinks = 1;
  EXPECT_THAT(
      names(entrants(small_teacher(), options)),
      ElementsAre("control, softmax", "control, window 16 + 1 sinks", "liger, window 16", "liger, window 16 + 2 sinks",
                  "lolcats, window 16", "lolcats, window 16 + 2 sinks", "lawcat", "hybrid, window 16 + 4 sinks"));
}

TEST(Contest, HoldsEveryPresetUnderItsName) {
  ContestOptions options;
  options.recipes = {"lizard"};
  options.window = 16, options.sinks = 2;
  EXPECT_THAT(names(entrants(small_teacher(), options)),
              ElementsAre("control, softmax", "control, window 16 + 4 sinks", "lizard, window 16",
                          "lizard, window 16 + 2 sinks", "lizard, recommended, window 16",
                          "lizard, recommended, window 16 + 2 sinks"));
}

TEST(Contest, HoldsEveryRecipeOnce) {
  const auto all = entrants(small_teacher(), {});
  for (const auto& recipe : recipes())
    EXPECT_GE(std::ranges::count(all, recipe.name, &Entrant::recipe), 1) << recipe.name;
  ContestOptions options;
  options.recipes = {"window", "softmax", "window"};  // the controls
  EXPECT_THAT(names(entrants(small_teacher(), options)),
              ElementsAre("control, softmax", "control, window 256 + 4 sinks"));
  options.recipes = {"ligr"};
  EXPECT_THAT(error_message([&] { entrants(small_teacher(), options); }, ErrorKind::Usage), HasSubstr("ligr"));
}

TEST(Contest, ControlsOfRecipesWithoutAWindowHaveTheirMemory) {
  const auto teacher = small_teacher();
  const auto& recipe = find_recipe("lawcat");
  for (const int keep_every : {0, 2}) {
    const auto student = convert(teacher, recipe, recipe_options(recipe, {{"keep_every", keep_every}}), 1);
    const auto options = control_options(student, 4);
    const auto control = convert(teacher, find_recipe("window"), options, 1);
    const auto mine = student.decoder.start().layers[0]->bytes(), its = control.decoder.start().layers[0]->bytes();
    EXPECT_LE(its, mine);
    EXPECT_GT(its, mine - 2 * 2 * 8 * 4);  // one more token would not fit
  }
  const auto& liger = find_recipe("liger");
  const auto options = control_options(convert(teacher, liger, recipe_options(liger, {{"window", 9}}), 1), 3);
  EXPECT_EQ(options.at("window"), 9);
  EXPECT_EQ(options.at("sinks"), 3);
  const auto& softmax = find_recipe("softmax");
  EXPECT_EQ(control_options(convert(teacher, softmax, softmax.defaults, 1), 4).at("window"), 256);
}

TEST(Contest, TheSoftmaxControlIsTheTeacherWithLora) {
  const auto teacher = small_teacher();
  const auto& recipe = find_recipe("softmax");
  auto student = convert(teacher, recipe, recipe.defaults, 1);
  const auto ids = at::randint(40, {2, 50}, at::kLong);
  EXPECT_TRUE(at::equal(student.decoder.hidden(ids), teacher.hidden(ids)));
  const auto parts = adapter(student.decoder);
  EXPECT_EQ(parts.size(), 2 * 3 * 2);  // layers, of q, k and v, two factors each
  EXPECT_THAT(error_message([&] {
                convert(teacher, recipe, recipe_options(recipe, {{"window", 8}}), 1);
              }),
              HasSubstr("softmax: window must be 0"));
}

TEST(Contest, SharesTheBudgetAsTheRecipeDoes) {
  const auto budgets = [](std::int64_t tokens) {
    std::vector<std::int64_t> out;
    for (const auto& stage : share_budget(find_recipe("hybrid").stages(find_recipe("hybrid").defaults), tokens, 100))
      out.push_back(stage.tokens);
    return out;
  };
  EXPECT_THAT(budgets(3000), ElementsAre(1000, 2000));  // 32,768 and 65,536 of old
  EXPECT_THAT(budgets(2950), ElementsAre(1000, 2000));
  EXPECT_THAT(budgets(200), ElementsAre(100, 100));
  EXPECT_THAT(budgets(1), ElementsAre(100, 100));
  auto stages = find_recipe("hybrid").stages(find_recipe("hybrid").defaults);
  stages[0].steps = 3;
  EXPECT_THAT(error_message([&] { share_budget(stages, 1000, 100); }), HasSubstr("in steps"));
}

TEST(Contest, TrainsAllOnTheSameTokensAndSaysWhoCannot) {
  const auto teacher = small_teacher(6);
  ContestOptions contest;
  contest.recipes = {"liger", "lizard"};
  contest.window = 8, contest.control_sinks = 2;
  auto all = entrants(teacher, contest);
  all.push_back({"misfit", "lawcat", recipe_options(find_recipe("lawcat"), {{"feature_dim", 7}})});  // wider than heads
  BatchOptions batch;
  batch.length = 32, batch.rows = 2;
  TrainOptions quiet;
  quiet.quiet = true;
  const auto training = train_entrants(teacher, all, text(), batch, 600, 3, quiet);
  ASSERT_EQ(training.students.size(), 5);  // two controls, Liger, and Lizard in two presets
  ASSERT_EQ(training.left_out.size(), 1);
  EXPECT_THAT(training.left_out[0], HasSubstr("misfit: lawcat: feature_dim"));
  for (const auto& trained : training.students) {
    EXPECT_EQ(trained.report.tokens, 640) << trained.entrant.name;  // ten batches
    EXPECT_EQ(trained.student.recipe, trained.entrant.recipe);
    const auto& recipe = find_recipe(trained.entrant.recipe);
    auto fresh = convert(teacher, recipe, trained.entrant.options, 3), mine = trained.student;
    bool moved = false;
    const auto before = adapter(fresh.decoder), after = adapter(mine.decoder);
    for (std::size_t i = 0; i < before.size(); ++i) moved |= !at::equal(*before[i].tensor, *after[i].tensor);
    EXPECT_TRUE(moved) << trained.entrant.name;
  }
}

TEST(Contest, SaysWhichStagesHadNothingToLearn) {
  const auto teacher = small_teacher();
  ContestOptions contest;
  contest.recipes = {"hybrid"};
  contest.window = 32;
  BatchOptions batch;
  batch.length = 24, batch.rows = 2, batch.least = 20;
  TrainOptions quiet;
  quiet.quiet = true;
  const auto training = train_entrants(teacher, entrants(teacher, contest), text(), batch, 100, 3, quiet);
  ASSERT_EQ(training.notes.size(), 1);
  EXPECT_THAT(training.notes[0], HasSubstr("hybrid, window 32 + 4 sinks: its stage transfer trained nothing"));
}

TEST(Contest, CheckpointsBelongToTheirBatches) {
  const auto teacher = small_teacher();
  ContestOptions contest;
  contest.recipes = {"liger"};
  contest.window = 8;
  const auto all = entrants(teacher, contest);
  BatchOptions batch;
  batch.length = 32, batch.rows = 2, batch.least = 31;
  TrainOptions options;
  options.quiet = true;
  const TemporaryFolder folder;
  options.checkpoints = folder.path();
  EXPECT_EQ(train_entrants(teacher, all, text(), batch, 128, 3, options).students.size(), all.size());
  EXPECT_EQ(train_entrants(teacher, all, text(), batch, 128, 3, options).students.size(), all.size());
  batch.least = 16;  // other texts
  const auto other = train_entrants(teacher, all, text(), batch, 128, 3, options);
  EXPECT_TRUE(other.students.empty());
  ASSERT_EQ(other.left_out.size(), all.size());
  EXPECT_THAT(other.left_out[0], HasSubstr("another run"));
}

}  // namespace
}  // namespace unbend::lm
