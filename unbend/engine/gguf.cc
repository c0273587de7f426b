#include "unbend/engine/gguf.h"

#include <ggml.h>
#include <gguf.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <mutex>
#include <numeric>
#include <unordered_map>

#include "unbend/base/error.h"
#include "unbend/engine/gguf_parse.h"

namespace unbend::engine {
namespace {

constexpr const char* kSplitNumber = "split.no";
constexpr const char* kSplitCount = "split.count";
constexpr const char* kSplitTensors = "split.tensors.count";

/// Index by name; the strings must outlive it.
using Index = std::unordered_map<std::string_view, std::size_t>;

template <class Values, class Name>
Index index_by(const Values& values, const Name& name) {
  Index index;
  index.reserve(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) index.emplace(name(values[i]), i);
  return index;
}

/// Value of a split.* key, or -1 if it is absent. Its stored type matters: libllama aborts on another one.
std::int64_t split_value(const ParsedGguf& parsed, std::string_view key, std::uint32_t type, const std::string& file) {
  for (std::size_t i = 0; i < parsed.metadata.size(); ++i) {
    if (parsed.metadata[i].first != key) continue;
    require(encoded_type(parsed.encoded[i]) == type, "{}: metadata key '{}' must have type {}", file, key,
            gguf_type_name(static_cast<gguf_type>(type)));
    const MetaValue& value = parsed.metadata[i].second;
    if (const auto* number = std::get_if<std::uint64_t>(&value)) return static_cast<std::int64_t>(*number);
    return std::get<std::int64_t>(value);
  }
  return -1;
}

/// Path of shard `number` (from 0) of the model whose first shard is `first`.
std::filesystem::path shard_path(const std::filesystem::path& first, std::int64_t number, std::int64_t count) {
  const std::string name = first.filename().string();
  const std::string ending = fmt::format("-{:05}-of-{:05}.gguf", 1, count);
  require(name.ends_with(ending), "{}: the first of {} shards must be named like 'model{}'", first.string(), count,
          ending);
  const std::string stem = name.substr(0, name.size() - ending.size());
  return first.parent_path() / fmt::format("{}-{:05}-of-{:05}.gguf", stem, number + 1, count);
}

std::string architecture(const ParsedGguf& parsed) {
  for (const auto& [key, value] : parsed.metadata) {
    const auto* text = std::get_if<std::string>(&value);
    if (key == "general.architecture" && text) return *text;
  }
  return "";
}

}  // namespace

struct Gguf::Data {
  std::filesystem::path path;
  std::vector<MappedFile> files;
  ParsedGguf parsed;  ///< of the first shard, with the tensors of all
  Index tensor_index, meta_index;
  mutable std::once_flag hash_once;
  mutable std::string hash;

  void add_shards();
};

void Gguf::Data::add_shards() {
  const std::string file = path.string();
  const std::int64_t count = split_value(parsed, kSplitCount, GGUF_TYPE_UINT16, file);
  if (count <= 1) return;
  const std::int64_t number = split_value(parsed, kSplitNumber, GGUF_TYPE_UINT16, file);
  require(number == 0, "{}: this is shard {} of {}: open the first one", file, number + 1, count);
  for (std::int64_t i = 1; i < count; ++i) {
    const std::filesystem::path shard = shard_path(path, i, count);
    const std::string name = shard.string();
    require(std::filesystem::exists(shard), "{}: shard {} of {} is missing: {}", file, i + 1, count, name);
    files.emplace_back(shard);
    ParsedGguf part = parse_gguf(files.back().bytes(), name);
    const std::int64_t own_number = split_value(part, kSplitNumber, GGUF_TYPE_UINT16, name);
    const std::int64_t own_count = split_value(part, kSplitCount, GGUF_TYPE_UINT16, name);
    require(own_number == i && own_count == count, "{}: expected shard {} of {}, its metadata says shard {} of {}",
            name, i + 1, count, own_number + 1, own_count);
    const std::string own = architecture(part);
    require(own.empty() || own == architecture(parsed),
            "{}: this shard belongs to a model of architecture {}, the first one to {}", name, show_name(own),
            show_name(architecture(parsed)));
    for (TensorInfo& tensor : part.tensors) {
      tensor.shard = static_cast<int>(i);
      parsed.tensors.push_back(std::move(tensor));
    }
  }
  const std::int64_t tensors = split_value(parsed, kSplitTensors, GGUF_TYPE_INT32, file);
  require(tensors < 0 || tensors == static_cast<std::int64_t>(parsed.tensors.size()),
          "{}: its {} shards hold {} tensors, '{}' is {}", file, count, parsed.tensors.size(), kSplitTensors, tensors);
}

std::int64_t TensorInfo::elements() const {
  return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

std::int64_t TensorInfo::rows() const { return elements() / shape.back(); }

Gguf Gguf::open(const std::filesystem::path& path) {
  auto data = std::make_shared<Data>();
  data->path = path;
  data->files.emplace_back(path);
  data->parsed = parse_gguf(data->files[0].bytes(), path.string());
  data->add_shards();
  data->meta_index = index_by(data->parsed.metadata, [](const auto& entry) { return std::string_view(entry.first); });
  data->tensor_index =
      index_by(data->parsed.tensors, [](const TensorInfo& tensor) { return std::string_view(tensor.name); });
  for (std::size_t i = 0; i < data->parsed.tensors.size(); ++i) {
    const TensorInfo& tensor = data->parsed.tensors[i];
    require(data->tensor_index.at(tensor.name) == i, "{}: tensor {} is in two shards", path.string(),
            show_name(tensor.name));
  }
  Gguf result;
  result.data_ = std::move(data);
  return result;
}

const std::filesystem::path& Gguf::path() const { return data_->path; }

const std::vector<TensorInfo>& Gguf::tensors() const { return data_->parsed.tensors; }

const TensorInfo* Gguf::find(std::string_view name) const {
  const auto found = data_->tensor_index.find(name);
  return found == data_->tensor_index.end() ? nullptr : &data_->parsed.tensors[found->second];
}

const TensorInfo& Gguf::tensor(std::string_view name) const {
  const TensorInfo* found = find(name);
  require(found != nullptr, "{}: tensor {} is missing", path().string(), show_name(name));
  return *found;
}

const std::vector<std::pair<std::string, MetaValue>>& Gguf::metadata() const { return data_->parsed.metadata; }

const MetaValue* Gguf::meta(std::string_view key) const {
  const auto found = data_->meta_index.find(key);
  return found == data_->meta_index.end() ? nullptr : &data_->parsed.metadata[found->second].second;
}

namespace {

[[noreturn]] void fail_meta(const Gguf& gguf, std::string_view key, const char* expected) {
  const char* problem = gguf.meta(key) ? "has another type" : "is missing";
  fail_input("{}: metadata key {} {}, expected {}", gguf.path().string(), show_name(key), problem, expected);
}

}  // namespace

std::int64_t Gguf::integer(std::string_view key) const {
  const MetaValue* value = meta(key);
  if (value) {
    if (const auto* number = std::get_if<std::int64_t>(value)) return *number;
    const auto* number = std::get_if<std::uint64_t>(value);
    if (number && *number <= std::uint64_t{INT64_MAX}) return static_cast<std::int64_t>(*number);
  }
  fail_meta(*this, key, "an integer");
}

double Gguf::real(std::string_view key) const {
  const MetaValue* value = meta(key);
  if (value) {
    if (const auto* number = std::get_if<double>(value)) return *number;
    if (const auto* number = std::get_if<std::int64_t>(value)) return static_cast<double>(*number);
    if (const auto* number = std::get_if<std::uint64_t>(value)) return static_cast<double>(*number);
  }
  fail_meta(*this, key, "a number");
}

std::string Gguf::text(std::string_view key) const {
  const MetaValue* value = meta(key);
  const auto* text = value ? std::get_if<std::string>(value) : nullptr;
  if (!text) fail_meta(*this, key, "a string");
  return *text;
}

std::int64_t Gguf::integer(std::string_view key, std::int64_t fallback) const {
  return meta(key) ? integer(key) : fallback;
}

double Gguf::real(std::string_view key, double fallback) const { return meta(key) ? real(key) : fallback; }

std::string Gguf::text(std::string_view key, std::string_view fallback) const {
  return meta(key) ? text(key) : std::string(fallback);
}

bool Gguf::flag(std::string_view key, bool fallback) const {
  const MetaValue* value = meta(key);
  if (!value) return fallback;
  const auto* flag = std::get_if<bool>(value);
  if (!flag) fail_meta(*this, key, "a truth value");
  return *flag;
}

std::span<const std::byte> Gguf::encoded(std::string_view key) const {
  const auto found = data_->meta_index.find(key);
  if (found == data_->meta_index.end()) fail_meta(*this, key, "a value");
  return data_->parsed.encoded[found->second];
}

std::span<const std::byte> Gguf::data(const TensorInfo& tensor) const {
  const bool inside = tensor.shard >= 0 && static_cast<std::size_t>(tensor.shard) < data_->files.size();
  const auto bytes = inside ? data_->files[tensor.shard].bytes() : std::span<const std::byte>();
  require(tensor.offset <= bytes.size() && tensor.bytes <= bytes.size() - tensor.offset,
          "{}: tensor {} is not in this file", path().string(), show_name(tensor.name));
  return bytes.subspan(tensor.offset, tensor.bytes);
}

void Gguf::dequantize(const TensorInfo& tensor, std::int64_t first, std::int64_t count, float* out) const {
  require(is_supported(tensor.type), "{}: tensor {} of type {} cannot be read as floats", path().string(),
          show_name(tensor.name), type_name(tensor.type));
  require(first >= 0 && count >= 0 && count <= tensor.rows() && first <= tensor.rows() - count,
          "{}: {} rows from {} on of tensor {}, which has {}", path().string(), count, first, show_name(tensor.name),
          tensor.rows());
  if (count == 0) return;
  const auto type = static_cast<ggml_type>(tensor.type);
  const std::size_t row_bytes = ggml_row_size(type, tensor.shape.back());
  const auto bytes = data(tensor).subspan(first * row_bytes, count * row_bytes);
  if (type == GGML_TYPE_F32) {
    std::memcpy(out, bytes.data(), bytes.size());
  } else {
    ggml_get_type_traits(type)->to_float(bytes.data(), out, count * tensor.shape.back());
  }
}

std::string Gguf::content_hash() const {
  std::call_once(data_->hash_once, [&] {
    std::string joined;
    for (const MappedFile& file : data_->files) joined += sha256(file.bytes());
    data_->hash = data_->files.size() == 1 ? joined : sha256(std::as_bytes(std::span(joined)));
  });
  return data_->hash;
}

std::string type_name(int type) {
  if (type < 0 || type >= GGML_TYPE_COUNT) return fmt::format("type {}", type);
  std::string name = ggml_type_name(static_cast<ggml_type>(type));
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::toupper(c); });
  return name;
}

double bits_per_weight(int type) {
  const auto kind = static_cast<ggml_type>(type);
  return 8.0 * static_cast<double>(ggml_type_size(kind)) / static_cast<double>(ggml_blck_size(kind));
}

bool is_supported(int type) {
  if (type < 0 || type >= GGML_TYPE_COUNT) return false;
  return type == GGML_TYPE_F32 || ggml_get_type_traits(static_cast<ggml_type>(type))->to_float != nullptr;
}

std::vector<int> supported_types() {
  std::vector<int> types;
  for (int type = 0; type < GGML_TYPE_COUNT; ++type) {
    if (is_supported(type)) types.push_back(type);
  }
  return types;
}

}  // namespace unbend::engine
