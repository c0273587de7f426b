#include "unbend/serve/grammar.h"

#include <fmt/format.h>
#include <llama-grammar.h>

#include <exception>
#include <string_view>

#include "unbend/serve/openai.h"

namespace unbend::serve {
namespace {

[[noreturn]] void bad(std::string_view what) {
  constexpr std::size_t kShown = 120;  // libllama's messages end with all that was left to read
  std::string message = fmt::format("the grammar cannot be parsed: {}", what.substr(0, kShown));
  if (what.size() > kShown) message += "...";
  throw ApiError(400, message, "invalid_grammar", "grammar");
}

/// Past white space and comments.
const char* first_rule(const char* text) {
  for (bool comment = false; *text && (comment || std::string_view(" \t\r\n#").find(*text) != std::string_view::npos);
       ++text)
    comment = *text == '#' || (comment && *text != '\n');
  return text;
}

}  // namespace

void check_grammar(const std::string& grammar, const engine::Tokenizer& tokenizer) {
  llama_grammar_parser parser(tokenizer.vocabulary());
  try {
    for (const char* rest = first_rule(grammar.c_str()); *rest;) rest = parser.parse_rule(rest);
  } catch (const std::exception& error) {
    bad(error.what());
  }
  for (const auto& [name, id] : parser.symbol_ids)
    if (id >= parser.rules.size() || parser.rules[id].empty()) bad(fmt::format("the rule '{}' is not defined", name));
  if (!parser.symbol_ids.contains("root")) bad("there is no rule 'root'");
}

}  // namespace unbend::serve
