#include "studies/study.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "unbend/base/methods.h"

namespace unbend {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

std::optional<bool> judged(std::vector<double> measured, Bar bar) {
  return verdict({"c", "-", std::move(measured), "", bar});
}

TEST(Study, JudgesTheMeanOverSeeds) {
  EXPECT_EQ(judged({1, 3}, Bar::at_least(2)), true);
  EXPECT_EQ(judged({1, 2.9}, Bar::at_least(2)), false);
  EXPECT_EQ(judged({0.03}, Bar::at_most(0.03)), true);
  EXPECT_EQ(judged({0.04}, Bar::at_most(0.03)), false);
  EXPECT_EQ(judged({1.31}, Bar::within(1.35, 0.04001)), true);
  EXPECT_EQ(judged({1.40}, Bar::within(1.35, 0.04)), false);
  EXPECT_EQ(judged({7}, Bar::none()), std::nullopt);
}

TEST(Study, JudgesEverySeedWhereTheBarSaysSo) {
  EXPECT_EQ(judged({1, 3}, Bar::at_least(2).for_each_seed()), false);
  EXPECT_EQ(judged({2, 3}, Bar::at_least(2).for_each_seed()), true);
  EXPECT_EQ(judged({1, kNaN}, Bar::at_most(2).for_each_seed()), false);
  EXPECT_EQ(judged({}, Bar::at_most(2).for_each_seed()), false);
  EXPECT_EQ(judged({5}, Bar::none().for_each_seed()), std::nullopt);
}

TEST(Study, RecordsSeedsUnderTheirClaim) {
  StudyResult result;
  record(result, "a", "1", 2, "nats", Bar::at_most(4));
  record(result, "b", "-", 5, "", Bar::none());
  record(result, "a", "1", 3, "nats", Bar::at_most(4));
  ASSERT_EQ(result.claims.size(), 2);
  EXPECT_EQ(result.claims[0].measured, (std::vector<double>{2, 3}));
  EXPECT_EQ(result.claims[1].measured, std::vector<double>{5});
}

TEST(Study, NothingMeasuredIsAMiss) {
  EXPECT_EQ(judged({}, Bar::at_most(1)), false);
  EXPECT_EQ(judged({kNaN}, Bar::at_most(1)), false);
  EXPECT_EQ(judged({1, std::numeric_limits<double>::infinity()}, Bar::at_least(1)), false);
}

TEST(Study, MeanAndSpread) {
  EXPECT_DOUBLE_EQ(mean({1, 2, 6}), 3);
  EXPECT_DOUBLE_EQ(spread({1, 3}), std::sqrt(2.0));
  EXPECT_EQ(spread({5}), 0);
  EXPECT_TRUE(std::isnan(mean({})));
}

StudyResult sample() {
  return {"liger",
          "Liger: a title",
          {{"ratio at 512", "1.02 (Table 3)", {1.01, 1.03}, "", Bar::at_most(1.05)},
           {"gain", "-", {0.01}, "nats", Bar::at_least(0.03)},
           {"speed", "2x", {1.5}, "x", Bar::none()}},
          {"Texts are Debian's."},
          {{"Buckets", {"position", "nats"}, {{"0-63", "0.1"}}}},
          {{"Loss", {"tokens"}, {"nats"}, {{"s", {1, 2}, {3, 2}}}}},
          {{"Shares", "", {"a"}, {{"s", {1}}}}}};
}

TEST(Study, TextShowsClaimMeasurementBarAndVerdict) {
  const std::string text = study_text(sample(), {.full = true, .seeds = 2, .out = {}});
  EXPECT_THAT(text, HasSubstr("full form, 2 seeds"));
  EXPECT_THAT(text, testing::ContainsRegex("ratio at 512 +1.02 \\(Table 3\\) +1.02 . 0.014 +<= 1.05 +pass|"
                                           "ratio at 512 +1.02 \\(Table 3\\) +1.02 .. 0.014 +<= 1.05 +pass"));
  EXPECT_THAT(text, testing::ContainsRegex("gain +- +0.01 nats +>= 0.03 +MISS"));
  EXPECT_THAT(text, testing::ContainsRegex("speed +2x +1.5 x +- +-"));
  EXPECT_THAT(text, HasSubstr("1 of 2 bars reached, 1 MISSED"));
  EXPECT_FALSE(passed(sample()));
  StudyResult without = sample();
  without.claims.erase(without.claims.begin() + 1);
  EXPECT_TRUE(passed(without));
  EXPECT_THAT(study_text(without, {}), Not(HasSubstr("MISS")));
}

TEST(Study, JsonAndReportHoldEverything) {
  const Json json = study_json(sample(), {});
  EXPECT_EQ(json["claims"][0]["measured"], (Json{1.01, 1.03}));
  EXPECT_EQ(json["claims"][1]["bar"], (Json{{"at_least", 0.03}}));
  EXPECT_EQ(json["claims"][1]["pass"], false);
  EXPECT_TRUE(json["claims"][2]["pass"].is_null());
  EXPECT_EQ(json["passed"], false);
  EXPECT_EQ(json["tables"][0]["rows"][0]["nats"], 0.1);
  const std::string page = study_report(sample(), {}).html();
  for (const char* part : {"Study: liger", "class=\"miss\"", "Buckets", "Loss", "Shares", "Debian"}) {
    EXPECT_THAT(page, HasSubstr(part)) << part;
  }
}

TEST(Study, ExistsExactlyForMethodsThatAreNotPlanned) {
  for (const Method& method : methods()) {
    EXPECT_EQ(find_study(method.slug) != nullptr, method.status != MethodStatus::planned) << method.slug;
  }
  EXPECT_EQ(find_study("nothing"), nullptr);
}

}  // namespace
}  // namespace unbend
