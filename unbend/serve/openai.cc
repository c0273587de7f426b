#include "unbend/serve/openai.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <initializer_list>
#include <set>

#include "unbend/base/error.h"

namespace unbend::serve {
namespace {

constexpr std::size_t kMaxStops = 16, kMaxGrammar = 64 * 1024, kMaxNesting = 100;

template <class... Args>
[[noreturn]] void bad(const std::string& param, fmt::format_string<Args...> format, Args&&... args) {
  throw ApiError(400, fmt::format(format, std::forward<Args>(args)...), "invalid_value", param);
}

/// The fields of an object: typed reads that remember what was asked for, so that the rest can be refused. null counts
/// as absent, as OpenAI's clients send it.
class Fields {
 public:
  Fields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object())
      bad(where_, "{} must be an object, but is {}", where_.empty() ? "the request" : "'" + where_ + "'",
          object.type_name());
  }

  std::string name(const std::string& field) const { return where_.empty() ? field : where_ + "." + field; }

  const Json* find(const std::string& field) {
    known_.insert(field);
    const auto found = object_.find(field);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }

  bool flag(const std::string& field) {
    const Json* value = find(field);
    if (value && !value->is_boolean()) wrong(field, "true or false", *value);
    return value && value->get<bool>();
  }

  std::optional<std::int64_t> integer(const std::string& field, std::int64_t least, std::int64_t most) {
    const Json* value = find(field);
    if (!value) return {};
    if (!value->is_number_integer()) wrong(field, "an integer", *value);
    const bool huge = value->is_number_unsigned() && value->get<std::uint64_t>() > INT64_MAX;
    if (huge || value->get<std::int64_t>() < least || value->get<std::int64_t>() > most)
      bad(name(field), "'{}' must be from {} to {}, not {}", name(field), least, most, value->dump());
    return value->get<std::int64_t>();
  }

  double number(const std::string& field, double fallback, double least, double most) {
    const Json* value = find(field);
    if (!value) return fallback;
    if (!value->is_number()) wrong(field, "a number", *value);
    const double x = value->get<double>();
    if (!(x >= least && x <= most))
      bad(name(field), "'{}' must be from {} to {}, not {}", name(field), least, most, value->dump());
    return x;
  }

  std::string text(const std::string& field) {
    const Json* value = find(field);
    if (value && !value->is_string()) wrong(field, "a string", *value);
    return value ? value->get<std::string>() : std::string();
  }

  [[noreturn]] void wrong(const std::string& field, std::string_view expected, const Json& value) const {
    bad(name(field), "'{}' must be {}, but is {}", name(field), expected, value.type_name());
  }

  /// Fields that change nothing about the answer.
  void ignore(std::initializer_list<const char*> fields) { known_.insert(fields.begin(), fields.end()); }

  /// Refuses `field` unless it has the value that means "off".
  void unsupported(const std::string& field, const Json& off = nullptr) {
    const Json* value = find(field);
    const bool empty = value && (value->is_array() || value->is_object()) && value->empty();
    if (value && !empty && *value != off)
      throw ApiError(400, fmt::format("'{}' is not supported by this server", name(field)), "unsupported_parameter",
                     name(field));
  }

  void refuse_rest() const {
    for (const auto& [field, value] : object_.items())
      if (!known_.contains(field))
        throw ApiError(400, fmt::format("unknown field '{}'", name(field)), "unknown_parameter", name(field));
  }

 private:
  const Json& object_;
  std::string where_;
  std::set<std::string> known_;
};

std::vector<std::string> stops(Fields& fields) {
  const Json* value = fields.find("stop");
  if (!value) return {};
  const Json list = value->is_array() ? *value : Json::array({*value});
  if (list.size() > kMaxStops) bad("stop", "'stop' may have at most {} texts, not {}", kMaxStops, list.size());
  std::vector<std::string> texts;
  for (const Json& text : list) {
    if (!text.is_string()) fields.wrong("stop", "a string or an array of strings", value->is_array() ? text : *value);
    if (text.get_ref<const std::string&>().empty()) bad("stop", "'stop' must not have an empty text");
    texts.push_back(text);
  }
  return texts;
}

/// Depth of parentheses outside of texts, classes and comments: libllama's parser of grammars recurses.
std::size_t nesting(std::string_view grammar) {
  std::size_t depth = 0, deepest = 0;
  for (std::size_t i = 0; i < grammar.size(); ++i) {
    const char c = grammar[i];
    if (c == '"' || c == '[' || c == '#') {
      const char end = c == '"' ? '"' : c == '[' ? ']' : '\n';
      while (++i < grammar.size() && grammar[i] != end)
        if (grammar[i] == '\\' && c != '#') ++i;
    } else if (c == '(') {
      deepest = std::max(deepest, ++depth);
    } else if (c == ')' && depth > 0) {
      --depth;
    }
  }
  return deepest;
}

/// `response_format` and `grammar`.
void read_shape(Fields& fields, TextRequest& request) {
  request.grammar = fields.text("grammar");
  if (request.grammar.size() > kMaxGrammar)
    bad("grammar", "'grammar' may have at most {} bytes, not {}", kMaxGrammar, request.grammar.size());
  if (nesting(request.grammar) > kMaxNesting) bad("grammar", "'grammar' is nested deeper than {} levels", kMaxNesting);
  const Json* value = fields.find("response_format");
  if (!value) return;
  Fields format(*value, "response_format");
  const std::string type = format.text("type");
  if (type == "json_object") {
    request.schema = Json{{"type", "object"}};
  } else if (type == "json_schema") {
    const Json* wrapped = format.find("json_schema");
    if (!wrapped) bad("response_format.json_schema", "'response_format.json_schema' is missing");
    Fields inner(*wrapped, "response_format.json_schema");
    const Json* schema = inner.find("schema");
    if (!schema) bad("response_format.json_schema.schema", "'response_format.json_schema.schema' is missing");
    request.schema = *schema;
    inner.ignore({"name", "strict", "description"});
    inner.refuse_rest();
  } else if (type != "text") {
    bad("response_format.type", "'response_format.type' must be text, json_object or json_schema, not '{}'", type);
  }
  format.refuse_rest();
  if (request.schema && !request.grammar.empty()) bad("grammar", "give 'grammar' or 'response_format', not both");
}

/// What completions and chats have in common.
TextRequest read_common(Fields& fields) {
  TextRequest request;
  request.model = fields.text("model");
  request.n = fields.integer("n", 1, 8).value_or(1);
  request.max_tokens = fields.integer("max_tokens", 1, 1 << 30);
  request.seed = fields.integer("seed", INT64_MIN, INT64_MAX);
  request.temperature = fields.number("temperature", 1, 0, 2);
  request.top_p = fields.number("top_p", 1, 0, 1);
  request.top_k = fields.integer("top_k", 0, 1 << 30).value_or(0);
  request.repeat_penalty = fields.number("repeat_penalty", 1, .01, 100);
  if (request.top_p == 0) request.temperature = 0, request.top_p = 1;  // only the likeliest token
  request.stop = stops(fields);
  request.stream = fields.flag("stream");
  if (const Json* value = fields.find("stream_options")) {
    if (!request.stream) bad("stream_options", "'stream_options' is for requests with 'stream': true");
    Fields options(*value, "stream_options");
    request.include_usage = options.flag("include_usage");
    options.ignore({"include_obfuscation"});
    options.refuse_rest();
  }
  read_shape(fields, request);
  fields.unsupported("frequency_penalty", 0);
  fields.unsupported("presence_penalty", 0);
  fields.unsupported("logit_bias");
  fields.ignore({"user", "store", "metadata", "service_tier", "prompt_cache_key", "safety_identifier"});
  return request;
}

std::vector<std::int32_t> token_ids(const Json& list) {
  std::vector<std::int32_t> ids;
  for (const Json& id : list) {
    const bool fits =
        id.is_number_unsigned() ? id.get<std::uint64_t>() <= INT32_MAX : id.is_number_integer() && id >= 0;
    if (!fits) bad("prompt", "'prompt' must have only token ids (integers from 0), but has {}", id.dump());
    ids.push_back(id);
  }
  return ids;
}

std::vector<Prompt> prompts(Fields& fields) {
  const Json* value = fields.find("prompt");
  if (!value) bad("prompt", "'prompt' is missing");
  if (value->is_string()) return {value->get<std::string>()};
  if (!value->is_array() || value->empty())
    fields.wrong("prompt", "a string, or an array of strings, of token ids or of arrays of token ids", *value);
  if (value->front().is_number()) return {token_ids(*value)};
  std::vector<Prompt> all;
  for (const Json& one : *value) {
    if (one.is_string())
      all.emplace_back(one.get<std::string>());
    else if (one.is_array())
      all.emplace_back(token_ids(one));
    else
      fields.wrong("prompt", "an array of strings or of arrays of token ids", one);
  }
  return all;
}

std::string content(const Json* value, const std::string& where) {
  if (value && value->is_string()) return *value;
  if (!value || !value->is_array())
    bad(where, "'{}' must be a string or an array of parts, but is {}", where, value ? value->type_name() : "missing");
  std::string text;
  for (std::size_t i = 0; i < value->size(); ++i) {
    Fields part((*value)[i], fmt::format("{}[{}]", where, i));
    const std::string type = part.text("type");
    if (type != "text")
      bad(part.name("type"), "'{}' must be \"text\", not \"{}\": this model reads text only", part.name("type"), type);
    if (!part.find("text")) bad(part.name("text"), "'{}' is missing", part.name("text"));
    text += part.text("text");
  }
  return text;
}

std::vector<Message> messages(Fields& fields) {
  const Json* list = fields.find("messages");
  if (!list) bad("messages", "'messages' is missing");
  if (!list->is_array() || list->empty()) fields.wrong("messages", "an array of at least one message", *list);
  std::vector<Message> all;
  for (std::size_t i = 0; i < list->size(); ++i) {
    Fields message((*list)[i], fmt::format("messages[{}]", i));
    std::string role = message.text("role");
    if (role == "developer") role = "system";
    if (role != "system" && role != "user" && role != "assistant")
      bad(message.name("role"), "'{}' must be system, developer, user or assistant, not '{}'", message.name("role"),
          role);
    for (const char* field : {"tool_calls", "function_call", "audio"}) message.unsupported(field);
    message.ignore({"name", "refusal", "annotations"});
    all.push_back({role, content(message.find("content"), message.name("content"))});
    message.refuse_rest();
  }
  return all;
}

/// Runs a parser; what the JSON layer throws becomes an ApiError too.
template <class Parse>
TextRequest parsed(std::string_view body, Parse&& parse) {
  try {
    const Json json = parse_json(body, "the request's body");
    Fields fields(json, "");
    TextRequest request = parse(fields);
    fields.refuse_rest();
    return request;
  } catch (const Error& error) {
    throw ApiError(400, error.what(), "invalid_json");
  }
}

}  // namespace

TextRequest parse_completion(std::string_view body) {
  return parsed(body, [](Fields& fields) {
    TextRequest request = read_common(fields);
    request.prompts = prompts(fields);
    if (static_cast<std::int64_t>(request.prompts.size()) * request.n > kMaxChoices)
      bad("prompt", "at most {} answers per request, not {} prompts times {}", kMaxChoices, request.prompts.size(),
          request.n);
    if (!request.max_tokens) request.max_tokens = 16;  // OpenAI's default
    request.echo = fields.flag("echo");
    request.logprobs = fields.integer("logprobs", 0, 20).value_or(-1);
    if (request.echo && request.logprobs >= 0)
      bad("logprobs", "log-probabilities of the prompt are not supported: give 'echo' or 'logprobs', not both");
    if (const auto best = fields.integer("best_of", 1, 128); best && *best != request.n)
      bad("best_of", "'best_of' is not supported unless it equals 'n'");
    fields.unsupported("suffix", "");
    return request;
  });
}

TextRequest parse_chat(std::string_view body) {
  return parsed(body, [](Fields& fields) {
    TextRequest request = read_common(fields);
    request.messages = messages(fields);
    if (const auto most = fields.integer("max_completion_tokens", 1, 1 << 30)) request.max_tokens = most;
    const bool logprobs = fields.flag("logprobs");
    const auto likeliest = fields.integer("top_logprobs", 0, 20);
    if (likeliest && !logprobs) bad("top_logprobs", "'top_logprobs' needs 'logprobs': true");
    if (logprobs) request.logprobs = likeliest.value_or(0);
    fields.unsupported("modalities", Json::array({"text"}));
    for (const char* field : {"tools", "functions", "audio", "prediction", "web_search_options"})
      fields.unsupported(field);
    fields.unsupported("tool_choice", "none");
    fields.unsupported("function_call", "none");
    fields.unsupported("reasoning_effort", "none");
    fields.ignore({"parallel_tool_calls", "verbosity"});
    return request;
  });
}

}  // namespace unbend::serve
