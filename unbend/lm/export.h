// Students (docs/gguf.md) and decoders as GGUF files.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "unbend/engine/gguf.h"
#include "unbend/lm/recipe.h"

namespace unbend::lm {

/// Writes the student's weights, low-rank corrections merged, and its mixers. `type`: "base" keeps each tensor's type
/// in `base`, the file that the teacher was loaded from, but gives corrected ones at least 8 bits: rounding 4-bit
/// weights a second time costs more than the correction gains. Otherwise matrices take this type, and embedding and
/// head one of at least 8 bits. Large matrices of mixers are Q8_0 where the attention's have 8 bits or less, other
/// tensors of mixers F32 (docs/gguf.md). Input error if the student has mixers that the engine does not know.
void export_student(const engine::Gguf& base, const Student& student, const std::filesystem::path& out,
                    const std::string& type = "base");

/// Writes a decoder with softmax in all layers as a Llama model in F32, with encoded metadata entries (encode_entry) in
/// front: the tokenizer, a name. Input error for mixers, biases and rotary scalings that are not of that family.
void export_decoder(const Decoder& decoder, const std::vector<std::string>& entries, const std::filesystem::path& out);

}  // namespace unbend::lm
