// Training: what changes, what must not, and how it goes on after a crash.
#include "unbend/lm/distill.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <typeinfo>

#include "tests/error_message.h"
#include "tests/lm/small_training.h"
#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/lm/delta.h"
#include "unbend/lm/evaluate.h"
#include "unbend/tensor/checkpoint.h"

namespace unbend::lm {
namespace {

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

/// The same row again and again, of which only the first 20 tokens are asked for; what follows is `filler`.
class PaddedSource : public BatchSource {
 public:
  explicit PaddedSource(std::int64_t filler) {
    RandomSource random;
    batch_ = random.next();
    batch_.ids.slice(1, 21).fill_(filler);
    batch_.targets.slice(1, 20).fill_(-1);
  }
  Batch next() override { return batch_; }
  Json state() const override { return {}; }
  void restore(const Json&) override {}

 private:
  Batch batch_;
};

TEST(Train, TransferLearnsNothingFromPadding) {
  const auto teacher = small_teacher();
  auto stage = short_stages()[0];
  stage.tokens = 4 * 64;
  const auto trained = [&](std::int64_t filler) {
    auto student = hybrid_student(teacher);
    PaddedSource source(filler);
    train(teacher, student.decoder, {stage}, source, quiet_options());
    return tensors_of(student.decoder);
  };
  const auto zeros = trained(0);
  for (const auto& [name, tensor] : trained(7))
    EXPECT_LT((tensor - zeros.at(name)).abs().max().item<double>(), 1e-5) << name;
}

TEST(Train, FrozenMixersDoNotDecideOverTheClippingOfOthers) {
  const auto teacher = small_teacher();
  const auto first_norm = [&](double mixer_rate) {
    auto student = hybrid_student(teacher);
    auto stage = short_stages()[1];
    stage.tokens = 64;
    stage.mixer_learning_rate = mixer_rate;
    auto options = quiet_options();
    const TemporaryFolder folder;
    options.log = folder.path() / "log";
    RandomSource source;
    train(teacher, student.decoder, {stage}, source, options);
    return parse_json(read_file(options.log), "log").at("grad_norm").get<double>();
  };
  EXPECT_GT(first_norm(0), 0);
  EXPECT_LT(first_norm(0), first_norm(1e-2));  // the same gradients of corrections, and those of mixers
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

TEST(Train, RefusesACheckpointWhoseStateNoRunHasWritten) {
  const auto teacher = small_teacher();
  const TemporaryFolder folder;
  auto options = quiet_options();
  options.checkpoints = folder.path();
  auto student = hybrid_student(teacher);
  RandomSource source;
  train(teacher, student.decoder, short_stages(), source, options);
  const auto file = *latest_checkpoint(folder.path());
  const auto whole = load_checkpoint(file);
  const auto step = whole.state.at("total_steps").get<std::int64_t>();
  for (const auto& [change, part] : {std::pair<Json, std::string>{{{"stage", -1}}, "stage is -1"},
                                     {{{"stage", 3}}, "stage 3 of 2"},
                                     {{{"tokens", "many"}}, "tokens"},
                                     {{{"source", nullptr}, {"recent", nullptr}}, "recent"}}) {
    auto damaged = whole;
    damaged.state.merge_patch(change);
    save_checkpoint(folder.path(), step, damaged);
    const auto said = error_message([&] { train(teacher, student.decoder, short_stages(), source, options); });
    EXPECT_NE(said.find(file.filename().string()), std::string::npos) << said;
    EXPECT_NE(said.find(part), std::string::npos) << said;
  }
}

TEST(Train, PlateausEndAtARateOfTheirOwn) {
  const auto teacher = small_teacher();
  auto student = hybrid_student(teacher);
  auto stage = short_stages()[1];
  stage.tokens = 40 * 64;
  stage.schedule = Stage::Schedule::Plateau;
  stage.learning_rate = 1e-4, stage.mixer_learning_rate = 0;
  auto options = quiet_options();
  const TemporaryFolder folder;
  options.log = folder.path() / "log";
  options.validate_every = 1;
  options.validate = [](const Decoder&) { return 1.; };  // never a gain
  RandomSource source;
  train(teacher, student.decoder, {stage}, source, options);
  const auto log = read_file(options.log);
  const auto last = log.rfind('\n', log.size() - 2) + 1;
  EXPECT_NEAR(parse_json(log.substr(last), "log").at("rate").get<double>() * 1e-4, 1e-5, 1e-12);
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

TEST(Options, LayersThatStaySoftmax) {
  const auto kept = [](const Json& options) { return softmax_layers(options, 4); };
  EXPECT_EQ(kept(Json::object()), std::vector<bool>(4, false));
  EXPECT_EQ(kept({{"keep_every", 2}}), (std::vector<bool>{false, true, false, true}));
  EXPECT_EQ(kept({{"softmax_layers", {0, 2, 3}}}), (std::vector<bool>{true, false, true, true}));
  for (const auto& [options, part] :
       {std::pair<Json, std::string>{{{"softmax_layers", {4}}}, "4 is no number of a layer: 0 to 3"},
        {{{"softmax_layers", {-1}}}, "-1"},
        {{{"softmax_layers", {"first"}}}, "first"},
        {{{"softmax_layers", {0, 1, 2, 3}}}, "nothing would be linear"},
        {{{"softmax_layers", {1}}, {"keep_every", 2}}, "exclude each other"},
        {{{"keep_every", -1}}, "-1"}})
    EXPECT_NE(error_message([&, &options = options] { kept(options); }).find(part), std::string::npos) << part;
  const auto teacher = small_teacher();
  const auto& recipe = find_recipe("window");
  const auto student = convert(teacher, recipe, recipe_options(recipe, {{"softmax_layers", {1}}, {"window", 4}}), 1);
  EXPECT_EQ(typeid(*student.decoder.layers[1].mixer), typeid(*teacher.layers[1].mixer));
  EXPECT_NE(typeid(*student.decoder.layers[0].mixer), typeid(*teacher.layers[0].mixer));
}

TEST(Options, ValuesThatMixersCannotHoldAreRefused) {
  const auto teacher = small_teacher();
  const auto refused = [&](const char* name, const Json& changes) {
    const auto& recipe = find_recipe(name);
    return error_message([&] { convert(teacher, recipe, recipe_options(recipe, changes), 1); });
  };
  EXPECT_NE(refused("hybrid", {{"gate_bias", 1e300}}).find("recipe hybrid: an option"), std::string::npos);
  EXPECT_NE(refused("window", {{"window", 100000000000}}).find("100000000000"), std::string::npos);
  EXPECT_NE(refused("lawcat", {{"conv_size", 100000000}}).find("conv_size"), std::string::npos);
  EXPECT_NE(refused("lawcat", {{"gate_rank", 100000000000}}).find("gate_rank"), std::string::npos);
  EXPECT_NE(refused("lizard", {{"meta", 1000000000000}}).find("meta"), std::string::npos);
}

TEST(Options, TargetsOfCorrectionsAreNames) {
  const auto teacher = small_teacher();
  const auto& recipe = find_recipe("hybrid");
  const auto options = recipe_options(recipe, {{"lora_targets", Json::array({1})}});
  EXPECT_NE(error_message([&] { convert(teacher, recipe, options, 1); }, ErrorKind::Usage).find("lora_targets: 1"),
            std::string::npos);
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
