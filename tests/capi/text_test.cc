// Texts through the C interface: tokens, chats and generations, with SmolLM2.
#include "unbend/capi/unbend.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "tests/capi/c11_client.h"
#include "tests/capi/handles.h"
#include "tests/engine/gguf_bytes.h"
#include "unbend/engine/engine.h"
#include "unbend/engine/generate.h"

namespace unbend {
namespace {

using engine::TokenId;

class CapiText : public testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(engine::smollm2())) GTEST_SKIP() << "the model is not there: tools/setup.sh model";
    model_ = open(engine::smollm2());
    tokenizer_ = engine::Tokenizer::load(engine::smollm2());
    auto options = unbend_engine_defaults();
    options.context = 256;
    engine_ = make_engine(model_.get(), options);
    options_.max_tokens = 12, options_.temperature = 0;
  }
  std::vector<TokenId> encode(std::string_view text, int flags = 0) {
    std::int32_t* ids = nullptr;
    std::size_t count = 0;
    EXPECT_EQ(unbend_encode(model_.get(), text.data(), text.size(), flags, &ids, &count), UNBEND_OK)
        << unbend_last_error();
    const Owned<std::int32_t> owned(ids);
    return {ids, ids + count};
  }
  unbend_status generate(int sequence, const std::vector<TokenId>& prompt) {
    text_.clear(), pieces_ = 0;
    const unbend_stream stream = [](const char* text, std::size_t length, void* user) {
      auto& test = *static_cast<CapiText*>(user);
      EXPECT_EQ(std::strlen(text), length);
      test.text_ += text;
      return ++test.pieces_ == test.enough_ ? 1 : 0;
    };
    return unbend_generate(engine_.get(), sequence, prompt.data(), prompt.size(), &options_, stream, this, &done_);
  }
  engine::Generation expected(const std::string& prompt) {
    engine::EngineOptions options;
    options.context = 256;
    engine::Engine engine(engine::Model::open(engine::smollm2()), options);
    engine::GenerateOptions wanted;
    wanted.max_tokens = options_.max_tokens, wanted.sampler.temperature = 0;
    return engine::generate(engine, *tokenizer_, tokenizer_->encode(prompt), wanted);
  }

  Owned<unbend_model> model_;
  Owned<unbend_engine> engine_;
  std::optional<engine::Tokenizer> tokenizer_;
  unbend_generate_options options_ = unbend_generate_defaults();
  unbend_generation done_{};
  std::string text_;
  int pieces_ = 0, enough_ = -1;
};

TEST_F(CapiText, EncodesAndDecodesAsTheTokenizer) {
  const std::string text = std::string("caf\u00e9 <|im_start|> \0 x\xff", 24);
  EXPECT_EQ(encode(text), tokenizer_->encode(text));
  EXPECT_EQ(encode(text, UNBEND_SPECIAL), tokenizer_->encode(text, true));
  EXPECT_NE(encode(text, UNBEND_SPECIAL), encode(text));
  EXPECT_TRUE(encode("").empty());

  const auto ids = tokenizer_->encode("a \u4e16 <|im_start|>", true);
  for (const int flags : {0, int{UNBEND_SPECIAL}}) {
    char* decoded = nullptr;
    std::size_t length = 0;
    ASSERT_EQ(unbend_decode(model_.get(), ids.data(), ids.size(), flags, &decoded, &length), UNBEND_OK);
    const Owned<char> owned(decoded);
    EXPECT_EQ(std::string(decoded, length), tokenizer_->decode(ids, flags != 0));
    EXPECT_EQ(decoded[length], '\0');
  }
  int end = -1;
  EXPECT_EQ(unbend_is_end(model_.get(), tokenizer_->eos(), &end), UNBEND_OK);
  EXPECT_EQ(end, 1);
  EXPECT_EQ(unbend_is_end(model_.get(), encode("a").front(), &end), UNBEND_OK);
  EXPECT_EQ(end, 0);
}

TEST_F(CapiText, RefusesBadTexts) {
  std::int32_t* ids = nullptr;
  std::size_t count = 0;
  char* text = nullptr;
  int end = 0;
  const auto* m = model_.get();
  EXPECT_FAILS(UNBEND_USAGE, unbend_encode(m, nullptr, 1, 0, &ids, &count), "text is null");
  EXPECT_FAILS(UNBEND_USAGE, unbend_encode(m, "x", SIZE_MAX, 0, &ids, &count), "no size of an array");
  EXPECT_FAILS(UNBEND_INPUT, unbend_encode(m, "x", SIZE_MAX / 2, 0, &ids, &count), "too long");
  EXPECT_FAILS(UNBEND_USAGE, unbend_encode(m, "x", 1, 4, &ids, &count), "flags 4");
  EXPECT_FAILS(UNBEND_USAGE, unbend_encode(m, "x", 1, 0, nullptr, &count), "ids is null");
  EXPECT_FAILS(UNBEND_USAGE, unbend_encode(m, "x", 1, 0, &ids, nullptr), "count is null");
  for (const std::int32_t id : {-1, 49152, INT32_MAX, INT32_MIN}) {
    EXPECT_FAILS(UNBEND_INPUT, unbend_decode(m, &id, 1, 0, &text, nullptr), "out of range");
    EXPECT_FAILS(UNBEND_INPUT, unbend_is_end(m, id, &end), "out of range");
  }
  EXPECT_FAILS(UNBEND_USAGE, unbend_decode(m, nullptr, 1, 0, &text, nullptr), "ids is null");
  const unbend_message nobody{nullptr, "x"}, nothing{"user", nullptr};
  EXPECT_FAILS(UNBEND_USAGE, unbend_chat(m, &nobody, 1, 1, &text, nullptr), "a role is null");
  EXPECT_FAILS(UNBEND_USAGE, unbend_chat(m, &nothing, 1, 1, &text, nullptr), "a content is null");
  EXPECT_FAILS(UNBEND_USAGE, unbend_chat(m, nullptr, 1, 1, &text, nullptr), "messages is null");
  EXPECT_EQ(ids, nullptr);
  EXPECT_EQ(text, nullptr);
}

TEST_F(CapiText, AnswersInC) {
  const auto question = "What is a window?";
  char answer[256] = "";
  unbend_generation done;
  ASSERT_EQ(answer_in_c(engine::smollm2().c_str(), question, 8, answer, sizeof answer, &done), UNBEND_OK)
      << unbend_last_error();
  const auto ids = encode(tokenizer_->chat({{"user", question}}), UNBEND_BOS | UNBEND_SPECIAL);
  options_.max_tokens = 8;
  ASSERT_EQ(generate(UNBEND_NEW_SEQUENCE, ids), UNBEND_OK) << unbend_last_error();
  EXPECT_FALSE(text_.empty());
  EXPECT_EQ(answer, text_);
  EXPECT_EQ(done.prompt_tokens, static_cast<std::int64_t>(ids.size()));

  EXPECT_EQ(answer_in_c(engine::smollm2().c_str(), question, 8, answer, 3, &done), UNBEND_OK);
  EXPECT_EQ(done.reason, UNBEND_CANCELLED);
  EXPECT_EQ(answer_in_c("/nowhere.gguf", question, 8, answer, sizeof answer, &done), UNBEND_INPUT);
}

TEST_F(CapiText, GeneratesWhatTheEngineGenerates) {
  const auto wanted = expected("The capital of France is");
  ASSERT_EQ(generate(UNBEND_NEW_SEQUENCE, encode("The capital of France is")), UNBEND_OK) << unbend_last_error();
  EXPECT_EQ(text_, wanted.text);
  EXPECT_EQ(done_.tokens, static_cast<std::int64_t>(wanted.ids.size()));
  EXPECT_EQ(done_.reason, UNBEND_LENGTH);
  EXPECT_GT(pieces_, 1);
}

TEST_F(CapiText, GoesOnInASequence) {
  const auto prompt = encode("The capital of France is");
  int sequence = -1;
  ASSERT_EQ(unbend_begin(engine_.get(), &sequence), UNBEND_OK);
  const std::vector<TokenId> head(prompt.begin(), prompt.end() - 2), tail(prompt.end() - 2, prompt.end());
  const unbend_feed feed{sequence, head.data(), head.size(), 0};
  const float* logits = nullptr;
  ASSERT_EQ(unbend_run(engine_.get(), &feed, 1, &logits), UNBEND_OK);
  EXPECT_FAILS(UNBEND_COMPUTATION, generate(UNBEND_NEW_SEQUENCE, tail), "in use");
  ASSERT_EQ(generate(sequence, tail), UNBEND_OK) << unbend_last_error();
  EXPECT_EQ(text_, expected("The capital of France is").text);
  std::int64_t tokens = 0;
  ASSERT_EQ(unbend_sequence_size(engine_.get(), sequence, &tokens, nullptr), UNBEND_OK);
  EXPECT_EQ(tokens, static_cast<std::int64_t>(prompt.size()) + options_.max_tokens - 1);
}

TEST_F(CapiText, StopsWhereItIsTold) {
  const auto prompt = encode("The capital of France is");
  const auto whole = expected("The capital of France is").text;
  const std::string stop = whole.substr(whole.size() / 2, 3);
  const char* stops[] = {"never in it", stop.c_str()};
  options_.stop = stops, options_.stop_count = 2;
  ASSERT_EQ(generate(UNBEND_NEW_SEQUENCE, prompt), UNBEND_OK) << unbend_last_error();
  EXPECT_EQ(done_.reason, UNBEND_STOPPED);
  EXPECT_EQ(text_, whole.substr(0, whole.find(stop)));

  options_.stop_count = 0;
  enough_ = 3;
  ASSERT_EQ(generate(UNBEND_NEW_SEQUENCE, prompt), UNBEND_OK) << unbend_last_error();
  EXPECT_EQ(done_.reason, UNBEND_CANCELLED);
  EXPECT_EQ(pieces_, 3);
  EXPECT_GE(done_.tokens, 3);
  EXPECT_LT(done_.tokens, options_.max_tokens);
  EXPECT_EQ(text_, whole.substr(0, text_.size()));

  options_.max_tokens = 0;
  ASSERT_EQ(generate(UNBEND_NEW_SEQUENCE, prompt), UNBEND_OK) << unbend_last_error();
  EXPECT_EQ(done_.tokens, 0);
  EXPECT_EQ(text_, "");
}

TEST_F(CapiText, FollowsAGrammar) {
  options_.grammar = "root ::= \" yes\" | \" no\"";
  ASSERT_EQ(generate(UNBEND_NEW_SEQUENCE, encode("Is water wet? Answer:")), UNBEND_OK) << unbend_last_error();
  EXPECT_THAT(text_, testing::AnyOf(" yes", " no"));
  EXPECT_EQ(done_.reason, UNBEND_ENDED);
}

TEST_F(CapiText, RefusesBadGenerations) {
  const auto prompt = encode("hello");
  const auto refused = [&](unbend_status status, auto change, const char* text) {
    const auto before = options_;
    change(options_);
    EXPECT_FAILS(status, generate(UNBEND_NEW_SEQUENCE, prompt), text);
    options_ = before;
  };
  const char* stops[] = {nullptr};
  refused(
      UNBEND_USAGE, [](auto& o) { o.max_tokens = -1; }, "max_tokens");
  refused(
      UNBEND_USAGE, [](auto& o) { o.temperature = -1; }, "temperature");
  refused(
      UNBEND_USAGE, [](auto& o) { o.top_p = 0; }, "top-p");
  refused(
      UNBEND_USAGE, [](auto& o) { o.top_k = -1; }, "top-k");
  refused(
      UNBEND_USAGE, [](auto& o) { o.stop_count = 1; }, "options.stop is null");
  refused(
      UNBEND_USAGE, [&](auto& o) { o.stop = stops, o.stop_count = 1; }, "a text of options.stop is null");
  refused(
      UNBEND_INPUT, [](auto& o) { o.grammar = "root ::= ("; }, "grammar");
  EXPECT_FAILS(UNBEND_INPUT, generate(UNBEND_NEW_SEQUENCE, {}), "no tokens");
  EXPECT_FAILS(UNBEND_INPUT, generate(UNBEND_NEW_SEQUENCE, {-5}), "token id -5");
  EXPECT_FAILS(UNBEND_INPUT, generate(0, prompt), "there is no sequence 0");
  EXPECT_FAILS(UNBEND_INPUT, generate(-2, prompt), "there is no sequence -2");
  EXPECT_FAILS(
      UNBEND_USAGE,
      unbend_generate(engine_.get(), UNBEND_NEW_SEQUENCE, prompt.data(), 1, nullptr, nullptr, nullptr, nullptr),
      "stream is null");
  EXPECT_EQ(generate(UNBEND_NEW_SEQUENCE, prompt), UNBEND_OK) << "the only sequence must be free again";
}

}  // namespace
}  // namespace unbend
