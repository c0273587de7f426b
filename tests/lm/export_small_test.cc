// Students of a small decoder in the engine, with every option that changes what a mixer computes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include "tests/error_message.h"
#include "unbend/base/files.h"
#include "unbend/engine/byte_vocabulary.h"
#include "unbend/engine/engine.h"
#include "unbend/engine/model.h"
#include "unbend/lm/export.h"

namespace unbend::lm {
namespace {

struct Case {
  const char* recipe;
  Json changes;
};

class SmallExport : public testing::TestWithParam<Case> {};

TEST_P(SmallExport, EngineEqualsTheDecoder) {
  const at::NoGradGuard no_grad;
  DecoderConfig c;
  c.layers = 2, c.hidden = 48, c.heads = 6, c.kv_heads = 2, c.head_dim = 12, c.ffn = 64, c.vocab = 256, c.context = 128;
  c.rope_base = 1000, c.rms_eps = 1e-5F;
  Random random(2);
  const TemporaryFolder folder;
  const auto path = folder.path() / "base.gguf", exported = folder.path() / "student.gguf";
  export_decoder(random_decoder(c, 1, .7, random), engine::byte_vocabulary(), path);
  const auto base = engine::Gguf::open(path);

  const auto& recipe = find_recipe(GetParam().recipe);
  auto student = convert(load_decoder(base, at::kFloat), recipe, recipe_options(recipe, GetParam().changes), 1);
  for (const auto& p : adapter(student.decoder)) p.tensor->add_(random_normal(p.tensor->sizes(), .3, random));
  export_student(base, student, exported, "f32");

  const std::int64_t tokens = 70;
  std::vector<engine::TokenId> ids;
  for (std::int64_t i = 0; i < tokens; ++i) ids.push_back(static_cast<engine::TokenId>(random.below(256)));
  const auto exact = student.decoder.to(at::kCPU, at::kDouble);
  const auto expected = exact.logits(
      exact.hidden(at::tensor(at::ArrayRef<engine::TokenId>(ids), at::kInt).to(at::kLong).unsqueeze(0)))[0];
  engine::EngineOptions options;
  options.cache_type = 0;
  engine::Engine mine(engine::Model::open(exported), options);
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
        Case{"softmax", Json::object()}, Case{"window", {{"window", 9}, {"sinks", 2}}},
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
        Case{"lizard", {{"window", 9}, {"feature_dim", 5}, {"map_start", "random"}, {"alpha_per_head", true}}},
        Case{"lizard", {{"window", 9}, {"learn_alpha", false}, {"alpha", .3}, {"meta_spread", 2.0}}},
        Case{"supra", Json::object()}, Case{"supra", {{"decay", "retnet"}, {"rope", "none"}, {"lora_rank", 2}}},
        Case{"supra", {{"slopes", {.7, .1, 0., 3., .5, .5}}, {"kernel_init", "identity"}}},
        Case{"regla", Json::object()}, Case{"regla", {{"gate_axis", "key"}, {"gate_rank", 3}}},
        Case{"regla", {{"gate", "sigmoid"}, {"norm", "none"}, {"rope", false}}},
        Case{"regla", {{"gate", "none"}, {"keep_every", 2}}}));

}  // namespace
}  // namespace unbend::lm
