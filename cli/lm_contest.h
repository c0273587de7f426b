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

/// Lets the engine measure speed and write answers, on exports of the model and its students in `folder`; where it
/// cannot run one of them (and was not asked for by name), LibTorch does that for all. Returns what to say of it.
std::string use_engine(lm::ComparisonOptions& comparison, const BackendOption& backend, const ModelOptions& options,
                       const engine::Gguf& model, const std::vector<const lm::Student*>& students,
                       const TemporaryFolder& folder);

}  // namespace unbend::cli
