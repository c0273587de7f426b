#include "unbend/engine/gguf_write.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "tests/engine/gguf_bytes.h"
#include "unbend/base/error.h"
#include "unbend/engine/reference.h"

namespace unbend::engine {
namespace {

using testing::ElementsAre;

TEST(GgufWrite, EntriesComeBack) {
  const std::vector<std::pair<std::string, MetaValue>> metadata = {
      {"i", std::int64_t{-5}},
      {"long", std::int64_t{-1} << 40},
      {"u", std::uint64_t{5}},
      {"ulong", ~std::uint64_t{0}},
      {"half", 0.5},
      {"third", 1.0 / 3},
      {"yes", true},
      {"text", std::string("a\0b", 3)},
      {"integers", std::vector<std::int64_t>{1, -2}},
      {"longs", std::vector<std::int64_t>{1, std::int64_t{1} << 40}},
      {"reals", std::vector<double>{0.25, -2}},
      {"doubles", std::vector<double>{0.25, 1.0 / 3}},
      {"flags", std::vector<bool>{true, false, true}},
      {"texts", std::vector<std::string>{"", "two"}}};
  std::vector<std::string> entries;
  for (const auto& [key, value] : metadata) entries.push_back(encode_entry(key, value));
  const Folder folder;
  write_gguf(folder.path() / "a.gguf", entries, {});
  EXPECT_EQ(Gguf::open(folder.path() / "a.gguf").metadata(), metadata);
  EXPECT_EQ(encode_entry("u", std::uint64_t{5}), u32_entry("u", 5));  // the widths that libllama expects
  EXPECT_EQ(encode_entry("r", 0.5), entry("r", kF32, bytes_of(0.5f)));
}

TEST(GgufWrite, TensorsComeBack) {
  const Folder folder;
  const auto path = folder.path() / "a.gguf";
  const auto fill = [](std::span<std::byte> bytes) { std::ranges::fill(bytes, std::byte{7}); };
  write_gguf(path, {}, {{"a", 0, {3, 1}, fill}, {"b", 2, {2, 32}, fill}});
  const Gguf gguf = Gguf::open(path);
  EXPECT_THAT(gguf.tensor("a").shape, ElementsAre(3, 1));
  EXPECT_THAT(gguf.tensor("b").shape, ElementsAre(2, 32));
  EXPECT_EQ(gguf.tensor("b").bytes, 36u);
  EXPECT_EQ(gguf.data(gguf.tensor("b"))[35], std::byte{7});
}

TEST(GgufWrite, RefusesWhatGgufCannotHold) {
  const Folder folder;
  const auto path = folder.path() / "a.gguf";
  const auto fill = [](std::span<std::byte>) {};
  EXPECT_THROW(write_gguf(path, {}, {{"", 0, {1}, fill}}), Error);
  EXPECT_THROW(write_gguf(path, {}, {{"a", 0, {}, fill}}), Error);
  EXPECT_THROW(write_gguf(path, {}, {{"a", 0, {1, 1, 1, 1, 1}, fill}}), Error);
  EXPECT_THROW(write_gguf(path, {}, {{"a", 0, {0}, fill}}), Error);
  EXPECT_THROW(write_gguf(path, {}, {{"a", 2, {31}, fill}}), Error);
  EXPECT_THROW(write_gguf(path, {}, {{"a", 4, {32}, fill}}), Error);
  EXPECT_THROW(write_gguf(path, {}, {{"a", 0, {1}, fill}, {"a", 0, {1}, fill}}), Error);
  const auto fail = [](std::span<std::byte>) { fail_computation("stop"); };
  EXPECT_THROW(write_gguf(path, {}, {{"a", 0, {1}, fail}}), Error);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(GgufWrite, RewritesAsF32) {
  const Folder folder;
  GgufBytes bytes = valid_gguf();
  bytes.metadata.push_back(u32_entry("general.file_type", 3));
  bytes.tensors.push_back(tensor_entry("i", {2}, 26, 128));
  bytes.data += std::string(28, '\0') + bytes_of<std::int32_t>(-9) + bytes_of<std::int32_t>(8);
  const Gguf in = Gguf::open(folder.write("in.gguf", bytes.file()));
  std::vector<float> changed(in.tensor("f").elements());
  in.dequantize(in.tensor("f"), 0, in.tensor("f").rows(), changed.data());
  changed[0] = 100;
  Rewrite changes;
  changes.type = [](const TensorInfo&) { return type_number("f32"); };
  changes.values = [&](const TensorInfo& tensor) {
    return tensor.name == "f" ? std::span<const float>(changed) : std::span<const float>();
  };
  changes.entries = {{"general.file_type", std::uint64_t{0}}};
  rewrite(in, folder.path() / "out.gguf", changes);
  const Gguf out = Gguf::open(folder.path() / "out.gguf");
  EXPECT_EQ(out.integer("general.file_type"), 0);
  EXPECT_EQ(out.integer("a.u8"), 200);
  EXPECT_TRUE(std::ranges::equal(out.encoded("a.u8"), in.encoded("a.u8")));
  for (const char* name : {"f", "q", "h"}) {
    const TensorInfo& tensor = in.tensor(name);
    EXPECT_EQ(type_name(out.tensor(name).type), "F32");
    EXPECT_EQ(out.tensor(name).shape, tensor.shape);
    std::vector<float> expected(tensor.elements()), values(tensor.elements());
    in.dequantize(tensor, 0, tensor.rows(), expected.data());
    out.dequantize(out.tensor(name), 0, tensor.rows(), values.data());
    if (name == std::string("f")) expected[0] = 100;
    EXPECT_EQ(values, expected) << name;
  }
  EXPECT_TRUE(std::ranges::equal(out.data(out.tensor("i")), in.data(in.tensor("i"))));
}

TEST(Reference, RefusesBadInput) {
  const Folder folder;
  const auto path = folder.write("a.gguf", valid_gguf().file());
  const std::vector<TokenId> ids = {1};
  EXPECT_THROW(llama_logits(path, ids, 1), Error);  // no hyperparameters
  if (!std::filesystem::exists(smollm2())) GTEST_SKIP() << "tools/setup.sh model";
  EXPECT_THROW(llama_logits(smollm2(), std::vector<TokenId>{}, 1), Error);
  EXPECT_THROW(llama_logits(smollm2(), std::vector<TokenId>{49152}, 1), Error);
  EXPECT_THROW(llama_logits(smollm2(), ids, 0), Error);
}

TEST(Reference, SmolLM2ContinuesAKnownText) {
  if (!std::filesystem::exists(smollm2())) GTEST_SKIP() << "tools/setup.sh model";
  const Tokenizer tokenizer = Tokenizer::load(smollm2());
  const auto ids = tokenizer.encode("The capital of France is");
  const std::vector<float> logits = llama_logits(smollm2(), ids, 2);
  ASSERT_EQ(logits.size(), ids.size() * tokenizer.size());
  const auto last = std::span(logits).last(tokenizer.size());
  const auto best = static_cast<TokenId>(std::ranges::max_element(last) - last.begin());
  EXPECT_EQ(tokenizer.decode(std::vector<TokenId>{best}), " Paris");
}

}  // namespace
}  // namespace unbend::engine
