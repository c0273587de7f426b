#include "unbend/engine/gguf_write.h"

#include <ggml.h>
#include <gguf.h>

#include <algorithm>
#include <cctype>
#include <limits>
#include <optional>
#include <unordered_set>

#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/engine/gguf_parse.h"

namespace unbend::engine {
namespace {

template <class T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(T));
}

void put(std::string& out, std::string_view text) {
  put<std::uint64_t>(out, text.size());
  out += text;
}

template <class Narrow, class Wide>
bool fits(Wide value) {
  if constexpr (std::is_floating_point_v<Wide>) {
    return static_cast<Wide>(static_cast<Narrow>(value)) == value || value != value;
  } else {
    return value >= std::numeric_limits<Narrow>::min() && value <= std::numeric_limits<Narrow>::max();
  }
}

/// The type, for an array also the length, and the numbers, in the narrow type if all fit.
template <class Narrow, class Wide>
void put_numbers(std::string& out, std::span<const Wide> values, bool is_array, gguf_type narrow, gguf_type wide) {
  const bool all_fit = std::all_of(values.begin(), values.end(), fits<Narrow, Wide>);
  if (is_array) put<std::uint32_t>(out, GGUF_TYPE_ARRAY);
  put<std::uint32_t>(out, all_fit ? narrow : wide);
  if (is_array) put<std::uint64_t>(out, values.size());
  for (const Wide value : values) {
    all_fit ? put(out, static_cast<Narrow>(value)) : put(out, value);
  }
}

class ValueEncoder {
 public:
  explicit ValueEncoder(std::string& out) : out_(out) {}
  void operator()(std::int64_t value) const { integers(std::span(&value, 1), false); }
  void operator()(const std::vector<std::int64_t>& values) const { integers(values, true); }
  void operator()(double value) const { reals(std::span(&value, 1), false); }
  void operator()(const std::vector<double>& values) const { reals(values, true); }
  void operator()(std::uint64_t value) const {
    put_numbers<std::uint32_t>(out_, std::span<const std::uint64_t>(&value, 1), false, GGUF_TYPE_UINT32,
                               GGUF_TYPE_UINT64);
  }
  void operator()(bool value) const {
    put<std::uint32_t>(out_, GGUF_TYPE_BOOL);
    put<std::uint8_t>(out_, value);
  }
  void operator()(const std::string& value) const {
    put<std::uint32_t>(out_, GGUF_TYPE_STRING);
    put(out_, std::string_view(value));
  }
  void operator()(const std::vector<bool>& values) const {
    array(GGUF_TYPE_BOOL, values.size());
    for (const bool value : values) put<std::uint8_t>(out_, value);
  }
  void operator()(const std::vector<std::string>& values) const {
    array(GGUF_TYPE_STRING, values.size());
    for (const std::string& value : values) put(out_, std::string_view(value));
  }

 private:
  void integers(std::span<const std::int64_t> values, bool is_array) const {
    put_numbers<std::int32_t>(out_, values, is_array, GGUF_TYPE_INT32, GGUF_TYPE_INT64);
  }
  void reals(std::span<const double> values, bool is_array) const {
    put_numbers<float>(out_, values, is_array, GGUF_TYPE_FLOAT32, GGUF_TYPE_FLOAT64);
  }
  void array(gguf_type type, std::size_t size) const {
    put<std::uint32_t>(out_, GGUF_TYPE_ARRAY);
    put<std::uint32_t>(out_, type);
    put<std::uint64_t>(out_, size);
  }

  std::string& out_;
};

std::uint64_t padded(std::uint64_t size) {
  return (size + GGUF_DEFAULT_ALIGNMENT - 1) / GGUF_DEFAULT_ALIGNMENT * GGUF_DEFAULT_ALIGNMENT;
}

std::uint64_t byte_size(const TensorSource& tensor, const std::string& file) {
  const std::string name = show_name(tensor.name);
  require(!tensor.name.empty() && tensor.name.size() < GGML_MAX_NAME, "{}: tensor name {} must have 1 to {} bytes",
          file, name, GGML_MAX_NAME - 1);
  require(!tensor.shape.empty() && tensor.shape.size() <= GGML_MAX_DIMS,
          "{}: tensor {} has {} dimensions, it must have 1 to {}", file, name, tensor.shape.size(), GGML_MAX_DIMS);
  const auto type = static_cast<ggml_type>(tensor.type);
  const bool known = tensor.type >= 0 && tensor.type < GGML_TYPE_COUNT && ggml_blck_size(type) > 0;
  require(known && tensor.shape.back() % ggml_blck_size(type) == 0,
          "{}: tensor {} with rows of {} elements cannot have type {}", file, name, tensor.shape.back(),
          type_name(tensor.type));
  std::uint64_t rows = 1;
  for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
    require(tensor.shape[i] > 0, "{}: tensor {} has a dimension of size {}", file, name, tensor.shape[i]);
    if (i + 1 < tensor.shape.size()) rows *= static_cast<std::uint64_t>(tensor.shape[i]);
  }
  return rows * ggml_row_size(type, tensor.shape.back());
}

std::string header(const std::filesystem::path& path, const std::vector<std::string>& entries,
                   const std::vector<TensorSource>& tensors) {
  std::string out = GGUF_MAGIC;
  put<std::uint32_t>(out, GGUF_VERSION);
  put<std::uint64_t>(out, tensors.size());
  put<std::uint64_t>(out, entries.size());
  for (const std::string& entry : entries) out += entry;
  std::uint64_t offset = 0;
  std::unordered_set<std::string_view> seen;
  for (const TensorSource& tensor : tensors) {
    require(seen.insert(tensor.name).second, "{}: two tensors named {}", path.string(), show_name(tensor.name));
    put(out, std::string_view(tensor.name));
    put<std::uint32_t>(out, static_cast<std::uint32_t>(tensor.shape.size()));
    for (auto size = tensor.shape.rbegin(); size != tensor.shape.rend(); ++size) put<std::int64_t>(out, *size);
    put<std::uint32_t>(out, static_cast<std::uint32_t>(tensor.type));
    put<std::uint64_t>(out, offset);
    offset += padded(byte_size(tensor, path.string()));
  }
  out.resize(padded(out.size()));
  return out;
}

}  // namespace

std::string encode_entry(std::string_view key, const MetaValue& value) {
  std::string out;
  put(out, key);
  std::visit(ValueEncoder(out), value);
  return out;
}

void write_gguf(const std::filesystem::path& path, const std::vector<std::string>& entries,
                const std::vector<TensorSource>& tensors) {
  std::string piece;
  std::size_t written = 0;
  write_file(path, [&]() -> std::optional<std::string_view> {
    const std::size_t step = written++;
    if (step == 0) {
      piece = header(path, entries, tensors);
    } else if (step <= tensors.size()) {
      const TensorSource& tensor = tensors[step - 1];
      const std::uint64_t size = byte_size(tensor, path.string());
      piece.assign(padded(size), '\0');
      tensor.fill(std::as_writable_bytes(std::span(piece.data(), size)));
    } else {
      return std::nullopt;
    }
    return piece;
  });
}

void encode_rows(const std::string& name, int type, std::span<const float> values, std::int64_t width,
                 std::span<std::byte> out) {
  const auto kind = static_cast<ggml_type>(type);
  const auto rows = static_cast<std::int64_t>(values.size()) / width;
  require(ggml_quantize_chunk(kind, values.data(), out.data(), 0, rows, width, nullptr) == out.size(),
          "tensor {} cannot be stored as {}", name, type_name(type));
}

void rewrite(const Gguf& in, const std::filesystem::path& out, const Rewrite& changes) {
  std::vector<std::string> entries;
  for (const auto& [key, value] : in.metadata()) {
    const auto replaced = std::ranges::any_of(changes.entries, [&](const auto& entry) { return entry.first == key; });
    if (replaced || key == GGUF_KEY_GENERAL_ALIGNMENT || key.starts_with("split.")) continue;
    const auto stored = in.encoded(key);
    entries.emplace_back(reinterpret_cast<const char*>(stored.data()), stored.size());
  }
  for (const auto& [key, value] : changes.entries) entries.push_back(encode_entry(key, value));

  std::vector<TensorSource> tensors;
  for (const TensorInfo& tensor : in.tensors()) {
    const bool floats = is_supported(tensor.type);
    const int type = floats && changes.type ? changes.type(tensor) : tensor.type;
    const auto values = floats && changes.values ? changes.values(tensor) : std::span<const float>();
    require(tensor.shape.back() % ggml_blck_size(static_cast<ggml_type>(type)) == 0,
            "tensor {}: rows of {} do not divide into blocks of type {}", tensor.name, tensor.shape.back(),
            type_name(type));
    tensors.push_back({tensor.name, type, tensor.shape, [&in, &tensor, type, values](std::span<std::byte> bytes) {
                         if (values.empty() && type == tensor.type) {
                           std::ranges::copy(in.data(tensor), bytes.begin());
                           return;
                         }
                         std::vector<float> own;
                         if (values.empty()) {
                           own.resize(static_cast<std::size_t>(tensor.elements()));
                           in.dequantize(tensor, 0, tensor.rows(), own.data());
                         }
                         encode_rows(tensor.name, type, values.empty() ? own : values, tensor.shape.back(), bytes);
                       }});
  }
  tensors.insert(tensors.end(), changes.tensors.begin(), changes.tensors.end());
  write_gguf(out, entries, tensors);
}

void rewrite_as_f32(const Gguf& in, const std::filesystem::path& out) {
  Rewrite changes;
  changes.type = [](const TensorInfo&) { return static_cast<int>(GGML_TYPE_F32); };
  changes.entries = {{"general.file_type", std::uint64_t{0}}};
  rewrite(in, out, changes);
}

int type_number(std::string_view name) {
  std::string upper(name);
  std::ranges::transform(upper, upper.begin(), [](unsigned char c) { return std::toupper(c); });
  std::vector<std::string> known;
  for (const int type : supported_types()) {
    const auto kind = static_cast<ggml_type>(type);
    const bool writable = !ggml_quantize_requires_imatrix(kind) &&
                          (type == GGML_TYPE_F32 || type == GGML_TYPE_F16 || type == GGML_TYPE_BF16 ||
                           (ggml_is_quantized(kind) && ggml_get_type_traits(kind)->from_float_ref));
    if (!writable) continue;
    if (type_name(type) == upper) return type;
    known.push_back(type_name(type));
  }
  fail_usage("there is no type '{}' to store weights in; there are {}", name, fmt::join(known, ", "));
}

}  // namespace unbend::engine
