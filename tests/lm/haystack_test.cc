// Tasks on long texts: what is hidden, where, how often, and that the questions ask for it; with tokens of words and of
// bytes.
#include "unbend/lm/haystack.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <regex>
#include <set>

#include "tests/error_message.h"
#include "tests/lm/tokenizers.h"
#include "unbend/lm/text.h"

namespace unbend::lm {
namespace {

using testing::HasSubstr;

const std::string kProse = [] {
  std::string text;
  for (int i = 0; i < 400; ++i)
    text += fmt::format("Chapter {} says that caf\xc3\xa9 number {} opens late.\n\nDoes it?  ", i, i * 37 % 101);
  return text;
}();

std::size_t count(const std::string& text, const std::string& what) {
  std::size_t n = 0;
  for (auto at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++n;
  return n;
}

/// The text of the tokens that are asked for, by answer.
std::vector<std::string> asked(const engine::Tokenizer& tokenizer, const Probe& probe) {
  std::vector<std::string> answers;
  for (const auto& q : probe.questions) {
    EXPECT_EQ(probe.ids[q.position + 1], q.token);
    answers.resize(q.answer + 1);
    answers[q.answer] += tokenizer.decode(std::span(&q.token, 1));
  }
  return answers;
}

class Haystack : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (!tokenizer_) GTEST_SKIP() << "the model is not there: tools/setup.sh model";
    noise_ = noise_filler(*tokenizer_);
    prose_ = prose_filler(*tokenizer_, kProse);
  }
  /// Lengths that fit this tokenizer's texts.
  std::vector<std::int64_t> lengths() const {
    return std::string(GetParam()) == "bytes" ? std::vector<std::int64_t>{600, 1500, 4000}
                                              : std::vector<std::int64_t>{200, 500, 1500};
  }
  std::int64_t longest(const Filler& filler) const { return *std::ranges::max_element(filler.tokens); }

  const engine::Tokenizer* tokenizer_ = test_tokenizer(GetParam());
  Filler noise_, prose_;
};

TEST_P(Haystack, HidesOneNeedleWhereItIsToBe) {
  struct Case {
    const char* name;
    const Filler& filler;
    std::string needle, tail;  // regular expressions; the value is the first group
    std::function<Probe(Random&, std::int64_t, double)> make;
  };
  const auto niah = [&](const Filler& filler, Needle kind, std::int64_t digits = 7) {
    return [&filler, kind, digits, this](Random& random, std::int64_t length, double depth) {
      return niah_probe(random, *tokenizer_, filler, kind, length, depth, digits);
    };
  };
  const std::string uuid = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";
  const std::vector<Case> cases{{"passkey", noise_, R"(The pass key is (\d{5})\. Remember that \1 is the pass key\.)",
                                 "The pass key is (\\d{5})$",
                                 [&](Random& r, std::int64_t length, double depth) {
                                   return passkey_probe(r, *tokenizer_, noise_, length, depth);
                                 }},
                                {"niah1", noise_, R"(The magic number for [a-z]+ is (\d{7})\.)",
                                 "The magic number for [a-z]+ is (\\d{7})$", niah(noise_, Needle::Number)},
                                {"niah2", prose_, R"(The magic number for [a-z]+ is (\d{7})\.)",
                                 "The magic number for [a-z]+ is (\\d{7})$", niah(prose_, Needle::Number)},
                                {"niah2, short", prose_, R"(The magic number for [a-z]+ is (\d{4})\.)",
                                 "The magic number for [a-z]+ is (\\d{4})$", niah(prose_, Needle::Number, 4)},
                                {"niah3", prose_, "The magic code for [a-z]+ is (" + uuid + ")\\.",
                                 "The magic code for [a-z]+ is (" + uuid + ")$", niah(prose_, Needle::Uuid)}};
  for (const auto& c : cases)
    for (const auto length : lengths())
      for (const double depth : {0., .3, 1.}) {
        SCOPED_TRACE(fmt::format("{} {} {}", c.name, length, depth));
        Random random(static_cast<std::uint64_t>(length));
        const auto probe = c.make(random, length, depth);
        EXPECT_LE(std::ssize(probe.ids), length);
        EXPECT_GT(std::ssize(probe.ids), length - longest(c.filler) - 5);
        const auto text = tokenizer_->decode(probe.ids);
        std::smatch needle, tail;
        ASSERT_TRUE(std::regex_search(text, needle, std::regex(c.needle)));
        ASSERT_TRUE(std::regex_search(text, tail, std::regex(c.tail)));
        const std::string value = needle[1];
        EXPECT_EQ(tail[1], value);
        EXPECT_EQ(count(text, needle[0]), 1);
        EXPECT_EQ(count(text, value), c.name == std::string("passkey") ? 3 : 2);
        EXPECT_THAT(asked(*tokenizer_, probe), testing::ElementsAre(value));
        EXPECT_EQ(probe.questions.back().position + 2, std::ssize(probe.ids)) << "the answer ends the text";
        for (const auto& q : probe.questions) EXPECT_TRUE(q.candidates.empty());
        // The haystack is what stands between the blank lines.
        const auto begin = text.find("\n\n") + 2, end = text.rfind("\n\n");
        const auto at = static_cast<std::size_t>(needle.position(0));
        const double before = static_cast<double>(at - begin),
                     all = static_cast<double>(end - begin - needle[0].length());
        EXPECT_NEAR(before, depth * all, 0.6 * 250);
        if (depth == 0) {
          EXPECT_EQ(at, begin);
        }
        if (depth == 1) {
          EXPECT_EQ(at + needle[0].length(), end);
        }
      }
}

TEST_P(Haystack, TextsRepeatWithTheirSeedAndRefuseWhatDoesNotFit) {
  Random a(4), b(4), c(5);
  const auto length = lengths()[1];
  const auto one = passkey_probe(a, *tokenizer_, noise_, length, .5);
  EXPECT_EQ(one.ids, passkey_probe(b, *tokenizer_, noise_, length, .5).ids);
  EXPECT_NE(one.ids, passkey_probe(c, *tokenizer_, noise_, length, .5).ids);
  EXPECT_THAT(error_message([&] { passkey_probe(a, *tokenizer_, noise_, 20, .5); }), HasSubstr("too short"));
  EXPECT_THAT(error_message([&] { passkey_probe(a, *tokenizer_, noise_, length, 1.5); }), HasSubstr("depth"));
  const auto brief = prose_filler(*tokenizer_, "Only this. And that.");
  EXPECT_THAT(error_message([&] { niah_probe(a, *tokenizer_, prose_, Needle::Number, length, .5, 2); }),
              HasSubstr("3 to 100 digits"));
  std::string every;  // number of three digits
  for (int i = 100; i < 1000; ++i) every += fmt::format("Number {} is here. ", i);
  const auto full = prose_filler(*tokenizer_, every);
  EXPECT_THAT(error_message([&] { niah_probe(a, *tokenizer_, full, Needle::Number, length, .5, 3); }),
              HasSubstr("hide a longer one"));
  EXPECT_THAT(error_message([&] { niah_probe(a, *tokenizer_, brief, Needle::Number, length, .5); }),
              HasSubstr("of filler, and the text has"));
}

TEST_P(Haystack, MqarAsksEveryKeyOnceMore) {
  for (const auto length : lengths())
    for (const std::int64_t pairs : {1, 8, 26}) {
      SCOPED_TRACE(fmt::format("{} {}", length, pairs));
      Random random(static_cast<std::uint64_t>(pairs));
      if (pairs == 26 && length < 500) continue;
      const auto probe = mqar_probe(random, *tokenizer_, noise_, length, pairs);
      EXPECT_LE(std::ssize(probe.ids), length);
      EXPECT_GT(std::ssize(probe.ids), length - longest(noise_) - 5);
      const auto text = tokenizer_->decode(probe.ids);
      const std::regex pair("\n([A-Z]): ([a-z])(?=\n|$)");
      std::map<std::string, std::string> stored, again;
      std::int64_t n = 0;
      for (std::sregex_iterator it(text.begin(), text.end(), pair), end; it != end; ++it, ++n)
        (n < pairs ? stored : again)[(*it)[1]] = (*it)[2];
      EXPECT_EQ(n, 2 * pairs);
      EXPECT_NE(text.find("\nRain"), std::string::npos);
      EXPECT_EQ(stored.size(), pairs) << "keys are distinct";
      EXPECT_EQ(stored, again);
      std::set<TokenId> values;
      ASSERT_EQ(probe.questions.size(), pairs);
      for (const auto& q : probe.questions) {
        EXPECT_EQ(probe.ids[q.position + 1], q.token);
        EXPECT_EQ(q.candidates.size(), 26);
        EXPECT_EQ(std::ranges::count(q.candidates, q.token), 1);
        values.insert(q.token);
      }
      EXPECT_EQ(values.size(), pairs) << "values are distinct";
    }
  Random random(1);
  EXPECT_THAT(error_message([&] { mqar_probe(random, *tokenizer_, noise_, 2000, 27); }), HasSubstr("26"));
}

TEST_P(Haystack, AnswersOfSeveralTokensAreAskedWhereThereIsAChoice) {
  const std::string text = "Is it here? It is in the office";
  const std::vector<Span> answer{{text.size() - 6, text.size()}};
  const std::vector<std::string_view> places{"kitchen", "office", "orchard"};
  const auto probe = text_probe(*tokenizer_, text, answer, places);
  if (std::string(GetParam()) == "bytes") {
    ASSERT_EQ(probe.questions.size(), 2) << "k or o, then f or r; the rest is decided";
    EXPECT_EQ(probe.questions[0].token, 'o');
    EXPECT_THAT(probe.questions[0].candidates, testing::ElementsAre('k', 'o'));
    EXPECT_EQ(probe.questions[1].token, 'f');
    EXPECT_THAT(probe.questions[1].candidates, testing::ElementsAre('f', 'r'));
  } else {
    ASSERT_EQ(probe.questions.size(), 1);
    EXPECT_EQ(probe.questions[0].candidates.size(), 3);
  }
  EXPECT_THAT(asked(*tokenizer_, text_probe(*tokenizer_, text, answer)),
              testing::ElementsAre(testing::AnyOf("office", " office")));
  const std::vector<std::string_view> elsewhere{"kitchen", "hallway"};
  EXPECT_THAT(error_message([&] { text_probe(*tokenizer_, text, answer, elsewhere); }), HasSubstr("'office'"));
  const std::vector<Span> inside{{text.size() - 5, text.size()}};
  if (std::string(GetParam()) != "bytes") {
    EXPECT_THAT(error_message([&] { text_probe(*tokenizer_, text, inside); }), HasSubstr("joins"));
  }
}

INSTANTIATE_TEST_SUITE_P(Tokenizers, Haystack, testing::Values("bytes", "words"),
                         [](const auto& info) { return std::string(info.param); });

TEST(Filler, CutsProseIntoSentences) {
  const auto* bytes = test_tokenizer("bytes");
  const auto filler = prose_filler(*bytes,
                                   " One  two.\nThree?\n\nFour \xff"
                                   "five six");
  EXPECT_THAT(filler.sentences, testing::ElementsAre("One two.", "Three?", "Four six"));
  EXPECT_THAT(filler.tokens, testing::ElementsAre(9, 7, 9));
  EXPECT_EQ(filler.total(), 25);
  std::string words;
  for (int i = 0; i < 300; ++i) words += "word ";
  for (const auto& sentence : prose_filler(*bytes, words).sentences) EXPECT_LT(sentence.size(), 250);
  EXPECT_TRUE(prose_filler(*bytes, "").sentences.empty());
}

TEST(Filler, BordersAreTheNearestToTheDepth) {
  const std::vector<std::string_view> sentences{"aaaa", "bb", "cccc"};
  const std::vector<std::pair<double, std::size_t>> expected{{0, 0},   {.19, 0}, {.21, 1}, {.5, 1},
                                                             {.51, 2}, {.79, 2}, {.81, 3}, {1, 3}};
  for (const auto& [depth, border] : expected) EXPECT_EQ(border_at(sentences, depth), border) << depth;
  EXPECT_EQ(border_at({}, .5), 0);
}

}  // namespace
}  // namespace unbend::lm
