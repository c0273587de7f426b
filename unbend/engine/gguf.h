// GGUF files, checked in full before anything else (ggml included) reads them: a hostile file gives an Error, never an abort.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "unbend/base/files.h"

namespace unbend::engine {

/// One tensor of a file. `shape` is row-major, outermost first (GGUF stores it the other way round).
struct TensorInfo {
  std::string name;
  int type;                         ///< a ggml_type
  std::vector<std::int64_t> shape;
  std::uint64_t offset;             ///< from the start of the file, bytes
  std::uint64_t bytes;
  std::int64_t elements() const;
};

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
  const TensorInfo* find(std::string_view name) const;       ///< null if absent
  const TensorInfo& tensor(std::string_view name) const;     ///< Input error if absent

  const std::vector<std::pair<std::string, MetaValue>>& metadata() const;
  const MetaValue* meta(std::string_view key) const;         ///< null if absent
  std::int64_t integer(std::string_view key) const;          ///< Input error if absent or of another type
  double real(std::string_view key) const;
  std::string text(std::string_view key) const;
  std::int64_t integer(std::string_view key, std::int64_t fallback) const;
  double real(std::string_view key, double fallback) const;
  std::string text(std::string_view key, std::string_view fallback) const;

  std::span<const std::byte> data(const TensorInfo& tensor) const;

  /// Rows [first, first + count) of the tensor seen as [rows, last dimension], dequantised to float32 by ggml.
  void dequantize(const TensorInfo& tensor, std::int64_t first, std::int64_t count, float* out) const;

  /// SHA-256 over the bytes of all shards: the identity of a base model in deltas.
  std::string content_hash() const;

 private:
  struct Data;
  std::shared_ptr<const Data> data_;
};

/// "F32", "Q4_1", ...; the types that dequantize() accepts.
std::string type_name(int type);
std::vector<int> supported_types();

}  // namespace unbend::engine
