// The C interface gives what the C++ interface under it gives, and answers every misuse with a status.
#include "unbend/capi/unbend.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <thread>

#include "tests/capi/handles.h"
#include "tests/engine/small_model.h"
#include "unbend/engine/engine.h"

namespace unbend {
namespace {

using engine::TokenId;
using testing::ElementsAreArray;
using testing::HasSubstr;

constexpr std::size_t kVocab = 50;  // of small_model()

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

}  // namespace
}  // namespace unbend
