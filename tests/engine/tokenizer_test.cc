#include "unbend/engine/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "tests/engine/gguf_bytes.h"
#include "tests/error_message.h"
#include "unbend/base/error.h"
#include "unbend/base/random.h"

namespace unbend::engine {
namespace {

using testing::AnyOf;
using testing::ElementsAre;
using testing::HasSubstr;

/// A byte-level BPE of a few tokens: all printable ASCII, "th" and "the", an end token.
struct SmallTokenizer {
  std::string model = "gpt2", pre = "gpt-2";
  std::vector<std::string> tokens, merges = {"t h", "th e"};
  std::vector<std::int32_t> types;
  std::vector<std::string> extra;

  SmallTokenizer() {
    for (char c = '!'; c <= '~'; ++c) tokens.push_back(std::string(1, c));
    for (const char* text : {"\u0120", "\u010a", "th", "the", "<|end|>"}) tokens.push_back(text);
    types.assign(tokens.size(), 1);
    types.back() = 3;
    extra = {u32_entry("tokenizer.ggml.eos_token_id", static_cast<std::uint32_t>(tokens.size() - 1)),
             u32_entry("tokenizer.ggml.bos_token_id", 0)};
  }

  std::string file() const {
    std::string stored_types;
    for (const std::int32_t type : types) stored_types += bytes_of(type);
    GgufBytes gguf;
    gguf.metadata = {text_entry("general.architecture", "llama"),
                     text_entry("tokenizer.ggml.model", model),
                     text_entry("tokenizer.ggml.pre", pre),
                     strings_entry("tokenizer.ggml.tokens", tokens),
                     strings_entry("tokenizer.ggml.merges", merges),
                     array_entry("tokenizer.ggml.token_type", kI32, types.size(), stored_types)};
    gguf.metadata.insert(gguf.metadata.end(), extra.begin(), extra.end());
    return gguf.file();
  }
};

Tokenizer load(const std::string& bytes) {
  const Folder folder;
  return Tokenizer::load(folder.write("t.gguf", bytes));
}

std::string error_of(const std::string& bytes) {
  const auto message = error_message([&] { load(bytes); });
  EXPECT_THAT(message, AnyOf("no error", HasSubstr("t.gguf")));
  return message;
}

TEST(Tokenizer, EncodesAndDecodes) {
  const Tokenizer tokenizer = load(SmallTokenizer().file());
  EXPECT_EQ(tokenizer.size(), 99);
  EXPECT_EQ(tokenizer.eos(), 98);
  EXPECT_EQ(tokenizer.bos(), 0);
  EXPECT_TRUE(tokenizer.is_end(98));
  EXPECT_FALSE(tokenizer.is_end(97));
  const auto ids = tokenizer.encode("the a");
  EXPECT_THAT(ids, ElementsAre(97, 94, 'a' - '!'));
  EXPECT_EQ(tokenizer.decode(ids), "the a");
  EXPECT_TRUE(tokenizer.encode("").empty());
  EXPECT_EQ(tokenizer.encode("<|end|>").size(), 7u);
  EXPECT_THAT(tokenizer.encode("a<|end|>", true), ElementsAre('a' - '!', 98));
  EXPECT_EQ(tokenizer.decode(std::vector<TokenId>{98}), "");
  EXPECT_EQ(tokenizer.decode(std::vector<TokenId>{98}, true), "<|end|>");
}

TEST(Tokenizer, RefusesIdsOutOfRange) {
  const Tokenizer tokenizer = load(SmallTokenizer().file());
  for (const TokenId id : {-1, 99, INT32_MAX}) EXPECT_THROW(tokenizer.decode(std::vector<TokenId>{id}), Error);
}

TEST(Tokenizer, RefusesWhatLibllamaWouldAbortOn) {
  SmallTokenizer small;
  small.tokens[5] = small.tokens[6];
  EXPECT_THAT(error_of(small.file()), HasSubstr("token 6 of 'tokenizer.ggml.tokens' has the same text"));
  small = {};
  small.tokens[5] = std::string("a\0b", 3);  // equal to "a" when read as a C string
  EXPECT_THAT(error_of(small.file()), HasSubstr("has the same text"));
  small = {};
  small.tokens[5] = "[EMPTY_6]";
  small.tokens[6] = "";
  EXPECT_THAT(error_of(small.file()), HasSubstr("has the same text"));
}

TEST(Tokenizer, RefusesInconsistentFiles) {
  EXPECT_THAT(error_of(valid_gguf().file()), HasSubstr("has no tokenizer"));
  SmallTokenizer small;
  small.model = "bert";
  EXPECT_THAT(error_of(small.file()), HasSubstr("tokenizer 'bert' is not supported"));
  small = {};
  small.pre = "nobody's";
  EXPECT_THAT(error_of(small.file()), HasSubstr("unknown pre-tokenizer type: 'nobody's'"));
  small = {};
  small.types.pop_back();
  EXPECT_THAT(error_of(small.file()), HasSubstr("'tokenizer.ggml.token_type' has 98 entries for 99 tokens"));
  small = {};
  small.merges = {"th"};
  EXPECT_THAT(error_of(small.file()), HasSubstr("entry 0 of 'tokenizer.ggml.merges'"));
  small = {};
  small.merges = {""};
  EXPECT_THAT(error_of(small.file()), HasSubstr("entry 0 of 'tokenizer.ggml.merges'"));
  small = {};
  small.extra[0] = u32_entry("tokenizer.ggml.eos_token_id", 99);
  EXPECT_THAT(error_of(small.file()), HasSubstr("tokenizer.ggml.eos_token_id is 99, but there are 99 tokens"));
  small = {};
  small.extra[0] = text_entry("tokenizer.ggml.eos_token_id", "x");
  EXPECT_THAT(error_of(small.file()), HasSubstr("expected an integer"));
  small = {};
  small.extra.push_back(array_entry("tokenizer.ggml.scores", kF32, 1, bytes_of(1.f)));
  EXPECT_THAT(error_of(small.file()), HasSubstr("'tokenizer.ggml.scores' has 1 numbers"));
  small = {};
  small.extra.push_back(u32_entry("tokenizer.chat_template", 1));
  EXPECT_THAT(error_of(small.file()), HasSubstr("'tokenizer.chat_template' has another type"));
  small = {};
  small.tokens.clear();
  EXPECT_THAT(error_of(small.file()), HasSubstr("'tokenizer.ggml.tokens' is empty"));
}

TEST(Tokenizer, ChatTemplates) {
  SmallTokenizer small;
  const std::vector<ChatMessage> messages = {{"user", "the"}};
  EXPECT_THROW(load(small.file()).chat(messages), Error);
  small.extra.push_back(text_entry("tokenizer.chat_template", "nothing known"));
  EXPECT_THROW(load(small.file()).chat(messages), Error);
  small.extra.back() = text_entry("tokenizer.chat_template", "{{ '<|im_start|>' + message['role'] }}");
  EXPECT_EQ(load(small.file()).chat(messages), "<|im_start|>user\nthe<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(load(small.file()).chat(messages, false), "<|im_start|>user\nthe<|im_end|>\n");
  const std::vector<ChatMessage> many(500, ChatMessage{"u", ""});
  EXPECT_EQ(load(small.file()).chat(many, false).size(), 500 * std::string("<|im_start|>u\n<|im_end|>\n").size());
}

/// A SentencePiece vocabulary with a few words, with or without its 256 byte tokens.
std::string sentencepiece_file(bool bytes) {
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  std::string types = bytes_of<std::int32_t>(2) + bytes_of<std::int32_t>(3) + bytes_of<std::int32_t>(3),
              scores(12, '\0');
  const auto add = [&](const std::string& text, std::int32_t type, float score) {
    tokens.push_back(text);
    types += bytes_of(type);
    scores += bytes_of(score);
  };
  for (int byte = 0; bytes && byte < 256; ++byte) add(fmt::format("<0x{:02X}>", byte), 6, 0);
  for (const char* text : {"\u2581", "t", "h", "e", "th", "the", "\u2581the"})
    add(text, 1, -static_cast<float>(tokens.size()));
  GgufBytes gguf;
  gguf.metadata = {text_entry("general.architecture", "llama"), text_entry("tokenizer.ggml.model", "llama"),
                   strings_entry("tokenizer.ggml.tokens", tokens),
                   array_entry("tokenizer.ggml.token_type", kI32, tokens.size(), types),
                   array_entry("tokenizer.ggml.scores", kF32, tokens.size(), scores)};
  return gguf.file();
}

TEST(Tokenizer, SentencePiece) {
  const Tokenizer tokenizer = load(sentencepiece_file(true));
  EXPECT_TRUE(tokenizer.adds_bos());
  EXPECT_EQ(tokenizer.bos(), 1);
  EXPECT_THAT(tokenizer.encode("the"), ElementsAre(tokenizer.size() - 1));  // with the leading space
  const auto ids = tokenizer.encode("the \xf0\x9f\xa6\x99");
  EXPECT_THAT(ids, ElementsAre(tokenizer.size() - 1, tokenizer.size() - 7, 3 + 0xf0, 3 + 0x9f, 3 + 0xa6, 3 + 0x99));
  EXPECT_EQ(tokenizer.decode(ids), " the \xf0\x9f\xa6\x99");
  const Tokenizer wordy = load(sentencepiece_file(false));
  EXPECT_EQ(wordy.encode("the").size(), 1u);
  EXPECT_THROW(wordy.encode("x"), Error);
}

// Whatever the bytes: an Input error, or a tokenizer that works.
TEST(Tokenizer, SurvivesRandomDamage) {
  const Folder folder;
  Random random(20240613);
  int loaded = 0;
  for (const std::string& bytes : {SmallTokenizer().file(), sentencepiece_file(true)}) {
    for (int round = 0; round < 400; ++round) {
      std::string damaged = bytes;
      damaged[random.below(damaged.size())] = static_cast<char>(random.bits());
      const auto path = folder.write("damaged.gguf", damaged);
      try {
        const Tokenizer tokenizer = Tokenizer::load(path);
        ++loaded;
        const auto ids = tokenizer.encode("the th\xc3\xa9 \xff <|end|>", true);
        tokenizer.decode(ids, true);
      } catch (const Error& error) {
        ASSERT_EQ(error.kind(), ErrorKind::Input);
      }
    }
  }
  EXPECT_GT(loaded, 100);
  EXPECT_LT(loaded, 750);
}

TEST(Tokenizer, SmolLM2FromSeveralThreads) {
  if (!std::filesystem::exists(smollm2())) GTEST_SKIP() << "tools/setup.sh model";
  const Tokenizer tokenizer = Tokenizer::load(smollm2());
  EXPECT_EQ(tokenizer.size(), 49152);
  EXPECT_FALSE(tokenizer.adds_bos());
  EXPECT_EQ(tokenizer.decode(std::vector<TokenId>{tokenizer.eos()}, true), "<|im_end|>");
  EXPECT_TRUE(tokenizer.is_end(tokenizer.eos()));
  const std::string text = "Grüße, 世界! 12345 \xf0\x9f\xa6\x99\n\n\tdef f(x): return x**2";
  const auto ids = tokenizer.encode(text);
  EXPECT_EQ(tokenizer.decode(ids), text);
  const std::string mark = "\xef\xbf\xbd";
  for (const char* one : {"\xff", "\x80", "\xc3", "\xe2\x82", "\xf0\x9f\xa6"}) {  // never, too early, cut off
    EXPECT_EQ(tokenizer.encode(std::string("a") + one + "b"), tokenizer.encode("a" + mark + "b")) << one;
    EXPECT_EQ(tokenizer.encode(one), tokenizer.encode(mark));
  }
  for (const char* two : {"\xc0\xaf", "\xff\xfe"}) EXPECT_EQ(tokenizer.encode(two), tokenizer.encode(mark + mark));
  EXPECT_EQ(tokenizer.encode("\xed\xa0\x80"), tokenizer.encode(mark + mark + mark));             // a surrogate
  EXPECT_EQ(tokenizer.encode("\xf4\x90\x80\x80"), tokenizer.encode(mark + mark + mark + mark));  // above U+10FFFF
  std::vector<std::thread> threads;
  std::vector<std::vector<TokenId>> results(4);
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 50; ++round) results[i] = tokenizer.encode(text);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& result : results) EXPECT_EQ(result, ids);
  EXPECT_THAT(tokenizer.chat({{"user", "Hi"}}),
              testing::EndsWith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"));
}

}  // namespace
}  // namespace unbend::engine
