// Students of a small decoder in the engine, with every option that changes what a mixer computes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>
#include <limits>

#include "tests/error_message.h"
#include "unbend/base/files.h"
#include "unbend/engine/byte_vocabulary.h"
#include "unbend/engine/engine.h"
#include "unbend/engine/gguf_write.h"
#include "unbend/engine/model.h"
#include "unbend/lm/export.h"

namespace unbend::lm {
namespace {

struct Case {
  const char* recipe;
  Json changes;
};

DecoderConfig small_config() {
  DecoderConfig c;
  c.layers = 2, c.hidden = 48, c.heads = 6, c.kv_heads = 2, c.head_dim = 12, c.ffn = 64, c.vocab = 256, c.context = 128;
  c.rope_base = 1000, c.rms_eps = 1e-5F;
  return c;
}

engine::Gguf random_base(const DecoderConfig& c, const std::filesystem::path& path, Random& random) {
  export_decoder(random_decoder(c, 1, .7, random), engine::byte_vocabulary(), path);
  return engine::Gguf::open(path);
}

/// A student whose mixers and corrections have moved away from their start.
Student moved_student(const engine::Gguf& base, const Case& c, Random& random) {
  const auto& recipe = find_recipe(c.recipe);
  auto student = convert(load_decoder(base, at::kFloat), recipe, recipe_options(recipe, c.changes), 1);
  for (const auto& p : adapter(student.decoder)) p.tensor->add_(random_normal(p.tensor->sizes(), .3, random));
  return student;
}

std::vector<engine::TokenId> random_ids(std::int64_t tokens, Random& random) {
  std::vector<engine::TokenId> ids;
  for (std::int64_t i = 0; i < tokens; ++i) ids.push_back(static_cast<engine::TokenId>(random.below(256)));
  return ids;
}

engine::Engine engine_of(const std::filesystem::path& path) {
  engine::EngineOptions options;
  options.cache_type = 0;
  return {engine::Model::open(path), options};
}

class SmallExport : public testing::TestWithParam<Case> {};

TEST_P(SmallExport, EngineEqualsTheDecoder) {
  const at::NoGradGuard no_grad;
  const auto c = small_config();
  Random random(2);
  const TemporaryFolder folder;
  const auto exported = folder.path() / "student.gguf";
  const auto base = random_base(c, folder.path() / "base.gguf", random);
  const auto student = moved_student(base, GetParam(), random);
  export_student(base, student, exported, "f32");

  const std::int64_t tokens = 70;
  const auto ids = random_ids(tokens, random);
  const auto exact = student.decoder.to(at::kCPU, at::kDouble);
  const auto expected = exact.logits(
      exact.hidden(at::tensor(at::ArrayRef<engine::TokenId>(ids), at::kInt).to(at::kLong).unsqueeze(0)))[0];
  auto mine = engine_of(exported);
  for (const auto& cuts : std::vector<std::vector<std::int64_t>>{{tokens}, {1}, {2, 1, 5, 30, 1, 31}}) {
    const int sequence = mine.begin();
    std::size_t cut = 0;
    for (std::int64_t at = 0; at < tokens; cut = std::min(cut + 1, cuts.size() - 1)) {
      const auto count = std::min(cuts[cut], tokens - at);
      const auto values = mine.run(sequence, {ids.data() + at, static_cast<std::size_t>(count)}, count);
      const auto rows = at::from_blob(const_cast<float*>(values.data()), {count, c.vocab}, at::kFloat);
      EXPECT_LT((rows - expected.slice(0, at, at + count)).abs().max().item<double>(), 1e-3) << "from token " << at;
      at += count;
    }
    mine.end(sequence);
  }
}

TEST(SmallExportStates, AreOnePerKeyHeadWhereItsQueryHeadsShareKeysAndDecays) {
  const at::NoGradGuard no_grad;
  auto c = small_config();
  c.head_dim = 16;  // whole vectors, so that sizes can be told
  Random random(2);
  const TemporaryFolder folder;
  const auto base = random_base(c, folder.path() / "base.gguf", random);
  const auto bytes = [&](const Case& given) {
    export_student(base, moved_student(base, given, random), folder.path() / "student.gguf", "f32");
    auto mine = engine_of(folder.path() / "student.gguf");
    return mine.state_bytes(mine.begin());
  };
  struct Pair {
    Case each, shared;
    std::int64_t features, columns;  // of a state
  };
  const std::int64_t d = c.head_dim;
  const Case lizard{"lizard", {{"window", 9}}}, regla{"regla", Json::object()}, supra{"supra", Json::object()};
  for (const auto& [each, shared, features, columns] :
       std::vector<Pair>{{lizard, {"lizard", {{"window", 9}, {"map_heads", "kv"}}}, 2 * d, d + 1},
                         {lizard, {"lizard", {{"window", 9}, {"map_heads", "layer"}}}, 2 * d, d + 1},
                         {regla, {"regla", {{"gate", "none"}}}, d, d},
                         {supra, {"supra", {{"decay", "none"}}}, d, d},
                         {supra, {"supra", {{"slopes", {.5, .5, .5, .1, .1, .1}}}}, d, d}}) {
    const auto state = static_cast<std::int64_t>(sizeof(float)) * features * columns;
    EXPECT_EQ(bytes(each) - bytes(shared), c.layers * (c.heads - c.kv_heads) * state)
        << shared.recipe << shared.changes;
  }
  // Slopes that differ within the heads of one key head keep them apart.
  EXPECT_EQ(bytes({"supra", {{"slopes", {.5, .5, .5, .1, .1, .2}}}}), bytes(supra));
}

struct Stored {
  Case student;
  std::vector<std::string> matrices, numbers;  // tensors of a mixer: with 8 bits, and with 32 always
};

class SmallExportTypes : public testing::TestWithParam<Stored> {};

TEST_P(SmallExportTypes, LargeMatricesAreAsNarrowAsTheModels) {
  const at::NoGradGuard no_grad;
  DecoderConfig c;
  c.layers = 2, c.hidden = 64, c.heads = 4, c.kv_heads = 2, c.head_dim = 32, c.ffn = 96, c.vocab = 256, c.context = 128;
  Random random(4);
  const TemporaryFolder folder;
  const auto path = folder.path() / "student.gguf", narrow = folder.path() / "narrow.gguf";
  const auto base = random_base(c, folder.path() / "base.gguf", random);
  const auto student = moved_student(base, GetParam().student, random);
  engine::Rewrite changes;
  changes.type = [](const engine::TensorInfo& t) { return t.shape.size() == 2 ? engine::type_number("Q8_0") : t.type; };
  engine::rewrite(base, narrow, changes);
  const auto narrow_base = engine::Gguf::open(narrow);

  const auto ids = random_ids(50, random);
  const auto exported = [&](const engine::Gguf& from, const char* type, const char* expected) {
    export_student(from, student, path, type);
    const auto file = engine::Gguf::open(path);
    for (const auto* block : {"blk.0.mixer.", "blk.1.mixer."}) {
      for (const auto& name : GetParam().matrices) {
        const auto& info = file.tensor(block + name);
        EXPECT_EQ(engine::type_name(info.type), expected) << type << " " << name;
        EXPECT_EQ(static_cast<double>(info.bytes),
                  static_cast<double>(info.elements()) * engine::bits_per_weight(engine::type_number(expected)) / 8)
            << type << " " << name;
      }
      for (const auto& name : GetParam().numbers)
        EXPECT_EQ(engine::type_name(file.tensor(block + name).type), "F32") << type << " " << name;
    }
    auto mine = engine_of(path);
    const auto values = mine.run(mine.begin(), ids, 50);
    return at::from_blob(const_cast<float*>(values.data()), {50, c.vocab}, at::kFloat).clone();
  };
  const auto exact = exported(base, "f32", "F32");
  const auto error = [&](const at::Tensor& logits) { return ((logits - exact).norm() / exact.norm()).item<double>(); };
  EXPECT_EQ(error(exported(base, "base", "F32")), 0);
  EXPECT_LT(error(exported(base, "f16", "F16")), .02);
  for (const double e : {error(exported(base, "q8_0", "Q8_0")), error(exported(narrow_base, "base", "Q8_0"))}) {
    EXPECT_LT(e, .1);
    EXPECT_GT(e, 1e-5) << "nothing was rounded";
  }
}

INSTANTIATE_TEST_SUITE_P(
    Recipes, SmallExportTypes,
    testing::Values(Stored{{"supra", Json::object()}, {"query_kernel", "key_kernel"}, {"query_bias", "key_bias"}},
                    Stored{{"regla", Json::object()}, {"gate_weight"}, {"gate_bias", "norm_gain"}},
                    Stored{{"regla", {{"gate_rank", 16}}}, {}, {"gate_down", "gate_weight"}},
                    Stored{{"lawcat", {{"gate_rank", 64}, {"lora_rank", 0}}},
                           {"gate_down", "gate_up"},
                           {"query_map", "query_taps", "gate_bias"}},
                    Stored{{"lawcat", {{"gate_rank", 0}, {"lora_rank", 0}}}, {"gate_up"}, {"query_map"}},
                    Stored{{"lizard", {{"window", 9}, {"gate_per_head", true}, {"lora_rank", 0}}},
                           {},
                           {"gate_weight", "query_map", "alpha"}},
                    Stored{
                        {"hybrid", {{"window", 9}, {"lora_rank", 0}}}, {}, {"gate_weight", "query_map", "log_scale"}}));

TEST(SmallExportErrors, WeightsThatAreNotFiniteAreNamed) {
  Random random(2);
  const TemporaryFolder folder;
  const auto path = folder.path() / "bad.gguf";
  const auto base = random_base(small_config(), folder.path() / "base.gguf", random);
  for (const auto& [bad, called] :
       {std::pair{std::nanf(""), "NaN"}, {-std::numeric_limits<float>::infinity(), "-inf"}}) {
    std::vector<float> values(64 * 48, 1);
    values[48 + 7] = bad;
    engine::Rewrite changes;
    changes.values = [&](const engine::TensorInfo& t) {
      return t.name == "blk.1.ffn_up.weight" ? std::span<const float>(values) : std::span<const float>();
    };
    engine::rewrite(base, path, changes);
    EXPECT_THAT(
        error_message([&] { load_decoder(engine::Gguf::open(path), at::kFloat); }),
        testing::HasSubstr(fmt::format("tensor blk.1.ffn_up.weight has 1 of 3072 values that are not finite, the "
                                       "first ({}) at [1, 7]",
                                       called)));
  }
}

TEST(SmallExportErrors, OptionsThatTheEngineDoesNotRunAreRefused) {
  DecoderConfig config;
  config.layers = 1, config.heads = 6, config.kv_heads = 2, config.head_dim = 12, config.context = 128;
  auto options = recipe_options(find_recipe("lawcat"), {{"window", 16}});
  EXPECT_THAT(error_message([&] { engine::check_mixers("a.gguf", config, {"lawcat"}, options); }),
              testing::HasSubstr("without a window only, not with one of 16"));
  options["window"] = 0, options["conv_size"] = -1;
  EXPECT_THAT(error_message([&] { engine::check_mixers("a.gguf", config, {"lawcat"}, options); }),
              testing::HasSubstr("conv_size -1"));
}

INSTANTIATE_TEST_SUITE_P(
    Recipes, SmallExport,
    testing::Values(
        Case{"softmax", Json::object()}, Case{"lawcat", {{"softmax_layers", {1}}}},
        Case{"window", {{"window", 9}, {"sinks", 2}}},
        Case{"hybrid", {{"window", 9}, {"sinks", 2}, {"state_heads", "query"}}}, Case{"lolcats", {{"window", 16}}},
        Case{"lolcats", {{"window", 7}, {"terraced", true}}},
        Case{"lolcats", {{"window", 4}, {"sinks", 3}, {"terraced", true}}},
        Case{"lolcats", {{"window", 9}, {"terraced", true}, {"linear", false}}}, Case{"liger", {{"window", 9}}},
        Case{"liger", {{"window", 9}, {"sinks", 3}, {"variant", "rwkv6"}}}, Case{"lawcat", Json::object()},
        Case{"lawcat", {{"conv_act", "silu"}, {"conv_v", true}, {"repeat_before_conv", false}}},
        Case{"lawcat", {{"rope_student", true}, {"feature_dim", 5}, {"gate_rank", 0}, {"tie_qk", false}}},
        Case{"lawcat", {{"share_qk_conv", true}, {"gate", false}, {"keep_every", 2}, {"conv_size", 1}}},
        Case{"lawcat", {{"conv", false}, {"normalise", false}, {"gate_tau", 2.0}}},
        Case{"lawcat", {{"conv_size", 33}, {"gate_rank", 3}}}, Case{"lizard", {{"window", 9}}},
        Case{"lizard", {{"window", 9}, {"preset", "recommended"}, {"sinks", 2}}},
        Case{"lizard", {{"window", 5}, {"map_heads", "kv"}, {"gate_per_head", true}, {"gate_tau", 2.0}}},
        Case{"lizard", {{"window", 9}, {"map_heads", "layer"}, {"meta", 0}, {"gate", "none"}}},
        Case{"lizard", {{"window", 9}, {"map_heads", "layer"}, {"gate_per_head", true}, {"sinks", 2}}},
        Case{"lizard", {{"window", 9}, {"feature_dim", 5}, {"map_start", "random"}, {"alpha_per_head", true}}},
        Case{"lizard", {{"window", 9}, {"learn_alpha", false}, {"alpha", .3}, {"meta_spread", 2.0}}},
        Case{"supra", Json::object()}, Case{"supra", {{"decay", "retnet"}, {"rope", "none"}, {"lora_rank", 2}}},
        Case{"supra", {{"slopes", {.7, .1, 0., 3., .5, .5}}, {"kernel_init", "identity"}, {"rope_base", 300.}}},
        Case{"supra", {{"slopes", {.5, .5, .5, .1, .1, .1}}}}, Case{"regla", Json::object()},
        Case{"regla", {{"gate_axis", "key"}, {"gate_rank", 3}}},
        Case{"regla", {{"gate", "sigmoid"}, {"norm", "none"}, {"rope", false}}},
        Case{"regla", {{"gate", "none"}, {"keep_every", 2}}},
        Case{"regla", {{"gate", "none"}, {"gate_axis", "key"}, {"norm", "none"}}}));

}  // namespace
}  // namespace unbend::lm
