#include "studies/smollm2.h"

#include <cstdlib>

#include "unbend/base/error.h"
#include "unbend/lm/batch_source.h"

namespace unbend {

std::filesystem::path build_folder() {
  const char* folder = std::getenv("UNBEND_BUILD_DIR");
  return folder && *folder ? folder : "build";
}

SmolLM2 open_smollm2(at::ScalarType type, bool need_training_text) {
  const auto model = build_folder() / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf";
  require(std::filesystem::exists(model),
          "{}: not there; run tools/setup.sh model in the project's folder and start from there", model.string());
  auto file = engine::Gguf::open(model);
  const auto hash = lm::tokenizer_hash(file);
  const auto windows = lm::load_windows(build_folder().parent_path() / "data" / "heldout_docs.safetensors", hash);
  at::Tensor short_docs, long_docs;
  for (const auto& [name, rows] : windows)
    (rows.at(0).size() <= 512 ? short_docs : long_docs) = lm::window_tensor(rows);
  std::shared_ptr<const lm::TokenFile> training;
  const auto texts = build_folder() / "texts" / "train.tokens.safetensors";
  require(!need_training_text || std::filesystem::exists(texts), "{}: not there; run tools/texts.sh", texts.string());
  if (std::filesystem::exists(texts)) training = std::make_shared<lm::TokenFile>(lm::load_tokens(texts, hash));
  auto teacher = lm::load_decoder(file, type);
  return {std::move(file), engine::Tokenizer::load(model), std::move(teacher), short_docs, long_docs, training};
}

}  // namespace unbend
