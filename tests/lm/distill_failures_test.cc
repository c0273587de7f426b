// Training that fails: losses that are not finite, budgets that are spent, stages that train nothing.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/error_message.h"
#include "tests/lm/small_training.h"
#include "unbend/base/error.h"
#include "unbend/base/files.h"

namespace unbend::lm {
namespace {

/// The student's loss in batch `bad` is not finite: its last norm is spoilt meanwhile.
class SpoilingSource : public RandomSource {
 public:
  SpoilingSource(Decoder& student, std::int64_t bad, std::int64_t crash = -1)
      : RandomSource(crash), student_(student), norm_(student.output_norm), bad_(bad) {}
  Batch next() override {
    const bool now = state().at("count").get<std::int64_t>() == bad_;
    student_.output_norm = now ? at::full_like(norm_, NAN) : norm_;
    return RandomSource::next();
  }

 private:
  Decoder& student_;
  at::Tensor norm_;
  std::int64_t bad_;
};

TEST(Train, StopsWhenTheLossIsNotFinite) {
  const auto teacher = small_teacher();
  auto student = hybrid_student(teacher);
  for (const auto& p : adapter(student.decoder))
    if (p.name == "layers.1.mixer.log_scale") p.tensor->fill_(std::numeric_limits<float>::quiet_NaN());
  RandomSource source;
  try {
    train(teacher, student.decoder, {short_stages()[1]}, source, quiet_options());
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::Computation);
    EXPECT_NE(std::string(error.what()).find("layer 1"), std::string::npos) << error.what();
  }
}

TEST(Train, GoesOnAfterALossThatWasNotFinite) {
  const auto teacher = small_teacher();
  const std::vector<Stage> stages{short_stages()[1]};
  auto straight = hybrid_student(teacher);
  SpoilingSource source(straight.decoder, 2);
  const auto report = train(teacher, straight.decoder, stages, source, quiet_options());
  EXPECT_EQ(report.steps, 9);
  EXPECT_EQ(report.skipped, 1);
  EXPECT_TRUE(std::isfinite(report.loss));

  const TemporaryFolder folder;
  auto options = quiet_options();
  options.checkpoints = folder.path();
  options.checkpoint_seconds = 0;
  options.validate_every = 1;
  options.validate = [](const Decoder&) { return NAN; };
  auto student = hybrid_student(teacher);
  SpoilingSource dying(student.decoder, 2, 6);
  EXPECT_THROW(train(teacher, student.decoder, stages, dying, options), std::runtime_error);
  student = hybrid_student(teacher);
  SpoilingSource fresh(student.decoder, 2);
  const auto again = train(teacher, student.decoder, stages, fresh, options);
  EXPECT_EQ(again.skipped, 1);
  EXPECT_EQ(again.loss, report.loss);
  const auto expected = tensors_of(straight.decoder);
  for (const auto& [name, tensor] : tensors_of(student.decoder))
    EXPECT_TRUE(at::equal(tensor, expected.at(name))) << name;
}

TEST(Train, GivesAFinishedRunWithoutAFiniteLossAgain) {
  const auto teacher = small_teacher();
  auto stage = short_stages()[1];
  stage.tokens = 64;
  const TemporaryFolder folder;
  auto options = quiet_options();
  options.checkpoints = folder.path();
  for (int run = 0; run < 2; ++run) {
    auto student = hybrid_student(teacher);
    SpoilingSource source(student.decoder, 0);
    const auto report = train(teacher, student.decoder, {stage}, source, options);
    EXPECT_EQ(report.skipped, 1);
    EXPECT_TRUE(std::isnan(report.loss));
  }
}

TEST(Train, ADivergedRunFailsTheSameWayAgain) {
  const auto teacher = small_teacher();
  for (const auto* name : {"window", "hybrid", "lizard"}) {  // gates refuse what is not finite
    const auto& recipe = find_recipe(name);
    auto stage = recipe.stages(recipe.defaults).back();
    stage.learning_rate = 1e30;
    const TemporaryFolder folder;
    auto options = quiet_options();
    options.checkpoints = folder.path();
    options.checkpoint_seconds = 0;
    for (int run = 0; run < 2; ++run) {
      auto student = convert(teacher, recipe, recipe.defaults, 3);
      RandomSource source;
      const auto why =
          error_message([&] { train(teacher, student.decoder, {stage}, source, options); }, ErrorKind::Computation);
      EXPECT_NE(why.find("lower the learning rate"), std::string::npos) << name << ": " << why;
    }
  }
}

TEST(Train, WhatIsWrongFromTheStartIsNotCalledDivergence) {
  const auto teacher = small_teacher();
  auto student = hybrid_student(teacher);
  student.decoder.embedding = student.decoder.embedding.slice(0, 0, 3);  // fewer tokens than the texts have
  student.decoder.config.vocab = 3;
  RandomSource source;
  const auto why = error_message([&] { train(teacher, student.decoder, {short_stages()[1]}, source, quiet_options()); },
                                 ErrorKind::Input);
  EXPECT_EQ(why.find("learning rate"), std::string::npos) << why;
}

TEST(Train, CountsABadBatchOfAStepOnce) {
  const auto teacher = small_teacher();
  auto student = hybrid_student(teacher);
  auto options = quiet_options();
  options.accumulate = 3;
  SpoilingSource source(student.decoder, 3);  // the second step's first
  const auto report = train(teacher, student.decoder, {short_stages()[1]}, source, options);
  EXPECT_EQ(report.steps, 3);
  EXPECT_EQ(report.skipped, 1);
}

TEST(Train, SpentTimeLeavesLaterStagesWithoutSteps) {
  const auto teacher = small_teacher();
  auto student = hybrid_student(teacher);
  auto options = quiet_options();
  options.seconds = 1e-9;  // gone after one step
  RandomSource source;
  const auto report = train(teacher, student.decoder, short_stages(), source, options);
  ASSERT_EQ(report.stages.size(), 2);
  EXPECT_EQ(report.stages[0].at("steps"), 1);
  EXPECT_EQ(report.stages[1].at("steps"), 0);
  EXPECT_EQ(report.loss, report.stages[0].at("last_loss").get<double>());
}

TEST(Train, RefusesStagesThatTrainNothing) {
  const auto teacher = small_teacher();
  const auto refused = [&](const std::string& name, const Json& changes) {
    const auto& recipe = find_recipe(name);
    auto student = convert(teacher, recipe, recipe_options(recipe, changes), 3);
    RandomSource source;
    return error_message(
        [&] { train(teacher, student.decoder, {recipe.stages(student.options).back()}, source, quiet_options()); });
  };
  EXPECT_NE(refused("window", {{"lora_rank", 0}}).find("nothing to train"), std::string::npos);
  EXPECT_NE(refused("hybrid", {{"keep_every", 1}}).find("nothing to train"), std::string::npos);
  EXPECT_NE(refused("lolcats", {{"lora_rank", 0}}).find("nothing to train"),
            std::string::npos);  // its mixers' rate is 0
  // Parts that are switched off, and those that a short text leaves without work, are found out while training.
  const auto& hybrid = find_recipe("hybrid");
  for (const Json& changes :
       {Json{{"linear", false}}, Json{{"window", 4096}}, Json{{"linear", false}, {"lora_rank", 0}}}) {
    auto alone = convert(teacher, hybrid, recipe_options(hybrid, changes), 3);
    const bool lora = alone.options.at("lora_rank").get<std::int64_t>() > 0;
    auto stages = hybrid.stages(alone.options);
    for (auto& stage : stages) stage.steps = 1;
    RandomSource source;
    const auto report = train(teacher, alone.decoder, stages, source, quiet_options());
    EXPECT_TRUE(report.stages[0].value("idle", false)) << changes.dump();
    EXPECT_EQ(report.stages[1].value("idle", false), !lora) << changes.dump();
  }
  // Beside a stage that trains, one without anything to train is passed over.
  const auto& regla = find_recipe("regla");
  auto linear =
      convert(teacher, regla, recipe_options(regla, {{"feature", "relu"}, {"gate", "none"}, {"norm", "none"}}), 3);
  auto stages = regla.stages(linear.options);
  for (auto& stage : stages) stage.steps = 1;
  RandomSource source;
  const auto report = train(teacher, linear, stages, source, quiet_options());
  EXPECT_EQ(report.steps, 1);
  EXPECT_TRUE(report.stages.back().at("idle").get<bool>());
}

TEST(Train, RefusesALogThatCannotBeWritten) {
  const auto teacher = small_teacher();
  auto student = hybrid_student(teacher);
  auto options = quiet_options();
  const TemporaryFolder folder;
  options.log = folder.path() / "missing" / "log";
  RandomSource untouched(0);
  const auto why =
      error_message([&] { train(teacher, student.decoder, short_stages(), untouched, options); }, ErrorKind::Usage);
  EXPECT_NE(why.find(options.log.string()), std::string::npos) << why;
}

TEST(Train, RefusesEmptyBudgets) {
  const auto teacher = small_teacher();
  auto student = hybrid_student(teacher);
  RandomSource source;
  auto stages = short_stages();
  stages[0].tokens = 0;
  EXPECT_THROW(train(teacher, student.decoder, stages, source, quiet_options()), Error);
  auto options = quiet_options();
  options.accumulate = 0;
  EXPECT_THROW(train(teacher, student.decoder, short_stages(), source, options), Error);
}

}  // namespace
}  // namespace unbend::lm
