#include "unbend/base/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/error_message.h"
#include "unbend/base/error.h"
#include "unbend/base/files.h"

namespace unbend {
namespace {

using testing::AllOf;
using testing::HasSubstr;

TEST(Json, KeepsTheOrderOfKeys) {
  EXPECT_EQ(parse_json(R"({"z": 1, "a": [true, null]})", "x").dump(), R"({"z":1,"a":[true,null]})");
}

TEST(Json, ErrorsGiveLineAndColumn) {
  const std::string message = error_message([] { parse_json("{\n  \"a\": 1,\n  \"b\": ?\n}", "config.json"); });
  EXPECT_THAT(message, AllOf(HasSubstr("config.json: line 3, column 8"), testing::Not(HasSubstr("\n"))));
  EXPECT_THAT(error_message([] { parse_json("", "f"); }), HasSubstr("f: line 1, column 1"));
  EXPECT_THAT(error_message([] { parse_json("{\"a\": \"\xff\"}", "f"); }), HasSubstr("not valid JSON"));
  EXPECT_THAT(error_message([] { parse_json("1e999", "f"); }), HasSubstr("not valid JSON"));
  EXPECT_THAT(error_message([] { parse_json("{} {}", "f"); }), HasSubstr("line 1, column 4"));
}

TEST(Json, RefusesDeepNestingButNotBracketsInStrings) {
  const auto nested = [](std::size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_NO_THROW(parse_json(nested(128), "f"));
  EXPECT_THAT(error_message([&] { parse_json(nested(129), "f"); }), HasSubstr("deeper than 128"));
  EXPECT_THAT(error_message([&] { parse_json(std::string(10'000'000, '['), "f"); }), HasSubstr("deeper than 128"));
  EXPECT_NO_THROW(parse_json("[\"\\\"" + std::string(500, '[') + "\"]", "f"));
}

TEST(Json, GetIsStrict) {
  const Json json = parse_json(
      R"({"int": 3, "minus": -1, "big": 18446744073709551615, "half": 0.5, "flag": true, "text": "t", "list": [1, 2], "mixed": [1, "2"]})",
      "f");
  EXPECT_EQ(json_get<int>(json, "int", "f"), 3);
  EXPECT_EQ(json_get<double>(json, "int", "f"), 3.0);
  EXPECT_EQ(json_get<double>(json, "half", "f"), 0.5);
  EXPECT_EQ(json_get<std::uint64_t>(json, "big", "f"), 18446744073709551615ULL);
  EXPECT_EQ(json_get<std::string>(json, "text", "f"), "t");
  EXPECT_TRUE(json_get<bool>(json, "flag", "f"));
  EXPECT_EQ(json_get<std::vector<int>>(json, "list", "f"), (std::vector{1, 2}));
  EXPECT_EQ(json_get<Json>(json, "list", "f").dump(), "[1,2]");
  EXPECT_EQ(json_get<int>(json, "absent", "f", 7), 7);
  EXPECT_EQ(json_get<int>(json, "int", "f", 7), 3);

  EXPECT_THAT(error_message([&] { json_get<int>(json, "half", "f"); }),
              AllOf(HasSubstr("f: \"half\""), HasSubstr("integer")));
  EXPECT_THAT(error_message([&] { json_get<int>(json, "flag", "f"); }), HasSubstr("but is boolean"));
  EXPECT_THAT(error_message([&] { json_get<std::uint8_t>(json, "minus", "f"); }), HasSubstr("from 0 to 255"));
  EXPECT_THAT(error_message([&] { json_get<std::int64_t>(json, "big", "f"); }), HasSubstr("integer"));
  EXPECT_THAT(error_message([&] { json_get<std::string>(json, "int", "f"); }), HasSubstr("a string"));
  EXPECT_THAT(error_message([&] { json_get<std::vector<int>>(json, "mixed", "f"); }),
              HasSubstr("each element an integer"));
  EXPECT_THAT(error_message([&] { json_get<int>(json, "absent", "f"); }), HasSubstr("\"absent\" is missing"));
  EXPECT_THAT(error_message([&] { json_get<int>(json, "text", "f", 7); }), HasSubstr("integer"));
  EXPECT_THAT(error_message([&] { json_get<int>(json["list"], "a", "f"); }), HasSubstr("expected an object"));
}

TEST(Json, FilesRoundTripEvenWithInvalidUtf8) {
  const auto path = std::filesystem::temp_directory_path() / "unbend-json-test.json";
  write_json(path, Json{{"b", 0.1}, {"a", "caf\xe9"}});
  EXPECT_EQ(read_json(path), (Json{{"b", 0.1}, {"a", "caf\xef\xbf\xbd"}}));
  write_file(path, "{");
  EXPECT_THAT(error_message([&] { read_json(path); }), HasSubstr(path.string()));
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace unbend
