#include "unbend/base/random.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "unbend/base/error.h"

namespace unbend {
namespace {

TEST(Random, MatchesTheReferenceGenerator) {
  // The authors' C code, state {1, 2, 3, 4}; the same values are in the documentation of Rust's rand_xoshiro.
  Random random(Random::State{1, 2, 3, 4});
  for (const std::uint64_t expected : {11520ULL, 0ULL, 1509978240ULL, 1215971899390074240ULL, 1216172134540287360ULL}) {
    EXPECT_EQ(random.bits(), expected);
  }
}

TEST(Random, SeedsThroughSplitMix64) {  // first outputs of SplitMix64 for seed 1234567
  const Random::State expected{6457827717110365317ULL, 3203168211198807973ULL, 9817491932198370423ULL,
                               4593380528125082431ULL};
  EXPECT_EQ(Random(1234567).state(), expected);
}

TEST(Random, CopiesAndStoredStatesContinueAlike) {
  Random random(3);
  random.normal();
  Random copy = random, restored(random.state());
  for (int i = 0; i < 5; ++i) {
    const double next = random.normal();
    EXPECT_EQ(copy.normal(), next);
    EXPECT_EQ(restored.normal(), next);
  }
}

TEST(Random, UniformAndNormalHaveTheirMoments) {
  constexpr int kDraws = 200'000;
  Random random(1);
  double sum = 0, square = 0, fourth = 0, uniform = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double u = random.uniform();
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    uniform += u;
    const double x = random.normal();
    ASSERT_TRUE(std::isfinite(x));
    sum += x;
    square += x * x;
    fourth += x * x * x * x;
  }
  const double error = 5 / std::sqrt(kDraws);  // five standard errors, in units of the standard deviation
  EXPECT_NEAR(uniform / kDraws, 0.5, error / std::sqrt(12.0));
  EXPECT_NEAR(sum / kDraws, 0, error);
  EXPECT_NEAR(square / kDraws, 1, error * std::sqrt(2.0));
  EXPECT_NEAR(fourth / kDraws, 3, error * std::sqrt(96.0));
}

TEST(Random, BelowIsUniform) {
  Random random(5);
  std::map<std::uint64_t, int> counts;
  for (int i = 0; i < 60'000; ++i) ++counts[random.below(6)];
  ASSERT_EQ(counts.size(), 6u);
  for (const auto& [value, count] : counts) EXPECT_NEAR(count, 10'000, 5 * std::sqrt(10'000 * 5.0 / 6)) << value;
  // Two thirds of the range: a plain remainder would give the lower half twice as often as the upper.
  const std::uint64_t bound = (1ULL << 63) + (1ULL << 62);
  int low = 0;
  for (int i = 0; i < 10'000; ++i) low += random.below(bound) < bound / 2 ? 1 : 0;
  EXPECT_NEAR(low, 5'000, 5 * 50);
  EXPECT_EQ(random.below(1), 0u);
  EXPECT_THROW(random.below(0), Error);
}

TEST(Random, SplitStreamsDiffer) {
  Random random(7);
  Random first = random.split(), second = random.split();
  EXPECT_NE(first.state(), second.state());
  EXPECT_NE(first.bits(), random.bits());
}

}  // namespace
}  // namespace unbend
