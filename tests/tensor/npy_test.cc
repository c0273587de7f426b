#include "unbend/tensor/npy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/error_message.h"
#include "unbend/base/error.h"
#include "unbend/base/files.h"

namespace unbend {
namespace {

using testing::AnyOf;
using testing::HasSubstr;
namespace fs = std::filesystem;

class Npy : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(folder_); }
  void TearDown() override { fs::remove_all(folder_); }

  void raw(const std::string& dict, const std::string& data, int version = 1) {
    std::string bytes = std::string("\x93NUMPY") + static_cast<char>(version) + '\0';
    for (int i = 0; i < (version == 1 ? 2 : 4); ++i) bytes += static_cast<char>(dict.size() >> (8 * i) & 0xff);
    write_file(path_, bytes + dict + data);
  }

  std::string error() {
    const auto message = error_message([&] { load_npy(path_); });
    EXPECT_THAT(message, AnyOf("no error", HasSubstr(path_.string())));
    return message;
  }
  std::string error(const std::string& dict, const std::string& data = "12345678", int version = 1) {
    raw(dict, data, version);
    return error();
  }

  const fs::path folder_ = fs::temp_directory_path() / fmt::format("unbend_npy_{}", ::getpid());
  const fs::path path_ = folder_ / "t.npy";
};

TEST_F(Npy, EveryTypeAndShapeComesBack) {
  const auto base = at::arange(-12, 12, at::kFloat);
  for (const auto type : {at::kBool, at::kByte, at::kChar, at::kShort, at::kUInt16, at::kInt, at::kUInt32, at::kLong,
                          at::kUInt64, at::kHalf, at::kFloat, at::kDouble})
    for (const auto& t : {base.to(type), base.to(type).reshape({2, 3, 4}), base.to(type).reshape({4, 6}).t(),
                          base.to(type)[13], base.to(type).slice(0, 0, 0).reshape({0, 5})}) {
      save_npy(path_, t);
      const auto back = load_npy(path_);
      EXPECT_EQ(back.scalar_type(), type);
      EXPECT_EQ(back.sizes(), t.sizes());
      EXPECT_TRUE(back.is_contiguous());
      EXPECT_TRUE(back.equal(t)) << at::toString(type);
    }
  EXPECT_THROW(save_npy(path_, base.to(at::kBFloat16)), Error);
  EXPECT_THROW(save_npy(path_, at::Tensor()), Error);
}

TEST_F(Npy, FortranOrderAndLaterVersions) {
  for (const int version : {1, 2, 3}) {
    raw("{'descr': '|u1', 'fortran_order': True, 'shape': (2, 3), }\n", {1, 2, 3, 4, 5, 6}, version);
    EXPECT_TRUE(load_npy(path_).equal(at::tensor({1, 3, 5, 2, 4, 6}, at::kByte).reshape({2, 3})));
  }
  raw(R"({"shape":(2L,),"fortran_order":False,"descr":"<i2"})", {1, 0, 2, 0});
  EXPECT_TRUE(load_npy(path_).equal(at::tensor({1, 2}, at::kShort)));
}

TEST_F(Npy, BadFilesGiveOneLine) {
  const std::string good = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }";
  EXPECT_EQ(error(good), "no error");
  EXPECT_THAT(error(good, "1234567"), HasSubstr("needs 8 bytes, the file has 7"));
  EXPECT_THAT(error(good, "123456789"), HasSubstr("needs 8 bytes, the file has 9"));
  EXPECT_THAT(error(good, "12345678", 4), HasSubstr("version 4.0"));
  EXPECT_THAT(error("{'descr': '>f4', 'fortran_order': False, 'shape': (2,), }"), HasSubstr("not little-endian"));
  EXPECT_THAT(error("{'descr': '|O', 'fortran_order': False, 'shape': (2,), }"),
              HasSubstr("unsupported element type '|O'"));
  EXPECT_THAT(error("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,), }"),
              HasSubstr("quoted string expected"));
  EXPECT_THAT(error("{'descr': '<f4', 'fortran_order': 0, 'shape': (2,), }"), HasSubstr("True or False"));
  EXPECT_THAT(error("{'descr': '<f4', 'fortran_order': False, 'shape': (-2,), }"), HasSubstr("a size expected"));
  EXPECT_THAT(error("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,), }"),
              HasSubstr("a size expected"));
  EXPECT_THAT(error("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }"),
              HasSubstr("overflows"));
  EXPECT_THAT(error("{'descr': '<f4', 'fortran_order': False, }"), HasSubstr("all needed"));
  EXPECT_THAT(error("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,), }"), HasSubstr("twice"));
  EXPECT_THAT(error("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'x': 1}"), HasSubstr("the keys are"));
  EXPECT_THAT(error("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), } 1"), HasSubstr("text after"));
  EXPECT_THAT(error("{'descr': '<f4"), HasSubstr("not closed"));
  raw(good, "12345678");
  const auto bytes = read_file(path_);
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    write_file(path_, bytes.substr(0, size));
    EXPECT_NE(error(), "no error") << size;
  }
}

}  // namespace
}  // namespace unbend
