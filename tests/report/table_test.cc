#include "unbend/report/table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "unbend/base/error.h"

namespace unbend {
namespace {

const Table kTable{"Perplexity",
                   {"model", "512", "note"},
                   {{"teacher", "14.2", ""}, {"\u00fcber", "9.81 \u00b1 0.02", "a|b"}, {"none", "-", "x"}}};

TEST(Table, AlignsTextLeftAndNumbersRight) {
  EXPECT_EQ(to_text(kTable),
            "Perplexity\n"
            "model            512  note\n"
            "-------  -----------  ----\n"
            "teacher         14.2\n"
            "\u00fcber     9.81 \u00b1 0.02  a|b\n"
            "none               -  x\n");
}

TEST(Table, JsonKeepsNumbersAsNumbers) {
  EXPECT_EQ(to_json(kTable).dump(),
            "{\"title\":\"Perplexity\",\"rows\":[{\"model\":\"teacher\",\"512\":14.2,\"note\":\"\"},"
            "{\"model\":\"\u00fcber\",\"512\":\"9.81 \u00b1 0.02\",\"note\":\"a|b\"},"
            "{\"model\":\"none\",\"512\":\"-\",\"note\":\"x\"}]}");
  EXPECT_EQ(to_json({"", {"a", "b"}, {{"12", "nan"}}})["rows"].dump(), R"([{"a":12,"b":"nan"}])");
}

TEST(Table, RefusesRaggedRows) {
  try {
    to_text({"T", {"a", "b"}, {{"1", "2"}, {"3"}}});
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("table \"T\": row 1 has 1 cells"));
  }
  EXPECT_EQ(to_text({"", {"a"}, {}}), "a\n-\n");
}

TEST(Table, NumericColumns) {
  const auto numeric = [](std::vector<std::string> cells) {
    Table table{"", {"c"}, {}};
    for (std::string& cell : cells) table.rows.push_back({std::move(cell)});
    return is_numeric_column(table, 0);
  };
  EXPECT_TRUE(numeric({"1", "-", "+.03 nats", "\u22122", "1.5x", "2m 05s"}));
  EXPECT_FALSE(numeric({"1", "K"}));
  EXPECT_FALSE(numeric({"-", ""}));
}

}  // namespace
}  // namespace unbend
