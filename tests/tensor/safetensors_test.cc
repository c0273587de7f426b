#include "unbend/tensor/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "tests/error_message.h"
#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/base/random.h"
#include "unbend/base/safetensors_header.h"

namespace unbend {
namespace {

using testing::AnyOf;
using testing::HasSubstr;
namespace fs = std::filesystem;

class Safetensors : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(folder_); }
  void TearDown() override { fs::remove_all(folder_); }

  // A file with this header text and as many data bytes.
  fs::path raw(const std::string& header, std::size_t data, std::size_t length = SIZE_MAX) {
    if (length == SIZE_MAX) length = header.size();
    std::string bytes;
    for (int i = 0; i < 8; ++i) bytes += static_cast<char>(length >> (8 * i) & 0xff);
    write_file(path_, bytes + header + std::string(data, '\x2a'));
    return path_;
  }

  std::string error(const std::string& header, std::size_t data, std::size_t length = SIZE_MAX) {
    return load_error(raw(header, data, length));
  }

  static std::string load_error(const fs::path& path) {
    const auto message = error_message([&] { load_safetensors(path); });
    EXPECT_THAT(message, AnyOf("no error", HasSubstr(path.string())));
    return message;
  }

  const fs::path folder_ = fs::temp_directory_path() / fmt::format("unbend_safetensors_{}", ::getpid());
  const fs::path path_ = folder_ / "t.safetensors";
};

std::map<std::string, at::Tensor> one_of_each_type() {
  std::map<std::string, at::Tensor> tensors;
  const auto base = at::arange(-6, 6, at::kFloat).reshape({3, 4});
  for (const auto type :
       {at::kBool, at::kByte, at::kChar, at::kShort, at::kUInt16, at::kInt, at::kUInt32, at::kLong, at::kUInt64,
        at::kHalf, at::kBFloat16, at::kFloat, at::kDouble, at::kFloat8_e5m2, at::kFloat8_e4m3fn, at::kComplexFloat})
    tensors[std::string("t.") + at::toString(type)] = base.to(type);
  tensors["t.Float8_e8m0fnu"] = base.abs().to(at::kFloat8_e8m0fnu);
  tensors["scalar"] = at::scalar_tensor(2.5);
  tensors["empty"] = at::empty({0, 7});
  tensors["names may hold \"quotes\", \n and \xc3\xa9"] = base.t();
  return tensors;
}

TEST_F(Safetensors, EveryTypeComesBackBitForBit) {
  const auto tensors = one_of_each_type();
  const std::map<std::string, std::string> metadata{{"format", "pt"}, {"state", "{\"step\": 3}"}};
  save_safetensors(path_, tensors, metadata);
  const auto back = load_safetensors(path_);
  EXPECT_EQ(back.metadata, metadata);
  ASSERT_EQ(back.tensors.size(), tensors.size());
  for (const auto& [name, t] : tensors) {
    const auto& got = back.tensors.at(name);
    ASSERT_EQ(got.scalar_type(), t.scalar_type()) << name;
    ASSERT_EQ(got.sizes(), t.sizes()) << name;
    const auto expected = t.contiguous();
    if (expected.nbytes() == 0) continue;  // no bytes, no pointers
    EXPECT_EQ(std::memcmp(got.data_ptr(), expected.data_ptr(), expected.nbytes()), 0) << name;
  }
}

TEST_F(Safetensors, LazyViewsAreWrittenAsTheyLook) {
  const auto z = at::complex(at::zeros({3}), at::ones({3}));
  save_safetensors(path_, {{"conj", z.conj()}, {"neg", at::imag(z.conj())}});
  const auto back = load_safetensors(path_).tensors;
  EXPECT_TRUE(back.at("conj").equal(z.conj().resolve_conj()));
  EXPECT_TRUE(back.at("neg").equal(-at::ones({3})));
}

TEST_F(Safetensors, EveryByteButNoughtIsTrue) {
  save_safetensors(path_, {{"x", at::zeros({1}, at::kBool)}});
  auto bytes = read_file(path_);
  bytes.back() = 2;
  write_file(path_, bytes);
  EXPECT_TRUE(load_safetensors(path_).tensors.at("x").view(at::kByte).equal(at::ones({1}, at::kByte)));
}

TEST_F(Safetensors, EqualContentsGiveEqualBytes) {
  save_safetensors(path_, one_of_each_type(), {{"b", "2"}, {"a", "1"}});
  const auto first = read_file(path_);
  const auto back = load_safetensors(path_);
  save_safetensors(path_, back.tensors, back.metadata);
  EXPECT_EQ(read_file(path_), first);
  EXPECT_EQ((8 + static_cast<unsigned char>(first[0]) + 256 * static_cast<unsigned char>(first[1])) % 8, 0);
}

TEST_F(Safetensors, LoadedTensorsOutliveTheFile) {
  save_safetensors(path_, {{"x", at::ones({4})}});
  auto x = load_safetensors(path_).tensors.at("x");
  write_file(path_, "gone");
  x += 1;
  EXPECT_TRUE(x.equal(at::full({4}, 2.0)));
}

TEST_F(Safetensors, ReservedOrUnsupportedTensorsAreRefused) {
  EXPECT_THROW(save_safetensors(path_, {{"x", at::zeros({2}, at::kComplexDouble)}}), Error);
  EXPECT_THROW(save_safetensors(path_, {{"x", at::Tensor()}}), Error);
  EXPECT_THROW(save_safetensors(path_, {{"__metadata__", at::zeros({2})}}), Error);
  EXPECT_FALSE(fs::exists(path_));
}

TEST_F(Safetensors, BadFilesGiveOneLineThatSaysWhere) {
  const std::string good = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  EXPECT_EQ(error(good, 8), "no error");
  EXPECT_THAT(error(good, 7), HasSubstr("'a' ends at 8 of 7"));
  EXPECT_THAT(error(good, 9), HasSubstr("1 bytes after the last tensor"));
  EXPECT_THAT(error(good, 8, good.size() + 9), HasSubstr("truncated"));
  EXPECT_THAT(error(good, 8, UINT64_MAX - 3), HasSubstr("truncated"));
  EXPECT_THAT(error(good, 8, 20), HasSubstr("not valid JSON"));
  EXPECT_THAT(error("[1]", 0), HasSubstr("does not start with"));
  EXPECT_THAT(error("{\"a\":\"\xff\"}", 0), HasSubstr("not valid JSON"));
  EXPECT_THAT(error(R"({"a":[[[[1]]]]})", 0), HasSubstr("nested deeper"));
  EXPECT_THAT(
      error(
          R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
          8),
      HasSubstr("'a' twice"));
  EXPECT_THAT(error(R"({"a":{"dtype":"F32","dtype":"F16","shape":[2],"data_offsets":[0,8]}})", 8),
              HasSubstr("'dtype' twice"));
  EXPECT_THAT(error(R"({"a":{"dtype":"F31","shape":[2],"data_offsets":[0,8]}})", 8), HasSubstr("unknown dtype 'F31'"));
  EXPECT_THAT(error(R"({"a":{"dtype":"F32","shape":[2]}})", 8), HasSubstr("exactly the fields"));
  EXPECT_THAT(error(R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8), HasSubstr("not a list of sizes"));
  EXPECT_THAT(error(R"({"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}})", 8),
              HasSubstr("not a list of sizes"));
  EXPECT_THAT(error(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8), HasSubstr("needs 12 bytes"));
  EXPECT_THAT(error(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8), HasSubstr("span another number"));
  EXPECT_THAT(error(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0),
              HasSubstr("overflows"));
  EXPECT_THAT(error(R"({"a":{"dtype":"F32","shape":[0,4294967296,4294967296],"data_offsets":[0,0]}})", 0),
              HasSubstr("overflows"));
  EXPECT_THAT(
      error(
          R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
          12),
      HasSubstr("overlaps"));
  EXPECT_THAT(
      error(
          R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}})",
          16),
      HasSubstr("'b' starts at data offset 12 instead of 8"));
  EXPECT_THAT(error(R"({"__metadata__":{"a":1}})", 0), HasSubstr("'a' is not a string"));
  EXPECT_THAT(error(R"({"__metadata__":3})", 0), HasSubstr("not an object"));
  write_file(path_, "abc");
  EXPECT_THAT(load_error(path_), HasSubstr("too few"));
  EXPECT_THAT(load_error(folder_ / "absent"), HasSubstr("absent"));
}

TEST_F(Safetensors, DamagedFilesNeverDoMoreThanThrow) {
  save_safetensors(path_, {{"a", at::arange(6)}, {"b", at::ones({2, 3})}}, {{"k", "v"}});
  const auto good = read_file(path_);
  Random random(1);
  int accepted = 0;
  for (int i = 0; i < 5000; ++i) {
    auto bytes = good;
    if (random.below(4) == 0) bytes.resize(random.below(bytes.size() + 1));
    for (auto n = random.below(3); n-- > 0 && !bytes.empty();)
      bytes[random.below(bytes.size())] = static_cast<char>(random.bits());
    try {
      const auto header = parse_safetensors_header(std::as_bytes(std::span(bytes)), "memory");
      ++accepted;
      for (const auto& entry : header.tensors) ASSERT_LE(entry.end, bytes.size());
    } catch (const Error&) {
    }
  }
  EXPECT_GT(accepted, 500);  // undamaged, or damaged only in the data
  EXPECT_LT(accepted, 4500);
}

}  // namespace
}  // namespace unbend
