// Headers of safetensors files, checked in full. No tensors here, so that the fuzzer needs no LibTorch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace unbend {

/// An element type of the format. The table is in the order of the reference implementation, which sorts tensors by
/// descending type and then by name.
struct SafetensorsType {
  std::string_view name;
  std::int64_t bytes;
};
std::span<const SafetensorsType> safetensors_types();

/// One tensor of a file; its data are the bytes [begin, end) of the file.
struct SafetensorsEntry {
  std::string name, type;
  std::vector<std::int64_t> shape;
  std::uint64_t begin, end;
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> tensors;  ///< in the order of their data
  std::map<std::string, std::string> metadata;
};

/// Reads the header of a whole file in memory. Checks: length of the header, JSON (nesting, duplicate keys, known
/// fields), known types, shapes whose size in bytes neither overflows nor differs from the offsets, and data that fill
/// the rest of the file without overlap, hole or remainder. Input error that starts with `where` and names the tensor
/// or offset.
SafetensorsHeader parse_safetensors_header(std::span<const std::byte> file, std::string_view where);

/// The bytes before the data: length and JSON, padded to eight bytes. Only the difference of `begin` and `end` counts:
/// the data follow each other in the order of `header.tensors`. Equal input gives equal bytes.
std::string write_safetensors_header(const SafetensorsHeader& header);

}  // namespace unbend
