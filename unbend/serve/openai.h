// Requests of the OpenAI interface: strict parsing, every wrong value named. Needs `base` only.
#pragma once

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "unbend/base/json.h"

namespace unbend::serve {

/// What a client did wrong, or what the server cannot do now; becomes OpenAI's error object.
struct ApiError : std::runtime_error {
  int status;         ///< of HTTP
  std::string code;   ///< "invalid_value", "model_not_found", ...
  std::string param;  ///< the field at fault; empty if none
  ApiError(int status_, const std::string& message, std::string code_, std::string param_ = {})
      : std::runtime_error(message), status(status_), code(std::move(code_)), param(std::move(param_)) {}
};

struct Message {
  std::string role, content;
};

using Prompt = std::variant<std::string, std::vector<std::int32_t>>;  ///< a text, or ids of tokens

/// A request for text, of either kind.
struct TextRequest {
  std::string model;              ///< empty = whichever is served
  std::vector<Prompt> prompts;    ///< of a completion
  std::vector<Message> messages;  ///< of a chat
  std::int64_t n = 1;             ///< answers per prompt
  std::optional<std::int64_t> max_tokens, seed;
  double temperature = 1, top_p = 1, repeat_penalty = 1;
  std::int64_t top_k = 0;
  std::vector<std::string> stop;
  std::string grammar;         ///< GBNF; empty = none
  std::optional<Json> schema;  ///< JSON schema of the answer
  std::int64_t logprobs = -1;  ///< likeliest alternatives per token; -1 = no log-probabilities
  bool stream = false, include_usage = false, echo = false;
};

inline constexpr std::int64_t kMaxChoices = 128;  ///< answers of one request

/// Bodies of `POST /v1/completions` and `POST /v1/chat/completions`. Throw ApiError 400.
TextRequest parse_completion(std::string_view body);
TextRequest parse_chat(std::string_view body);

}  // namespace unbend::serve
