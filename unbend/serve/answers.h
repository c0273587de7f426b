// Answers of the OpenAI interface as JSON, whole and in chunks. Needs `base` only.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "unbend/base/json.h"
#include "unbend/serve/openai.h"

namespace unbend::serve {

/// A generated token with its log-probability.
struct ScoredToken {
  std::string bytes;  ///< may be a part of a character only
  float logprob = 0;
  std::vector<std::pair<std::string, float>> likeliest;
};

/// One of a request's answers, or the next part of it.
struct Choice {
  std::int64_t index = 0;
  std::string text;
  std::vector<ScoredToken> tokens;  ///< filled when log-probabilities were asked for
  std::int64_t offset = 0;          ///< characters of the answer before `tokens`
  std::string finish;               ///< "stop", "length"; empty = goes on
};

struct Usage {
  std::int64_t prompt_tokens = 0, completion_tokens = 0;
};

/// What all parts of an answer repeat.
struct AnswerHeader {
  std::string id, model;
  std::int64_t created = 0;  ///< Unix time
  bool chat = false, logprobs = false, usage_chunk = false;
};

Json whole_answer(const AnswerHeader& header, std::span<const Choice> choices, const Usage& usage);
/// A part of a stream. A chat's first part of every choice tells the role (opening_chunk).
Json answer_chunk(const AnswerHeader& header, const Choice& part);
Json opening_chunk(const AnswerHeader& header, std::int64_t index);
Json usage_chunk(const AnswerHeader& header, const Usage& usage);

Json error_body(const ApiError& error);
/// JSON on one line, what is not UTF-8 replaced.
std::string to_text(const Json& json);
/// A server-sent event.
std::string to_event(const Json& json);
inline constexpr std::string_view kDoneEvent = "data: [DONE]\n\n";

/// Unicode characters of a text.
std::int64_t characters(std::string_view text);

}  // namespace unbend::serve
