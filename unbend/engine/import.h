// Hugging Face model folders turned into GGUF by llama.cpp's own converter.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace unbend::engine {

/// The types that import_model() can store weights in: "f32", "f16", "bf16", "q8_0". Vectors stay F32.
const std::vector<std::string>& import_types();

struct ImportOptions {
  std::string type = "bf16";
  bool show_output = false;  ///< pass the converter's own progress and messages through
};

/// Checks `folder` (config.json, every weight file, a tokenizer, no code of its own), runs llama.cpp's
/// convert_hf_to_gguf.py on it, checks the result with Gguf::open and renames it to `out`. Nothing is left of a failed
/// run, and nothing is downloaded.
/// Where: the environment variable UNBEND_CONVERTER (the script) and UNBEND_PYTHON (an interpreter with torch, gguf,
/// transformers, safetensors and sentencepiece), else what the build was configured with.
/// Usage error for an unknown type; Input error for a folder that is incomplete or that the converter refuses (with its
/// reason); Computation error if `out` cannot be written.
void import_model(const std::filesystem::path& folder, const std::filesystem::path& out,
                  const ImportOptions& options = {});

}  // namespace unbend::engine
