// Tokenizers that tests of texts run with: one of bytes, made on the spot, and that of a real model.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "unbend/base/files.h"
#include "unbend/engine/byte_vocabulary.h"
#include "unbend/engine/gguf_write.h"
#include "unbend/engine/tokenizer.h"

namespace unbend::lm {

inline engine::Tokenizer byte_tokenizer(int size = 257) {
  const TemporaryFolder folder;
  auto entries = engine::byte_vocabulary(size);
  entries.push_back(engine::encode_entry("general.architecture", "llama"));
  engine::write_gguf(folder.path() / "bytes.gguf", entries, {});
  return engine::Tokenizer::load(folder.path() / "bytes.gguf");
}

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
