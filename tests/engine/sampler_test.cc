// Samplers: what grammars allow. (The samplers themselves are libllama's.)
#include "unbend/engine/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "tests/engine/gguf_bytes.h"
#include "tests/error_message.h"
#include "unbend/base/random.h"
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

TEST(StopFilter, CutsAtTheFirstStopWhateverTheirOrder) {
  for (const auto& stops : {std::vector<std::string>{"X", "Y"}, {"Y", "X"}}) {
    StopFilter filter(stops);
    EXPECT_EQ(filter.add("pXqYr"), "p");
    EXPECT_TRUE(filter.stopped());
  }
}

}  // namespace
}  // namespace unbend::engine
