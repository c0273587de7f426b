// Writing GGUF files (version 3), atomically.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
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

/// Changes a tensor's values, row-major as in its shape, before they are written.
using TensorEdit = std::function<void(const TensorInfo& tensor, std::span<float> values)>;

/// Writes model `in` with the same metadata and every tensor as F32 (general.file_type 0), each changed by `edit` if
/// given. Tensors that hold no floats are copied. A split model becomes one file.
void rewrite_as_f32(const Gguf& in, const std::filesystem::path& out, const TensorEdit& edit = nullptr);

}  // namespace unbend::engine
