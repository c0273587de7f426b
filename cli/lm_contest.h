// What the verbs share that put models side by side: texts to measure them on, and their speed.
#pragma once

#include <string>
#include <vector>

#include "cli/lm_common.h"
#include "unbend/base/files.h"
#include "unbend/lm/linearize.h"

namespace unbend::cli {

/// How many windows of which lengths are evaluated; the second length only where a text is as long.
struct WindowOptions {
  std::string frozen;
  std::int64_t short_windows = 40, long_windows = 12, short_length = 512, long_length = 2048;
  void add_to(CLI::App& verb);
  /// From the file of frozen windows.
  void choose_frozen(lm::ComparisonOptions& comparison, const engine::Gguf& model) const;
  void choose(lm::ComparisonOptions& comparison, const lm::TokenFile& text) const;
};

/// What measures speed and writes answers.
struct Measuring {
  std::string backend;  ///< "engine" or "torch"
  std::string note;     ///< what to say of it
};

/// Lets the engine measure speed and write answers, on exports of the model and its students in `folder`; where it
/// cannot run one of them (and was not asked for by name), LibTorch does that for all.
Measuring use_engine(lm::ComparisonOptions& comparison, const BackendOption& backend, const ModelOptions& options,
                     const engine::Gguf& model, const std::vector<const lm::Student*>& students,
                     const TemporaryFolder& folder);

/// Usage error for contexts without a token, before the work.
void check_contexts(const std::vector<std::int64_t>& contexts);

/// lm::compare(); where the engine cannot measure a model's speed, nobody's is there, and a note says why.
lm::Comparison compare_models(const std::vector<lm::Contestant>& models, const engine::Tokenizer& tokenizer,
                              lm::ComparisonOptions options);

/// The comparison as JSON, with what the text output says around it.
Json to_json(const lm::Comparison& result, const Measuring& measuring, const std::vector<std::string>& notes);

}  // namespace unbend::cli
