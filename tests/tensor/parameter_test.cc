#include "unbend/tensor/parameter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>

#include "tests/error_message.h"

namespace unbend {
namespace {

using testing::HasSubstr;

TEST(Parameter, TakesTensorsByNameInItsOwnType) {
  auto a = at::zeros({2}, at::kDouble), b = at::zeros({1, 3});
  assign({{"a", &a}, {"b", &b}}, {{"b", at::ones({1, 3}, at::kHalf)}, {"a", at::full({2}, .5)}}, "f");
  EXPECT_TRUE(at::equal(a, at::full({2}, .5, at::kDouble)));
  EXPECT_TRUE(at::equal(b, at::ones({1, 3})));
}

TEST(Parameter, RefusesWhatDoesNotFit) {
  auto a = at::zeros({2});
  const auto refused = [&](const std::map<std::string, at::Tensor>& tensors) {
    return error_message([&] { assign({{"a", &a}}, tensors, "file"); });
  };
  EXPECT_THAT(refused({}), HasSubstr("file: tensor a is missing"));
  EXPECT_THAT(refused({{"a", at::zeros({3})}}), HasSubstr("file: tensor a has shape [3], expected [2]"));
  EXPECT_THAT(refused({{"a", at::zeros({2}, at::kLong)}}), HasSubstr("floating"));
  EXPECT_THAT(refused({{"a", at::full({2}, NAN)}}), HasSubstr("file: tensor a"));
  EXPECT_THAT(refused({{"a", at::zeros({2})}, {"b", at::zeros({2})}}),
              HasSubstr("file: 2 tensors where 1 are expected"));
}

}  // namespace
}  // namespace unbend
