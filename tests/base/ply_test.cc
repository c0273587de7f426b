#include "unbend/base/ply.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/error_message.h"
#include "unbend/base/files.h"

namespace unbend {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

PlyVertices parse(const std::string& text) { return parse_ply(std::as_bytes(std::span(text)), "cloud.ply"); }

std::string header(const std::string& lines) { return "ply\nformat ascii 1.0\n" + lines + "end_header\n"; }

TEST(Ply, SeedsOfTheFuzzer) {
  const std::filesystem::path seeds = UNBEND_SOURCE_DIR "/tests/fuzz/seeds/ply";
  const auto ascii = read_ply(seeds / "ascii.ply");
  EXPECT_THAT(ascii.properties, ElementsAre("x", "y", "mass"));
  EXPECT_THAT(ascii.values, ElementsAre(0, 1.5, 2, -1000, 4, .5));
  for (const char* name : {"little.ply", "big.ply"}) {  // behind an element with a list, with a list of their own
    const auto cloud = read_ply(seeds / name);
    EXPECT_EQ(cloud.count, 2);
    EXPECT_THAT(cloud.properties, ElementsAre("x", "y", "tag"));
    EXPECT_THAT(cloud.values, ElementsAre(1, 2.5, -3, -1, .25, 4)) << name;
  }
}

TEST(Ply, NamesTypesBothWaysAndKeepsCarriageReturnsOut) {
  const auto cloud = parse(
      "ply\r\nformat ascii 1.0\r\nelement vertex 1\r\nproperty float32 x\r\nproperty uint8 y\r\n"
      "end_header\r\n1 2\r\n");
  EXPECT_THAT(cloud.values, ElementsAre(1, 2));
}

TEST(Ply, RefusesDamagedFiles) {
  const auto refused = [](const std::string& text) { return error_message([&] { parse(text); }); };
  const std::string vertex = "element vertex 2\nproperty float x\n";
  EXPECT_EQ(refused(header(vertex) + "1 2\n"), "no error");
  EXPECT_THAT(refused("solid\n"), HasSubstr("not a PLY file"));
  EXPECT_THAT(refused("ply\nformat ascii 2.0\n"), HasSubstr("cloud.ply, line 2"));
  EXPECT_THAT(refused("ply\nformat ascii 1.0\n"), HasSubstr("without end_header"));
  EXPECT_THAT(refused(header("")), HasSubstr("no element 'vertex'"));
  EXPECT_THAT(refused(header("element vertex 2\n")), HasSubstr("no numbers"));
  EXPECT_THAT(refused(header("element vertex -2\n")), HasSubstr("line 3"));
  EXPECT_THAT(refused(header("property float x\n")), HasSubstr("before the first element"));
  EXPECT_THAT(refused(header("element vertex 2\nproperty half x\n")), HasSubstr("unknown type"));
  EXPECT_THAT(refused(header(vertex) + "1\n"), HasSubstr("more numbers were announced"));
  EXPECT_THAT(refused(header(vertex) + "1\nx"), HasSubstr("line 7: 'x' is not a number"));
  EXPECT_THAT(refused(header("element vertex 900\nproperty float x\n") + "1\n"), HasSubstr("900 items of 'vertex'"));
  EXPECT_THAT(refused(header("element face 1\nproperty list uchar int i\n" + vertex) + "9 1\n"),
              HasSubstr("a list of 9 numbers"));
  EXPECT_THAT(refused(header("element face 1\nproperty list float int i\n" + vertex) + "9 1\n"), HasSubstr("integer"));
}

}  // namespace
}  // namespace unbend
