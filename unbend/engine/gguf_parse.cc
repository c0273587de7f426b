#include "unbend/engine/gguf_parse.h"

#include <ggml.h>
#include <gguf.h>

#include <algorithm>
#include <bit>
#include <cctype>
#include <cstring>
#include <limits>
#include <unordered_set>

#include "unbend/base/error.h"

namespace unbend::engine {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF numbers are read as they lie in memory");

constexpr std::uint64_t kMaxKeyLength = 65535;
constexpr std::uint64_t kMaxAlignment = 1u << 20;

/// A position in the file that never passes its end.
class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, const std::string& file) : bytes_(bytes), file_(file) {}

  std::uint64_t position() const { return position_; }
  std::uint64_t left() const { return bytes_.size() - position_; }
  std::span<const std::byte> since(std::uint64_t start) const { return bytes_.subspan(start, position_ - start); }

  /// Throws about the bytes at `offset`.
  template <class... Args>
  [[noreturn]] void fail_at(std::uint64_t offset, fmt::format_string<Args...> format, Args&&... args) const {
    fail_input("{}: {} (at offset {})", file_, fmt::format(format, std::forward<Args>(args)...), offset);
  }

  const std::byte* take(std::uint64_t size, const char* what) {
    if (size > left()) fail_at(position_, "the file ends within the {}: {} bytes needed, {} left", what, size, left());
    const std::byte* start = bytes_.data() + position_;
    position_ += size;
    return start;
  }

  template <class T>
  T number(const char* what) {
    T value;
    std::memcpy(&value, take(sizeof(T), what), sizeof(T));
    return value;
  }

  std::string string(const char* what) {
    const std::uint64_t length = number<std::uint64_t>(what);
    const std::byte* start = take(length, what);
    return {reinterpret_cast<const char*>(start), static_cast<std::size_t>(length)};
  }

  /// A number of things that take at least `bytes_each` of what is left.
  std::uint64_t count(const char* what, std::uint64_t bytes_each) {
    const std::uint64_t value = number<std::uint64_t>(what);
    if (value > left() / bytes_each) {
      fail_at(position_ - 8, "{} is {}, more than the remaining {} bytes can hold", what, value, left());
    }
    return value;
  }

 private:
  std::span<const std::byte> bytes_;
  std::uint64_t position_ = 0;
  const std::string& file_;
};

/// Calls `use` with a zero of the C++ type of a numeric gguf_type; false if it is none.
template <class Use>
bool with_number(std::uint32_t type, const Use& use) {
  switch (type) {
    case GGUF_TYPE_UINT8: use(std::uint8_t{}); return true;
    case GGUF_TYPE_INT8: use(std::int8_t{}); return true;
    case GGUF_TYPE_UINT16: use(std::uint16_t{}); return true;
    case GGUF_TYPE_INT16: use(std::int16_t{}); return true;
    case GGUF_TYPE_UINT32: use(std::uint32_t{}); return true;
    case GGUF_TYPE_INT32: use(std::int32_t{}); return true;
    case GGUF_TYPE_UINT64: use(std::uint64_t{}); return true;
    case GGUF_TYPE_INT64: use(std::int64_t{}); return true;
    case GGUF_TYPE_FLOAT32: use(float{}); return true;
    case GGUF_TYPE_FLOAT64: use(double{}); return true;
    default: return false;
  }
}

bool read_bool(Cursor& cursor) {
  const auto value = cursor.number<std::uint8_t>("truth value");
  if (value > 1) cursor.fail_at(cursor.position() - 1, "a truth value is {}, it must be 0 or 1", value);
  return value == 1;
}

template <class Stored>
MetaValue read_number_array(Cursor& cursor, std::uint64_t count) {
  using Value = std::conditional_t<std::is_floating_point_v<Stored>, double, std::int64_t>;
  const std::uint64_t start = cursor.position();
  const std::byte* bytes = cursor.take(count * sizeof(Stored), "array");
  std::vector<Value> values(count);
  for (std::uint64_t i = 0; i < count; ++i) {
    Stored value;
    std::memcpy(&value, bytes + i * sizeof(Stored), sizeof(Stored));
    if constexpr (std::is_same_v<Stored, std::uint64_t>) {
      if (value > std::uint64_t{std::numeric_limits<std::int64_t>::max()}) {
        cursor.fail_at(start + i * sizeof(Stored), "an array element is {}, over 2^63 - 1", value);
      }
    }
    values[i] = static_cast<Value>(value);
  }
  return values;
}

MetaValue read_array(Cursor& cursor) {
  const std::uint64_t start = cursor.position();
  const auto type = cursor.number<std::uint32_t>("type of an array");
  MetaValue value;
  const bool numeric = with_number(type, [&](auto zero) {
    using Stored = decltype(zero);
    value = read_number_array<Stored>(cursor, cursor.count("the length of an array", sizeof(Stored)));
  });
  if (numeric) return value;
  if (type == GGUF_TYPE_BOOL) {
    std::vector<bool> flags(cursor.count("the length of an array", 1));
    for (std::size_t i = 0; i < flags.size(); ++i) flags[i] = read_bool(cursor);
    return flags;
  }
  if (type == GGUF_TYPE_STRING) {
    std::vector<std::string> strings(cursor.count("the length of an array", sizeof(std::uint64_t)));
    for (std::string& string : strings) string = cursor.string("string in an array");
    return strings;
  }
  if (type == GGUF_TYPE_ARRAY) cursor.fail_at(start, "an array of arrays, which is not supported");
  cursor.fail_at(start, "unknown type {} of an array", type);
}

MetaValue read_value(Cursor& cursor) {
  const std::uint64_t start = cursor.position();
  const auto type = cursor.number<std::uint32_t>("type of a metadata value");
  MetaValue value;
  const bool numeric = with_number(type, [&](auto zero) {
    using Stored = decltype(zero);
    const auto stored = cursor.number<Stored>("metadata value");
    if constexpr (std::is_floating_point_v<Stored>) {
      value = double{stored};
    } else if constexpr (std::is_signed_v<Stored>) {
      value = std::int64_t{stored};
    } else {
      value = std::uint64_t{stored};
    }
  });
  if (numeric) return value;
  if (type == GGUF_TYPE_BOOL) return read_bool(cursor);
  if (type == GGUF_TYPE_STRING) return cursor.string("metadata string");
  if (type == GGUF_TYPE_ARRAY) return read_array(cursor);
  cursor.fail_at(start, "unknown metadata type {}", type);
}

void read_header(Cursor& cursor, std::uint64_t& tensors, std::uint64_t& entries) {
  if (cursor.left() < 4 || std::memcmp(cursor.take(4, "magic"), GGUF_MAGIC, 4) != 0) {
    cursor.fail_at(0, "not a GGUF file: it does not start with 'GGUF'");
  }
  const auto version = cursor.number<std::uint32_t>("version");
  if (version != 0 && (version & 0xffff) == 0) cursor.fail_at(4, "big-endian GGUF files are not supported");
  if (version != 2 && version != 3) cursor.fail_at(4, "GGUF version {} is not supported, only 2 and 3", version);
  // The smallest tensor entry: an empty name, one dimension, type, offset. The smallest metadata entry: one byte.
  tensors = cursor.count("the number of tensors", 8 + 4 + 8 + 4 + 8);
  entries = cursor.count("the number of metadata entries", 8 + 4 + 1);
}

void read_metadata(Cursor& cursor, std::uint64_t entries, ParsedGguf& parsed) {
  std::unordered_set<std::string> seen;
  for (std::uint64_t i = 0; i < entries; ++i) {
    const std::uint64_t start = cursor.position();
    std::string key = cursor.string("metadata key");
    if (key.empty() || key.size() > kMaxKeyLength || key.find('\0') != std::string::npos) {
      cursor.fail_at(start, "metadata key {} is empty, longer than {} bytes or holds a zero byte", show_name(key),
                     kMaxKeyLength);
    }
    if (!seen.insert(key).second) cursor.fail_at(start, "metadata key {} appears twice", show_name(key));
    MetaValue value = read_value(cursor);
    parsed.metadata.emplace_back(std::move(key), std::move(value));
    parsed.encoded.push_back(cursor.since(start));
  }
}

std::uint64_t find_alignment(const Cursor& cursor, const ParsedGguf& parsed) {
  for (std::size_t i = 0; i < parsed.metadata.size(); ++i) {
    const auto& [key, value] = parsed.metadata[i];
    if (key != GGUF_KEY_GENERAL_ALIGNMENT) continue;
    const auto* alignment = std::get_if<std::uint64_t>(&value);
    // At least 8, because the dequantisation reads words; the format wants a multiple of 8 too.
    if (encoded_type(parsed.encoded[i]) != GGUF_TYPE_UINT32 || !std::has_single_bit(*alignment) || *alignment < 8 ||
        *alignment > kMaxAlignment) {
      cursor.fail_at(cursor.position(), "{} must be a 32-bit power of two from 8 to {}", key, kMaxAlignment);
    }
    return *alignment;
  }
  return GGUF_DEFAULT_ALIGNMENT;
}

TensorInfo read_tensor(Cursor& cursor) {
  const std::uint64_t start = cursor.position();
  TensorInfo tensor;
  tensor.name = cursor.string("tensor name");
  const std::string name = show_name(tensor.name);
  if (tensor.name.empty() || tensor.name.size() >= GGML_MAX_NAME || tensor.name.find('\0') != std::string::npos) {
    cursor.fail_at(start, "tensor name {} is empty, longer than {} bytes or holds a zero byte", name,
                   GGML_MAX_NAME - 1);
  }
  const auto dimensions = cursor.number<std::uint32_t>("number of dimensions");
  if (dimensions < 1 || dimensions > GGML_MAX_DIMS) {
    cursor.fail_at(start, "tensor {} has {} dimensions, it must have 1 to {}", name, dimensions, GGML_MAX_DIMS);
  }
  std::int64_t elements = 1;
  for (std::uint32_t i = 0; i < dimensions; ++i) {
    const auto size = cursor.number<std::int64_t>("shape");
    if (size < 1) cursor.fail_at(start, "tensor {} has a dimension of size {}", name, size);
    if (size > std::numeric_limits<std::int64_t>::max() / elements) {
      cursor.fail_at(start, "tensor {} has more than 2^63 - 1 elements", name);
    }
    elements *= size;
    tensor.shape.push_back(size);
  }
  std::reverse(tensor.shape.begin(), tensor.shape.end());

  const auto type = cursor.number<std::uint32_t>("tensor type");
  const bool known = type < GGML_TYPE_COUNT && ggml_blck_size(static_cast<ggml_type>(type)) > 0;
  if (!known) cursor.fail_at(start, "tensor {} has the unknown type {}", name, type);
  tensor.type = static_cast<int>(type);
  const std::int64_t block = ggml_blck_size(static_cast<ggml_type>(type));
  if (tensor.shape.back() % block != 0) {
    cursor.fail_at(start, "tensor {} has rows of {} elements, type {} needs a multiple of {}", name,
                   tensor.shape.back(), type_name(tensor.type), block);
  }
  const std::uint64_t blocks = static_cast<std::uint64_t>(elements / block);
  const std::uint64_t block_bytes = ggml_type_size(static_cast<ggml_type>(type));
  if (blocks > std::numeric_limits<std::int64_t>::max() / block_bytes) {
    cursor.fail_at(start, "tensor {} takes more than 2^63 - 1 bytes", name);
  }
  tensor.bytes = blocks * block_bytes;
  tensor.offset = cursor.number<std::uint64_t>("tensor offset");
  return tensor;
}

/// Makes offsets relative to the file and checks that they are aligned, within it, and apart from each other.
void place_tensors(const Cursor& cursor, std::uint64_t size, std::uint64_t alignment,
                   std::vector<TensorInfo>& tensors) {
  const std::uint64_t start = (cursor.position() + alignment - 1) / alignment * alignment;
  const std::uint64_t room = size > start ? size - start : 0;
  std::vector<const TensorInfo*> order;
  for (TensorInfo& tensor : tensors) {
    if (tensor.offset % alignment != 0) {
      cursor.fail_at(start, "tensor {} has offset {}, not a multiple of {}", show_name(tensor.name), tensor.offset,
                     alignment);
    }
    if (tensor.offset > room || tensor.bytes > room - tensor.offset) {
      cursor.fail_at(start, "tensor {} needs {} bytes from offset {}, the file has {} bytes of tensor data",
                     show_name(tensor.name), tensor.bytes, tensor.offset, room);
    }
    tensor.offset += start;
    order.push_back(&tensor);
  }
  std::sort(order.begin(), order.end(), [](auto* a, auto* b) { return a->offset < b->offset; });
  for (std::size_t i = 1; i < order.size(); ++i) {
    if (order[i - 1]->offset + order[i - 1]->bytes > order[i]->offset) {
      cursor.fail_at(order[i]->offset, "tensors {} and {} overlap", show_name(order[i - 1]->name),
                     show_name(order[i]->name));
    }
  }
}

}  // namespace

ParsedGguf parse_gguf(std::span<const std::byte> bytes, const std::string& file) {
  Cursor cursor(bytes, file);
  ParsedGguf parsed;
  std::uint64_t tensors = 0, entries = 0;
  read_header(cursor, tensors, entries);
  read_metadata(cursor, entries, parsed);
  const std::uint64_t alignment = find_alignment(cursor, parsed);
  std::unordered_set<std::string> seen;
  for (std::uint64_t i = 0; i < tensors; ++i) {
    const std::uint64_t start = cursor.position();
    parsed.tensors.push_back(read_tensor(cursor));
    const std::string& name = parsed.tensors.back().name;
    if (!seen.insert(name).second) cursor.fail_at(start, "tensor {} appears twice", show_name(name));
  }
  place_tensors(cursor, bytes.size(), alignment, parsed.tensors);
  return parsed;
}

std::uint32_t encoded_type(std::span<const std::byte> entry) {
  std::uint64_t key_length;
  std::uint32_t type;
  std::memcpy(&key_length, entry.data(), sizeof(key_length));
  std::memcpy(&type, entry.data() + sizeof(key_length) + key_length, sizeof(type));
  return type;
}

std::string show_name(std::string_view name) {
  constexpr std::size_t kShown = 80;
  std::string text = "'";
  for (const char c : name.substr(0, kShown)) {
    text += std::isprint(static_cast<unsigned char>(c)) ? std::string(1, c)
                                                        : fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  }
  return text + (name.size() > kShown ? "...'" : "'");
}

}  // namespace unbend::engine
