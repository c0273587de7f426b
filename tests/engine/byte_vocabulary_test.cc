#include "unbend/engine/byte_vocabulary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "unbend/base/error.h"
#include "unbend/engine/tokenizer.h"

namespace unbend::engine {
namespace {

TEST(ByteVocabulary, IdsAreTheBytes) {
  const auto tokenizer = byte_tokenizer(257);
  EXPECT_EQ(tokenizer.size(), 257);
  EXPECT_EQ(tokenizer.eos(), 256);
  EXPECT_TRUE(tokenizer.is_end(256));
  EXPECT_FALSE(tokenizer.is_end(11));
  EXPECT_FALSE(tokenizer.adds_bos());
  // Every byte that occurs in valid UTF-8, in text that pre-tokenizers like to cut.
  std::string text =
      "It's 12345 o'clock,\r\n\tisn't  it?\x01\x7f <|end|> \xc2\x80 \xc3\xa9\xdf\xbf \xe4\xbd\xa0 "
      "\xf0\x9f\x98\x80\xf4\x8f\xbf\xbf";
  for (char c = 0; c < 0x7f; ++c) text += c;
  const auto ids = tokenizer.encode(text);
  ASSERT_EQ(ids.size(), text.size());
  for (std::size_t i = 0; i < ids.size(); ++i) ASSERT_EQ(ids[i], static_cast<unsigned char>(text[i])) << i;
  EXPECT_EQ(tokenizer.decode(ids), text);
  EXPECT_THAT(tokenizer.encode("a<|end|>", true), testing::ElementsAre('a', 256));
  for (TokenId byte = 0; byte < 256; ++byte)
    EXPECT_EQ(tokenizer.decode(std::span(&byte, 1)), std::string(1, static_cast<char>(byte)));
}

TEST(ByteVocabulary, MayHaveUnusedTokens) {
  const auto tokenizer = byte_tokenizer(300);
  EXPECT_EQ(tokenizer.size(), 300);
  EXPECT_EQ(tokenizer.encode("<|unused 257|>").size(), 14);
  EXPECT_THROW(byte_vocabulary(256), Error);
}

}  // namespace
}  // namespace unbend::engine
