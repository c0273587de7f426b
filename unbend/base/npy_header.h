// Headers of NumPy's .npy files (NEP 1), checked in full. No tensors here, so that the fuzzer needs no LibTorch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace unbend {

struct NpyHeader {
  std::string type;                 ///< NumPy's kind and element size: "f4", "i8", "b1", ...; little-endian
  bool fortran_order = false;       ///< the first index varies fastest
  std::vector<std::int64_t> shape;  ///< empty for a scalar
  std::uint64_t begin = 0;          ///< offset of the data in the file
};

/// Reads the header of a whole file in memory: versions 1 to 3; bool, integers of 1 to 8 bytes, floats of 2, 4 and 8.
/// The data must fill the rest of the file exactly. Input error that starts with `where`.
NpyHeader parse_npy_header(std::span<const std::byte> file, std::string_view where);

/// The bytes before the data, as numpy.save writes them. `begin` is ignored.
std::string write_npy_header(const NpyHeader& header);

}  // namespace unbend
