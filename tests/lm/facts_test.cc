// Stories imply their answers: read by a solver that shares nothing with their making.
#include "unbend/lm/facts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <regex>
#include <set>

#include "tests/error_message.h"
#include "tests/lm/tokenizers.h"

namespace unbend::lm {
namespace {

/// Answers a question from the facts in a text, whatever else stands there. Every fact must be possible: nobody acts
/// before it is known where they are, or takes what somebody else has or what lies elsewhere.
std::string solve(const std::string& text, const std::string& question) {
  std::map<std::string, std::string> person_at, owner, lies_at, in_hand;
  std::map<std::string, std::vector<std::string>> trail;  // of things
  const auto seen = [&](const std::string& thing, const std::string& place) {
    if (trail[thing].empty() || trail[thing].back() != place) trail[thing].push_back(place);
  };
  const std::regex fact("([A-Z][a-z]+) (went to|took|dropped) the ([a-z]+)\\.");
  for (std::sregex_iterator it(text.begin(), text.end(), fact), end; it != end; ++it) {
    const std::string person = (*it)[1], verb = (*it)[2], what = (*it)[3];
    if (verb == "went to") {
      EXPECT_NE(person_at[person], what);
      person_at[person] = what;
      if (in_hand.contains(person)) seen(in_hand[person], what);
    } else if (verb == "took") {
      EXPECT_TRUE(person_at.contains(person)) << person;
      EXPECT_FALSE(owner.contains(what));
      EXPECT_FALSE(in_hand.contains(person));
      if (lies_at.contains(what)) {
        EXPECT_EQ(lies_at[what], person_at[person]);
      }
      owner[what] = person, in_hand[person] = what;
      seen(what, person_at[person]);
    } else {
      EXPECT_EQ(owner[what], person);
      lies_at[what] = person_at[person];
      owner.erase(what), in_hand.erase(person);
    }
  }
  std::smatch m;
  if (std::regex_search(question, m, std::regex("Where is ([A-Z][a-z]+)\\?"))) return person_at.at(m[1]);
  if (std::regex_search(question, m, std::regex("Where is the ([a-z]+)\\?")))
    return owner.contains(m[1]) ? person_at.at(owner.at(m[1])) : lies_at.at(m[1]);
  if (std::regex_search(question, m, std::regex("Where was the ([a-z]+) before it was in the ([a-z]+)\\?"))) {
    const auto& places = trail.at(m[1]);
    EXPECT_EQ(places.back(), m[2]) << "the question names where it is now";
    return places.at(places.size() - 2);
  }
  ADD_FAILURE() << question;
  return {};
}

TEST(Story, FactsImplyTheAnswer) {
  Random random(1);
  for (int supports = 1; supports <= 3; ++supports) {
    std::set<std::string> answers, questions;
    for (int i = 0; i < 500; ++i) {
      const std::int64_t facts = supports + i % 20;
      const auto story = tell_story(random, supports, facts);
      EXPECT_EQ(std::ssize(story.facts), facts);
      std::string text;
      for (const auto& fact : story.facts) text += fact + " ";
      EXPECT_EQ(solve(text, story.question), story.answer) << text << story.question;
      answers.insert(story.answer), questions.insert(story.question);
    }
    EXPECT_EQ(answers.size(), story_places().size());
    EXPECT_GE(questions.size(), supports == 1 ? 4 : 3);
  }
}

TEST(Story, NoSingleFactGivesTheAnswerOfTwo) {
  Random random(2);
  for (int i = 0; i < 200; ++i) {
    const auto story = tell_story(random, 2, 12);
    const auto thing = story.question.substr(13, story.question.size() - 14);
    for (const auto& fact : story.facts)
      EXPECT_FALSE(fact.find(thing) != std::string::npos && fact.find(story.answer) != std::string::npos) << fact;
  }
}

TEST(Story, RefusesWhatCannotBeAsked) {
  Random random(3);
  EXPECT_THROW(tell_story(random, 0, 5), Error);
  EXPECT_THROW(tell_story(random, 4, 5), Error);
  EXPECT_THROW(tell_story(random, 2, 1), Error);
}

class Qa : public testing::TestWithParam<const char*> {};

TEST_P(Qa, FactsAreAllThereAndImplyTheAnswer) {
  const auto* tokenizer = test_tokenizer(GetParam());
  if (!tokenizer) GTEST_SKIP() << "the model is not there: tools/setup.sh model";
  std::string prose;
  for (int i = 0; i < 400; ++i) prose += fmt::format("Item {} was put on the list by nobody in particular. ", i * 7);
  const auto filler = prose_filler(*tokenizer, prose);
  for (int supports = 1; supports <= 3; ++supports)
    for (const std::int64_t length : {700, 2000, 5000}) {
      SCOPED_TRACE(fmt::format("{} {}", supports, length));
      Random random(static_cast<std::uint64_t>(length));
      const auto probe = qa_probe(random, *tokenizer, filler, supports, length);
      EXPECT_LE(std::ssize(probe.ids), length);
      EXPECT_GT(std::ssize(probe.ids), length - 80);
      const auto text = tokenizer->decode(probe.ids);
      const auto answer = text.substr(text.rfind("in the ") + 7);
      EXPECT_EQ(solve(text.substr(0, text.find("\n\n")), text.substr(text.find("Question: "))), answer);
      const std::regex fact("[A-Z][a-z]+ (went to|took|dropped) the [a-z]+\\.");
      EXPECT_EQ(std::distance(std::sregex_iterator(text.begin(), text.end(), fact), {}), 4 + 4 * supports);
      ASSERT_EQ(probe.questions.size(), 1) << "the first token decides";
      const auto& q = probe.questions[0];
      EXPECT_EQ(probe.ids[q.position + 1], q.token);
      EXPECT_EQ(q.candidates.size(), story_places().size());
      EXPECT_EQ(std::ranges::count(q.candidates, q.token), 1);
      Random same(static_cast<std::uint64_t>(length));
      EXPECT_EQ(qa_probe(same, *tokenizer, filler, supports, length).ids, probe.ids);
    }
}

INSTANTIATE_TEST_SUITE_P(Tokenizers, Qa, testing::Values("bytes", "words"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace unbend::lm
