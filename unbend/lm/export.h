// A student as one GGUF file that the engine runs (docs/gguf.md).
#pragma once

#include <filesystem>
#include <string>

#include "unbend/engine/gguf.h"
#include "unbend/lm/recipe.h"

namespace unbend::lm {

/// Writes the student's weights, low-rank corrections merged, and its mixers. `type`: "base" keeps each tensor's type
/// in `base`, the file that the teacher was loaded from, but gives corrected ones at least 8 bits: rounding 4-bit
/// weights a second time costs more than the correction gains. Otherwise matrices take this type, and embedding and
/// head one of at least 8 bits. Input error if the student has mixers that the engine does not know.
void export_student(const engine::Gguf& base, const Student& student, const std::filesystem::path& out,
                    const std::string& type = "base");

}  // namespace unbend::lm
