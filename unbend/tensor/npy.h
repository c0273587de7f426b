// Tensors in NumPy's .npy files.
#pragma once

#include <ATen/ATen.h>

#include <filesystem>

namespace unbend {

/// Format versions 1 to 3, little-endian, C or Fortran order (the result is contiguous); bool, integers, floats.
/// Input error naming the file when it is anything else, truncated or too long.
at::Tensor load_npy(const std::filesystem::path& path);

/// Writes version 1, C order, atomically. Input error for types that NumPy lacks (bfloat16, float8, complex here).
void save_npy(const std::filesystem::path& path, const at::Tensor& t);

}  // namespace unbend
