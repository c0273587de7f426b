// A student as a delta to its base model: its adapter, and whole weights where it has its own, in a safetensors file
// whose metadata say what they belong to.
#pragma once

#include <filesystem>
#include <map>
#include <span>
#include <string>

#include "unbend/base/json.h"
#include "unbend/engine/gguf.h"
#include "unbend/lm/recipe.h"

namespace unbend::lm {

/// What a delta says of itself (JSON in the file's metadata under "unbend.delta").
struct DeltaInfo {
  std::string recipe;
  Json options;
  std::string base_name;  ///< general.name of the base, for people
  std::string base_hash;  ///< Gguf::content_hash() of the base
  Json training;          ///< how it was made: texts, tokens, seed, measured losses
};

/// Tensors are stored as float32, or as float16 if `half`.
void save_delta(const std::filesystem::path& path, const Student& student, const DeltaInfo& info, bool half = false);

/// Input error if `path` is not a delta.
DeltaInfo read_delta_info(const std::filesystem::path& path);

/// Rebuilds the student of `teacher`, which was loaded from `base`: weights that the file lacks are the teacher's.
/// Input error if the delta belongs to another base, or if its tensors are not exactly those that its recipe and
/// options make, and weights of the decoder.
Student load_delta(const std::filesystem::path& path, const Decoder& teacher, const engine::Gguf& base);

/// Adds the low-rank corrections to the weights: the student without Lora, equal up to rounding and faster.
Decoder merge_lora(const Decoder& student);

/// The weights that are not the base's, low-rank corrections added, by tensor name of `student`'s base file and in its
/// order of rows.
std::map<std::string, at::Tensor> merged_tensors(const Student& student);

/// Its numbers, or nothing.
std::span<const float> values_of(const std::map<std::string, at::Tensor>& tensors, const std::string& name);

/// Writes `base` (the file that the student's teacher was loaded from) with the merged weights, all tensors F32.
void write_merged(const engine::Gguf& base, const Student& student, const std::filesystem::path& out);

}  // namespace unbend::lm
