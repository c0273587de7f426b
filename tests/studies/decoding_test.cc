#include "studies/decoding.h"

#include <gtest/gtest.h>

#include <cmath>

namespace unbend {
namespace {

std::vector<engine::SpeedPoint> points(std::int64_t state, std::int64_t peak) {
  std::vector<engine::SpeedPoint> two(2);
  two[0].context = 1024, two[1].context = 2048;
  two[0].peak_resident_bytes = two[0].state_bytes = 1'000'000;
  two[1].state_bytes = two[0].state_bytes + state, two[1].peak_resident_bytes = two[0].peak_resident_bytes + peak;
  return two;
}

TEST(Decoding, MemoryThatTheControlDoesNotShowIsUnknown) {
  DecodingSpeeds speeds{.softmax = points(50'000'000, 49'000'000), .student = points(0, 2'000'000)};
  EXPECT_DOUBLE_EQ(resident_growth(speeds), 2);
  speeds.softmax = points(50'000'000, 1'000'000);  // its cache grew, its peak did not
  EXPECT_TRUE(std::isnan(resident_growth(speeds)));
  for (auto* some : {&speeds.softmax, &speeds.student})
    for (auto& point : *some) point.peak_resident_bytes = 0;  // a system that does not tell
  EXPECT_TRUE(std::isnan(resident_growth(speeds)));
}

}  // namespace
}  // namespace unbend
