// Answers, their streams, and metrics.
#include "unbend/serve/answers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "unbend/serve/metrics.h"

namespace unbend::serve {
namespace {

using testing::HasSubstr;

const AnswerHeader kHeader{"id-1", "m", 5, false, true, false};
const AnswerHeader kChat{"id-1", "m", 5, true, true, true};

Choice choice() { return {0, "h\u00e9", {{"h", -1, {{"h", -1}}}, {"\xc3", -2, {}}, {"\xa9", -3, {}}}, 7, "stop"}; }

TEST(Answers, CompletionsHaveOpenAIsShape) {
  const Json json = whole_answer(kHeader, std::vector{choice()}, {3, 4});
  EXPECT_EQ(json["object"], "text_completion");
  EXPECT_EQ(json["usage"], (Json{{"prompt_tokens", 3}, {"completion_tokens", 4}, {"total_tokens", 7}}));
  const Json& one = json["choices"][0];
  EXPECT_EQ(one["text"], "h\u00e9");
  EXPECT_EQ(one["finish_reason"], "stop");
  EXPECT_EQ(one["logprobs"]["tokens"], (Json{"h", "bytes:\\xc3", "bytes:\\xa9"}));
  EXPECT_EQ(one["logprobs"]["token_logprobs"], (Json{-1.f, -2.f, -3.f}));
  EXPECT_EQ(one["logprobs"]["top_logprobs"][0], (Json{{"h", -1.f}}));
  EXPECT_EQ(one["logprobs"]["text_offset"], (Json{7, 8, 9}));
}

TEST(Answers, ChatsHaveOpenAIsShape) {
  const Json json = whole_answer(kChat, std::vector{choice()}, {});
  EXPECT_EQ(json["object"], "chat.completion");
  EXPECT_EQ(json["choices"][0]["message"], (Json{{"role", "assistant"}, {"content", "h\u00e9"}, {"refusal", nullptr}}));
  const Json& tokens = json["choices"][0]["logprobs"]["content"];
  EXPECT_EQ(
      tokens[0],
      (Json{{"token", "h"},
            {"logprob", -1.f},
            {"bytes", Json::array({104})},
            {"top_logprobs", Json::array({{{"token", "h"}, {"logprob", -1.f}, {"bytes", Json::array({104})}}})}}));
  EXPECT_EQ(tokens[1]["bytes"], Json::array({0xc3}));
  EXPECT_THAT(to_text(json), HasSubstr("\"token\":\"\ufffd\""));  // half a character is no text
}

TEST(Answers, Chunks) {
  Choice part{1, "a", {}, 0, ""};
  EXPECT_EQ(answer_chunk(kChat, part)["choices"][0]["delta"], (Json{{"content", "a"}}));
  EXPECT_EQ(answer_chunk(kChat, part)["choices"][0]["finish_reason"], nullptr);
  EXPECT_EQ(answer_chunk(kChat, part)["usage"], nullptr);
  EXPECT_FALSE(answer_chunk(kHeader, part).contains("usage"));
  part.text.clear(), part.finish = "length";
  EXPECT_EQ(answer_chunk(kChat, part)["choices"][0]["delta"], Json::object());
  EXPECT_EQ(answer_chunk(kHeader, part)["choices"][0]["text"], "");
  EXPECT_EQ(opening_chunk(kChat, 1)["choices"][0]["delta"]["role"], "assistant");
  EXPECT_EQ(usage_chunk(kChat, {1, 2})["choices"], Json::array());
  EXPECT_EQ(to_event({{"a", "b\nc"}}), "data: {\"a\":\"b\\nc\"}\n\n");
}

TEST(Answers, Errors) {
  EXPECT_EQ(
      error_body(ApiError(404, "no", "model_not_found", "model"))["error"],
      (Json{{"message", "no"}, {"type", "invalid_request_error"}, {"param", "model"}, {"code", "model_not_found"}}));
  EXPECT_EQ(error_body(ApiError(429, "", "x"))["error"]["type"], "rate_limit_error");
  EXPECT_EQ(error_body(ApiError(503, "", "x"))["error"]["type"], "server_error");
}

TEST(Answers, CountsCharacters) { EXPECT_EQ(characters("a\u00e9\u20ac"), 3); }

TEST(Metrics, PrometheusText) {
  Metrics metrics;
  const Metrics::Clock::time_point start{std::chrono::seconds(1000)};
  metrics.request("/v1/models", 200);
  metrics.request("/v1/models", 200);
  metrics.request("other", 404);
  metrics.prompt(5);
  for (int i = 0; i < 40; ++i) metrics.token(start + std::chrono::milliseconds(100 * i));  // 10 per second for 4 s
  metrics.first_token(.03);
  metrics.first_token(100);
  const std::string text = metrics.text({2, 3, 4}, start + std::chrono::seconds(4));
  for (const char* line :
       {"unbend_requests_total{route=\"/v1/models\",code=\"200\"} 2\n",
        "unbend_requests_total{route=\"other\",code=\"404\"} 1\n", "unbend_sequences_active 2\n",
        "unbend_queue_length 3\n", "unbend_connections 4\n", "unbend_prompt_tokens_total 5\n",
        "unbend_generated_tokens_total 40\n", "unbend_tokens_per_second 4\n", "_bucket{le=\"0.025\"} 0\n",
        "_bucket{le=\"0.05\"} 1\n", "_bucket{le=\"60\"} 1\n", "_bucket{le=\"+Inf\"} 2\n", "_seconds_count 2\n"})
    EXPECT_THAT(text, HasSubstr(line));
  EXPECT_THAT(metrics.text({}, start + std::chrono::seconds(14)), HasSubstr("unbend_tokens_per_second 0\n"));
}

}  // namespace
}  // namespace unbend::serve
