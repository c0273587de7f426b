// Training students (and, for studies, small teachers): stages, budgets, checkpoints.
#pragma once

#include <ATen/ATen.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "unbend/base/json.h"
#include "unbend/lm/recipe.h"

namespace unbend::lm {

/// Sequences to train on.
struct Batch {
  at::Tensor ids;  ///< [B, T] int64
  /// [B, T] int64: the token that follows each position, or -1 where there is no loss. What lies behind a row's last
  /// target and the token that it asks for is padding.
  at::Tensor targets;
};

/// An endless supply of batches whose place can be stored.
class BatchSource {
 public:
  virtual ~BatchSource() = default;
  virtual Batch next() = 0;
  virtual Json state() const = 0;
  virtual void restore(const Json& state) = 0;
};

/// What is trained in a stage, by reference.
struct Trainables {
  std::vector<Parameter> mixer;    ///< at Stage::mixer_learning_rate
  std::vector<Parameter> weights;  ///< at Stage::learning_rate
};

/// Mixer parameters (Transfer), or mixer parameters and Lora factors, plus the decoder's own weights whose name ends in
/// one of `also` ("output.weight"; "" for all of them). Those are made private to the student first.
Trainables trainables(Decoder& student, Stage::Kind kind, const std::vector<std::string>& also = {});

struct TrainOptions {
  std::string title = "distill";      ///< of the work, in progress and errors
  std::int64_t accumulate = 1;        ///< batches per optimiser step
  double seconds = 0;                 ///< time budget of all stages together (late ones may get none of it); 0 = none
  std::filesystem::path checkpoints;  ///< folder; empty = none. Training goes on from the latest one found there
  double checkpoint_seconds = 60;     ///< time between checkpoints (one more at the end of each stage and on Ctrl-C)
  std::int64_t validate_every = 0;    ///< optimiser steps; 0 = never
  std::function<double(const Decoder&)> validate;  ///< mean nats per token on held-out text
  std::filesystem::path log;                       ///< JSON lines, one per step; empty = none
  std::vector<std::string> also;                   ///< of every EndToEnd stage beside its own, see trainables()
  std::filesystem::path targets;  ///< folder that keeps the teacher's predictions per batch, for other runs on the same
                                  ///< batches; empty = none
  std::string identity;           ///< of model, texts and options: a checkpoint of another run is refused
  bool quiet = false;
};

struct TrainReport {
  std::int64_t tokens = 0, steps = 0, skipped = 0;  ///< skipped: steps with non-finite gradients
  double seconds = 0, cpu_seconds = 0;
  double loss = 0;           ///< mean over the last tenth of the last stage that had a step; NaN: none was finite
  double validation = -1;    ///< last, or -1
  bool interrupted = false;  ///< by Ctrl-C
  /// Per stage: name, tokens, steps, tokens per second, first and last loss. "idle": true where nothing was trained: no
  /// loss depended on it (texts shorter than the window, parts that are switched off), or, at the end, there is
  /// nothing.
  Json stages;
};

/// Runs `stages` one after the other on `student`, in place. Stage::tokens (or steps) are the budgets. Equal inputs
/// give equal weights bit for bit on one machine and thread count, with or without interruptions. Computation error
/// naming the step and layer if the loss is not finite three steps in a row (the last checkpoint stays); Input error
/// if no stage has anything to train.
TrainReport train(const Decoder& teacher, Decoder& student, const std::vector<Stage>& stages, BatchSource& source,
                  const TrainOptions& options);

/// The same; Student::own learns which weights of the decoder it has now of its own.
TrainReport train(const Decoder& teacher, Student& student, const std::vector<Stage>& stages, BatchSource& source,
                  const TrainOptions& options);

}  // namespace unbend::lm
