#include "unbend/transport/measure_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/error_message.h"
#include "unbend/base/files.h"
#include "unbend/base/npy.h"

namespace unbend::transport {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class MeasureFiles : public testing::Test {
 protected:
  std::filesystem::path file(const std::string& name, const std::string& text) {
    write_file(folder_.path() / name, text);
    return folder_.path() / name;
  }
  std::filesystem::path array(const std::vector<std::int64_t>& shape, const std::vector<double>& values) {
    write_npy(folder_.path() / "a.npy", shape, values);
    return folder_.path() / "a.npy";
  }
  TemporaryFolder folder_;
};

TEST_F(MeasureFiles, TextAndMasses) {
  const auto path = file("a.csv", "x,y,mass\n1,2,.5\n3,4,0\n");
  EXPECT_EQ(read_measures(path)[0].measure.dim, 3);
  const auto weighted = read_measures(path, {Masses::Column})[0].measure;
  EXPECT_THAT(weighted.points, ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(weighted.masses, ElementsAre(.5, 0));
  EXPECT_THAT(read_measures(path, {Masses::Equal})[0].measure.masses, ElementsAre(.5, .5));
}

TEST_F(MeasureFiles, Arrays) {
  const auto three = read_measures(array({3, 2, 1}, {0, 1, 2, 3, 4, 5}));
  ASSERT_EQ(three.size(), 3u);
  EXPECT_THAT(three[2].measure.points, ElementsAre(4, 5));
  EXPECT_THAT(three[2].name, testing::EndsWith("a.npy[2]"));
  EXPECT_EQ(read_measures(array({3}, {0, 1, 2}))[0].measure.size(), 3);
  MeasureFile images;
  images.images = true;
  const auto picture = read_measures(array({1, 2, 3}, {0, 255, 0, 0, 0, 51}), images)[0].measure;
  EXPECT_THAT(picture.points, ElementsAre(1, 1, 2, 0));
  EXPECT_THAT(picture.masses, ElementsAre(1, .2));
  images.above = .5;
  EXPECT_EQ(read_measures(array({2, 3}, {0, 255, 0, 0, 0, 51}), images)[0].measure.size(), 1);
}

TEST_F(MeasureFiles, CloudsAndPictures) {
  const std::string seeds = UNBEND_SOURCE_DIR "/tests/fuzz/seeds/";
  const auto cloud = read_measures(seeds + "ply/ascii.ply", {Masses::Column})[0].measure;
  EXPECT_EQ(cloud.dim, 2);
  EXPECT_THAT(cloud.masses, ElementsAre(2, .5));
  EXPECT_THAT(error_message([&] { read_measures(seeds + "ply/little.ply", {Masses::Column}); }),
              HasSubstr("no property mass"));
  EXPECT_EQ(read_measures(seeds + "picture/rgb.png")[0].measure.dim, 2);
}

TEST_F(MeasureFiles, WritesWhatItReads) {
  const Measure m{2, {1.25, 2, 1. / 3, 4}, {.5, 7}};
  for (const char* name : {"out.csv", "out.npy"}) {
    write_measure(folder_.path() / name, m);
    const auto back = read_measures(folder_.path() / name, {Masses::Column})[0].measure;
    EXPECT_EQ(back.points, m.points);
    EXPECT_EQ(back.masses, m.masses);
  }
}

TEST_F(MeasureFiles, RefusalsNameThePlace) {
  const auto refused = [](const std::filesystem::path& path, const MeasureFile& options = {Masses::Column}) {
    return error_message([&] { read_measures(path, options); });
  };
  EXPECT_THAT(refused(file("a.csv", "1,2,3\n\n1,2,-3\n")), HasSubstr("a.csv, line 3: the mass is -3"));
  EXPECT_THAT(refused(file("a.csv", "1,nan,3\n")), HasSubstr("a.csv, line 1: number 2 is nan"));
  EXPECT_THAT(refused(file("a.csv", "1\n2\n")), HasSubstr("one column"));
  EXPECT_THAT(refused(array({2, 2}, {1, 1, 2, NAN})), HasSubstr("row 1: number 2 is nan"));
  EXPECT_THAT(refused(array({1, 1, 2, 2}, {1, 1, 2, 3})), HasSubstr("4 dimensions"));
  MeasureFile images;
  images.images = true;
  EXPECT_THAT(refused(array({1, 2}, {1, -2}), images), HasSubstr("a pixel is -2"));
  EXPECT_THAT(refused(folder_.path() / "none.csv"), HasSubstr("cannot open"));
}

}  // namespace
}  // namespace unbend::transport
