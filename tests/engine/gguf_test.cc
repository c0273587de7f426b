#include "unbend/engine/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "tests/engine/gguf_bytes.h"
#include "tests/error_message.h"
#include "unbend/base/error.h"
#include "unbend/base/random.h"

namespace unbend::engine {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

std::string error_of_file(const std::string& bytes) {
  const Folder folder;
  const auto path = folder.write("model.gguf", bytes);
  const std::string error = error_message([&] { Gguf::open(path); });
  if (error != "no error") {
    EXPECT_THAT(error, AllOf(HasSubstr(path.string()), HasSubstr("offset")));
  }
  return error;
}

std::string error_of_file(const GgufBytes& gguf) { return error_of_file(gguf.file()); }

GgufBytes with_metadata(const std::string& entry) {
  GgufBytes gguf = valid_gguf();
  gguf.metadata.push_back(entry);
  return gguf;
}

GgufBytes with_tensor(const std::string& entry) {
  GgufBytes gguf = valid_gguf();
  gguf.tensors.push_back(entry);
  return gguf;
}

TEST(Gguf, ReadsMetadataOfEveryKind) {
  const Folder folder;
  const Gguf gguf = Gguf::open(folder.write("a.gguf", valid_gguf().file()));
  EXPECT_EQ(gguf.text("general.architecture"), "llama");
  EXPECT_EQ(gguf.integer("a.u8"), 200);
  EXPECT_EQ(gguf.integer("a.i32"), -7);
  EXPECT_EQ(gguf.real("a.f32"), 0.5);
  EXPECT_EQ(gguf.real("a.i32"), -7.0);
  EXPECT_TRUE(gguf.flag("a.bool", false));
  EXPECT_EQ(std::get<std::uint64_t>(*gguf.meta("a.u64")), ~0ull);
  EXPECT_THAT(std::get<std::vector<std::int64_t>>(*gguf.meta("a.integers")), ElementsAre(3, -4));
  EXPECT_THAT(std::get<std::vector<bool>>(*gguf.meta("a.flags")), ElementsAre(false, true));
  EXPECT_THAT(std::get<std::vector<std::string>>(*gguf.meta("a.strings")), ElementsAre("one", "two"));
  EXPECT_EQ(gguf.metadata().size(), 10u);
  EXPECT_EQ(gguf.metadata()[2].first, "a.u8");
  EXPECT_EQ(gguf.encoded("a.f32").size(), 8u + 5 + 4 + 4);
}

TEST(Gguf, MissingKeysAndOtherTypesAreNamed) {
  const Folder folder;
  const Gguf gguf = Gguf::open(folder.write("a.gguf", valid_gguf().file()));
  EXPECT_EQ(gguf.meta("nothing"), nullptr);
  EXPECT_EQ(gguf.integer("nothing", 5), 5);
  EXPECT_EQ(gguf.real("nothing", 1.5), 1.5);
  EXPECT_EQ(gguf.text("nothing", "x"), "x");
  EXPECT_TRUE(gguf.flag("nothing", true));
  EXPECT_THAT(error_message([&] { gguf.integer("nothing"); }), HasSubstr("'nothing' is missing, expected an integer"));
  EXPECT_THAT(error_message([&] { gguf.integer("a.u64"); }), HasSubstr("'a.u64' has another type"));
  EXPECT_THAT(error_message([&] { gguf.integer("a.f32", 1); }), HasSubstr("'a.f32' has another type"));
  EXPECT_THAT(error_message([&] { gguf.text("a.f32"); }), HasSubstr("expected a string"));
  EXPECT_THAT(error_message([&] { gguf.real("a.bool"); }), HasSubstr("expected a number"));
  EXPECT_THAT(error_message([&] { gguf.flag("a.u8", true); }), HasSubstr("expected a truth value"));
  EXPECT_THAT(error_message([&] { gguf.encoded("nothing"); }), HasSubstr("'nothing' is missing"));
}

TEST(Gguf, ReadsTensors) {
  const Folder folder;
  const Gguf gguf = Gguf::open(folder.write("a.gguf", valid_gguf().file()));
  ASSERT_EQ(gguf.tensors().size(), 3u);
  EXPECT_EQ(gguf.find("nothing"), nullptr);
  EXPECT_THAT(error_message([&] { gguf.tensor("nothing"); }), HasSubstr("tensor 'nothing' is missing"));
  const TensorInfo& f = gguf.tensor("f");
  EXPECT_THAT(f.shape, ElementsAre(2, 4));
  std::vector<float> values(4);
  gguf.dequantize(f, 1, 1, values.data());
  EXPECT_THAT(values, ElementsAre(4, 5, 6, 7));

  const TensorInfo& q = gguf.tensor("q");
  EXPECT_EQ(type_name(q.type), "Q4_0");
  EXPECT_EQ(q.bytes, 36u);
  values.resize(64);
  gguf.dequantize(q, 0, 2, values.data());
  EXPECT_FLOAT_EQ(values[0], (0xc - 8) * 1.05859375f);  // half 0x3c3c is 1 + 60 / 1024
  EXPECT_FLOAT_EQ(values[63], (0x3 - 8) * 1.05859375f);

  gguf.dequantize(gguf.tensor("h"), 0, 1, values.data());
  EXPECT_EQ(values[0], 1);
  EXPECT_EQ(values[1], -2);
}

TEST(Gguf, RefusesRowsOutOfRangeAndForeignTensors) {
  const Folder folder;
  const Gguf gguf = Gguf::open(folder.write("a.gguf", valid_gguf().file()));
  float out[64];
  TensorInfo q = gguf.tensor("q");
  EXPECT_THAT(error_message([&] { gguf.dequantize(q, 1, 2, out); }), HasSubstr("tensor 'q', which has 2"));
  EXPECT_THAT(error_message([&] { gguf.dequantize(q, -1, 1, out); }), HasSubstr("tensor 'q'"));
  EXPECT_THAT(error_message([&] { gguf.dequantize(q, INT64_MAX, 1, out); }), HasSubstr("tensor 'q'"));
  q.offset = 1 << 20;
  EXPECT_THAT(error_message([&] { gguf.data(q); }), HasSubstr("is not in this file"));
  q.type = 26;
  EXPECT_THAT(error_message([&] { gguf.dequantize(q, 0, 1, out); }), HasSubstr("type I32 cannot be read as floats"));
}

TEST(Gguf, RefusesDamagedHeaders) {
  EXPECT_THAT(error_of_file(std::string()), HasSubstr("not a GGUF file"));
  EXPECT_THAT(error_of_file(std::string("GG")), HasSubstr("not a GGUF file"));
  GgufBytes gguf = valid_gguf();
  gguf.magic = "GGML";
  EXPECT_THAT(error_of_file(gguf), HasSubstr("does not start with 'GGUF'"));
  for (const std::uint32_t version : {0u, 1u, 4u}) {
    gguf = valid_gguf();
    gguf.version = version;
    EXPECT_THAT(error_of_file(gguf), HasSubstr("version " + std::to_string(version)));
  }
  gguf.version = 3u << 24;
  EXPECT_THAT(error_of_file(gguf), HasSubstr("big-endian"));
  gguf.version = 2;
  EXPECT_EQ(error_of_file(gguf), "no error");
  for (const std::size_t field : {8u, 16u}) {
    for (const std::uint64_t count : {std::uint64_t{1} << 40, ~std::uint64_t{0}, std::uint64_t{1} << 63}) {
      std::string bytes = valid_gguf().file();
      bytes.replace(field, 8, bytes_of(count));
      EXPECT_THAT(error_of_file(bytes), HasSubstr("more than the remaining"));
    }
  }
}

TEST(Gguf, RefusesDamagedMetadata) {
  EXPECT_THAT(error_of_file(with_metadata(entry("k", 13, "xxxx"))), HasSubstr("unknown metadata type 13"));
  EXPECT_THAT(error_of_file(with_metadata(entry("k", kBool, "\2"))), HasSubstr("truth value is 2"));
  EXPECT_THAT(error_of_file(with_metadata(entry("", kU8, "x"))), HasSubstr("is empty"));
  EXPECT_THAT(error_of_file(with_metadata(entry(std::string(70000, 'k'), kU8, "x"))), HasSubstr("longer than 65535"));
  EXPECT_THAT(error_of_file(with_metadata(entry(std::string("k\0", 2), kU8, "x"))), HasSubstr("'k\\x00'"));
  EXPECT_THAT(error_of_file(with_metadata(entry("a.u8", kU8, "x"))), HasSubstr("'a.u8' appears twice"));
  EXPECT_THAT(error_of_file(with_metadata(entry("k", kString, bytes_of<std::uint64_t>(~0ull)))),
              HasSubstr("the file ends within"));
  EXPECT_THAT(error_of_file(with_metadata(array_entry("k", kArray, 1, bytes_of(kU8) + bytes_of<std::uint64_t>(0)))),
              HasSubstr("array of arrays"));
  EXPECT_THAT(error_of_file(with_metadata(array_entry("k", 99, 1, "x"))), HasSubstr("unknown type 99 of an array"));
  for (const std::uint32_t type : {kU8, kF32, kU64, kBool, kString}) {
    EXPECT_THAT(error_of_file(with_metadata(array_entry("k", type, std::uint64_t{1} << 61, ""))),
                HasSubstr("the length of an array"));
  }
  EXPECT_THAT(error_of_file(with_metadata(array_entry("k", kU64, 1, bytes_of<std::uint64_t>(~0ull)))),
              HasSubstr("over 2^63 - 1"));
}

TEST(Gguf, RefusesBadAlignment) {
  for (const std::uint32_t alignment : {0u, 1u, 4u, 24u, 1u << 31}) {
    GgufBytes gguf = valid_gguf();
    gguf.metadata[1] = u32_entry("general.alignment", alignment);
    EXPECT_THAT(error_of_file(gguf), HasSubstr("general.alignment must be"));
  }
  GgufBytes gguf = valid_gguf();
  gguf.metadata[1] = entry("general.alignment", kU64, bytes_of<std::uint64_t>(32));
  EXPECT_THAT(error_of_file(gguf), HasSubstr("general.alignment must be"));
}

TEST(Gguf, RefusesDamagedTensors) {
  EXPECT_THAT(error_of_file(with_tensor(tensor_entry("", {4}, 0, 128))), HasSubstr("is empty"));
  EXPECT_THAT(error_of_file(with_tensor(tensor_entry(std::string(64, 'n'), {4}, 0, 128))), HasSubstr("longer than 63"));
  EXPECT_THAT(error_of_file(with_tensor(tensor_entry(std::string("n\0m", 3), {4}, 0, 128))), HasSubstr("zero byte"));
  EXPECT_THAT(error_of_file(with_tensor(tensor_entry("f", {4}, 0, 128))), HasSubstr("tensor 'f' appears twice"));
  EXPECT_THAT(error_of_file(with_tensor(tensor_entry("t", {}, 0, 128))), HasSubstr("tensor 't' has 0 dimensions"));
  EXPECT_THAT(error_of_file(with_tensor(tensor_entry("t", {1, 1, 1, 1, 1}, 0, 128))),
              HasSubstr("tensor 't' has 5 dimensions"));
  EXPECT_THAT(error_of_file(with_tensor(tensor_entry("t", {4, 0}, 0, 128))), HasSubstr("dimension of size 0"));
  EXPECT_THAT(error_of_file(with_tensor(tensor_entry("t", {4, -1}, 0, 128))), HasSubstr("dimension of size -1"));
  EXPECT_THAT(error_of_file(with_tensor(tensor_entry("t", {1LL << 32, 1LL << 32}, 0, 128))),
              HasSubstr("2^63 - 1 elements"));
  EXPECT_THAT(error_of_file(with_tensor(tensor_entry("t", {1LL << 62}, 0, 128))), HasSubstr("2^63 - 1 bytes"));
  for (const std::uint32_t type : {4u, 5u, 31u, 36u, 1000u, ~0u}) {  // never used, removed, never defined
    EXPECT_THAT(error_of_file(with_tensor(tensor_entry("t", {32}, type, 128))),
                HasSubstr("unknown type " + std::to_string(type)));
  }
  EXPECT_THAT(error_of_file(with_tensor(tensor_entry("t", {33}, 2, 128))),
              HasSubstr("rows of 33 elements, type Q4_0 needs"));
  EXPECT_THAT(error_of_file(with_tensor(tensor_entry("t", {4}, 0, 100))),
              HasSubstr("offset 100, not a multiple of 32"));
  EXPECT_THAT(error_of_file(with_tensor(tensor_entry("t", {4}, 0, ~31ull))), HasSubstr("needs 16 bytes"));
  EXPECT_THAT(error_of_file(with_tensor(tensor_entry("t", {1LL << 50}, 0, 96))), HasSubstr("tensor 't' needs"));
  EXPECT_THAT(error_of_file(with_tensor(tensor_entry("t", {4}, 0, 64))), HasSubstr("tensors 'q' and 't' overlap"));
}

TEST(Gguf, RefusesEveryTruncation) {
  const std::string bytes = valid_gguf().file();
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    ASSERT_NE(error_of_file(bytes.substr(0, size)), "no error") << size;
  }
  EXPECT_EQ(error_of_file(bytes), "no error");
}

// Whatever the bytes: an Input error, or a file all of whose tensors can be read.
TEST(Gguf, SurvivesRandomDamage) {
  const Folder folder;
  const std::string bytes = valid_gguf().file();
  Random random(20240611);
  int opened = 0;
  for (int round = 0; round < 2000; ++round) {
    std::string damaged = bytes;
    const std::uint64_t flips = 1 + random.below(4);
    for (std::uint64_t i = 0; i < flips; ++i) damaged[random.below(damaged.size())] = static_cast<char>(random.bits());
    const auto path = folder.write("damaged.gguf", damaged);
    try {
      const Gguf gguf = Gguf::open(path);
      ++opened;
      for (const TensorInfo& tensor : gguf.tensors()) {
        std::vector<float> values(tensor.elements());
        if (is_supported(tensor.type)) gguf.dequantize(tensor, 0, tensor.rows(), values.data());
      }
    } catch (const Error& error) {
      ASSERT_EQ(error.kind(), ErrorKind::Input);
    }
  }
  EXPECT_GT(opened, 100);
  EXPECT_LT(opened, 1900);
}

GgufBytes shard(int number, int count, std::vector<std::string> tensors, int total) {
  GgufBytes gguf;
  gguf.metadata = {text_entry("general.architecture", "llama"),
                   entry("split.no", kU16, bytes_of<std::uint16_t>(number)),
                   entry("split.count", kU16, bytes_of<std::uint16_t>(count)),
                   entry("split.tensors.count", kI32, bytes_of<std::int32_t>(total))};
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    gguf.tensors.push_back(tensor_entry(tensors[i], {8}, 0, 32 * i));
    gguf.data += std::string(32, static_cast<char>(number));
  }
  return gguf;
}

TEST(Gguf, ReadsShards) {
  const Folder folder;
  const auto first = folder.write("m-00001-of-00002.gguf", shard(0, 2, {"a"}, 3).file());
  const auto second = folder.write("m-00002-of-00002.gguf", shard(1, 2, {"b", "c"}, 3).file());
  const Gguf gguf = Gguf::open(first);
  ASSERT_EQ(gguf.tensors().size(), 3u);
  EXPECT_EQ(gguf.tensor("c").shard, 1);
  EXPECT_EQ(gguf.data(gguf.tensor("c"))[0], std::byte{1});
  const std::string hashes = sha256_file(first) + sha256_file(second);
  EXPECT_EQ(gguf.content_hash(), sha256(std::as_bytes(std::span(hashes))));
  EXPECT_THAT(error_message([&] { Gguf::open(second); }), HasSubstr("shard 2 of 2: open the first one"));
}

TEST(Gguf, RefusesShardsThatDoNotBelongTogether) {
  const Folder folder;
  const auto first = folder.write("m-00001-of-00002.gguf", shard(0, 2, {"a"}, 2).file());
  const auto open = [&] { Gguf::open(first); };
  EXPECT_THAT(error_message(open), HasSubstr("shard 2 of 2 is missing"));

  std::filesystem::create_symlink(first, folder.path() / "m-00002-of-00002.gguf");
  EXPECT_THAT(error_message(open), HasSubstr("expected shard 2 of 2, its metadata says shard 1 of 2"));
  std::filesystem::remove(folder.path() / "m-00002-of-00002.gguf");

  const auto second = [&](const GgufBytes& gguf) { folder.write("m-00002-of-00002.gguf", gguf.file()); };
  second(shard(1, 3, {"b"}, 2));
  EXPECT_THAT(error_message(open), HasSubstr("its metadata says shard 2 of 3"));
  second(shard(1, 2, {"a"}, 2));
  EXPECT_THAT(error_message(open), HasSubstr("tensor 'a' is in two shards"));
  second(shard(1, 2, {"b", "c"}, 2));
  EXPECT_THAT(error_message(open), HasSubstr("hold 3 tensors"));
  second(GgufBytes());
  EXPECT_THAT(error_message(open), HasSubstr("its metadata says shard 0 of -1"));
  GgufBytes other = shard(1, 2, {"b"}, 2);
  other.metadata[0] = text_entry("general.architecture", "bert");
  second(other);
  EXPECT_THAT(error_message(open), HasSubstr("architecture 'bert', the first one to 'llama'"));
  GgufBytes wide = shard(1, 2, {"b"}, 2);
  wide.metadata[1] = u32_entry("split.no", 1);  // libllama aborts on this
  second(wide);
  EXPECT_THAT(error_message(open), HasSubstr("'split.no' must have type u16"));
  const auto renamed = folder.write("model.gguf", shard(0, 2, {"a"}, 2).file());
  EXPECT_THAT(error_message([&] { Gguf::open(renamed); }), HasSubstr("must be named like 'model-00001-of-00002.gguf'"));
}

TEST(Gguf, ContentHashIsTheFiles) {
  const Folder folder;
  const auto path = folder.write("a.gguf", valid_gguf().file());
  EXPECT_EQ(Gguf::open(path).content_hash(), sha256_file(path));
}

TEST(Gguf, MissingFilesAndFoldersAreInputErrors) {
  EXPECT_THAT(error_message([] { Gguf::open("/nonexistent/model.gguf"); }), HasSubstr("/nonexistent/model.gguf"));
  EXPECT_THAT(error_message([] { Gguf::open("/"); }), HasSubstr("/"));
}

TEST(Gguf, SupportsEveryQuantisedTypeOfGgml) {
  std::vector<std::string> names;
  for (const int type : supported_types()) names.push_back(type_name(type));
  EXPECT_THAT(names, testing::IsSupersetOf({"F32",    "F16",   "BF16",    "Q4_0",  "Q4_1",  "Q5_0",  "Q5_1",
                                            "Q8_0",   "Q2_K",  "Q3_K",    "Q4_K",  "Q5_K",  "Q6_K",  "IQ2_XXS",
                                            "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S", "IQ1_M", "IQ4_NL",
                                            "IQ4_XS", "TQ1_0", "TQ2_0",   "MXFP4"}));
  EXPECT_EQ(type_name(-1), "type -1");
  EXPECT_FALSE(is_supported(-1));
}

TEST(Gguf, OpensSmolLM2) {
  if (!std::filesystem::exists(smollm2())) GTEST_SKIP() << "tools/setup.sh model";
  const Gguf gguf = Gguf::open(smollm2());
  EXPECT_EQ(gguf.text("general.architecture"), "llama");
  EXPECT_EQ(gguf.integer("llama.block_count"), 30);
  EXPECT_THAT(gguf.tensor("token_embd.weight").shape, ElementsAre(49152, 576));
  EXPECT_EQ(std::get<std::vector<std::string>>(*gguf.meta("tokenizer.ggml.tokens")).size(), 49152u);
}

}  // namespace
}  // namespace unbend::engine
