// The comparison of a model with its surrogates: what tasks ask for, and what its tables and JSON say of that.
#include "unbend/lm/linearize.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include "unbend/base/files.h"
#include "unbend/engine/byte_vocabulary.h"
#include "unbend/engine/gguf_write.h"
#include "unbend/lm/batch_source.h"

namespace unbend::lm {
namespace {

using testing::HasSubstr;

/// Bytes, behind a BOS.
engine::Tokenizer bos_tokenizer() {
  auto entries = engine::byte_vocabulary(257);
  entries.back() = engine::encode_entry("tokenizer.ggml.add_bos_token", true);
  entries.push_back(engine::encode_entry("general.architecture", "llama"));
  const TemporaryFolder folder;
  engine::write_gguf(folder.path() / "bytes.gguf", entries, {});
  return engine::Tokenizer::load(folder.path() / "bytes.gguf");
}

class Compare : public testing::Test {
 protected:
  static Decoder teacher() {
    DecoderConfig c;
    c.layers = 2, c.hidden = 32, c.heads = 4, c.kv_heads = 2, c.head_dim = 8, c.ffn = 48, c.vocab = 257;
    c.context = 512;
    Random random(1);
    return random_decoder(c, 1, .5, random);
  }
  Student student(std::int64_t window) const {
    const auto& recipe = find_recipe("window");
    return convert(teacher_, recipe, recipe_options(recipe, {{"window", window}, {"sinks", 1}, {"lora_rank", 0}}), 1);
  }
  ComparisonOptions options(std::int64_t window) const {
    ComparisonOptions o;
    o.short_windows = windows_;
    o.window = window;
    o.contexts = {};
    o.quiet = true;
    return o;
  }

  const engine::Tokenizer tokenizer_ = bos_tokenizer();
  const Decoder teacher_ = teacher();
  const at::Tensor windows_ = at::randint(97, 123, {3, 700}, at::kLong);
};

TEST_F(Compare, TasksReachBeyondTheWindow) {
  const auto surrogate = student(32);
  auto o = options(32);
  o.tasks = {"recall-ids", "passkey-ids", "copy", "qa1"};
  const auto result = compare({{"teacher", &teacher_}, {"window", &surrogate.decoder}}, tokenizer_, o);
  ASSERT_EQ(result.tasks.size(), 4);
  EXPECT_EQ(result.tasks[0].size, 128) << "four windows";
  EXPECT_EQ(result.tasks[0].within, 0.);
  EXPECT_EQ(result.tasks[1].size, 128);
  EXPECT_EQ(result.tasks[2].size, 64) << "two windows back";
  EXPECT_EQ(result.tasks[2].within, 0.);
  EXPECT_FALSE(result.tasks[3].within.has_value());
  const auto table = to_text(comparison_table(result)), json = to_json(result).dump();
  EXPECT_THAT(table, HasSubstr("recall 'recall-ids' in 128 tokens "));
  EXPECT_THAT(table, HasSubstr("recall 'qa1' in 1024 tokens, may be within the window"));
  EXPECT_THAT(to_text(summary_table(result)), HasSubstr("qa1, may be within the window (chance)"));
  EXPECT_THAT(json, HasSubstr(R"("length":128,"within_window":0.0)"));
  EXPECT_THAT(json, HasSubstr(R"("within_window":null)"));
}

TEST_F(Compare, SaysWhatLiesWithinTheWindow) {
  const auto surrogate = student(256);
  auto o = options(256);
  o.tasks = {"recall-ids", "passkey"};
  const auto result = compare({{"teacher", &teacher_}, {"window", &surrogate.decoder}}, tokenizer_, o);
  EXPECT_EQ(result.tasks[0].size, 512) << "the context of the model";
  EXPECT_EQ(result.tasks[1].size, 1024) << "the task's own";
  EXPECT_EQ(result.tasks[1].within, .25) << "the last of four depths";
  EXPECT_THAT(to_text(comparison_table(result)), HasSubstr("recall 'passkey' in 1024 tokens, 25 % within the window"));
  EXPECT_THAT(to_text(summary_table(result)), HasSubstr("passkey, 25 % within the window (chance)"));
}

TEST_F(Compare, FewerPiecesAreNoted) {
  auto o = options(256);
  o.tasks = {"copy"};  // 2100 tokens of text, 512 for each
  o.recall_texts = 6;
  const auto result = compare({{"teacher", &teacher_}}, tokenizer_, o);
  EXPECT_EQ(result.models[0].recall[0].answers, 4);
  ASSERT_EQ(result.notes.size(), 1);
  EXPECT_THAT(result.notes[0], HasSubstr("task copy: 2 of 6 texts"));
}

TEST_F(Compare, FidelityIsMeasuredBehindBos) {
  const auto surrogate = student(8);
  auto o = options(8);
  o.recall_texts = 0;
  const auto result = compare({{"teacher", &teacher_}, {"window", &surrogate.decoder}}, tokenizer_, o);
  ASSERT_TRUE(tokenizer_.adds_bos());
  const auto behind = behind_bos(windows_.slice(0, 0, 2), tokenizer_);
  EXPECT_TRUE(at::equal(result.models[1].fidelity, head_fidelity(teacher_, {&surrogate.decoder}, behind)[0]));
}

TEST_F(Compare, WeightsThatNobodyCountedAreNotZero) {
  auto o = options(8);
  o.recall_texts = 0;
  auto result = compare({{"teacher", &teacher_}}, tokenizer_, o);
  EXPECT_GT(to_json(result).at("weight_bytes"), 0);
  result.weight_bytes = 0;
  EXPECT_FALSE(to_json(result).contains("weight_bytes"));
}

}  // namespace
}  // namespace unbend::lm
