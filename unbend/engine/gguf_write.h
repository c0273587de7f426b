// Writing GGUF files (version 3), atomically.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "unbend/engine/gguf.h"

namespace unbend::engine {

/// A metadata entry as GGUF stores it. Integers take 32 bits where their value, or every value of an array, fits and
/// 64 otherwise, of the signedness of the MetaValue's type; reals take 32 bits where that loses nothing.
std::string encode_entry(std::string_view key, const MetaValue& value);

/// A tensor to be written: `fill` writes its bytes when its turn comes.
struct TensorSource {
  std::string name;
  int type;                         ///< a ggml_type
  std::vector<std::int64_t> shape;  ///< row-major, as in TensorInfo
  std::function<void(std::span<std::byte> bytes)> fill;
};

/// Writes encoded metadata entries and tensors; only one tensor is in memory at a time. Input error for a name or shape
/// that GGUF cannot hold, Computation error if the file cannot be written; then no file is left.
void write_gguf(const std::filesystem::path& path, const std::vector<std::string>& entries,
                const std::vector<TensorSource>& tensors);

/// Rows of `width` floats as the bytes of a type of type_number(). Input error, which names the tensor, if they do not
/// fill `out`.
void encode_rows(const std::string& name, int type, std::span<const float> values, std::int64_t width,
                 std::span<std::byte> out);

/// What rewrite() changes.
struct Rewrite {
  /// New type of a tensor that holds floats (rows in one of ggml's float or block types); none keeps every type.
  std::function<int(const TensorInfo& tensor)> type = {};
  /// New values of a tensor, row-major as in its shape; an empty span keeps them.
  std::function<std::span<const float>(const TensorInfo& tensor)> values = {};
  std::vector<std::pair<std::string, MetaValue>> entries = {};  ///< replace those of the same key
  std::vector<TensorSource> tensors = {};                       ///< come after the model's own
};

/// Writes model `in` with changes; what does not change is copied byte for byte. Tensors that hold no floats are
/// copied. A split model becomes one file. Input error for a type that cannot hold a tensor's rows.
void rewrite(const Gguf& in, const std::filesystem::path& out, const Rewrite& changes);

/// The same model with every tensor as F32 (general.file_type 0).
void rewrite_as_f32(const Gguf& in, const std::filesystem::path& out);

/// Number of a type's name ("F16", "Q4_1", in either case). Usage error for types that values cannot be converted to.
int type_number(std::string_view name);

}  // namespace unbend::engine
