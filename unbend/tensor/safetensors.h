// Tensors in safetensors files.
#pragma once

#include <ATen/ATen.h>

#include <filesystem>
#include <map>
#include <string>

namespace unbend {

struct TensorFile {
  std::map<std::string, at::Tensor> tensors;
  std::map<std::string, std::string> metadata;
};

/// Reads through a memory map; the tensors own their memory (one copy), so the file may change afterwards.
/// Input error naming the file, and the tensor or offset, when it is not a valid file in every respect.
TensorFile load_safetensors(const std::filesystem::path& path);

/// Writes atomically. Tensors of any device and layout; equal contents give equal bytes, in the order of the reference
/// implementation (descending type, then name). Input error for a type that the format lacks.
void save_safetensors(const std::filesystem::path& path, const std::map<std::string, at::Tensor>& tensors,
                      const std::map<std::string, std::string>& metadata = {});

}  // namespace unbend
