#include "unbend/tensor/csv.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/error_message.h"
#include "unbend/base/files.h"
#include "unbend/tensor/npy.h"

namespace unbend {
namespace {

using testing::HasSubstr;

class Csv : public testing::Test {
 protected:
  at::Tensor load(const std::string& text) {
    const auto path = folder_.path() / "a.csv";
    write_file(path, text);
    return load_array(path);
  }
  std::string refused(const std::string& text) {
    return error_message([&] { load(text); });
  }
  TemporaryFolder folder_;
};

TEST_F(Csv, ReadsRowsWhateverSeparatesThem) {
  const auto expected = at::tensor({1., -2.5, 3e-2, +4.}, at::kDouble).view({2, 2});
  for (const char* text : {"1,-2.5\n3e-2,+4\n", "x,y\r\n1, -2.5\r\n3e-2, 4", "# note\n\n1;-2.5\n3e-2;4\n",
                           "1 -2.5\n  3e-2   4  \n", "1\t-2.5\n3e-2\t4"})
    EXPECT_TRUE(load(text).equal(expected)) << text;
  EXPECT_EQ(load("1\n2\n3\n").sizes(), at::IntArrayRef({3, 1}));
}

TEST_F(Csv, RefusesWhatIsNotATable) {
  EXPECT_THAT(refused(""), HasSubstr("no numbers"));
  EXPECT_THAT(refused("x,y\n"), HasSubstr("no numbers"));
  EXPECT_THAT(refused("1,2\n3\n"), HasSubstr("line 2: 1 numbers"));
  EXPECT_THAT(refused("x,y\n1,2,3\n"), HasSubstr("line 2: 3 numbers"));
  EXPECT_THAT(refused("1,2\nx,y\n"), HasSubstr("line 2: 'x,y'"));
  EXPECT_THAT(refused("1,2\n3,\n"), HasSubstr("line 2"));
  EXPECT_THAT(refused("a,1\n"), HasSubstr("line 1"));
}

TEST_F(Csv, ArraysByTheirNames) {
  const auto path = folder_.path() / "a.npy";
  save_npy(path, at::arange(6).view({2, 3}));
  EXPECT_TRUE(load_array(path).equal(at::arange(6).view({2, 3})));
}

}  // namespace
}  // namespace unbend
