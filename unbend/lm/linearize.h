// The main job: a model and its linear-time surrogate side by side, with what was gained and lost.
#pragma once

#include <ATen/ATen.h>

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "unbend/base/json.h"
#include "unbend/engine/generate.h"
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
  std::int64_t trained_tokens = 0;  ///< that it learned from, if it did here
  double trained_per_second = 0;
};

struct ComparisonOptions {
  at::Tensor short_windows, long_windows;  ///< token ids [N, 512], [M, 2048] (any lengths); long may be undefined
  std::int64_t window = 256;               ///< of the students: tasks ask for what lies beyond it, see size_beyond()
  std::vector<std::string> tasks{"copy", "codes", "words"};  ///< of recall (docs/tasks.md)
  std::int64_t recall_texts = 4;                             ///< per task; 0 = none
  std::vector<std::string> prompts;
  std::int64_t prompt_tokens = 48;  ///< generated per prompt
  std::vector<std::int64_t> contexts{256, 1024, 4096, 16384, 32768};
  std::int64_t speed_tokens = 12;
  /// Measures the speed of the model of that number at `contexts`; none: decode_speed() of its decoder.
  std::function<std::vector<SpeedPoint>(std::size_t model)> speed;
  /// Continues a prompt with the model of that number; none: its decoder does.
  std::function<std::string(std::size_t model, const engine::Tokenizer&, const std::vector<engine::TokenId>& prompt,
                            const engine::GenerateOptions&)>
      write;
  bool quiet = false;
};

struct ModelComparison {
  std::string name;
  std::vector<Scores> scores;  ///< short, long
  std::vector<Recall> recall;  ///< one per entry of Comparison::tasks
  std::vector<SpeedPoint> speed;
  std::vector<std::string> texts;  ///< one per prompt
  at::Tensor fidelity;             ///< relative squared error of heads [layers, T]; undefined for the teacher
  std::int64_t trained_tokens = 0;
  double trained_per_second = 0;
};

/// A task of recall that was put to the models: a fact `size` tokens back, or somewhere in a text of that length.
struct AskedTask {
  std::string name;
  bool by_distance = true;
  std::int64_t size = 0;
  std::optional<double> within = {};  ///< share of questions whose answer the window still tells; none: not known
};

struct Comparison {
  std::vector<ModelComparison> models;
  ComparisonOptions options;
  std::int64_t weight_bytes = 0;  ///< of the teacher; 0: not known
  std::vector<AskedTask> tasks = {};
  std::vector<std::string> notes = {};  ///< what was left out, and why
};

Comparison compare(const std::vector<Contestant>& models, const engine::Tokenizer& tokenizer,
                   const ComparisonOptions& options);

/// The same as one table with a column per model, in short with a row per model, as JSON, and as a report with plots,
/// which starts with the short tables where there is more than one surrogate and its control.
Table comparison_table(const Comparison& comparison);
Table summary_table(const Comparison& comparison);
Table position_table(const Comparison& comparison);  ///< nats per token by position
Json to_json(const Comparison& comparison);
HtmlReport comparison_report(const Comparison& comparison, const std::string& title,
                             const std::vector<std::string>& notes);

}  // namespace unbend::lm
