#include "unbend/base/npy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/error_message.h"
#include "unbend/base/files.h"
#include "unbend/base/npy_header.h"

namespace unbend {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

NpyArray parse(const NpyHeader& header, const std::string& data) {
  const auto file = write_npy_header(header) + data;
  return parse_npy(std::as_bytes(std::span(file)), "input");
}

TEST(NpyBytes, EveryTypeBecomesDoubles) {
  using namespace std::string_literals;
  EXPECT_THAT(to_doubles(parse({"b1", false, {3}, 0}, "\0\1\7"s)), ElementsAre(0, 1, 1));
  EXPECT_THAT(to_doubles(parse({"u1", false, {2}, 0}, "\x00\xff"s)), ElementsAre(0, 255));
  EXPECT_THAT(to_doubles(parse({"i1", false, {2}, 0}, "\x01\xff"s)), ElementsAre(1, -1));
  EXPECT_THAT(to_doubles(parse({"u2", false, {1}, 0}, "\x02\xff"s)), ElementsAre(0xff02));
  EXPECT_THAT(to_doubles(parse({"i2", false, {1}, 0}, "\x00\xff"s)), ElementsAre(-256));
  EXPECT_THAT(to_doubles(parse({"i4", false, {}, 0}, "\xfe\xff\xff\xff"s)), ElementsAre(-2));
  EXPECT_THAT(to_doubles(parse({"u4", false, {1}, 0}, "\xfe\xff\xff\xff"s)), ElementsAre(4294967294));
  EXPECT_THAT(to_doubles(parse({"i8", false, {1}, 0}, "\xfe\xff\xff\xff\xff\xff\xff\xff"s)), ElementsAre(-2));
  EXPECT_THAT(to_doubles(parse({"u8", false, {1}, 0}, "\0\0\0\0\0\0\0\x80"s)), ElementsAre(std::ldexp(1, 63)));
  EXPECT_THAT(to_doubles(parse({"f4", false, {1}, 0}, "\0\0\x20\xc0"s)), ElementsAre(-2.5));
  // Half precision: 1, -2, largest, smallest normal, smallest subnormal, infinity.
  const auto half = to_doubles(parse({"f2", false, {6}, 0}, "\x00\x3c\x00\xc0\xff\x7b\x00\x04\x01\x00\x00\x7c"s));
  EXPECT_THAT(half, ElementsAre(1, -2, 65504, std::ldexp(1, -14), std::ldexp(1, -24), INFINITY));
  EXPECT_TRUE(std::isnan(to_doubles(parse({"f2", false, {1}, 0}, "\x01\x7c"s))[0]));
}

TEST(NpyBytes, FortranOrderBecomesCOrder) {
  const auto array = parse({"u1", true, {2, 3, 2}, 0}, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11});
  EXPECT_THAT(to_doubles(array), ElementsAre(0, 6, 2, 8, 4, 10, 1, 7, 3, 9, 5, 11));
  EXPECT_EQ(parse({"u1", true, {0, 3}, 0}, "").size(), 0);
}

TEST(NpyBytes, WritesWhatItReads) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "a.npy";
  const std::vector<double> values = {1, -2, 3.5, 4, 5, 6};
  write_npy(path, {2, 3}, values);
  const auto back = read_npy(path);
  EXPECT_EQ(back.type, "f8");
  EXPECT_THAT(back.shape, ElementsAre(2, 3));
  EXPECT_EQ(to_doubles(back), values);
  EXPECT_THAT(error_message([&] { write_npy(path, {2, 2}, values); }), HasSubstr("48 bytes to write"));
}

}  // namespace
}  // namespace unbend
