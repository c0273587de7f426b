#include "unbend/base/parallel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <vector>

#include "tests/error_message.h"

namespace unbend {
namespace {

TEST(Parallel, EachOnceOnAnyNumberOfThreads) {
  for (const int threads : {0, 1, 3, 100}) {
    std::vector<std::atomic<int>> calls(50);
    parallel_for(50, threads, [&](std::int64_t i) { ++calls[static_cast<std::size_t>(i)]; });
    EXPECT_THAT(calls, testing::Each(testing::Eq(1)));
  }
  parallel_for(0, 2, [](std::int64_t) { FAIL(); });
}

TEST(Parallel, TheFirstErrorReachesTheCaller) {
  const auto message = error_message([] {
    parallel_for(1000, 4, [](std::int64_t i) {
      if (i == 7) fail_input("seven");
    });
  });
  EXPECT_EQ(message, "seven");
}

}  // namespace
}  // namespace unbend
