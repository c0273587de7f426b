// SmolLM2-135M-Instruct and its texts, for studies that need a real pretrained model.
#pragma once

#include <ATen/ATen.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "studies/study.h"
#include "unbend/base/json.h"
#include "unbend/engine/gguf.h"
#include "unbend/engine/tokenizer.h"
#include "unbend/lm/corpus.h"
#include "unbend/lm/decoder.h"

namespace unbend {

struct SmolLM2 {
  engine::Gguf file;
  engine::Tokenizer tokenizer;
  lm::Decoder teacher;                            ///< bfloat16 products
  at::Tensor short_docs;                          ///< held-out documentation, [40 or more, 512]
  at::Tensor long_docs;                           ///< [12 or more, 2048]
  std::shared_ptr<const lm::TokenFile> training;  ///< null if the training texts are not installed
};

/// Folder for models and texts: the environment's UNBEND_BUILD_DIR, else "build" in the current folder.
std::filesystem::path build_folder();

/// Input error that says which part of tools/setup.sh is missing.
SmolLM2 open_smollm2(at::ScalarType type, bool need_training_text);

/// Options of a recipe that are another entrant beside its published form.
struct SmolLM2Variant {
  std::string name;
  Json changes;
};

/// Adds a table without bars: a recipe as published, in its other presets, the same with sinks if it has a window,
/// `variants` of it, and the controls, each trained on the same 16K tokens by its own stages (window 64, one seed), on
/// held-out documentation of 512 and 2,048 tokens. Recipes that train all weights need `smol` in float32.
void add_smollm2(StudyResult& result, const SmolLM2& smol, const std::string& recipe, const StudyOptions& study,
                 const std::vector<SmolLM2Variant>& variants = {});

}  // namespace unbend
