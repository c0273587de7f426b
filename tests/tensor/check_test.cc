#include "unbend/tensor/check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "tests/error_message.h"
#include "unbend/base/error.h"

namespace unbend {
namespace {

using testing::HasSubstr;

TEST(Check, ShapesFitWithWildcards) {
  const auto t = at::zeros({2, 5, 3});
  EXPECT_NO_THROW(check_shape(t, {2, -1, 3}, "q"));
  EXPECT_NO_THROW(check_shape(at::zeros({}), {}, "scalar"));
  EXPECT_EQ(error_message([&] { check_shape(t, {2, -1, 4}, "q"); }), "q has shape [2, 5, 3], expected [2, any, 4]");
  EXPECT_EQ(error_message([&] { check_shape(t, {2, 5}, "q"); }), "q has shape [2, 5, 3], expected [2, 5]");
  EXPECT_EQ(error_message([&] { check_shape({}, {2}, "q"); }), "q is an undefined tensor");
  EXPECT_EQ(error_message([&] { check_dims(t, 2, "q"); }), "q has shape [2, 5, 3], expected 2 dimensions");
}

TEST(Check, TypesAreNamed) {
  const auto t = at::zeros({2}, at::kInt);
  EXPECT_EQ(error_message([&] { check_dtype(t, at::kFloat, "k"); }), "k is Int, expected Float");
  EXPECT_EQ(error_message([&] { check_floating(t, "k"); }), "k is Int, expected a floating-point tensor");
  EXPECT_EQ(error_message([&] { check_same_type(t, "k", at::zeros({2}), "v"); }),
            "k is Int on cpu, but v is Float on cpu");
  EXPECT_NO_THROW(check_same_type(t, "k", t, "v"));
}

TEST(Check, FirstValueThatIsNotFiniteIsLocated) {
  auto t = at::zeros({3, 4});
  EXPECT_NO_THROW(check_finite(t, "x"));
  EXPECT_NO_THROW(check_finite(at::zeros({0, 4}), "x"));
  t[1][2] = -std::numeric_limits<float>::infinity();
  t[2][0] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(error_message([&] { check_finite(t, "x"); }),
            "x has 2 of 12 values that are not finite, the first (-inf) at [1, 2]");
  EXPECT_THAT(error_message([&] { check_finite(t.to(at::kBFloat16).t(), "x"); }),
              HasSubstr("the first (NaN) at [0, 2]"));
}

TEST(Check, IndicesStayInRange) {
  const auto ids = at::tensor({0, 7, 3}, at::kLong);
  EXPECT_NO_THROW(check_indices(ids, 8, "ids"));
  EXPECT_EQ(error_message([&] { check_indices(ids, 7, "ids"); }), "ids has values from 0 to 7, expected [0, 7)");
  EXPECT_EQ(error_message([&] { check_indices(ids - 1, 8, "ids"); }), "ids has values from -1 to 6, expected [0, 8)");
  EXPECT_EQ(error_message([&] { check_indices(ids.to(at::kFloat), 8, "ids"); }), "ids is Float, expected integers");
}

}  // namespace
}  // namespace unbend
