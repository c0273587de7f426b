// One GGUF file read and checked on its own; internal to the folder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "unbend/engine/gguf.h"

namespace unbend::engine {

struct ParsedGguf {
  std::vector<std::pair<std::string, MetaValue>> metadata;
  std::vector<std::span<const std::byte>> encoded;  ///< of each metadata entry: key, type and value as stored
  std::vector<TensorInfo> tensors;                  ///< in the order of the file; `shard` is left 0
};

/// `file` starts the error messages. The result points into `bytes`.
ParsedGguf parse_gguf(std::span<const std::byte> bytes, const std::string& file);

/// The type (a gguf_type) of an entry of ParsedGguf::encoded.
std::uint32_t encoded_type(std::span<const std::byte> entry);

/// A name from a file made fit for a message: quoted, shortened, without control characters.
std::string show_name(std::string_view name);

}  // namespace unbend::engine
