// The LibTorch decoder on a real model, against libllama on the same weights stored as F32.
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <filesystem>

#include "unbend/base/error.h"
#include "unbend/engine/gguf_write.h"
#include "unbend/engine/reference.h"
#include "unbend/engine/tokenizer.h"
#include "unbend/lm/delta.h"
#include "unbend/lm/generate.h"
#include "unbend/lm/recipe.h"

namespace unbend::lm {
namespace {

const std::filesystem::path kModel =
    std::filesystem::path(UNBEND_SOURCE_DIR) / "build/models/SmolLM2-135M-Instruct.Q4_1.gguf";

class SmolLM2 : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    ASSERT_TRUE(std::filesystem::exists(kModel)) << "run tools/setup.sh model";
    file_ = new engine::Gguf(engine::Gguf::open(kModel));
    tokenizer_ = new engine::Tokenizer(engine::Tokenizer::load(kModel));
    decoder_ = new Decoder(load_decoder(*file_, at::kFloat));
  }
  static void TearDownTestSuite() {
    delete decoder_;
    delete tokenizer_;
    delete file_;
  }
  static at::Tensor ids(const std::string& text, std::size_t limit) {
    auto tokens = tokenizer_->encode(text);
    tokens.resize(std::min(tokens.size(), limit));
    return at::tensor(at::ArrayRef<engine::TokenId>(tokens), at::kInt).to(at::kLong).unsqueeze(0);
  }
  static inline engine::Gguf* file_ = nullptr;
  static inline engine::Tokenizer* tokenizer_ = nullptr;
  static inline Decoder* decoder_ = nullptr;
};

TEST_F(SmolLM2, LogitsEqualThoseOfLibllama) {
  const at::NoGradGuard no_grad;
  const auto f32 = std::filesystem::temp_directory_path() / ("unbend_f32_" + std::to_string(::getpid()) + ".gguf");
  engine::rewrite_as_f32(*file_, f32);
  std::string long_text;
  for (int i = 0; i < 60; ++i)
    long_text += "Section " + std::to_string(i * 37 % 101) + ": packages depend on each other; version " +
                 std::to_string(i) + ".4 breaks the rest.\n";
  const std::vector<std::pair<std::string, std::size_t>> prompts{
      {"Hello", 1},
      {"The quick brown fox jumps over the lazy dog. Then", 100},
      {"def fibonacci(n):\n    return n if n < 2 else", 100},
      {"Größe, naïve, 日本語, \U0001F600 and \ttabs", 100},
      {long_text, 1000}};
  for (const auto& [text, limit] : prompts) {
    const auto tokens = ids(text, limit);
    const auto mine = decoder_->logits(decoder_->hidden(tokens))[0];
    const auto list = tokens.to(at::kInt).contiguous();
    auto values = engine::llama_logits(
        f32, {list.const_data_ptr<std::int32_t>(), static_cast<std::size_t>(list.numel())}, at::get_num_threads());
    const auto theirs = at::from_blob(values.data(), {tokens.size(1), decoder_->config.vocab}, at::kFloat);
    EXPECT_LE((mine - theirs).abs().max().item<double>(), 2e-3) << tokens.size(1) << " tokens";
    // Same ten best tokens at the last position; ranks may only swap within the tolerance.
    const auto [my_values, my_best] = mine[-1].topk(10);
    const auto [their_values, their_best] = theirs[-1].topk(10);
    EXPECT_TRUE(at::equal(std::get<0>(my_best.sort()), std::get<0>(their_best.sort()))) << text.substr(0, 20);
  }
  std::filesystem::remove(f32);
}

TEST_F(SmolLM2, UntrainedStudentsEqualTheTeacherInsideTheWindow) {
  const at::NoGradGuard no_grad;
  const auto tokens =
      ids("Attention sinks are the first tokens of a text, which every later token keeps looking at even when they "
          "carry no meaning of their own. "
          "A window that forgets them breaks the model; one that pins them hardly notices.",
          60);
  const auto exact = decoder_->logits(decoder_->hidden(tokens));
  for (const std::string name : {"window", "hybrid"}) {
    const auto& recipe = find_recipe(name);
    const auto student = convert(*decoder_, recipe, recipe_options(recipe, {{"window", 32}, {"sinks", 4}}), 1);
    const auto mine = student.decoder.logits(student.decoder.hidden(tokens));
    EXPECT_LT((mine - exact).slice(1, 0, 32).abs().max().item<double>(), 1e-3) << name;
    EXPECT_GT((mine - exact).slice(1, 40).abs().max().item<double>(), 1e-3) << name;
  }
}

TEST_F(SmolLM2, PrefillAndTokensEqualOneForwardPass) {
  const at::NoGradGuard no_grad;
  const auto tokens =
      ids("A window of thirty-two tokens, a few sinks, and everything older in a state of constant size: that is the "
          "whole trick, and it has to give "
          "the same numbers whether a text comes at once, in pieces, or word by word, as it does when a model writes.",
          70);
  const auto& recipe = find_recipe("hybrid");
  const auto student = convert(*decoder_, recipe, recipe_options(recipe, {{"window", 32}, {"sinks", 4}}), 1);
  const auto whole = student.decoder.logits(student.decoder.hidden(tokens));
  auto state = student.decoder.start();
  std::int64_t at = 0;
  for (const std::int64_t count : {30, 1, 1, 1, 1, 1, 20, 1}) {
    const auto count_here = std::min(count, tokens.size(1) - at);
    const auto part = student.decoder.logits(student.decoder.extend(tokens.slice(1, at, at + count_here), state));
    EXPECT_LT((part - whole.slice(1, at, at + count_here)).abs().max().item<double>(), 1e-3) << "tokens from " << at;
    at += count_here;
  }
}

TEST_F(SmolLM2, DeltasComeBackAndBelongToTheirBase) {
  const auto path =
      std::filesystem::temp_directory_path() / ("unbend_delta_" + std::to_string(::getpid()) + ".safetensors");
  const auto& recipe = find_recipe("hybrid");
  auto student = convert(*decoder_, recipe, recipe_options(recipe, {{"window", 32}}), 1);
  Random random(3);
  for (const auto& p : adapter(student.decoder)) p.tensor->add_(random_normal(p.tensor->sizes(), .01, random));
  save_delta(path, student, {"hybrid", student.options, "SmolLM2", file_->content_hash(), Json::object()});
  auto back = load_delta(path, *decoder_, *file_);
  EXPECT_EQ(back.options, student.options);
  const auto mine = adapter(student.decoder), theirs = adapter(back.decoder);
  ASSERT_EQ(mine.size(), theirs.size());
  for (std::size_t i = 0; i < mine.size(); ++i)
    EXPECT_TRUE(at::equal(*mine[i].tensor, *theirs[i].tensor)) << mine[i].name;
  save_delta(path, student, {"hybrid", student.options, "other", std::string(64, '0'), Json::object()});
  EXPECT_THROW(load_delta(path, *decoder_, *file_), Error);
  std::filesystem::remove(path);
}

TEST_F(SmolLM2, MergedFilesComputeTheSame) {
  const at::NoGradGuard no_grad;
  const auto path = std::filesystem::temp_directory_path() / ("unbend_merged_" + std::to_string(::getpid()) + ".gguf");
  const auto& recipe = find_recipe("window");
  auto student = convert(
      *decoder_, recipe,
      recipe_options(recipe, {{"window", 1000}, {"lora_targets", {"q", "k", "v", "o", "gate", "up", "down"}}}), 1);
  Random random(3);
  for (const auto& p : adapter(student.decoder)) p.tensor->add_(random_normal(p.tensor->sizes(), .02, random));
  write_merged(*file_, student, path);
  const auto tokens = ids("The merged file is an ordinary model with other weights.", 30);
  const auto mine = student.decoder.logits(student.decoder.hidden(tokens));
  const auto merged = load_decoder(engine::Gguf::open(path), at::kFloat);
  EXPECT_LT((merged.logits(merged.hidden(tokens)) - mine).abs().max().item<double>(), 1e-2);
  EXPECT_GT((decoder_->logits(decoder_->hidden(tokens)) - mine).abs().max().item<double>(), .1);
  std::filesystem::remove(path);
}

TEST_F(SmolLM2, GeneratesTheSameGreedyTextWithOrWithoutStreaming) {
  GenerateOptions options;
  options.max_tokens = 24;
  options.sampler.temperature = 0;
  std::string streamed;
  const auto prompt = tokenizer_->encode(tokenizer_->chat({{"user", "Name three colours."}}), true);
  const auto result =
      generate(*decoder_, *tokenizer_, prompt, options, [&](std::string_view piece) { streamed += piece; });
  EXPECT_EQ(streamed, result.text);
  EXPECT_FALSE(result.text.empty());
  // A stop text ends the generation before it appears, wherever token borders fall.
  const auto stop = result.text.substr(result.text.size() / 2, 5);
  options.stop = {stop};
  const auto stopped = generate(*decoder_, *tokenizer_, prompt, options);
  EXPECT_EQ(stopped.reason, "stop");
  EXPECT_EQ(stopped.text, result.text.substr(0, result.text.find(stop)));
}

}  // namespace
}  // namespace unbend::lm
