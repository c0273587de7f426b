#include "unbend/base/fit.h"

#include <gtest/gtest.h>

#include <cmath>

#include "unbend/base/error.h"

namespace unbend {
namespace {

TEST(Fit, LogLogSlopeIsTheExponent) {
  EXPECT_NEAR(log_log_slope({1, 2, 5, 30}, {3, 3 * std::pow(2, -.7), 3 * std::pow(5, -.7), 3 * std::pow(30, -.7)}), -.7,
              1e-12);
  // Residuals (1, -2, 1) are orthogonal to constants and to equally spaced logarithms.
  const double e = std::exp(.1);
  EXPECT_NEAR(log_log_slope({1, 10, 100}, {e, 100 / (e * e), 1e4 * e}), 2, 1e-12);
  EXPECT_FALSE(std::isfinite(log_log_slope({2, 2}, {1, 3})));
  EXPECT_FALSE(std::isfinite(log_log_slope({1, 2}, {0, 3})));
  EXPECT_THROW(log_log_slope({1, 2}, {1}), Error);
}

}  // namespace
}  // namespace unbend
