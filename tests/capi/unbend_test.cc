// The C interface gives what the C++ interface under it gives, and answers every misuse with a status.
#include "unbend/capi/unbend.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <thread>

#include "tests/capi/c11_client.h"
#include "tests/engine/small_model.h"
#include "unbend/engine/engine.h"
#include "unbend/engine/generate.h"

namespace unbend {
namespace {

using engine::TokenId;
using testing::ElementsAreArray;
using testing::HasSubstr;
using testing::StartsWith;

constexpr std::size_t kVocab = 50;  // of small_model()

struct Close {
  void operator()(unbend_model* model) const { unbend_model_close(model); }
  void operator()(unbend_engine* engine) const { unbend_engine_destroy(engine); }
  void operator()(void* result) const { unbend_free(result); }
};
template <class T>
using Owned = std::unique_ptr<T, Close>;

Owned<unbend_model> open(const std::filesystem::path& path) {
  unbend_model* model = nullptr;
  EXPECT_EQ(unbend_model_open(path.c_str(), &model), UNBEND_OK) << unbend_last_error();
  return Owned<unbend_model>(model);
}

Owned<unbend_engine> make_engine(const unbend_model* model, const unbend_engine_options& options) {
  unbend_engine* engine = nullptr;
  EXPECT_EQ(unbend_engine_create(model, &options, &engine), UNBEND_OK) << unbend_last_error();
  return Owned<unbend_engine>(engine);
}

#define EXPECT_FAILS(status, call, text)                                                      \
  do {                                                                                        \
    EXPECT_EQ((call), (status));                                                              \
    EXPECT_THAT(unbend_last_error(), testing::AllOf(StartsWith("unbend_"), HasSubstr(text))); \
  } while (false)

/// Two sequences of a small model; what it computes is compared with engine::Engine.
class CapiEngine : public testing::TestWithParam<std::pair<std::string, std::string>> {
 protected:
  CapiEngine() : path_(engine::small_model(folder_, GetParam().first, GetParam().second)), model_(open(path_)) {
    options_.sequences = 2, options_.cache_type = UNBEND_F32, options_.context = 64;
    engine_ = make_engine(model_.get(), options_);
  }
  int begin() {
    int sequence = -1;
    EXPECT_EQ(unbend_begin(engine_.get(), &sequence), UNBEND_OK) << unbend_last_error();
    return sequence;
  }
  std::vector<float> run(unbend_engine* engine, int sequence, const std::vector<TokenId>& ids, std::size_t rows = 1) {
    const unbend_feed feed{sequence, ids.data(), ids.size(), rows};
    const float* logits = nullptr;
    EXPECT_EQ(unbend_run(engine, &feed, 1, &logits), UNBEND_OK) << unbend_last_error();
    return {logits, logits + rows * kVocab};
  }

  engine::Folder folder_;
  std::filesystem::path path_;
  Owned<unbend_model> model_;
  unbend_engine_options options_ = unbend_engine_defaults();
  Owned<unbend_engine> engine_;
};

TEST_P(CapiEngine, ComputesWhatTheEngineComputes) {
  engine::EngineOptions options;
  options.sequences = 2, options.cache_type = UNBEND_F32, options.context = 64;
  engine::Engine expected(engine::Model::open(path_), options);
  const auto ids = engine::some_tokens(20, 1), other = engine::some_tokens(7, 2);
  const std::array<engine::Feed, 2> theirs{{{expected.begin(), ids, 3}, {expected.begin(), other, 1}}};
  const auto wanted = expected.run(theirs);
  const std::array<unbend_feed, 2> ours{
      {{begin(), ids.data(), ids.size(), 3}, {begin(), other.data(), other.size(), 1}}};
  const float* logits = nullptr;
  ASSERT_EQ(unbend_run(engine_.get(), ours.data(), ours.size(), &logits), UNBEND_OK) << unbend_last_error();
  EXPECT_THAT(std::vector<float>(logits, logits + 4 * kVocab), ElementsAreArray(wanted.begin(), wanted.end()));

  std::int64_t tokens = 0, bytes = 0;
  ASSERT_EQ(unbend_sequence_size(engine_.get(), ours[0].sequence, &tokens, &bytes), UNBEND_OK);
  EXPECT_EQ(tokens, 20);
  EXPECT_EQ(bytes, expected.state_bytes(theirs[0].sequence));
}

TEST_P(CapiEngine, ForkedAndSavedSequencesGoOnAlike) {
  const int first = begin();
  run(engine_.get(), first, engine::some_tokens(20, 1));
  int copy = -1;
  ASSERT_EQ(unbend_fork(engine_.get(), first, &copy), UNBEND_OK) << unbend_last_error();
  void* bytes = nullptr;
  std::size_t size = 0;
  ASSERT_EQ(unbend_save(engine_.get(), first, &bytes, &size), UNBEND_OK) << unbend_last_error();
  const Owned<void> saved(bytes);

  const auto other = make_engine(model_.get(), options_);
  int restored = -1;
  ASSERT_EQ(unbend_restore(other.get(), bytes, size, &restored), UNBEND_OK) << unbend_last_error();
  const auto next = engine::some_tokens(5, 3);
  const auto expected = run(engine_.get(), first, next);
  EXPECT_EQ(run(engine_.get(), copy, next), expected);
  EXPECT_EQ(run(other.get(), restored, next), expected);

  for (const std::size_t wrong : {std::size_t{0}, std::size_t{7}, size - 1})
    EXPECT_FAILS(UNBEND_INPUT, unbend_restore(other.get(), bytes, wrong, &restored), "saved state");
  EXPECT_FAILS(UNBEND_USAGE, unbend_restore(other.get(), nullptr, size, &restored), "bytes is null");
}

TEST_P(CapiEngine, OutlivesItsModelHandle) {
  model_.reset();
  EXPECT_EQ(run(engine_.get(), begin(), engine::some_tokens(5, 1)).size(), kVocab);
}

TEST_P(CapiEngine, RefusesBadFeedsAndAddsNothing) {
  const int sequence = begin();
  const auto ids = engine::some_tokens(65, 1);
  const auto refused = [&](unbend_status status, const unbend_feed& feed, const char* text) {
    const std::array<unbend_feed, 1> feeds{feed};
    const float* logits = nullptr;
    EXPECT_FAILS(status, unbend_run(engine_.get(), feeds.data(), 1, &logits), text);
    EXPECT_EQ(logits, nullptr);
    std::int64_t tokens = -1;
    EXPECT_EQ(unbend_sequence_size(engine_.get(), sequence, &tokens, nullptr), UNBEND_OK);
    EXPECT_EQ(tokens, 0);
  };
  const TokenId below = -1, above = kVocab;
  refused(UNBEND_INPUT, {sequence, &below, 1, 1}, "token id -1");
  refused(UNBEND_INPUT, {sequence, &above, 1, 1}, "token id 50");
  refused(UNBEND_INPUT, {sequence, ids.data(), 0, 0}, "no tokens");
  refused(UNBEND_INPUT, {sequence, ids.data(), 3, 4}, "logits of 4 tokens out of 3");
  refused(UNBEND_INPUT, {sequence, ids.data(), 3, SIZE_MAX}, "logits of");
  refused(UNBEND_USAGE, {sequence, ids.data(), SIZE_MAX, 1}, "no size of an array");
  refused(UNBEND_USAGE, {sequence, nullptr, 3, 1}, "ids of a feed is null");
  for (const int unknown : {-2, -1, 1, 2, 1 << 30})
    refused(UNBEND_INPUT, {unknown, ids.data(), 3, 1}, "there is no sequence");
  if (GetParam().first.empty()) refused(UNBEND_INPUT, {sequence, ids.data(), 65, 1}, "do not fit a context of 64");

  const std::array<unbend_feed, 2> twice{{{sequence, ids.data(), 1, 1}, {sequence, ids.data(), 1, 1}}};
  const float* logits = nullptr;
  EXPECT_FAILS(UNBEND_INPUT, unbend_run(engine_.get(), twice.data(), 2, &logits), "twice");
  EXPECT_EQ(unbend_run(engine_.get(), nullptr, 0, &logits), UNBEND_OK);
  const unbend_feed silent{sequence, ids.data(), 3, 0};
  EXPECT_EQ(unbend_run(engine_.get(), &silent, 1, &logits), UNBEND_OK);
  EXPECT_EQ(logits, nullptr);
}

TEST_P(CapiEngine, CountsItsSequences) {
  const int first = begin(), second = begin();
  int third = -7;
  EXPECT_FAILS(UNBEND_COMPUTATION, unbend_begin(engine_.get(), &third), "all 2 sequences are in use");
  EXPECT_FAILS(UNBEND_COMPUTATION, unbend_fork(engine_.get(), first, &third), "in use");
  EXPECT_EQ(third, -7);
  EXPECT_EQ(unbend_end(engine_.get(), second), UNBEND_OK);
  EXPECT_FAILS(UNBEND_INPUT, unbend_end(engine_.get(), second), "there is no sequence");
  EXPECT_EQ(begin(), second);
}

INSTANTIATE_TEST_SUITE_P(Mixers, CapiEngine, testing::ValuesIn(engine::mixers()),
                         [](const auto& info) { return info.param.first.empty() ? "softmax" : info.param.first; });

TEST(Capi, NullsAreRefused) {
  const engine::Folder folder;
  const auto model = open(engine::small_model(folder, "", ""));
  const auto engine = make_engine(model.get(), unbend_engine_defaults());
  auto* m = model.get();
  auto* e = engine.get();
  unbend_model* model_out = nullptr;
  unbend_engine* engine_out = nullptr;
  unbend_model_info info;
  const float* logits = nullptr;
  const unbend_message message{"user", "hi"};
  const unbend_stream stream = [](const char*, std::size_t, void*) { return 0; };
  std::int32_t* ids = nullptr;
  char* text = nullptr;
  void* bytes = nullptr;
  std::size_t size = 0;
  int number = 0;
  for (const auto status : {unbend_model_open(nullptr, &model_out),
                            unbend_model_open("x", nullptr),
                            unbend_model_describe(nullptr, &info),
                            unbend_model_describe(m, nullptr),
                            unbend_encode(nullptr, "x", 1, 0, &ids, &size),
                            unbend_decode(nullptr, ids, 0, 0, &text, &size),
                            unbend_is_end(nullptr, 0, &number),
                            unbend_chat(nullptr, &message, 1, 1, &text, &size),
                            unbend_engine_create(nullptr, nullptr, &engine_out),
                            unbend_engine_create(m, nullptr, nullptr),
                            unbend_begin(nullptr, &number),
                            unbend_begin(e, nullptr),
                            unbend_end(nullptr, 0),
                            unbend_fork(nullptr, 0, &number),
                            unbend_fork(e, 0, nullptr),
                            unbend_sequence_size(nullptr, 0, nullptr, nullptr),
                            unbend_save(nullptr, 0, &bytes, &size),
                            unbend_save(e, 0, nullptr, &size),
                            unbend_save(e, 0, &bytes, nullptr),
                            unbend_restore(nullptr, "x", 1, &number),
                            unbend_restore(e, "x", 1, nullptr),
                            unbend_run(nullptr, nullptr, 0, &logits),
                            unbend_run(e, nullptr, 1, &logits),
                            unbend_run(e, nullptr, 0, nullptr),
                            unbend_generate(nullptr, UNBEND_NEW_SEQUENCE, ids, 0, nullptr, stream, nullptr, nullptr)}) {
    EXPECT_EQ(status, UNBEND_USAGE);
    EXPECT_THAT(unbend_last_error(), HasSubstr(" is null"));
  }
  unbend_model_close(nullptr), unbend_engine_destroy(nullptr), unbend_free(nullptr);
}

TEST(Capi, RefusesFilesThatAreNoModels) {
  const engine::Folder folder;
  unbend_model* model = nullptr;
  EXPECT_FAILS(UNBEND_INPUT, unbend_model_open((folder.path() / "none.gguf").c_str(), &model), "none.gguf");
  EXPECT_FAILS(UNBEND_INPUT, unbend_model_open(folder.write("text.gguf", "not a model").c_str(), &model), "text.gguf");
  EXPECT_FAILS(UNBEND_INPUT, unbend_model_open(folder.path().c_str(), &model), folder.path().string());
  EXPECT_EQ(model, nullptr);
}

TEST(Capi, RefusesBadEngineOptions) {
  const engine::Folder folder;
  const auto model = open(engine::small_model(folder, "", ""));
  const auto refused = [&](auto change, const char* text) {
    auto options = unbend_engine_defaults();
    change(options);
    unbend_engine* engine = nullptr;
    EXPECT_FAILS(UNBEND_INPUT, unbend_engine_create(model.get(), &options, &engine), text);
    EXPECT_EQ(engine, nullptr);
  };
  refused([](auto& o) { o.threads = 0; }, "0 threads");
  refused([](auto& o) { o.sequences = -1; }, "-1 sequences");
  refused([](auto& o) { o.batch = 0; }, "batches of 0");
  refused([](auto& o) { o.context = -1; }, "context of -1");
  refused([](auto& o) { o.cache_type = 2; }, "F16, F32 or Q8_0");
  refused([](auto& o) { o.cache_type = 1000; }, "F16, F32 or Q8_0");
}

TEST(Capi, ErrorsBelongToTheirThread) {
  unbend_model* model = nullptr;
  EXPECT_FAILS(UNBEND_INPUT, unbend_model_open("/nowhere/a.gguf", &model), "a.gguf");
  std::thread([] {
    EXPECT_STREQ(unbend_last_error(), "");
    EXPECT_FAILS(UNBEND_USAGE, unbend_begin(nullptr, nullptr), "unbend_begin: ");
  }).join();
  EXPECT_THAT(unbend_last_error(), HasSubstr("a.gguf"));
}

TEST(Capi, VeryLongErrorsAreCut) {
  unbend_model* model = nullptr;
  EXPECT_FAILS(UNBEND_INPUT, unbend_model_open(std::string(5000, 'x').c_str(), &model), "xxx");
  EXPECT_EQ(std::strlen(unbend_last_error()), 1023);
}

TEST(Capi, AFileWithoutTokenizerRunsButKnowsNoTexts) {
  const engine::Folder folder;
  const auto model = open(engine::small_model(folder, "", ""));
  unbend_model_info info;
  ASSERT_EQ(unbend_model_describe(model.get(), &info), UNBEND_OK);
  EXPECT_EQ(info.vocab, 50);
  EXPECT_EQ(info.layers, 2);
  EXPECT_EQ(info.context, 512);
  EXPECT_EQ(info.bos, -1);
  EXPECT_EQ(info.eos, -1);
  std::int32_t* ids = nullptr;
  std::size_t count = 0;
  EXPECT_FAILS(UNBEND_INPUT, unbend_encode(model.get(), "x", 1, 0, &ids, &count), "no tokenizer");
}

/// With SmolLM2, for its tokenizer, template and texts.
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
