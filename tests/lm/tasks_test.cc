#include "unbend/lm/tasks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "unbend/base/error.h"

namespace unbend::lm {
namespace {

TEST(Recall, HasTheDocumentedLayout) {
  Random random(1);
  for (const RecallOptions options :
       {RecallOptions{}, {.batch = 5, .pairs = 4, .fillers = 0}, {.batch = 3, .pairs = 16, .fillers = 32}}) {
    const auto batch = recall_batch(random, options);
    EXPECT_EQ(batch.length, 4 * options.pairs + options.fillers);
    ASSERT_EQ(batch.tokens.size(), options.batch * batch.length);
    ASSERT_EQ(batch.answers.size(), options.batch * options.pairs);
    ASSERT_EQ(batch.query_positions.size(), options.pairs);
    EXPECT_EQ(batch.query_positions[0], 2 * options.pairs + options.fillers);
    for (std::int64_t b = 0; b < options.batch; ++b) {
      const auto* row = batch.tokens.data() + b * batch.length;
      std::map<TokenId, TokenId> stored;
      for (int i = 0; i < options.pairs; ++i) stored[row[2 * i]] = row[2 * i + 1];
      EXPECT_EQ(stored.size(), options.pairs) << "keys are distinct";
      for (const auto& [key, value] : stored) {
        EXPECT_LT(key, 32);
        EXPECT_GE(value, 32);
        EXPECT_LT(value, 64);
      }
      for (int i = 0; i < options.fillers; ++i) EXPECT_GE(row[2 * options.pairs + i], 64);
      std::set<TokenId> asked;
      for (int j = 0; j < options.pairs; ++j) {
        const auto at = batch.query_positions[j];
        asked.insert(row[at]);
        EXPECT_EQ(row[at + 1], stored.at(row[at]));
        EXPECT_EQ(batch.answers[b * options.pairs + j], row[at + 1]);
      }
      EXPECT_EQ(asked.size(), options.pairs);
    }
  }
}

TEST(Recall, KnowingWhichValuesOccurGivesTheKnownShortcut) {
  // Guess a random one of the stored values whose occurrences are not used up: evidence says 38.7 % on average, 20.8 %
  // first.
  Random random(2);
  const RecallOptions options{.batch = 4000};
  const auto batch = recall_batch(random, options);
  double first = 0, all = 0;
  for (std::int64_t b = 0; b < options.batch; ++b) {
    std::map<TokenId, int> left;
    for (int i = 0; i < options.pairs; ++i) ++left[batch.tokens[b * batch.length + 2 * i + 1]];
    for (int j = 0; j < options.pairs; ++j) {
      const auto best = std::ranges::max_element(left, {}, [](const auto& item) { return item.second; });
      const auto answer = batch.answers[b * options.pairs + j];
      all += best->first == answer;
      first += j == 0 && best->first == answer;
      if (--left[answer] == 0) left.erase(answer);
    }
  }
  EXPECT_NEAR(first / options.batch, 0.208, 0.03);
  EXPECT_NEAR(all / (options.batch * options.pairs), 0.387, 0.02);
}

TEST(Recall, ChangedValuesChangeNothingElse) {
  Random random(3);
  const RecallOptions options{.batch = 20};
  const auto batch = recall_batch(random, options);
  const auto other = change_stored_values(batch, random, options);
  EXPECT_EQ(other.answers, batch.answers);
  for (std::size_t i = 0; i < batch.tokens.size(); ++i) {
    const auto at = static_cast<std::int64_t>(i) % batch.length;
    const bool stored = at < 2 * options.pairs && at % 2 == 1;
    EXPECT_EQ(other.tokens[i] != batch.tokens[i], stored);
    EXPECT_TRUE(!stored || (other.tokens[i] >= 32 && other.tokens[i] < 64));
  }
  EXPECT_THROW(change_stored_values(batch, random, {.values = 1}), Error);
}

TEST(Recall, RepeatsWithItsSeedAndRefusesBadSizes) {
  Random a(4), b(4), c(5);
  const auto one = recall_batch(a, {});
  EXPECT_EQ(one.tokens, recall_batch(b, {}).tokens);
  EXPECT_NE(one.tokens, recall_batch(c, {}).tokens);
  EXPECT_THROW(recall_batch(a, {.pairs = 33}), Error);
  EXPECT_THROW(recall_batch(a, {.pairs = 0}), Error);
  EXPECT_THROW(recall_batch(a, {.fillers = -1}), Error);
}

TEST(Copy, AsksForTheSecondCopy) {
  const std::vector<TokenId> text{5, 6, 7}, gap{1, 2};
  const auto probe = copy_probe(text, gap, 99);
  EXPECT_THAT(probe.ids, testing::ElementsAre(99, 5, 6, 7, 1, 2, 5, 6, 7));
  ASSERT_EQ(probe.questions.size(), 2);
  EXPECT_EQ(probe.questions[0].position, 6);
  EXPECT_EQ(probe.questions[0].token, 6);
  EXPECT_EQ(probe.questions[1].token, 7);
  EXPECT_THROW(copy_probe(std::span(text).first(1), gap), Error);
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
