// Training: what changes, what must not, and how it goes on after a crash.
#include "unbend/lm/distill.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>

#include "tests/error_message.h"
#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/engine/engine.h"
#include "unbend/lm/delta.h"
#include "unbend/lm/evaluate.h"
#include "unbend/lm/export.h"
#include "unbend/tensor/safetensors.h"

namespace unbend::lm {
namespace {

Decoder small_teacher() {
  DecoderConfig c;
  c.layers = 2, c.hidden = 32, c.heads = 4, c.kv_heads = 2, c.head_dim = 8, c.ffn = 48, c.vocab = 40, c.context = 256;
  Random random(1);
  return random_decoder(c, 1, .5, random);
}

/// Random sequences from a stored generator; throws at batch `crash`, as if the process had died there.
class RandomSource : public BatchSource {
 public:
  explicit RandomSource(std::int64_t crash = -1) : random_(4), crash_(crash) {}
  Batch next() override {
    if (count_++ == crash_) throw std::runtime_error("crash");
    auto ids = at::empty({2, 33}, at::kLong);
    for (std::int64_t i = 0; i < ids.numel(); ++i)
      ids.mutable_data_ptr<std::int64_t>()[i] = static_cast<std::int64_t>(random_.below(40));
    return {ids.slice(1, 0, 32).contiguous(), ids.slice(1, 1).contiguous()};
  }
  Json state() const override { return {{"random", random_.state()}, {"count", count_}}; }
  void restore(const Json& state) override {
    random_ = Random(state.at("random").get<Random::State>());
    count_ = state.at("count").get<std::int64_t>();
  }

 private:
  Random random_;
  std::int64_t crash_, count_ = 0;
};

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

Student hybrid_student(const Decoder& teacher) {
  const auto& recipe = find_recipe("hybrid");
  return convert(teacher, recipe, recipe_options(recipe, {{"window", 6}, {"sinks", 2}, {"lora_rank", 2}}), 3);
}

std::vector<Stage> short_stages() {
  auto stages = find_recipe("hybrid").stages({});
  stages[0].tokens = 12 * 64;
  stages[1].tokens = 9 * 64;
  return stages;
}

TrainOptions quiet_options() {
  TrainOptions options;
  options.quiet = true;
  return options;
}

std::map<std::string, at::Tensor> tensors_of(Decoder& decoder) {
  std::map<std::string, at::Tensor> all;
  for (const auto& p : adapter(decoder)) all[p.name] = p.tensor->clone();
  for (const auto& p : weights(decoder)) all[p.name] = p.tensor->clone();
  return all;
}

std::filesystem::path fresh_folder(const std::string& name) {
  const auto folder = std::filesystem::temp_directory_path() / ("unbend_" + name + "_" + std::to_string(::getpid()));
  std::filesystem::remove_all(folder);
  return folder;
}

TEST(Train, TransferImprovesHeadsAndTouchesMixersOnly) {
  const auto teacher = small_teacher();
  auto student = hybrid_student(teacher);
  auto before = tensors_of(student.decoder);
  RandomSource probe;
  const auto ids = probe.next().ids;
  const auto error_before = head_fidelity(teacher, {&student.decoder}, ids)[0].slice(1, 8).mean().item<double>();
  auto stage = short_stages()[0];
  stage.tokens = 150 * 64;
  stage.mixer_learning_rate = 2e-2;
  RandomSource source;
  const auto report = train(teacher, student.decoder, {stage}, source, quiet_options());
  EXPECT_EQ(report.steps, 150);
  EXPECT_EQ(report.tokens, 150 * 64);
  EXPECT_LT(head_fidelity(teacher, {&student.decoder}, ids)[0].slice(1, 8).mean().item<double>(), .9 * error_before);
  for (const auto& [name, tensor] : tensors_of(student.decoder))
    EXPECT_EQ(at::equal(tensor, before[name]), name.find(".mixer.") == std::string::npos) << name;
}

TEST(Train, EndToEndLowersTheDivergenceAndLeavesTheTeacherAlone) {
  auto teacher = small_teacher();
  auto student = hybrid_student(teacher);
  const auto teacher_before = tensors_of(teacher);
  RandomSource probe;
  const auto ids = probe.next().ids;
  const auto divergence = [&] { return evaluate({&teacher, &student.decoder}, ids)[1].kl.mean().item<double>(); };
  const double before = divergence();
  auto stage = short_stages()[1];
  stage.tokens = 150 * 64;
  stage.kl = 1, stage.cross_entropy = 0;
  RandomSource source;
  train(teacher, student.decoder, {stage}, source, quiet_options());
  EXPECT_LT(divergence(), .8 * before);
  for (const auto& [name, tensor] : tensors_of(teacher))
    EXPECT_TRUE(at::equal(tensor, teacher_before.at(name))) << name;
}

TEST(Train, TrainsADecodersOwnWeightsWithoutTouchingTheTeacher) {
  for (const bool tied : {true, false}) {
    auto config = small_teacher().config;
    config.tied = tied;
    Random random(1);
    auto teacher = random_decoder(config, 1, .5, random);
    auto student = teacher.fork();
    const auto before = tensors_of(teacher);
    Stage stage;
    stage.name = "all";
    stage.tokens = 200 * 64;
    auto options = quiet_options();
    options.also = {""};
    RandomSource source;
    const auto report = train(teacher, student, {stage}, source, options);
    EXPECT_LT(report.stages[0].at("last_loss").get<double>(), report.stages[0].at("first_loss").get<double>());
    for (const auto& [name, tensor] : tensors_of(teacher)) EXPECT_TRUE(at::equal(tensor, before.at(name))) << name;
    for (const auto& [name, tensor] : tensors_of(student)) EXPECT_FALSE(at::equal(tensor, before.at(name))) << name;
    EXPECT_EQ(student.head.is_same(student.embedding), tied);
  }
}

TEST(Train, GoesOnAfterACrashToTheSameWeights) {
  const auto teacher = small_teacher();
  auto straight = hybrid_student(teacher);
  RandomSource source;
  train(teacher, straight.decoder, short_stages(), source, quiet_options());
  auto expected = tensors_of(straight.decoder);

  for (const std::int64_t crash : {1, 5, 11, 12, 13, 20}) {  // in both stages and at their border
    const auto folder = fresh_folder("resume");
    auto options = quiet_options();
    options.checkpoints = folder;
    options.checkpoint_seconds = 0;
    options.identity = "run";
    auto first = hybrid_student(teacher);
    RandomSource dying(crash);
    EXPECT_THROW(train(teacher, first.decoder, short_stages(), dying, options), std::runtime_error);
    auto second = hybrid_student(teacher);
    RandomSource fresh;
    const auto report = train(teacher, second.decoder, short_stages(), fresh, options);
    EXPECT_EQ(report.tokens, 21 * 64);
    for (const auto& [name, tensor] : tensors_of(second.decoder))
      EXPECT_TRUE(at::equal(tensor, expected[name])) << name << " after a crash at " << crash;
    std::filesystem::remove_all(folder);
  }
}

TEST(Train, GivesTheWeightsOfAFinishedRunAgain) {
  const auto teacher = small_teacher();
  for (const auto& own : std::vector<std::vector<std::string>>{{}, {"output.weight", "norm"}}) {
    const auto folder = fresh_folder("finished");
    auto options = quiet_options();
    options.checkpoints = folder;
    auto stages = short_stages();
    stages[1].also = own;
    auto first = hybrid_student(teacher), second = hybrid_student(teacher);
    RandomSource source, untouched(0);
    train(teacher, first.decoder, stages, source, options);
    const auto report = train(teacher, second.decoder, stages, untouched, options);
    EXPECT_EQ(report.tokens, 21 * 64);
    const auto expected = tensors_of(first.decoder);
    for (const auto& [name, tensor] : tensors_of(second.decoder))
      EXPECT_TRUE(at::equal(tensor, expected.at(name))) << name;
    std::filesystem::remove_all(folder);
  }
}

TEST(Train, RefusesTheCheckpointOfAnotherRun) {
  const auto teacher = small_teacher();
  const auto folder = fresh_folder("identity");
  auto options = quiet_options();
  options.checkpoints = folder;
  options.identity = "one";
  auto student = hybrid_student(teacher);
  RandomSource source;
  train(teacher, student.decoder, short_stages(), source, options);
  options.identity = "another";
  EXPECT_THROW(train(teacher, student.decoder, short_stages(), source, options), Error);
  std::filesystem::remove_all(folder);
}

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

TEST(Train, KeepsThePredictionsOfTeachersApart) {
  const auto teacher = small_teacher();
  auto other = teacher;
  other.layers[0].qkv.weight = other.layers[0].qkv.weight + .01;  // as a merged correction of q, k and v
  const TemporaryFolder folder;
  auto options = quiet_options();
  options.targets = folder.path();
  std::ptrdiff_t expected = 0;
  for (const auto& [model, batches] : {std::pair{&teacher, 9}, {&other, 9}, {&teacher, 0}}) {
    auto student = hybrid_student(*model);
    RandomSource source;
    train(*model, student.decoder, {short_stages()[1]}, source, options);
    const std::filesystem::directory_iterator files(folder.path());
    EXPECT_EQ(std::distance(begin(files), end(files)), expected += batches);
  }
}

TEST(Train, CountsStepsWhereTheStageSaysSo) {
  class Growing : public RandomSource {
   public:
    Batch next() override {
      auto batch = RandomSource::next();
      length_ += 4;
      return {batch.ids.slice(1, 0, length_).contiguous(), batch.targets.slice(1, 0, length_).contiguous()};
    }

   private:
    std::int64_t length_ = 0;
  };
  const auto teacher = small_teacher();
  auto student = hybrid_student(teacher);
  auto stage = short_stages()[1];
  stage.tokens = 0;
  stage.steps = 7;
  Growing source;
  const auto report = train(teacher, student.decoder, {stage}, source, quiet_options());
  EXPECT_EQ(report.steps, 7);
  EXPECT_EQ(report.tokens, 2 * (4 + 8 + 12 + 16 + 20 + 24 + 28));
}

TEST(Train, DecaysMatricesAndLeavesNormsAlone) {
  const auto teacher = small_teacher();
  auto student = teacher.fork();
  for (auto& layer : student.layers)
    layer.down.weight = at::zeros_like(layer.down.weight);  // so no gradient reaches gate_up at the first step
  const auto before = tensors_of(student);
  Stage stage;
  stage.steps = 1;
  stage.warmup = 0;
  stage.learning_rate = 1e-3;
  stage.weight_decay = 100;
  auto options = quiet_options();
  options.also = {"gate_up.weight", "ffn_norm"};
  RandomSource source;
  train(teacher, student, {stage}, source, options);
  for (const auto& [name, tensor] : tensors_of(student)) {
    if (name.ends_with("gate_up.weight"))
      EXPECT_TRUE(at::allclose(tensor, before.at(name) * .9)) << name;
    else
      EXPECT_TRUE(at::equal(tensor, before.at(name))) << name;
  }
}

TEST(Options, ChangeAStudentsMixersAndKeepItsWeights) {
  const auto teacher = small_teacher();
  auto student = hybrid_student(teacher);
  Random random(7);
  for (const auto& p : adapter(student.decoder)) p.tensor->add_(random_normal(p.tensor->sizes(), .1, random));
  auto without = with_options(student, {{"linear", false}});
  RandomSource source;
  const auto ids = source.next().ids;
  const auto kept = tensors_of(student.decoder);
  for (const auto& [name, tensor] : tensors_of(without.decoder)) EXPECT_TRUE(at::equal(tensor, kept.at(name))) << name;
  const auto difference = (without.decoder.hidden(ids) - student.decoder.hidden(ids)).abs().amax({0, 2});
  EXPECT_LT(difference.slice(0, 0, 6).max().item<float>(), 1e-5);  // the window holds everything
  EXPECT_GT(difference.slice(0, 10).max().item<float>(), 1e-3);
  const auto again = with_options(without, {{"linear", true}});
  EXPECT_TRUE(at::equal(again.decoder.hidden(ids), student.decoder.hidden(ids)));
}

TEST(Options, TargetsOfCorrectionsAreNames) {
  const auto teacher = small_teacher();
  const auto& recipe = find_recipe("hybrid");
  const auto options = recipe_options(recipe, {{"lora_targets", Json::array({1})}});
  EXPECT_NE(error_message([&] { convert(teacher, recipe, options, 1); }, ErrorKind::Usage).find("lora_targets: 1"),
            std::string::npos);
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

// Recipes whose stages train the decoder's own weights.

std::vector<Stage> stages_of(const Student& student, std::int64_t steps) {
  auto stages = find_recipe(student.recipe).stages(student.options);
  for (auto& stage : stages) stage.tokens = 64 * steps, stage.learning_rate = stage.mixer_learning_rate = 3e-3;
  return stages;
}

Student supra_student(const Decoder& teacher, const Json& changes = Json::object()) {
  const auto& recipe = find_recipe("supra");
  return convert(teacher, recipe, recipe_options(recipe, changes), 3);
}

Decoder tied_or_not(bool tied) {
  auto config = small_teacher().config;
  config.tied = tied;
  Random random(1);
  return random_decoder(config, 1, .5, random);
}

TEST(WholeWeights, StagesSayWhatTrains) {
  auto teacher = small_teacher();
  const auto before = tensors_of(teacher);
  auto student = supra_student(teacher, {{"two_step", true}});
  const auto start = tensors_of(student.decoder);
  const auto stages = stages_of(student, 30);
  ASSERT_EQ(stages.size(), 2);
  RandomSource source;
  train(teacher, student, {stages[0]}, source, quiet_options());
  EXPECT_TRUE(student.own.empty());
  for (const auto& [name, tensor] : tensors_of(student.decoder))
    EXPECT_EQ(at::equal(tensor, start.at(name)), name.find(".mixer.") == std::string::npos) << name;
  const auto report = train(teacher, student, {stages[1]}, source, quiet_options());
  EXPECT_LT(report.stages[0].at("last_loss").get<double>(), report.stages[0].at("first_loss").get<double>());
  EXPECT_EQ(student.own.size(), weights(teacher).size());
  for (const auto& [name, tensor] : tensors_of(student.decoder))
    EXPECT_FALSE(at::equal(tensor, start.at(name))) << name;
  for (const auto& [name, tensor] : tensors_of(teacher)) EXPECT_TRUE(at::equal(tensor, before.at(name))) << name;
}

TEST(WholeWeights, GoOnAfterACrash) {
  const auto teacher = small_teacher();
  auto straight = supra_student(teacher, {{"two_step", true}});
  RandomSource source;
  train(teacher, straight, stages_of(straight, 4), source, quiet_options());
  auto expected = tensors_of(straight.decoder);
  for (const std::int64_t crash : {1, 4, 6}) {
    const TemporaryFolder folder;
    auto options = quiet_options();
    options.checkpoints = folder.path();
    options.checkpoint_seconds = 0;
    auto student = supra_student(teacher, {{"two_step", true}});
    RandomSource dying(crash), fresh;
    EXPECT_THROW(train(teacher, student, stages_of(student, 4), dying, options), std::runtime_error);
    student = supra_student(teacher, {{"two_step", true}});
    train(teacher, student, stages_of(student, 4), fresh, options);
    for (const auto& [name, tensor] : tensors_of(student.decoder))
      EXPECT_TRUE(at::equal(tensor, expected[name])) << name << " after a crash at " << crash;
  }
}

TEST(WholeWeights, AreStoredLoadedAndMerged) {
  for (const bool tied : {true, false}) {
    const TemporaryFolder folder;
    const auto path = folder.path() / "base.gguf", delta = folder.path() / "delta.safetensors";
    export_decoder(tied_or_not(tied), {}, path);
    const auto base = engine::Gguf::open(path);
    const auto teacher = load_decoder(base, at::kFloat);
    auto student = supra_student(teacher);
    RandomSource source;
    train(teacher, student, stages_of(student, 3), source, quiet_options());
    const DeltaInfo info{"supra", student.options, "base", base.content_hash(), Json::object()};
    save_delta(delta, student, info);

    auto back = load_delta(delta, teacher, base);
    EXPECT_EQ(back.own, student.own);
    EXPECT_EQ(back.decoder.head.is_same(back.decoder.embedding), tied);
    auto mine = tensors_of(student.decoder);
    for (const auto& [name, tensor] : tensors_of(back.decoder)) EXPECT_TRUE(at::equal(tensor, mine.at(name))) << name;
    EXPECT_THROW(save_delta(delta, student, {"supra", student.options, "other", std::string(64, '0'), {}});
                 load_delta(delta, teacher, base), Error);

    // The merged file is a base of its own, whose students need no whole weights.
    const auto merged_path = folder.path() / "merged.gguf";
    write_merged(base, student, merged_path);
    auto merged = load_decoder(engine::Gguf::open(merged_path), at::kFloat);
    for (const auto& weight : weights(merged))
      EXPECT_TRUE(at::equal(*weight.tensor, mine.at(weight.name))) << weight.name;

    // The engine runs what was exported: all of the student's own weights are in it.
    const auto exported = folder.path() / "student.gguf";
    export_student(base, student, exported, "f32");
    engine::Engine engine(engine::Model::open(exported), {});
    const auto ids = source.next().ids.slice(0, 0, 1);
    const auto tokens = ids[0].to(at::kInt).contiguous();
    const auto count = static_cast<std::size_t>(tokens.numel());
    const auto values = engine.run(engine.begin(), {tokens.const_data_ptr<std::int32_t>(), count}, tokens.numel());
    const at::NoGradGuard no_grad;
    const auto expected = student.decoder.logits(student.decoder.hidden(ids))[0];
    const auto found = at::from_blob(const_cast<float*>(values.data()), expected.sizes(), at::kFloat);
    EXPECT_LT((found - expected).abs().max().item<double>(), 1e-3);
  }
}

TEST(WholeWeights, ThoseThatBeganAtRandomStayInTheMergedModel) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "base.gguf", merged_path = folder.path() / "merged.gguf",
             delta = folder.path() / "rest.safetensors";
  export_decoder(small_teacher(), {}, path);
  const auto base = engine::Gguf::open(path);
  const auto& recipe = find_recipe("regla");
  auto student = convert(load_decoder(base, at::kFloat), recipe,
                         recipe_options(recipe, {{"init", "random"}, {"warm_start", "none"}}), 1);
  write_merged(base, student, merged_path);
  const auto merged = engine::Gguf::open(merged_path);
  auto rest = student;
  rest.own.clear();
  save_delta(delta, rest, {"regla", rest.options, "merged", merged.content_hash(), Json::object()});

  const auto back = load_delta(delta, load_decoder(merged, at::kFloat), merged);
  EXPECT_TRUE(back.own.empty());
  RandomSource source;
  const auto ids = source.next().ids;
  EXPECT_TRUE(at::equal(back.decoder.hidden(ids), student.decoder.hidden(ids)));
}

TEST(WholeWeights, OnlyThoseThatTrainedAreStored) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "base.gguf", delta = folder.path() / "delta.safetensors";
  export_decoder(small_teacher(), {}, path);
  const auto base = engine::Gguf::open(path);
  const auto teacher = load_decoder(base, at::kFloat);
  auto student = hybrid_student(teacher);
  auto stages = short_stages();
  stages[1].also = {"output.weight", "norm"};
  RandomSource source;
  train(teacher, student, stages, source, quiet_options());
  const DeltaInfo info{"hybrid", student.options, "base", base.content_hash(), Json::object()};
  save_delta(delta, student, info);
  auto file = load_safetensors(delta);
  EXPECT_EQ(file.tensors.size(), adapter(student.decoder).size() + 7);  // two projections, five norms
  EXPECT_EQ(file.tensors.count("layers.1.output.weight"), 1);
  auto back = load_delta(delta, teacher, base);
  const auto ids = source.next().ids;
  EXPECT_TRUE(at::equal(back.decoder.hidden(ids), student.decoder.hidden(ids)));
  EXPECT_TRUE(back.decoder.layers[0].down.weight.is_same(teacher.layers[0].down.weight));
  EXPECT_EQ(merged_tensors(student).count("blk.1.attn_output.weight"), 1);
  EXPECT_EQ(merged_tensors(student).count("blk.1.ffn_down.weight"), 0);

  file.tensors["layers.7.qkv.weight"] = at::zeros({2, 2});
  save_safetensors(delta, file.tensors, file.metadata);
  EXPECT_THROW(load_delta(delta, teacher, base), Error);
  file.tensors.erase("layers.7.qkv.weight");
  file.tensors["layers.1.output.weight"] = at::zeros({2, 2});
  save_safetensors(delta, file.tensors, file.metadata);
  EXPECT_THROW(load_delta(delta, teacher, base), Error);
}

TEST(WholeWeights, RefuseWhatCannotBe) {
  const auto teacher = small_teacher();
  const auto refused = [&](const Decoder& base, const std::function<void(Stage&)>& change) {
    auto student = supra_student(base);
    auto stages = stages_of(student, 1);
    change(stages[0]);
    RandomSource source;
    return error_message([&] { train(base, student, stages, source, quiet_options()); });
  };
  EXPECT_NE(refused(teacher.to(at::kCPU, at::kBFloat16), [](Stage&) {}).find("f32"), std::string::npos);
  EXPECT_NE(refused(teacher, [](Stage& stage) { stage.kl = .9; }).find("kl"), std::string::npos);
  EXPECT_NE(refused(teacher, [](Stage& stage) { stage.also = {"qkv.weight"}, stage.z_loss = 1e-4; }).find("z_loss"),
            std::string::npos);
}

TEST(WholeWeights, ZLossLowersTheNormaliser) {
  const auto teacher = small_teacher();
  RandomSource probe;
  const auto ids = probe.next().ids;
  std::vector<double> sizes;
  for (const double weight : {0., 1.}) {
    auto student = supra_student(teacher);
    auto stages = stages_of(student, 40);
    stages[0].z_loss = weight;
    RandomSource source;
    train(teacher, student, stages, source, quiet_options());
    const auto logits = student.decoder.logits(student.decoder.hidden(ids));
    sizes.push_back(at::logsumexp(logits, {-1}).square().mean().item<double>());
  }
  EXPECT_LT(sizes[1], .8 * sizes[0]);
}

TEST(Merge, EqualsTheStudentWithItsLowRankCorrections) {
  const auto teacher = small_teacher().to(at::kCPU, at::kDouble);
  const auto& recipe = find_recipe("hybrid");
  auto student = convert(teacher, recipe,
                         recipe_options(recipe, {{"window", 6}, {"lora_targets", {"q", "v", "o", "gate", "down"}}}), 3);
  Random random(7);
  for (const auto& p : adapter(student.decoder)) p.tensor->add_(random_normal(p.tensor->sizes(), .1, random));
  RandomSource source;
  const auto ids = source.next().ids;
  auto merged = merge_lora(student.decoder);
  EXPECT_LT((merged.hidden(ids) - student.decoder.hidden(ids)).abs().max().item<double>(),
            1e-5);  // weights are merged in float32
  for (const auto& p : adapter(merged)) EXPECT_NE(p.name.find(".mixer."), std::string::npos);
}

}  // namespace
}  // namespace unbend::lm
