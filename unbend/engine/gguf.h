// GGUF files, checked in full before anything else (ggml included) reads them: a hostile file gives an Error, never an
// abort.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "unbend/base/files.h"

namespace unbend::engine {

/// One tensor of a file. `shape` is row-major, outermost first (GGUF stores it the other way round).
struct TensorInfo {
  std::string name;
  int type;  ///< a ggml_type
  std::vector<std::int64_t> shape;
  std::uint64_t offset;  ///< from the start of its shard, bytes
  std::uint64_t bytes;
  int shard = 0;  ///< which file of a split model, from 0
  std::int64_t elements() const;
  std::int64_t rows() const;  ///< elements / last dimension
};

/// Unsigned integers of every width become std::uint64_t, signed ones and all arrays of integers std::int64_t, floats
/// double.
using MetaValue = std::variant<std::int64_t, std::uint64_t, double, bool, std::string, std::vector<std::int64_t>,
                               std::vector<double>, std::vector<bool>, std::vector<std::string>>;

/// A memory-mapped GGUF model, versions 2 and 3, little-endian, one file or split shards (`-00001-of-0000N.gguf`).
class Gguf {
 public:
  /// Opens and checks: magic, version, counts, string and array lengths, nesting, types, shapes, alignment, offsets and
  /// sizes within the file without overlap, unique names; for shards that all are there and belong together.
  /// Input error naming the file and the offset or tensor.
  static Gguf open(const std::filesystem::path& path);

  const std::filesystem::path& path() const;
  const std::vector<TensorInfo>& tensors() const;
  const TensorInfo* find(std::string_view name) const;    ///< null if absent
  const TensorInfo& tensor(std::string_view name) const;  ///< Input error if absent

  const std::vector<std::pair<std::string, MetaValue>>& metadata() const;
  const MetaValue* meta(std::string_view key) const;  ///< null if absent
  std::int64_t integer(std::string_view key) const;   ///< Input error if absent or of another type
  double real(std::string_view key) const;
  std::string text(std::string_view key) const;
  std::int64_t integer(std::string_view key, std::int64_t fallback) const;
  double real(std::string_view key, double fallback) const;
  std::string text(std::string_view key, std::string_view fallback) const;
  bool flag(std::string_view key, bool fallback) const;
  /// The metadata entry (key, type, value) as stored, to be copied into another file. Input error if absent.
  std::span<const std::byte> encoded(std::string_view key) const;

  std::span<const std::byte> data(const TensorInfo& tensor) const;

  /// Rows [first, first + count) of the tensor seen as [rows, last dimension], dequantised to float32 by ggml into
  /// `out` [count, last dimension]. Input error for rows out of range and for types without such a conversion.
  void dequantize(const TensorInfo& tensor, std::int64_t first, std::int64_t count, float* out) const;

  /// Identity of a base model in deltas: SHA-256 of the file; of a split model, SHA-256 of its shards' hashes joined.
  /// Computed at the first call.
  std::string content_hash() const;

 private:
  struct Data;
  std::shared_ptr<const Data> data_;
};

/// "F32", "Q4_1", ...
std::string type_name(int type);
/// Of a type, block scales included.
double bits_per_weight(int type);
/// The types that dequantize() accepts.
std::vector<int> supported_types();
bool is_supported(int type);

}  // namespace unbend::engine
