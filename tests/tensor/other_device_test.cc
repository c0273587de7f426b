// That the device of tests/other_device.h finds what it is for.
#include "tests/other_device.h"

#include <gtest/gtest.h>
#include <torch/types.h>

namespace unbend::test {
namespace {

TEST(OtherDevice, ComputesAndDifferentiates) {
  const auto x = at::arange(6, at::kDouble).view({2, 3}), y = x.to(other_device()).requires_grad_();
  EXPECT_EQ(y.device(), other_device());
  const auto z = (y.t().matmul(y).tanh() + 1).sum();
  z.backward();
  EXPECT_EQ(y.grad().device(), other_device());
  const auto here = x.clone().requires_grad_();
  (here.t().matmul(here).tanh() + 1).sum().backward();
  EXPECT_TRUE(at::equal(y.grad().to(at::kCPU), here.grad()));
  EXPECT_EQ(y[1][2].item<double>(), 5);
}

TEST(OtherDevice, DoesNotMixWithTheCpu) {
  const auto there = at::ones({2, 2}, other_device());
  EXPECT_THROW(there + at::ones({2, 2}), c10::Error);
  EXPECT_THROW(there.matmul(at::ones({2, 2})), c10::Error);
  EXPECT_THROW(at::cat({there, at::ones({2, 2})}), c10::Error);
}

TEST(OtherDeviceDeathTest, IsNotReadThroughPointers) {
  const auto there = at::ones({4}, other_device());
  const volatile float* const first = there.const_data_ptr<float>();
  EXPECT_DEATH((void)*first, "");
}

}  // namespace
}  // namespace unbend::test
