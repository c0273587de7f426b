// JSON with keys in the order in which they were written, and errors that say where.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace unbend {

using Json = nlohmann::ordered_json;

/// Parses `text`; `where` (a file name or argument) starts the error message, which gives line and column.
/// Refuses nesting deeper than 128.
Json parse_json(std::string_view text, std::string_view where);

Json read_json(const std::filesystem::path& path);
void write_json(const std::filesystem::path& path, const Json& json);  ///< indented by two, atomic

/// `json[key]` as T, or an Input error that names `where`, the key, and the type that was expected.
template <class T>
T json_get(const Json& json, const std::string& key, std::string_view where);

/// The same with a default for a missing key.
template <class T>
T json_get(const Json& json, const std::string& key, std::string_view where, T fallback);

}  // namespace unbend

#include "unbend/base/json_inl.h"
