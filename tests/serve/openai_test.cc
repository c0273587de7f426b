// Requests of the OpenAI interface, and schemas as grammars.
#include "unbend/serve/openai.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "unbend/serve/schema.h"

namespace unbend::serve {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

/// The error that `action` throws, as "param: message".
template <class Action>
std::string refusal(Action&& action) {
  try {
    action();
  } catch (const ApiError& error) {
    EXPECT_EQ(error.status, 400);
    return error.param + ": " + error.what();
  }
  return "no error";
}

std::string chat_with(const std::string& fields) {
  return R"({"messages": [{"role": "user", "content": "hi"}])" + (fields.empty() ? "" : ", " + fields) + "}";
}

TEST(Requests, DefaultsAreOpenAIs) {
  const auto request = parse_completion(R"({"model": "m", "prompt": "a"})");
  EXPECT_EQ(request.model, "m");
  EXPECT_THAT(request.prompts, ElementsAre(Prompt("a")));
  EXPECT_EQ(request.max_tokens, 16);
  EXPECT_EQ(request.temperature, 1);
  EXPECT_EQ(request.n, 1);
  EXPECT_EQ(request.logprobs, -1);
  EXPECT_FALSE(request.seed || request.stream || request.echo || request.schema);
  EXPECT_FALSE(parse_chat(chat_with("")).max_tokens);
}

TEST(Requests, EveryField) {
  const auto request = parse_completion(
      R"({"prompt": [[1, 2], "b"], "n": 3, "max_tokens": 7, "temperature": 0, "top_p": 0.5, "top_k": 4, "seed": -9,
          "repeat_penalty": 1.5, "stop": ["x", "y"], "stream": true, "stream_options": {"include_usage": true},
          "echo": true, "best_of": 3, "grammar": "root ::= \"a\"", "user": "u", "suffix": null, "presence_penalty": 0})");
  EXPECT_THAT(request.prompts, ElementsAre(Prompt(std::vector<std::int32_t>{1, 2}), Prompt("b")));
  EXPECT_THAT(request.stop, ElementsAre("x", "y"));
  EXPECT_EQ(request.n, 3);
  EXPECT_EQ(request.max_tokens, 7);
  EXPECT_EQ(request.temperature, 0);
  EXPECT_EQ(request.top_p, .5);
  EXPECT_EQ(request.top_k, 4);
  EXPECT_EQ(request.seed, -9);
  EXPECT_EQ(request.repeat_penalty, 1.5);
  EXPECT_EQ(request.grammar, "root ::= \"a\"");
  EXPECT_TRUE(request.stream && request.include_usage && request.echo);
}

TEST(Requests, Chats) {
  const auto request = parse_chat(
      R"({"messages": [{"role": "developer", "content": "be brief"}, {"role": "assistant", "content": "yes?"},
          {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "Ann"}],
          "max_tokens": 3, "max_completion_tokens": 4, "logprobs": true, "top_logprobs": 5, "stop": "end",
          "response_format": {"type": "json_object"}, "tools": [], "tool_choice": "none"})");
  ASSERT_EQ(request.messages.size(), 3);
  EXPECT_EQ(request.messages[0].role, "system");
  EXPECT_EQ(request.messages[2].content, "ab");
  EXPECT_EQ(request.max_tokens, 4);
  EXPECT_EQ(request.logprobs, 5);
  EXPECT_THAT(request.stop, ElementsAre("end"));
  EXPECT_EQ(request.schema, (Json{{"type", "object"}}));
  EXPECT_EQ(parse_chat(chat_with(R"("logprobs": true)")).logprobs, 0);
  EXPECT_EQ(parse_chat(chat_with(R"("top_p": 0)")).temperature, 0);
}

TEST(Requests, WrongValuesAreNamed) {
  const std::pair<const char*, const char*> cases[] = {
      {R"("n": 9)", "n: 'n' must be from 1 to 8, not 9"},
      {R"("n": 1.0)", "n: 'n' must be an integer, but is number"},
      {R"("seed": 9223372036854775808)", "seed: 'seed' must be from"},
      {R"("temperature": "hot")", "temperature: 'temperature' must be a number, but is string"},
      {R"("top_p": 1.01)", "top_p: 'top_p' must be from 0 to 1, not 1.01"},
      {R"("stop": [1])", "stop: 'stop' must be a string or an array of strings, but is number"},
      {R"("stop": 1)", "stop: 'stop' must be a string or an array of strings, but is number"},
      {R"("stream_options": {"include_usage": true})", "stream_options: "},
      {R"("stream": true, "stream_options": {"x": true})", "stream_options.x: unknown field 'stream_options.x'"},
      {R"("top_logprobs": 1)", "top_logprobs: 'top_logprobs' needs 'logprobs': true"},
      {R"("response_format": {"type": "json_schema"})", "response_format.json_schema: "},
      {R"("response_format": {"type": "json_object"}, "grammar": "root ::= [a]")", "grammar: give"},
      {R"("tools": [{}])", "tools: 'tools' is not supported by this server"},
      {R"("presence_penalty": 0.5)", "presence_penalty: 'presence_penalty' is not supported"},
      {R"("temprature": 1)", "temprature: unknown field 'temprature'"}};
  for (const auto& [fields, message] : cases)
    EXPECT_THAT(refusal([&] { parse_chat(chat_with(fields)); }), HasSubstr(message)) << fields;
  EXPECT_THAT(refusal([] { parse_chat("[1, 2"); }), HasSubstr("not valid JSON"));
  EXPECT_THAT(refusal([] { parse_chat("3"); }), HasSubstr("the request must be an object, but is number"));
  EXPECT_THAT(refusal([] { parse_completion(R"({"prompt": [1, 3000000000]})"); }), HasSubstr("token ids"));
}

TEST(Requests, NestingOfGrammarsIsCountedOutsideOfTexts) {
  const std::string deep(101, '('), fine = R"(root ::= ")" + deep + R"(\"(" [)" + deep + R"(\](] # )" + deep;
  EXPECT_EQ(parse_chat(chat_with(R"("grammar": )" + Json(fine).dump())).grammar, fine);
  EXPECT_THAT(refusal([&] { parse_chat(chat_with(R"("grammar": )" + Json(fine + "\n" + deep).dump())); }),
              HasSubstr("nested deeper"));
}

TEST(Schemas, BecomeGrammars) {
  const auto grammar = schema_grammar(parse_json(R"({"type": "object", "required": ["a"], "additionalProperties": false,
      "properties": {"a": {"$ref": "#/$defs/n"}, "b": {"type": ["string", "null"], "maxLength": 3}},
      "$defs": {"n": {"type": "integer", "minimum": 0, "maximum": 9}}})",
                                                 "schema"));
  EXPECT_THAT(grammar, HasSubstr("root ::= "));
  EXPECT_THAT(grammar, HasSubstr("[0-9]"));
  EXPECT_THAT(grammar, HasSubstr("char{0,3}"));
}

TEST(Schemas, WhatAGrammarWouldNotEnforceIsRefused) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"type": "number", "minimum": 0})", "#: the keyword 'minimum' is not supported here"},
      {R"({"type": "string", "pattern": "a"})", "'pattern'"},
      {R"({"minLength": 1})", "'minLength'"},
      {R"({"allOf": [{}]})", "'allOf'"},
      {R"({"anyOf": [{"type": "string"}], "maxLength": 3})", "'maxLength'"},
      {R"({"properties": {"a": {"items": 3}}})",
       "#/properties/a/items: a schema must be an object, but this is number"},
      {R"({"type": "integer", "minimum": 3, "exclusiveMaximum": 3})", "no integer lies between the bounds"},
      {R"({"type": "array", "minItems": 3, "maxItems": 2})", "'minItems' 3 is above 'maxItems' 2"},
      {R"({"type": "array", "maxItems": 1001})", "from 0 to 1000"},
      {R"({"$ref": "#/properties/a"})", "under '#/$defs/'"},
      {R"({"type": "string", "format": "email"})", "'format' must be one of"},
      {R"({"type": "object", "required": ["b"]})", "'required' names 'b'"},
      {R"(false)", "must be an object"}};
  for (const auto& [schema, message] : cases)
    EXPECT_THAT(refusal([&] { schema_grammar(parse_json(schema, "schema")); }), HasSubstr(message)) << schema;
}

}  // namespace
}  // namespace unbend::serve
