#include "unbend/lm/id_tasks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
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

std::span<const TokenId> row(const std::vector<TokenId>& values, std::int64_t b, std::int64_t length) {
  return std::span(values).subspan(static_cast<std::size_t>(b * length), static_cast<std::size_t>(length));
}

TEST(Mqar, LabelsTheValueOfEveryKeyOnce) {
  Random random(1);
  for (const MqarOptions options : {MqarOptions{},
                                    {.batch = 7, .length = 16, .pairs = 4, .vocabulary = 17},
                                    {.batch = 3, .length = 512, .pairs = 64, .vocabulary = 8192}}) {
    const auto batch = mqar_batch(random, options);
    ASSERT_EQ(std::ssize(batch.tokens), options.batch * options.length);
    for (std::int64_t b = 0; b < options.batch; ++b) {
      const auto tokens = row(batch.tokens, b, batch.length), labels = row(batch.labels, b, batch.length);
      std::map<TokenId, TokenId> stored;
      std::set<TokenId> values, asked;
      for (std::int64_t i = 0; i < options.pairs; ++i) {
        stored[tokens[2 * i]] = tokens[2 * i + 1];
        values.insert(tokens[2 * i + 1]);
      }
      EXPECT_EQ(std::ssize(stored), options.pairs);
      EXPECT_EQ(std::ssize(values), options.pairs);
      for (const auto& [key, value] : stored) {
        EXPECT_GE(key, 1);
        EXPECT_LT(key, options.vocabulary / 2);
        EXPECT_GE(value, options.vocabulary / 2);
        EXPECT_LT(value, options.vocabulary);
      }
      for (std::int64_t t = 0; t < batch.length; ++t) {
        EXPECT_EQ(batch.weights[b * batch.length + t], labels[t] >= 0 ? 1 : 0);
        if (labels[t] < 0) continue;
        EXPECT_GE(t, 2 * options.pairs);
        EXPECT_EQ(t % 2, 0);
        EXPECT_EQ(labels[t], stored.at(tokens[t]));
        asked.insert(tokens[t]);
      }
      EXPECT_EQ(std::ssize(asked), options.pairs);
    }
  }
}

TEST(Mqar, QueriesFollowThePowerLaw) {
  // One pair: slot j of 24 with probability j^(power - 1) over their sum.
  Random random(2);
  const MqarOptions options{.batch = 20000, .length = 50, .pairs = 1, .vocabulary = 64, .power = .5};
  const auto batch = mqar_batch(random, options);
  std::vector<double> seen(24), expected;
  for (std::int64_t b = 0; b < options.batch; ++b)
    for (std::int64_t t = 2; t < 50; t += 2) seen[t / 2 - 1] += batch.labels[b * 50 + t] >= 0;
  double sum = 0, chi_square = 0;
  for (int j = 1; j <= 24; ++j) expected.push_back(std::pow(j, -.5)), sum += expected.back();
  for (int j = 0; j < 24; ++j) {
    const double e = 20000 * expected[j] / sum;
    chi_square += (seen[j] - e) * (seen[j] - e) / e;
  }
  EXPECT_LT(chi_square, 49.7) << "23 degrees of freedom, one in a thousand";
}

TEST(Passkey, HidesOneNeedleAndAsksForItLast) {
  using O = PasskeyOptions;
  Random random(3);
  for (const std::int64_t length : {7, 64, 1024}) {
    const auto batch = passkey_batch(random, {.batch = 200, .length = length});
    std::set<std::int64_t> places;
    for (std::int64_t b = 0; b < batch.batch; ++b) {
      const auto t = row(batch.tokens, b, length), labels = row(batch.labels, b, length);
      EXPECT_EQ(t[0], O::kBos);
      const auto at = std::ranges::find(t, O::kKey) - t.begin();
      ASSERT_LE(at, length - 6);
      places.insert(at);
      for (std::int64_t i = 1; i < length - 3; ++i)
        if (i < at || i > at + 2) {
          EXPECT_GE(t[i], 44);
        }
      EXPECT_TRUE(t[at + 1] >= 24 && t[at + 1] < 44);
      EXPECT_TRUE(t[at + 2] >= 4 && t[at + 2] < 24);
      EXPECT_THAT(t.last(3), testing::ElementsAre(O::kQuery, t[at + 1], t[at + 2]));
      for (std::int64_t i = 0; i < length; ++i) {
        EXPECT_EQ(labels[i], i + 1 < length ? t[i + 1] : -1);
        EXPECT_EQ(batch.weights[b * length + i], i == length - 2 ? 1 : 0);
      }
    }
    EXPECT_EQ(*places.begin(), 1) << "the first place is used";
    if (length == 64) {
      EXPECT_EQ(*places.rbegin(), length - 6) << "and the last";
    }
  }
}

TEST(Passkey, SeveralNeedlesLieInPartsAndAreAskedWithReplacement) {
  using O = PasskeyOptions;
  Random random(4);
  const std::int64_t length = 61, needles = 4, haystack = 48;
  const auto batch = passkey_batch(random, {.batch = 300, .length = length, .needles = needles});
  bool twice = false;
  for (std::int64_t b = 0; b < batch.batch; ++b) {
    const auto t = row(batch.tokens, b, length);
    std::map<TokenId, TokenId> stored;
    for (std::int64_t part = 0; part < needles; ++part) {
      const auto place = t.subspan(1 + part * haystack / needles, haystack / needles);
      EXPECT_EQ(std::ranges::count(place, O::kKey), 1);
      const auto at = std::ranges::find(place, O::kKey);
      stored[at[1]] = at[2];
    }
    EXPECT_EQ(std::ssize(stored), needles) << "keys are distinct";
    std::set<TokenId> keys;
    double asked = 0;
    for (std::int64_t i = 1 + haystack; i < length; i += 3) {
      EXPECT_EQ(t[i], O::kQuery);
      EXPECT_EQ(t[i + 2], stored.at(t[i + 1]));
      keys.insert(t[i + 1]);
      EXPECT_EQ(batch.weights[b * length + i + 1], 1);
    }
    for (std::int64_t i = 0; i < length; ++i) asked += batch.weights[b * length + i];
    EXPECT_EQ(asked, needles);
    twice |= std::ssize(keys) < needles;
  }
  EXPECT_TRUE(twice);
}

TEST(IdTasks, RepeatWithTheirSeedAndRefuseBadSizes) {
  Random a(5), b(5);
  EXPECT_EQ(mqar_batch(a, {}).tokens, mqar_batch(b, {}).tokens);
  EXPECT_EQ(passkey_batch(a, {}).tokens, passkey_batch(b, {}).tokens);
  EXPECT_NE(passkey_batch(a, {}).tokens, passkey_batch(a, {}).tokens);
  EXPECT_THROW(mqar_batch(a, {.length = 63}), Error);
  EXPECT_THROW(mqar_batch(a, {.length = 28, .pairs = 8}), Error);
  EXPECT_THROW(mqar_batch(a, {.length = 64, .vocabulary = 64}), Error);
  EXPECT_THROW(passkey_batch(a, {.length = 6}), Error);
  EXPECT_THROW(passkey_batch(a, {.needles = 0}), Error);
  EXPECT_THROW(passkey_batch(a, {.length = 2000, .needles = 21}), Error);
}

}  // namespace
}  // namespace unbend::lm
