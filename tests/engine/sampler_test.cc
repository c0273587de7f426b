// Samplers: what grammars allow. (The samplers themselves are libllama's.)
#include "unbend/engine/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "tests/engine/gguf_bytes.h"
#include "tests/error_message.h"
#include "unbend/base/random.h"
#include "unbend/engine/byte_vocabulary.h"
#include "unbend/engine/generate.h"

namespace unbend::engine {
namespace {

using testing::HasSubstr;

class Grammar : public testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(smollm2())) GTEST_SKIP() << "the model is not there: tools/setup.sh model";
  }

  /// Text from random logits until an end token.
  static std::string text(const Tokenizer& tokenizer, const SamplerOptions& options, std::uint64_t seed) {
    Random random(seed);
    Sampler sampler(options, &tokenizer);
    std::vector<float> logits(static_cast<std::size_t>(tokenizer.size()));
    std::string out;
    for (int i = 0; i < 64; ++i) {
      for (auto& x : logits) x = static_cast<float>(3 * random.normal());
      const TokenId id = sampler.next(logits);
      if (tokenizer.is_end(id)) return out;
      out += tokenizer.decode({&id, 1});
    }
    return out + "...";
  }
};

TEST_F(Grammar, OnlyItsTextsComeOut) {
  const auto tokenizer = Tokenizer::load(smollm2());
  SamplerOptions options;
  options.grammar = R"(root ::= ("yes" | "no") " " [0-9] [0-9])";
  for (const double temperature : {0., 1.}) {
    options.temperature = temperature, options.top_k = 0, options.top_p = 1;
    std::set<std::string> seen;
    for (std::uint64_t seed = 1; seed <= 6; ++seed) {
      seen.insert(text(tokenizer, options, seed));
      EXPECT_THAT(*seen.rbegin(), testing::ContainsRegex("^(yes|no) [0-9][0-9]$"));
    }
    EXPECT_GT(seen.size(), 2u) << "the grammar decides everything";
  }
}

TEST_F(Grammar, WhatCannotBeParsedIsRefused) {
  const auto tokenizer = Tokenizer::load(smollm2());
  SamplerOptions options;
  options.grammar = "root ::= (";
  EXPECT_THAT(error_message([&] { Sampler(options, &tokenizer); }), HasSubstr("grammar cannot be parsed"));
  options.grammar = "start ::= \"a\"";
  EXPECT_THAT(error_message([&] { Sampler(options, &tokenizer); }), HasSubstr("grammar cannot be parsed"));
  options.grammar = "root ::= \"a\"";
  EXPECT_THAT(error_message([&] { Sampler sampler(options); }), HasSubstr("needs the model's tokenizer"));
}

TEST_F(Grammar, ADeadEndIsSaid) {
  const auto tokenizer = Tokenizer::load(smollm2());
  SamplerOptions options;
  options.grammar = "root ::= \"a\"";
  std::vector<float> logits(static_cast<std::size_t>(tokenizer.size()), -INFINITY);
  logits[static_cast<std::size_t>(tokenizer.encode("z")[0])] = 1;
  for (const double temperature : {0., 1.}) {
    options.temperature = temperature;
    Sampler sampler(options, &tokenizer);
    EXPECT_THAT(error_message([&] { sampler.next(logits); }, ErrorKind::Computation), HasSubstr("cannot go on"));
  }
}

TEST_F(Grammar, OnlyTokensOfTheVocabularyAreChosen) {
  const auto tokenizer = Tokenizer::load(smollm2());
  std::vector<float> logits(static_cast<std::size_t>(tokenizer.size()) + 10, 0);
  logits.back() = 9, logits[7] = 8;  // models are padded
  SamplerOptions options;
  options.temperature = 0;
  EXPECT_EQ(Sampler(options, &tokenizer).next(logits), 7);
  EXPECT_EQ(Sampler(options).next(logits), tokenizer.size() + 9);
}

TEST(Generate, CountsTheStepsThatItTimes) {
  const auto tokenizer = byte_tokenizer();
  std::vector<float> logits(257);
  GenerateOptions options;
  options.sampler.temperature = 0;
  std::int64_t calls = 0;
  // Says "a" until the last call, which ends the text.
  const auto run = [&](std::int64_t most, std::int64_t last) {
    options.max_tokens = most, calls = 0;
    const auto model = [&](std::span<const TokenId>) -> std::span<const float> {
      std::ranges::fill(logits, 0.f);
      logits[++calls == last ? 256 : 'a'] = 1;
      return logits;
    };
    return generate(model, tokenizer, {'x'}, options);
  };
  for (const auto& [most, last] : {std::pair<std::int64_t, std::int64_t>{1, 9}, {3, 9}, {9, 3}, {9, 1}}) {
    const auto result = run(most, last);
    EXPECT_EQ(std::ssize(result.ids), std::min(most, last - 1));
    EXPECT_EQ(result.decode_steps, calls - 1) << "the first call reads the prompt";
    EXPECT_EQ(result.decode_seconds > 0, result.decode_steps > 0);
  }
}

TEST(StopFilter, CutsAtTheFirstStopWhateverTheirOrder) {
  for (const auto& stops : {std::vector<std::string>{"X", "Y"}, {"Y", "X"}}) {
    StopFilter filter(stops);
    EXPECT_EQ(filter.add("pXqYr"), "p");
    EXPECT_TRUE(filter.stopped());
  }
}

}  // namespace
}  // namespace unbend::engine
