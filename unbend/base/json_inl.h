// Templates of unbend/base/json.h.
#pragma once

#include <concepts>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "unbend/base/error.h"
#include "unbend/base/json.h"

namespace unbend {
namespace json_detail {

template <class T>
struct IsVector : std::false_type {};
template <class T>
struct IsVector<std::vector<T>> : std::true_type {};

/// What the message says was expected.
template <class T>
std::string expected() {
  if constexpr (std::same_as<T, bool>) return "true or false";
  if constexpr (std::integral<T>) {
    return fmt::format("an integer from {} to {}", std::numeric_limits<T>::min(), std::numeric_limits<T>::max());
  }
  if constexpr (std::floating_point<T>) return "a number";
  if constexpr (std::same_as<T, std::string>) return "a string";
  if constexpr (IsVector<T>::value) return "an array, each element " + expected<typename T::value_type>();
  return "another type";
}

/// Strict conversion: no truncated fractions, no wrapped integers, no booleans as numbers.
template <class T>
bool convert(const Json& json, T* value) {
  if constexpr (std::same_as<T, Json>) {
    *value = json;
    return true;
  } else if constexpr (std::same_as<T, bool>) {
    if (!json.is_boolean()) return false;
    *value = json.get<bool>();
    return true;
  } else if constexpr (std::integral<T>) {
    if (json.is_number_unsigned()) {
      const auto wide = json.get<std::uint64_t>();
      if (!std::in_range<T>(wide)) return false;
      *value = static_cast<T>(wide);
      return true;
    }
    if (!json.is_number_integer()) return false;
    const auto wide = json.get<std::int64_t>();
    if (!std::in_range<T>(wide)) return false;
    *value = static_cast<T>(wide);
    return true;
  } else if constexpr (std::floating_point<T>) {
    if (!json.is_number()) return false;
    *value = json.get<T>();
    return true;
  } else if constexpr (IsVector<T>::value) {
    if (!json.is_array()) return false;
    value->clear();
    for (const Json& element : json) {
      typename T::value_type converted{};
      if (!convert(element, &converted)) return false;
      value->push_back(std::move(converted));
    }
    return true;
  } else {
    static_assert(std::same_as<T, std::string>,
                  "json_get: T must be Json, bool, a number, a string or a vector of them");
    if (!json.is_string()) return false;
    *value = json.get<std::string>();
    return true;
  }
}

template <class T>
T get(const Json& value, const std::string& key, std::string_view where) {
  T converted{};
  if (!convert(value, &converted)) {
    fail_input("{}: \"{}\" must be {}, but is {}", where, key, expected<T>(), value.type_name());
  }
  return converted;
}

}  // namespace json_detail

template <class T>
T json_get(const Json& json, const std::string& key, std::string_view where) {
  require(json.is_object(), "{}: expected an object with \"{}\", but found {}", where, key, json.type_name());
  const auto found = json.find(key);
  require(found != json.end(), "{}: \"{}\" is missing", where, key);
  return json_detail::get<T>(*found, key, where);
}

template <class T>
T json_get(const Json& json, const std::string& key, std::string_view where, T fallback) {
  require(json.is_object(), "{}: expected an object, but found {}", where, json.type_name());
  const auto found = json.find(key);
  return found == json.end() ? fallback : json_detail::get<T>(*found, key, where);
}

}  // namespace unbend
