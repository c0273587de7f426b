// The main job: a model and its linear-time surrogate side by side, with what was gained and lost.
#pragma once

#include <ATen/ATen.h>

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "unbend/base/json.h"
#include "unbend/engine/tokenizer.h"
#include "unbend/lm/evaluate.h"
#include "unbend/lm/recall.h"
#include "unbend/lm/recipe.h"
#include "unbend/lm/speed.h"
#include "unbend/report/html.h"

namespace unbend::lm {

/// One of the compared models. The first is the teacher.
struct Contestant {
  std::string name;  ///< "teacher", "window + sinks", "hybrid"
  const Decoder* decoder;
};

struct ComparisonOptions {
  at::Tensor short_windows, long_windows;  ///< token ids [N, 512], [M, 2048] (any lengths); long may be undefined
  std::int64_t window = 256;               ///< of the students, for the recall test
  std::int64_t recall_texts = 4;           ///< per task; 0 = none
  std::vector<std::string> prompts;
  std::int64_t prompt_tokens = 48;  ///< generated per prompt
  std::vector<std::int64_t> contexts{256, 1024, 4096, 16384, 32768};
  std::int64_t speed_tokens = 12;
  /// Measures the speed of the model of that number at `contexts`; none: decode_speed() of its decoder.
  std::function<std::vector<SpeedPoint>(std::size_t model)> speed;
  bool quiet = false;
};

inline constexpr const char* kRecallTasks[] = {"copy", "codes", "words"};

struct ModelComparison {
  std::string name;
  std::vector<Scores> scores;  ///< short, long
  std::vector<Recall> recall;  ///< one per entry of kRecallTasks
  std::vector<SpeedPoint> speed;
  std::vector<std::string> texts;  ///< one per prompt
  at::Tensor fidelity;             ///< relative squared error of heads [layers, T]; undefined for the teacher
};

struct Comparison {
  std::vector<ModelComparison> models;
  ComparisonOptions options;
  std::int64_t weight_bytes = 0;
};

Comparison compare(const std::vector<Contestant>& models, const engine::Tokenizer& tokenizer,
                   const ComparisonOptions& options);

/// The same as one table for a terminal, as JSON, and as a report with plots.
Table comparison_table(const Comparison& comparison);
Json to_json(const Comparison& comparison);
HtmlReport comparison_report(const Comparison& comparison, const std::string& title,
                             const std::vector<std::string>& notes);

}  // namespace unbend::lm
