// Recipes whose stages train the decoder's own weights.
#include <gtest/gtest.h>

#include "tests/error_message.h"
#include "tests/lm/small_training.h"
#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/engine/engine.h"
#include "unbend/lm/delta.h"
#include "unbend/lm/export.h"
#include "unbend/tensor/safetensors.h"

namespace unbend::lm {
namespace {

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

/// A small model in a file, and where its student's goes.
struct StoredTeacher {
  TemporaryFolder folder;
  std::filesystem::path delta = folder.path() / "delta.safetensors";
  engine::Gguf base = stored(folder.path() / "base.gguf");
  Decoder teacher = load_decoder(base, at::kFloat);

  static engine::Gguf stored(const std::filesystem::path& path) {
    export_decoder(small_teacher(), {}, path);
    return engine::Gguf::open(path);
  }
};

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
  const StoredTeacher stored;
  const auto& [folder, delta, base, teacher] = stored;
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

TEST(WholeWeights, MetadataThatClashAreTheFilesMistake) {
  const StoredTeacher stored;
  const auto& [folder, delta, base, teacher] = stored;
  auto student = hybrid_student(teacher);
  save_delta(delta, student, {"", {}, "base", base.content_hash(), Json::object()});
  const auto written = load_safetensors(delta);
  const auto refusal = [&](const Json& change) {
    auto metadata = written.metadata;
    auto info = Json::parse(metadata.at("unbend.delta"));
    info.merge_patch(change);
    metadata["unbend.delta"] = info.dump();
    save_safetensors(delta, written.tensors, metadata);
    return error_message([&] { load_delta(delta, teacher, base); });
  };
  for (const auto& [change, part] : {std::pair<Json, std::string>{{{"recipe", "lowcats"}}, "no recipe 'lowcats'"},
                                     {{{"options", {{"windows", 8}}}}, "no option 'windows'"},
                                     {{{"options", {{"window", "wide"}}}}, "takes a value like"},
                                     {{{"options", {{"window", -1}}}}, "window must be at least"}}) {
    const auto said = refusal(change);
    EXPECT_TRUE(said.starts_with(delta.string() + ": ")) << said;
    EXPECT_NE(said.find(part), std::string::npos) << said;
  }
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

}  // namespace
}  // namespace unbend::lm
