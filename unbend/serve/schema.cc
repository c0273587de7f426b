#include "unbend/serve/schema.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <json-schema-to-grammar.h>

#include <algorithm>
#include <exception>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "unbend/serve/openai.h"

namespace unbend::serve {
namespace {

constexpr std::int64_t kMaxCount = 1000, kMaxBound = 1'000'000'000'000'000;
constexpr std::size_t kMaxNodes = 2000, kMaxGrammar = 256 * 1024;
const char* const kParam = "response_format.json_schema.schema";

template <class... Args>
[[noreturn]] void bad(const std::string& path, fmt::format_string<Args...> format, Args&&... args) {
  throw ApiError(400, fmt::format("JSON schema: {}: {}", path, fmt::format(format, std::forward<Args>(args)...)),
                 "invalid_json_schema", kParam);
}

const std::set<std::string> kAnnotations = {"title",   "description", "default",  "examples", "deprecated", "readOnly",
                                            "$schema", "$id",         "$comment", "$defs",    "definitions"};
/// Keywords that stand for a whole schema: beside them nothing else is enforced.
const std::vector<std::string> kWhole = {"$ref", "anyOf", "oneOf", "const", "enum"};
const std::map<std::string, std::set<std::string>> kOfType = {
    {"null", {}},
    {"boolean", {}},
    {"number", {}},
    {"integer", {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}},
    {"string", {"minLength", "maxLength", "format"}},
    {"array", {"items", "minItems", "maxItems"}},
    {"object", {"properties", "required", "additionalProperties"}}};
const std::set<std::string> kFormats = {"uuid", "date", "time", "date-time"};

/// Goes through a schema and refuses what the converter would skip, and sizes that no grammar can have.
class Check {
 public:
  explicit Check(const Json& root) : root_(root) {}

  void schema(const Json& node, const std::string& path) {
    if (++nodes_ > kMaxNodes) bad(path, "more than {} parts", kMaxNodes);
    if (node.is_boolean() && node.get<bool>()) return;
    if (!node.is_object()) bad(path, "a schema must be an object, but this is {}", node.type_name());
    for (const char* definitions : {"$defs", "definitions"})
      if (node.contains(definitions)) each(node[definitions], path + "/" + definitions);
    std::set<std::string> allowed = kAnnotations;
    const auto whole = std::ranges::find_if(kWhole, [&](const auto& keyword) { return node.contains(keyword); });
    if (whole != kWhole.end()) {
      allowed.insert(*whole);
      if (*whole == "enum" || *whole == "const") allowed.insert("type");  // says nothing more
      alternatives(node, *whole, path);
    } else {
      for (const std::string& type : types(node, path))
        allowed.insert(kOfType.at(type).begin(), kOfType.at(type).end());
      if (node.contains("type")) allowed.insert("type");
      parts(node, path);
    }
    for (const auto& [keyword, value] : node.items())
      if (!allowed.contains(keyword)) bad(path, "the keyword '{}' is not supported here", keyword);
  }

 private:
  void each(const Json& schemas, const std::string& path) {
    if (!schemas.is_object()) bad(path, "must be an object of schemas, but is {}", schemas.type_name());
    for (const auto& [name, child] : schemas.items()) schema(child, path + "/" + name);
  }

  void alternatives(const Json& node, const std::string& keyword, const std::string& path) {
    const Json& value = node[keyword];
    if (keyword == "const") return;
    if (keyword == "$ref") {
      if (!value.is_string()) bad(path, "'$ref' must be a string, but is {}", value.type_name());
      const std::string ref = value;
      for (const char* definitions : {"$defs", "definitions"}) {
        const std::string start = fmt::format("#/{}/", definitions);
        if (ref.starts_with(start) && root_.contains(definitions) && root_[definitions].is_object() &&
            root_[definitions].contains(ref.substr(start.size())) && ref.find('/', start.size()) == std::string::npos)
          return;
      }
      bad(path, "'$ref' must name a schema under '#/$defs/', not '{}'", ref);
    }
    if (!value.is_array() || value.empty()) bad(path, "'{}' must be an array of at least one value", keyword);
    if ((nodes_ += value.size()) > kMaxNodes) bad(path, "more than {} parts", kMaxNodes);
    if (keyword == "enum") return;
    for (std::size_t i = 0; i < value.size(); ++i) schema(value[i], fmt::format("{}/{}/{}", path, keyword, i));
  }

  static std::vector<std::string> types(const Json& node, const std::string& path) {
    const auto found = node.find("type");
    if (found == node.end()) return {};
    const Json list = found->is_array() ? *found : Json::array({*found});
    if (list.empty()) bad(path, "'type' must name at least one type");
    std::vector<std::string> names;
    for (const Json& type : list) {
      if (!type.is_string() || !kOfType.contains(type.get<std::string>()))
        bad(path, "'type' must be null, boolean, integer, number, string, array or object, not {}", type.dump());
      names.push_back(type);
    }
    return names;
  }

  /// The keywords of single types.
  void parts(const Json& node, const std::string& path) {
    range(node, "minLength", "maxLength", path, 0, kMaxCount);
    range(node, "minItems", "maxItems", path, 0, kMaxCount);
    range(node, "minimum", "maximum", path, -kMaxBound, kMaxBound);
    range(node, "exclusiveMinimum", "exclusiveMaximum", path, -kMaxBound, kMaxBound);
    if (node.contains("minimum") && node.contains("exclusiveMinimum")) bad(path, "give one lower bound");
    if (node.contains("maximum") && node.contains("exclusiveMaximum")) bad(path, "give one upper bound");
    bounds_meet(node, path);
    if (node.contains("format") &&
        !(node["format"].is_string() && kFormats.contains(node["format"].get<std::string>())))
      bad(path, "'format' must be one of {}, not {}", fmt::join(kFormats, ", "), node["format"].dump());
    if (node.contains("format") && (node.contains("minLength") || node.contains("maxLength")))
      bad(path, "'format' and a length together are not supported");
    if (node.contains("items")) schema(node["items"], path + "/items");
    if (node.contains("properties")) each(node["properties"], path + "/properties");
    if (node.contains("additionalProperties") && !node["additionalProperties"].is_boolean())
      schema(node["additionalProperties"], path + "/additionalProperties");
    if (node.contains("required")) required(node, path);
  }

  static void required(const Json& node, const std::string& path) {
    if (!node["required"].is_array()) bad(path, "'required' must be an array of names");
    for (const Json& name : node["required"]) {
      if (!name.is_string()) bad(path, "'required' must be an array of names, but has {}", name.dump());
      if (!node.contains("properties") || !node["properties"].contains(name.get<std::string>()))
        bad(path, "'required' names '{}', which is not among 'properties'", name.get<std::string>());
    }
  }

  static std::optional<std::int64_t> whole_number(const Json& node, const std::string& keyword, const std::string& path,
                                                  std::int64_t least, std::int64_t most) {
    const auto found = node.find(keyword);
    if (found == node.end()) return {};
    if (!found->is_number_integer() || *found < least || *found > most)
      bad(path, "'{}' must be an integer from {} to {}, not {}", keyword, least, most, found->dump());
    return found->get<std::int64_t>();
  }

  static void range(const Json& node, const std::string& low, const std::string& high, const std::string& path,
                    std::int64_t least, std::int64_t most) {
    const auto from = whole_number(node, low, path, least, most), to = whole_number(node, high, path, least, most);
    if (from && to && *from > *to) bad(path, "'{}' {} is above '{}' {}", low, *from, high, *to);
  }

  /// No integer may be left between bounds of which one is exclusive.
  static void bounds_meet(const Json& node, const std::string& path) {
    std::int64_t low = -2 * kMaxBound, high = 2 * kMaxBound;
    if (node.contains("minimum")) low = node["minimum"];
    if (node.contains("exclusiveMinimum")) low = node["exclusiveMinimum"].get<std::int64_t>() + 1;
    if (node.contains("maximum")) high = node["maximum"];
    if (node.contains("exclusiveMaximum")) high = node["exclusiveMaximum"].get<std::int64_t>() - 1;
    if (low > high) bad(path, "no integer lies between the bounds");
  }

  const Json& root_;
  std::size_t nodes_ = 0;
};

}  // namespace

std::string schema_grammar(const Json& schema) {
  Check(schema).schema(schema, "#");
  std::string grammar;
  try {
    grammar = json_schema_to_grammar(common_json::parse(schema.dump()), true);
  } catch (const std::exception& error) {
    bad("#", "{}", error.what());
  }
  if (grammar.size() > kMaxGrammar) bad("#", "too large: its grammar has {} bytes", grammar.size());
  return grammar;
}

}  // namespace unbend::serve
