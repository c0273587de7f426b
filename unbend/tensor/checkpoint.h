// Checkpoints of long computations: named tensors and a JSON value in one atomic file.
#pragma once

#include <ATen/ATen.h>

#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "unbend/base/json.h"

namespace unbend {

/// Numbers in `state` (counters, generator states, losses) come back exactly; non-finite ones become null.
struct Checkpoint {
  std::map<std::string, at::Tensor> tensors;
  Json state;
};

/// Writes `folder`/step-NNNNNNNNNN.safetensors (the folder is made if need be), then removes all but the `keep` newest
/// checkpoints and what killed processes left half-written. A crash at any moment leaves the previous ones as they
/// were. One process at a time. Returns the file.
std::filesystem::path save_checkpoint(const std::filesystem::path& folder, std::int64_t step,
                                      const Checkpoint& checkpoint, int keep = 2);

/// Input error if the file is damaged or not a checkpoint.
Checkpoint load_checkpoint(const std::filesystem::path& file);

/// The checkpoint with the highest step whose file is whole; none if there is no such file or no folder. Says on
/// standard error which damaged ones it skips.
std::optional<std::filesystem::path> latest_checkpoint(const std::filesystem::path& folder);

/// Entries whose name starts with `prefix`, without it; and the way back.
std::map<std::string, at::Tensor> tensors_under(const std::map<std::string, at::Tensor>& tensors,
                                                std::string_view prefix);
void add_under(std::map<std::string, at::Tensor>& tensors, std::string_view prefix,
               const std::map<std::string, at::Tensor>& added);

}  // namespace unbend
