#include "unbend/serve/answers.h"

#include <fmt/format.h>

#include <algorithm>

namespace unbend::serve {
namespace {

bool is_utf8(const std::string& bytes) {
  try {
    (void)Json(bytes).dump();
    return true;
  } catch (const Json::exception&) {
    return false;
  }
}

/// A token as a completion names it: its text, or OpenAI's "bytes:\xe2\x80" for a part of a character.
std::string token_name(const std::string& bytes) {
  if (is_utf8(bytes)) return bytes;
  std::string name = "bytes:";
  for (const char c : bytes) name += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  return name;
}

Json byte_values(const std::string& bytes) {
  Json values = Json::array();
  for (const char c : bytes) values.push_back(static_cast<unsigned char>(c));
  return values;
}

Json chat_token(const std::string& bytes, float logprob) {
  return {{"token", bytes}, {"logprob", logprob}, {"bytes", byte_values(bytes)}};
}

Json chat_logprobs(const Choice& choice) {
  Json content = Json::array();
  for (const ScoredToken& token : choice.tokens) {
    Json entry = chat_token(token.bytes, token.logprob), likeliest = Json::array();
    for (const auto& [bytes, logprob] : token.likeliest) likeliest.push_back(chat_token(bytes, logprob));
    entry["top_logprobs"] = likeliest;
    content.push_back(entry);
  }
  return {{"content", content}, {"refusal", nullptr}};
}

Json completion_logprobs(const Choice& choice) {
  Json tokens = Json::array(), logprobs = Json::array(), likeliest = Json::array(), offsets = Json::array();
  std::int64_t offset = choice.offset;
  for (const ScoredToken& token : choice.tokens) {
    tokens.push_back(token_name(token.bytes));
    logprobs.push_back(token.logprob);
    Json top = Json::object();
    for (const auto& [bytes, logprob] : token.likeliest) top[token_name(bytes)] = logprob;
    likeliest.push_back(top);
    offsets.push_back(offset);
    offset += characters(token.bytes);
  }
  return {{"tokens", tokens}, {"token_logprobs", logprobs}, {"top_logprobs", likeliest}, {"text_offset", offsets}};
}

/// What stands beside the text of a choice.
void finish_choice(Json& json, const AnswerHeader& header, const Choice& choice) {
  json["logprobs"] = nullptr;
  if (header.logprobs && (!choice.tokens.empty() || choice.finish.empty()))
    json["logprobs"] = header.chat ? chat_logprobs(choice) : completion_logprobs(choice);
  json["finish_reason"] = choice.finish.empty() ? Json(nullptr) : Json(choice.finish);
}

Json envelope(const AnswerHeader& header, bool chunk) {
  const char* object = header.chat ? (chunk ? "chat.completion.chunk" : "chat.completion") : "text_completion";
  return {{"id", header.id},
          {"object", object},
          {"created", header.created},
          {"model", header.model},
          {"choices", Json::array()}};
}

Json to_json(const Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens}};
}

Json chunk(const AnswerHeader& header, Json choices) {
  Json json = envelope(header, true);
  json["choices"] = std::move(choices);
  if (header.usage_chunk) json["usage"] = nullptr;
  return json;
}

}  // namespace

Json whole_answer(const AnswerHeader& header, std::span<const Choice> choices, const Usage& usage) {
  Json json = envelope(header, false);
  for (const Choice& choice : choices) {
    Json one{{"index", choice.index}};
    if (header.chat)
      one["message"] = {{"role", "assistant"}, {"content", choice.text}, {"refusal", nullptr}};
    else
      one["text"] = choice.text;
    finish_choice(one, header, choice);
    json["choices"].push_back(one);
  }
  json["usage"] = to_json(usage);
  return json;
}

Json answer_chunk(const AnswerHeader& header, const Choice& part) {
  Json one{{"index", part.index}};
  if (header.chat)
    one["delta"] = part.text.empty() && !part.finish.empty() ? Json::object() : Json{{"content", part.text}};
  else
    one["text"] = part.text;
  finish_choice(one, header, part);
  return chunk(header, Json::array({one}));
}

Json opening_chunk(const AnswerHeader& header, std::int64_t index) {
  return chunk(header, Json::array({{{"index", index},
                                     {"delta", {{"role", "assistant"}, {"content", ""}}},
                                     {"logprobs", nullptr},
                                     {"finish_reason", nullptr}}}));
}

Json usage_chunk(const AnswerHeader& header, const Usage& usage) {
  Json json = envelope(header, true);
  json["usage"] = to_json(usage);
  return json;
}

Json error_body(const ApiError& error) {
  const char* type = error.status == 401   ? "authentication_error"
                     : error.status == 429 ? "rate_limit_error"
                     : error.status >= 500 ? "server_error"
                                           : "invalid_request_error";
  return {{"error",
           {{"message", error.what()},
            {"type", type},
            {"param", error.param.empty() ? Json(nullptr) : Json(error.param)},
            {"code", error.code}}}};
}

std::string to_text(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

std::string to_event(const Json& json) { return "data: " + to_text(json) + "\n\n"; }

std::int64_t characters(std::string_view text) {
  return std::ranges::count_if(text, [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

}  // namespace unbend::serve
