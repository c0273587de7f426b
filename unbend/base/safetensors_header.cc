#include "unbend/base/safetensors_header.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "unbend/base/error.h"

namespace unbend {
namespace {

constexpr SafetensorsType kTypes[] = {
    {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1}, {"F8_E8M0", 1},
    {"I16", 2},  {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},     {"U32", 4},
    {"F32", 4},  {"C64", 8}, {"F64", 8}, {"I64", 8},     {"U64", 8},
};
constexpr std::uint64_t kLengthBytes = 8, kMostHeaderBytes = 100'000'000;  // the reference's own limit
constexpr int kMostDepth = 3;                                              // file, tensor, shape
constexpr std::string_view kMetadata = "__metadata__";

// nlohmann's std::map objects: with insertion-ordered ones a header of a million tensors takes quadratic time.
nlohmann::json parse_header_json(std::string_view text, std::string_view where) {
  std::vector<std::set<std::string>> keys(kMostDepth + 1);
  auto check = [&](int depth, nlohmann::json::parse_event_t event, nlohmann::json& value) {
    using Event = nlohmann::json::parse_event_t;
    if (event == Event::object_start || event == Event::array_start) {
      require(depth < kMostDepth, "{}: the header's JSON is nested deeper than {} levels", where, kMostDepth);
      keys[depth + 1].clear();
    } else if (event == Event::key) {
      const auto& key = value.get_ref<const std::string&>();
      require(keys[depth].insert(key).second, "{}: the header has the key '{}' twice", where, key);
    }
    return true;
  };
  try {
    return nlohmann::json::parse(text, check);
  } catch (const nlohmann::json::exception& error) {
    fail_input("{}: the header is not valid JSON: {}", where, error.what());
  }
}

bool is_count(const nlohmann::json& value) {
  return value.is_number_unsigned() && value.get<std::uint64_t>() <= static_cast<std::uint64_t>(INT64_MAX);
}

SafetensorsEntry parse_entry(const std::string& name, const nlohmann::json& json, std::string_view where) {
  require(json.is_object() && json.size() == 3 && json.contains("dtype") && json.contains("shape") &&
              json.contains("data_offsets"),
          "{}: tensor '{}' must have exactly the fields dtype, shape and data_offsets", where, name);
  const auto &type = json["dtype"], &shape = json["shape"], &offsets = json["data_offsets"];
  require(type.is_string(), "{}: dtype of tensor '{}' is not a string", where, name);
  require(shape.is_array() && std::ranges::all_of(shape, is_count), "{}: shape of tensor '{}' is not a list of sizes",
          where, name);
  require(offsets.is_array() && offsets.size() == 2 && std::ranges::all_of(offsets, is_count),
          "{}: data_offsets of tensor '{}' are not two offsets", where, name);

  SafetensorsEntry entry{name, type, shape, offsets[0], offsets[1]};
  const auto known = std::ranges::find(kTypes, std::string_view(entry.type), &SafetensorsType::name);
  require(known != std::end(kTypes), "{}: tensor '{}' has the unknown dtype '{}'", where, name, entry.type);
  // A zero counts as one here, so that an empty tensor cannot hide the overflow of its other sizes.
  std::int64_t bytes = known->bytes;
  for (const auto size : entry.shape)
    require(!__builtin_mul_overflow(bytes, std::max<std::int64_t>(size, 1), &bytes),
            "{}: the size of tensor '{}' overflows", where, name);
  if (std::ranges::find(entry.shape, 0) != entry.shape.end()) bytes = 0;
  require(entry.begin <= entry.end && entry.end - entry.begin == static_cast<std::uint64_t>(bytes),
          "{}: tensor '{}' needs {} bytes, its data_offsets [{}, {}] span another number", where, name, bytes,
          entry.begin, entry.end);
  return entry;
}

}  // namespace

std::span<const SafetensorsType> safetensors_types() { return kTypes; }

SafetensorsHeader parse_safetensors_header(std::span<const std::byte> file, std::string_view where) {
  require(file.size() >= kLengthBytes, "{}: {} bytes are too few for a safetensors file", where, file.size());
  std::uint64_t length = 0;
  for (std::uint64_t i = 0; i < kLengthBytes; ++i) length |= std::to_integer<std::uint64_t>(file[i]) << (8 * i);
  require(length <= kMostHeaderBytes && length <= file.size() - kLengthBytes,
          "{}: header of {} bytes in a file of {}: truncated, or not a safetensors file", where, length, file.size());
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + kLengthBytes, length);
  require(text.starts_with('{'), "{}: the header at offset {} does not start with '{{': not a safetensors file", where,
          kLengthBytes);

  const auto json = parse_header_json(text, where);
  SafetensorsHeader header;
  for (const auto& [name, value] : json.items()) {
    if (name != kMetadata) {
      header.tensors.push_back(parse_entry(name, value, where));
      continue;
    }
    require(value.is_object(), "{}: {} is not an object", where, kMetadata);
    for (const auto& [key, text] : value.items()) {
      require(text.is_string(), "{}: {} '{}' is not a string", where, kMetadata, key);
      header.metadata[key] = text;
    }
  }
  std::ranges::stable_sort(header.tensors, {}, [](const auto& entry) { return std::pair(entry.begin, entry.end); });

  const std::uint64_t data = kLengthBytes + length, available = file.size() - data;
  std::uint64_t expected = 0;
  for (auto& entry : header.tensors) {
    require(entry.end <= available, "{}: tensor '{}' ends at {} of {} data bytes: truncated file", where, entry.name,
            entry.end, available);
    require(entry.begin == expected, "{}: tensor '{}' starts at data offset {} instead of {}: {}", where, entry.name,
            entry.begin, expected,
            entry.begin < expected ? "it overlaps another tensor" : "bytes before it belong to no tensor");
    expected = entry.end;
    entry.begin += data;
    entry.end += data;
  }
  require(expected == available, "{}: {} bytes after the last tensor", where, available - expected);
  return header;
}

std::string write_safetensors_header(const SafetensorsHeader& header) {
  nlohmann::ordered_json::object_t fields;  // a vector of pairs: appended to, never searched
  if (!header.metadata.empty()) fields.push_back({std::string(kMetadata), header.metadata});
  std::uint64_t begin = 0;
  for (const auto& entry : header.tensors) {
    const std::uint64_t end = begin + (entry.end - entry.begin);
    nlohmann::ordered_json json;
    json["dtype"] = entry.type;
    json["shape"] = entry.shape;
    json["data_offsets"] = {begin, end};
    fields.push_back({entry.name, std::move(json)});
    begin = end;
  }
  std::string text = nlohmann::ordered_json(std::move(fields)).dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  std::string out;
  for (int i = 0; i < 8; ++i) out += static_cast<char>(text.size() >> (8 * i) & 0xff);
  return out + text;
}

}  // namespace unbend
