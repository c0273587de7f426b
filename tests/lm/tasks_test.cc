#include "unbend/lm/tasks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "tests/error_message.h"
#include "tests/lm/tokenizers.h"
#include "unbend/base/error.h"

namespace unbend::lm {
namespace {

TEST(Copy, AsksForTheSecondCopy) {
  const std::vector<TokenId> text{5, 6, 7}, gap{1, 2};
  const auto probe = copy_probe(text, gap, 99);
  EXPECT_THAT(probe.ids, testing::ElementsAre(99, 5, 6, 7, 1, 2, 5, 6, 7));
  ASSERT_EQ(probe.questions.size(), 2);
  EXPECT_EQ(probe.questions[0].position, 6);
  EXPECT_EQ(probe.questions[0].token, 6);
  EXPECT_EQ(probe.questions[1].token, 7);
  EXPECT_EQ(probe.questions[0].first, 1);
  EXPECT_EQ(probe.questions[1].first, 2);
  EXPECT_EQ(probe.questions[0].told, 2);
  EXPECT_EQ(probe.questions[1].told, 3);
  EXPECT_THROW(copy_probe(std::span(text).first(1), gap), Error);
}

TEST(Words, SaysWhichTokenizersWillDo) {
  Random random(1);
  EXPECT_THAT(
      error_message([&] { words_probe(random, *test_tokenizer("bytes"), "Filler."); }),
      testing::HasSubstr("24 words are needed, and 0 of ours are single tokens here: this task needs a tokenizer "
                         "with tokens of whole words"));
}

class OnText : public testing::Test {
 protected:
  static const engine::Tokenizer& tokenizer() {
    static const auto loaded =
        engine::Tokenizer::load(UNBEND_SOURCE_DIR "/build/models/SmolLM2-135M-Instruct.Q4_1.gguf");
    return loaded;
  }
  const std::string filler_ =
      "A package may be removed; its configuration files (see chapter 10.7) stay.\nCode 1234 is caf\xc3\xa9.";
};

TEST_F(OnText, CodesAskEveryDigitInPlace) {
  Random random(6);
  for (int round = 0; round < 20; ++round) {
    const auto probe = codes_probe(random, tokenizer(), filler_);
    const auto text = tokenizer().decode(probe.ids);
    ASSERT_EQ(probe.questions.size(), 16);
    const auto tail = text.substr(text.rfind("\n\n") + 2);
    EXPECT_EQ(std::ranges::count(tail, '\n'), 3);
    std::string digits, expected;
    for (const auto& question : probe.questions) {
      EXPECT_EQ(probe.ids[question.position + 1], question.token);
      EXPECT_EQ(question.candidates.size(), 10);
      EXPECT_TRUE(std::ranges::count(question.candidates, question.token) == 1);
      ASSERT_TRUE(question.told > 0 && question.told < question.position);
      EXPECT_EQ(probe.ids[question.told], question.token);
      digits += tokenizer().decode(std::span(&question.token, 1));
    }
    for (const char c : tail)
      if (std::isdigit(static_cast<unsigned char>(c))) expected += c;
    EXPECT_EQ(digits, expected);
    for (std::size_t at = 0; at < tail.size();) {  // every asked line was stored
      const auto end = std::min(tail.find('\n', at), tail.size());
      EXPECT_LT(text.find(tail.substr(at, end - at) + "\n"), text.find(filler_));
      at = end + 1;
    }
  }
  EXPECT_THROW(codes_probe(random, tokenizer(), filler_, 25, 4), Error);
  EXPECT_THROW(codes_probe(random, tokenizer(), filler_, 3, 4), Error);
}

TEST_F(OnText, WordsAskTheSecondLine) {
  Random random(7);
  for (int round = 0; round < 20; ++round) {
    const auto probe = words_probe(random, tokenizer(), filler_);
    ASSERT_EQ(probe.questions.size(), 24);
    const auto text = tokenizer().decode(probe.ids);
    const auto line = text.substr(text.rfind("\n\n") + 2);
    EXPECT_EQ(text.find(line + "\n\n" + filler_), 0);
    std::string words;
    std::set<TokenId> distinct;
    for (const auto& question : probe.questions) {
      EXPECT_EQ(probe.ids[question.position + 1], question.token);
      EXPECT_EQ(question.candidates.size(), 24);
      EXPECT_EQ(probe.ids[question.told], question.token);
      EXPECT_LT(question.told, 60) << "in the first line";
      words += tokenizer().decode(std::span(&question.token, 1));
      distinct.insert(question.token);
    }
    EXPECT_EQ("Words:" + words + ".", line);
    EXPECT_EQ(distinct.size(), 24);
  }
  EXPECT_THROW(words_probe(random, tokenizer(), filler_, 1000), Error);
}

}  // namespace
}  // namespace unbend::lm
