// Recipes side by side: each converts the same model and learns from the same tokens; lm::compare() then measures them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "unbend/lm/corpus.h"
#include "unbend/lm/distill.h"
#include "unbend/lm/recipe.h"

namespace unbend::lm {

/// Options of recipe `window` for the control of a student: its window and `sinks`. Where it has no window (or one of
/// 0), the window is as long as fits, with those sinks, into the memory of the student's state, but at least 1; beside
/// recipe `softmax`, whose state grows, it is the default.
Json control_options(const Student& student, std::int64_t sinks);

struct Entrant {
  std::string name;  ///< "liger, window 64", "liger, window 64 + 4 sinks", "lizard, recommended, window 64", "control,
                     ///< softmax", "control, window 64 + 4 sinks"
  std::string recipe;
  Json options;  ///< all of them
};

struct ContestOptions {
  std::vector<std::string> recipes;  ///< by name; empty: all but the controls
  std::int64_t window = 0;           ///< of every recipe that has one; 0 = each its own
  std::int64_t sinks = 0;            ///< above 0: recipes with a window and no sinks compete with so many, too
  std::int64_t control_sinks = 4;
};

/// The recipes in their published form and their other presets, after their controls: recipe `softmax`, which says what
/// adapting to the text gives, and recipe `window` with sinks for each of their windows, which says what a window
/// gives. A window that fits the memory of the first stands in where none has one. Usage error for unknown recipes and
/// values out of range.
std::vector<Entrant> entrants(const Decoder& teacher, const ContestOptions& options);

/// The largest window among them.
std::int64_t largest_window(const std::vector<Entrant>& entrants);

/// The stages with `tokens` in all, rounded up to whole optimiser steps of `step` tokens, which are shared out as the
/// stages' own budgets are; each has one at least. Input error for budgets in steps.
std::vector<Stage> share_budget(std::vector<Stage> stages, std::int64_t tokens, std::int64_t step);

struct Trained {
  Entrant entrant;
  Student student;
  TrainReport report;
};

struct ContestTraining {
  std::vector<Trained> students;
  std::vector<std::string> left_out;  ///< "NAME: why", of those that cannot take the model or whose training failed
  std::vector<std::string> notes;     ///< "NAME: stage S trained nothing: why", of stages that could not
  bool interrupted = false;           ///< the last student is half trained, others are missing
};

/// Trains every entrant by its recipe's stages on `tokens` tokens, the same batches in the same order for all.
/// `options` as for train(): a folder of checkpoints gets a folder per entrant, and `identity` is completed with what
/// tells entrants apart. Input error if there is nothing to learn from.
ContestTraining train_entrants(const Decoder& teacher, const std::vector<Entrant>& entrants,
                               const std::shared_ptr<const TokenFile>& text, const BatchOptions& batch,
                               std::int64_t tokens, std::uint64_t seed, const TrainOptions& options);

}  // namespace unbend::lm
