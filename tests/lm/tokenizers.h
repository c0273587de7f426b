// Tokenizers that tests of texts run with: one of bytes, made on the spot, and that of a real model.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "unbend/engine/byte_vocabulary.h"
#include "unbend/engine/tokenizer.h"

namespace unbend::lm {

using engine::byte_tokenizer;

/// "bytes", or "words" of SmolLM2; null if that model is not there.
inline const engine::Tokenizer* test_tokenizer(const std::string& name) {
  static const auto bytes = byte_tokenizer();
  static const auto words = []() -> std::optional<engine::Tokenizer> {
    const std::string path = UNBEND_SOURCE_DIR "/build/models/SmolLM2-135M-Instruct.Q4_1.gguf";
    if (!std::filesystem::exists(path)) return {};
    return engine::Tokenizer::load(path);
  }();
  if (name == "bytes") return &bytes;
  return words ? &*words : nullptr;
}

}  // namespace unbend::lm
