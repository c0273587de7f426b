// How close students come to their teacher on held-out text: nats, divergence, agreement, by position.
#pragma once

#include <ATen/ATen.h>

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "unbend/base/json.h"
#include "unbend/engine/engine.h"
#include "unbend/lm/decoder.h"

namespace unbend::lm {

/// Per window and position: entry [n, t] is about the prediction of token t+1 from tokens 0..t of window n. [N, T-1]
/// each.
struct Scores {
  at::Tensor nats;       ///< -log probability of the true next token
  at::Tensor kl;         ///< KL(teacher || model), nats, over the whole vocabulary
  at::Tensor agreement;  ///< 1 where the most probable token is the teacher's
};

/// Scores of `models` on windows [N, T] of token ids; models[0] is the teacher. `progress` gets the number of tokens
/// done.
std::vector<Scores> evaluate(const std::vector<const Decoder*>& models, const at::Tensor& windows,
                             const std::function<void(std::int64_t)>& progress = {});

/// The same by the engine, one window after the other, each in a new sequence. Input error unless each engine has a
/// free sequence and a context of T tokens.
std::vector<Scores> evaluate_on_engines(const std::vector<engine::Engine*>& models, const at::Tensor& windows,
                                        const std::function<void(std::int64_t)>& progress = {});

/// Logits [tokens, vocabulary] of the engine after each of `ids`, in a new sequence.
at::Tensor logits_of(engine::Engine& engine, std::span<const engine::TokenId> ids);

/// Mean nats per next token of `decoder` on windows [N, T].
double mean_nats(const Decoder& decoder, const at::Tensor& windows);

/// A mean over windows with its standard error (over windows; windows are the independent samples).
struct Estimate {
  double mean = 0, error = 0;
};

/// Mean of values [N, T-1] over positions [first, last) of each window, then over windows.
Estimate mean_over(const at::Tensor& values, std::int64_t first, std::int64_t last);

/// Paired difference a - b over the same windows.
Estimate paired_difference(const at::Tensor& a, const at::Tensor& b, std::int64_t first, std::int64_t last);

/// Position buckets [0, 64), [64, 256), [256, 512), [512, 1024), ... that fit T-1 positions.
std::vector<std::pair<std::int64_t, std::int64_t>> position_buckets(std::int64_t positions);

/// Relative squared error of each student's heads to the teacher's for each layer, and per position [layers, T], on the
/// teacher's inputs (one pass of the teacher for all).
std::vector<at::Tensor> head_fidelity(const Decoder& teacher, const std::vector<const Decoder*>& students,
                                      const at::Tensor& windows);

/// What each layer's mixer says of itself (Mixer::gauges) on windows [N, T].
std::vector<std::vector<Gauge>> gauges(const Decoder& decoder, const at::Tensor& windows);

}  // namespace unbend::lm
