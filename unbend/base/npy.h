// Arrays in NumPy's .npy files as shape, type and bytes: no tensors. unbend/tensor/npy.h makes tensors of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace unbend {

struct NpyArray {
  std::string type;                 ///< kind and element size as in NpyHeader: "f8", "i4", "b1", ...
  std::vector<std::int64_t> shape;  ///< empty for a scalar
  std::vector<std::byte> bytes;     ///< the elements in C order, little-endian; of bools each is 0 or 1

  std::int64_t size() const;  ///< number of elements
};

/// All that parse_npy_header (base/npy_header.h) takes; Fortran order becomes C order. Input error that starts with
/// `where`.
NpyArray parse_npy(std::span<const std::byte> file, std::string_view where);
NpyArray read_npy(const std::filesystem::path& path);

/// The elements as float64, whatever their type. Integers beyond 2^53 are rounded.
std::vector<double> to_doubles(const NpyArray& array);

/// Version 1, C order, atomically. `bytes` are the elements of `shape`.
void write_npy(const std::filesystem::path& path, const std::string& type, const std::vector<std::int64_t>& shape,
               std::span<const std::byte> bytes);
/// The same for float64: `values` has as many elements as `shape` says.
void write_npy(const std::filesystem::path& path, const std::vector<std::int64_t>& shape,
               std::span<const double> values);

}  // namespace unbend
