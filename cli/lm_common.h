// What the `unbend lm` verbs share: options for models and how they are opened.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "unbend/base/json.h"
#include "unbend/engine/model.h"
#include "unbend/engine/tokenizer.h"
#include "unbend/lm/corpus.h"
#include "unbend/lm/delta.h"
#include "unbend/lm/distill.h"
#include "unbend/lm/recipe.h"

namespace unbend::cli {

/// Options of every verb that runs a model.
struct ModelOptions {
  std::string model, adapter, device = "cpu", type;
  int threads = 0;
  void add_to(CLI::App& verb, bool with_adapter = true);
  /// --type; without it the fastest that trains: bf16 where the device multiplies it faster, f32 elsewhere.
  std::string weight_type() const;
  /// What is read: no output may replace it (check_output).
  std::vector<std::filesystem::path> files() const { return {model, adapter}; }
};

/// A model as a verb needs it; `student` is set when an adapter was given.
struct OpenModel {
  engine::Gguf file;
  engine::Tokenizer tokenizer;
  lm::Decoder teacher;
  std::optional<lm::Student> student;
  const lm::Decoder& decoder() const { return student ? student->decoder : teacher; }
};

/// Sets thread counts, checks the device, reads the file and the adapter.
OpenModel open_model(const ModelOptions& options);

/// Which program computes: the engine on ggml, or LibTorch.
struct BackendOption {
  std::string name;
  void add_to(CLI::App& verb);
  /// The engine unless LibTorch is named or needed (a device that is not the CPU).
  bool engine(const ModelOptions& options) const;
  /// Usage error for --type where the engine does all the work: its weights are those of the file.
  void refuse_type(const ModelOptions& options) const;
};

/// A model for the engine; with an adapter, the student's export in a temporary file that is gone when it is open.
std::shared_ptr<const engine::Model> open_engine_model(const ModelOptions& options);

/// Says on stderr that texts of so many tokens go beyond what the model was made for. Not an error: recurrences have no
/// end, but nobody trained those positions.
void warn_beyond_context(std::int64_t tokens, const engine::DecoderConfig& config);

/// The number of threads that --threads means.
int thread_count(const ModelOptions& options);

/// A recipe and changes to its options ("--recipe NAME --set window=64 --set gate=false").
struct RecipeOptions {
  std::string recipe = "hybrid";
  std::vector<std::string> sets;
  const CLI::Option* named = nullptr;  ///< --recipe itself
  void add_to(CLI::App& verb);
  Json options() const;
  /// Usage error if they were given beside an adapter, which has its own.
  void refuse_beside(const std::string& adapter) const;
};

/// Texts of a verb: files and folders, or a token file made before.
struct TextOptions {
  std::vector<std::string> texts;
  std::string tokens;
  void add_to(CLI::App& verb);
  /// For the tokenizer of that model's file. Usage error unless exactly one is given. `quiet` hides the progress.
  std::shared_ptr<const lm::TokenFile> open(const engine::Gguf& file, const engine::Tokenizer& tokenizer,
                                            bool quiet = false) const;
  /// What is read, as far as it is named: no output may replace it (check_output).
  std::vector<std::filesystem::path> files() const;
};

/// How long training goes on, and what it leaves on the way.
struct RunOptions {
  std::string checkpoints, log;
  std::int64_t rows = 2, accumulate = 1, validate_every = 0, validation_windows = 8;
  double seconds = 0, checkpoint_seconds = 60;
  bool quiet = false;
  void add_to(CLI::App& verb);
  /// Usage error for values out of range.
  lm::TrainOptions train_options() const;
};

/// What training gave, as JSON.
Json to_json(const lm::TrainReport& report);

/// "12345 tokens in 67 s (890 per CPU-second), loss 1.2345", which stages had no time, and how to go on if it was
/// interrupted.
std::string summary(const lm::TrainReport& report, const RunOptions& run);

/// The names of those options that the command line has.
std::vector<std::string> given(const std::vector<const CLI::Option*>& options);

at::ScalarType scalar_type(const std::string& name);
std::string mib(std::int64_t bytes);  ///< "94.1 MB"

void add_lm_model_verbs(CLI::App& lm);     ///< info, import, merge, logits
void add_lm_text_verbs(CLI::App& lm);      ///< generate, sample, tokens
void add_lm_training_verbs(CLI::App& lm);  ///< convert, distill
void add_lm_scratch_verb(CLI::App& lm);    ///< train
void add_lm_eval_verb(CLI::App& lm);       ///< eval
void add_lm_measure_verbs(CLI::App& lm);   ///< bench, linearize
void add_lm_compare_verb(CLI::App& lm);    ///< compare
void add_lm_curvature_verb(CLI::App& lm);  ///< curvature

}  // namespace unbend::cli
