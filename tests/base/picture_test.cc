#include "unbend/base/picture.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string_view>

#include "tests/error_message.h"

namespace unbend {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<std::byte> from_hex(std::string_view text) {
  std::vector<std::byte> bytes;
  for (std::size_t i = 0; i < text.size(); i += 2)
    bytes.push_back(static_cast<std::byte>(std::stoi(std::string(text.substr(i, 2)), nullptr, 16)));
  return bytes;
}

// Written with zlib from their definitions: one row of (255, 0, 0), (0, 128, 7); one column of (1, 2, 3) transparent
// and (4, 5, 6); grey in 16 bits; a palette.
constexpr const char* kColour =
    "89504e470d0a1a0a0000000d49484452000000020000000108020000007b40e8dd0000000f4944415478da63f8cfc0c0d0c00e00070801878b"
    "ec"
    "e0660000000049454e44ae426082";
constexpr const char* kTransparent =
    "89504e470d0a1a0a0000000d49484452000000010000000208060000009981b627000000124944415478da636064626660606165fb0f000162"
    "0115"
    "fd07081f0000000049454e44ae426082";
constexpr const char* kGrey16 =
    "89504e470d0a1a0a0000000d494844520000000200000001100000000081d9fc150000000d4944415478da6338916cc4080004b3015f82877e"
    "2d"
    "0000000049454e44ae426082";
constexpr const char* kPalette =
    "89504e470d0a1a0a0000000d4948445200000002000000010803000000c3fc8fb800000006504c54450908071e140af70c2b4e0000000b4944"
    "4154"
    "78da63606400000005000242c2449f0000000049454e44ae426082";
// 60000 x 60000 pixels, it says.
constexpr const char* kHuge =
    "89504e470d0a1a0a0000000d494844520000ea600000ea600800000000a5b92a9e0000000a4944415478da6360000000020001e527defc0000"
    "0000"
    "49454e44ae426082";
// One block of 8 x 8 grey pixels whose only coefficient is the mean: 128 + 100 / 8.
constexpr const char* kJpeg =
    "ffd8ffdb00430001010101010101010101010101010101010101010101010101010101010101010101010101010101010101010101010101"
    "010101010101010101010101010101ffc0000b080008000801011100ffc40014000100000000000000000000000000000007ffc400141001"
    "00000000000000000000000000000000ffda0008010100003f00647fffd9";

Picture decode(const char* hex) { return decode_picture(from_hex(hex), "a.png"); }

TEST(Picture, KindsOfPng) {
  const auto colour = decode(kColour);
  EXPECT_EQ(colour.height, 1);
  EXPECT_EQ(colour.width, 2);
  EXPECT_EQ(colour.channels, 3);
  EXPECT_THAT(colour.pixels, ElementsAre(255, 0, 0, 0, 128, 7));
  const auto transparent = decode(kTransparent);
  EXPECT_EQ(transparent.height, 2);
  EXPECT_THAT(transparent.pixels, ElementsAre(1, 2, 3, 4, 5, 6));
  const auto grey = decode(kGrey16);
  EXPECT_EQ(grey.channels, 1);
  EXPECT_THAT(grey.pixels, ElementsAre(200, 50));
  EXPECT_THAT(decode(kPalette).pixels, ElementsAre(30, 20, 10, 9, 8, 7));
}

TEST(Picture, Jpeg) {
  const auto picture = decode(kJpeg);
  EXPECT_EQ(picture.height, 8);
  EXPECT_EQ(picture.width, 8);
  EXPECT_EQ(picture.channels, 1);
  EXPECT_THAT(picture.pixels, testing::Each(testing::AllOf(testing::Ge(140), testing::Le(141))));
}

TEST(Picture, RefusesOtherFiles) {
  EXPECT_THAT(error_message([] { decode_picture({}, "empty.png"); }), HasSubstr("empty.png: not a PNG or JPEG"));
  EXPECT_THAT(error_message([] { decode("474946383961"); }), HasSubstr("a.png: not a PNG or JPEG"));
  EXPECT_THAT(error_message([] { decode(kHuge); }), HasSubstr("a.png: not a PNG or JPEG picture, or one that is too"));
  EXPECT_THAT(error_message([] { decode_picture(from_hex(kColour), "a.png", 1); }), HasSubstr("2 x 1 pixels"));
  auto cut = from_hex(kColour);
  cut.resize(50);
  EXPECT_THAT(error_message([&] { decode_picture(cut, "cut.png"); }), HasSubstr("cut.png: the picture is damaged"));
  EXPECT_THAT(error_message([] { read_picture("no/such.png"); }), HasSubstr("no/such.png"));
}

TEST(Picture, Names) {
  EXPECT_TRUE(is_picture_name("a/b.PNG"));
  EXPECT_TRUE(is_picture_name("b.jpeg"));
  EXPECT_FALSE(is_picture_name("png"));
  EXPECT_FALSE(is_picture_name("b.gif"));
}

}  // namespace
}  // namespace unbend
