#include "unbend/series/series.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/series/csv.h"
#include "unbend/series/source.h"

namespace unbend::series {
namespace {

using testing::DoubleEq;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

const double kNan = NAN;

TEST(Series, MissingValues) {
  EXPECT_THAT(complete({"a", {kNan, 1, kNan, kNan, 4, kNan}}, Missing::Interpolate).values, ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(complete({"a", {kNan, 1, 2, kNan}, {"w", "x", "y", "z"}}, Missing::Refuse).times, ElementsAre("x", "y"));
  EXPECT_THAT(([] {
                complete({"a", {1, kNan, 3}, {"x", "y", "z"}}, Missing::Refuse);
              }),
              ThrowsMessage<Error>(HasSubstr("series 'a': value 2 (y) is missing inside")));
  EXPECT_THAT(([] {
                complete({"a", {kNan, kNan}}, Missing::Refuse);
              }),
              ThrowsMessage<Error>(HasSubstr("all its values")));
  EXPECT_THAT(([] { complete({"a", {}}, Missing::Refuse); }), ThrowsMessage<Error>(HasSubstr("empty")));
  EXPECT_THAT(([] {
                complete({"a", {1, INFINITY}}, Missing::Refuse);
              }),
              ThrowsMessage<Error>(HasSubstr("value 2 is infinite")));
}

TEST(Series, LinesThatAreLeftOutBecomeGaps) {
  const auto& monthly = find_frequency("monthly");
  const auto s = fill_gaps({"a", {1, 4}, {"1999-11-01", "2000-02-01"}}, monthly);
  EXPECT_THAT(s.times, ElementsAre("1999-11-01", "1999-12-01", "2000-01-01", "2000-02-01"));
  EXPECT_THAT(complete(s, Missing::Interpolate).values, ElementsAre(1, 2, 3, 4));
  EXPECT_EQ(time_after(s, monthly, 11), "2001-01-01");
  const auto& quarterly = find_frequency("quarterly");
  EXPECT_EQ(time_after({"b", {1}, {"1999Q4"}}, quarterly, 2), "2000Q2");
  EXPECT_EQ(time_after({"b", {1}, {"1999"}}, find_frequency("yearly"), 2), "2001");
  EXPECT_EQ(time_after({"b", {1}, {"199912"}}, monthly, 1), "200001");
  EXPECT_EQ(time_after({"b", {1}, {"1999-11-30"}}, monthly, 1), "1999-12");
  EXPECT_EQ(time_after({"b", {1}, {"week 7"}}, monthly, 1), "");
  EXPECT_EQ(fill_gaps({"b", {1, 2}, {"week 7", "week 9"}}, monthly).values.size(), 2u);
  EXPECT_THAT(([&] {
                fill_gaps({"b", {1, 2}, {"1999-01", "1999-02"}}, quarterly);
              }),
              ThrowsMessage<Error>(HasSubstr("from 1999-01 to 1999-02 are 1 months")));
  EXPECT_THAT(([&] {
                fill_gaps({"b", {1, 2}, {"0001-01", "9999-02"}}, monthly);
              }),
              ThrowsMessage<Error>(HasSubstr("lie 119976 points, of 2 in all")));
  EXPECT_THAT([] { find_frequency("lunar"); }, ThrowsMessage<Error>(HasSubstr("yearly, quarterly, monthly")));
}

TEST(SeriesCsv, FindsTheLayout) {
  const auto rows = parse_csv("V1,V2,V3,V4\n\"M,1\",1,2,3\nM2,4,,\n", "f");
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].id, "M,1");
  EXPECT_THAT(rows[0].values, ElementsAre(1, 2, 3));
  EXPECT_THAT(rows[1].values, ElementsAre(4));
  EXPECT_THAT(parse_csv("a;1;2\nb;3;4;5\n", "f")[1].values, ElementsAre(3, 4, 5));

  const auto dated_rows = parse_csv("product,2019-11,2019-12,2020-01\nshoes,1,2,3\nhats,,5,\n", "f");
  ASSERT_EQ(dated_rows.size(), 2u);
  EXPECT_THAT(dated_rows[0].times, ElementsAre("2019-11", "2019-12", "2020-01"));
  EXPECT_THAT(dated_rows[1].times, ElementsAre("2019-11", "2019-12"));
  const auto years = parse_csv("country,2019,2020\nA,7,8\n", "f");
  ASSERT_EQ(years.size(), 1u);
  EXPECT_THAT(years[0].values, ElementsAre(7, 8));

  EXPECT_EQ(parse_csv("shoes,150000,160000\nhats,1,2\n", "f").size(), 2u);

  const auto columns = parse_csv("date,x,y\n2000-01,1,NA\n2000-02,,5\n", "f");
  ASSERT_EQ(columns.size(), 2u);
  EXPECT_EQ(columns[1].id, "y");
  EXPECT_TRUE(std::isnan(columns[0].values[1]));
  EXPECT_EQ(columns[0].times[1], "2000-02");
  EXPECT_THAT(parse_csv("1\n2\n3\n", "f")[0].values, ElementsAre(1, 2, 3));
  EXPECT_THAT(parse_csv("# of the river\n\nflow\n1\n2\n", "f")[0].values, ElementsAre(1, 2));
  EXPECT_EQ(parse_csv("1,2\n3,4\n", "f")[1].id, "column 2");
  EXPECT_EQ(parse_csv("\xef\xbb\xbfx,y\r\n3,4\r\n", "f")[0].id, "x");
  const auto dated = parse_csv("2000-01,1\n2000-02,2\n", "f");
  ASSERT_EQ(dated.size(), 1u);
  EXPECT_THAT(dated[0].values, ElementsAre(1, 2));

  const auto tall = parse_csv("unique_id\tds\ty\na\t2000-01\t1\nb\t2000-01\t7\na\t2000-02\t2\n", "f");
  ASSERT_EQ(tall.size(), 2u);
  EXPECT_THAT(tall[0].values, ElementsAre(1, 2));
  EXPECT_THAT(tall[1].times, ElementsAre("2000-01"));
}

TEST(SeriesCsv, RefusesWithThePlace) {
  const auto refused = [](std::string_view text, const char* part, Layout layout = Layout::Auto) {
    EXPECT_THAT(([&] { parse_csv(text, "f.csv", layout); }), ThrowsMessage<Error>(HasSubstr(part))) << text;
  };
  refused("", "f.csv: there is no line");
  refused("date,x\n2000-01,one\n", "f.csv, line 2, field 2: 'one' is not a number");
  refused("date,x\n2000-01,inf\n", "'inf' is not a number");
  refused("date,x\n2000-01,1,2\n", "line 2: 3 fields, where line 1 has 2");
  refused("date,x,x\n2000-01,1,2\n", "two columns are named 'x'");
  refused("id,v1\na,1\na,2\n", "line 3: series 'a' is on line 2 already");
  refused("id,v1\n,1\n", "no name");
  refused("date,\"x\n", "opened and not closed");
  refused("\"a\"b,1\n", "after a closing double quote");
  refused("p,2019,2020\na,1,2,3\n", "line 2: 3 values for 2 times on line 1");
  refused("id,ds,y\na,2000-02,1\na,2000-01,2\n", "line 3: series 'a' has time 2000-01 after 2000-02");
  refused("id,ds,y\na,9,1\na,10,2\na,10,3\n", "time 10 after 10");
  refused("id,y\n", "no line after that of the names");
  refused("x,y\n1,2\n", "a long table names", Layout::Long);
  refused(std::string_view("x\0,y\n", 5), "no text");
}

TEST(SeriesCsv, ReadsWhatItWrites) {
  const TemporaryFolder folder;
  Random random(1);
  auto collection = synthetic_source({.count = 5, .variety = 1}, random);
  collection[2].values[3] = NAN;
  collection[3].id = "with, \"all\" of it";
  save_csv(folder.path() / "s.csv", collection);
  const auto again = load_csv(folder.path() / "s.csv");
  ASSERT_EQ(again.size(), 5u);
  for (std::size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(again[i].id, collection[i].id);
    ASSERT_EQ(again[i].values.size(), collection[i].values.size());
    for (std::size_t t = 0; t < again[i].values.size(); ++t)
      EXPECT_TRUE(again[i].values[t] == collection[i].values[t] || (i == 2 && t == 3));
  }
}

TEST(SyntheticSource, IsPositiveSeasonalAndRepeats) {
  Random random(3), same(3);
  const auto a = synthetic_source({.count = 50, .period = 4, .shortest = 40, .longest = 60}, random);
  const auto b = synthetic_source({.count = 50, .period = 4, .shortest = 40, .longest = 60}, same);
  for (std::size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].values, b[i].values);
    EXPECT_GE(a[i].values.size(), 40u);
    EXPECT_LE(a[i].values.size(), 60u);
    for (const double v : a[i].values) EXPECT_GT(v, 0);
  }
  EXPECT_THROW(synthetic_source({.shortest = 1}, random), Error);
}

}  // namespace
}  // namespace unbend::series
