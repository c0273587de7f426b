#include "unbend/base/json.h"

#include <algorithm>

#include "unbend/base/error.h"
#include "unbend/base/files.h"

namespace unbend {
namespace {

constexpr int kMaxDepth = 128;

/// "line 3, column 14" of the byte at `offset`.
std::string position(std::string_view text, std::size_t offset) {
  const std::string_view before = text.substr(0, std::min(offset, text.size()));
  const auto line = std::count(before.begin(), before.end(), '\n') + 1;
  const std::size_t start = before.rfind('\n') == std::string_view::npos ? 0 : before.rfind('\n') + 1;
  return fmt::format("line {}, column {}", line, before.size() - start + 1);
}

/// Refuses too deep nesting before the parser runs: it and the destructor of the result recurse.
void check_depth(std::string_view text, std::string_view where) {
  int depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      require(++depth <= kMaxDepth, "{}: {}: nested deeper than {} levels", where, position(text, i), kMaxDepth);
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
}

/// The parser's own message after its prefix "[json.exception.parse_error.101] parse error at line 1, column 2: ".
std::string_view detail(std::string_view message) {
  const std::size_t bracket = message.find("] ");
  if (bracket != std::string_view::npos) message.remove_prefix(bracket + 2);
  const std::size_t colon = message.find(": ");
  if (message.starts_with("parse error") && colon != std::string_view::npos) message.remove_prefix(colon + 2);
  return message;
}

}  // namespace

Json parse_json(std::string_view text, std::string_view where) {
  check_depth(text, where);
  try {
    return Json::parse(text);
  } catch (const Json::parse_error& error) {
    const std::size_t offset = error.byte > 0 ? error.byte - 1 : 0;
    fail_input("{}: {}: not valid JSON: {}", where, position(text, offset), detail(error.what()));
  } catch (const Json::exception& error) {
    fail_input("{}: not valid JSON: {}", where, detail(error.what()));
  }
}

Json read_json(const std::filesystem::path& path) { return parse_json(read_file(path), path.string()); }

void write_json(const std::filesystem::path& path, const Json& json) {
  // Strings from outside (file names, generated text) may hold invalid UTF-8: replace it rather than refuse the file.
  write_file(path, json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

}  // namespace unbend
