// Recall from beyond the window, on real text (tasks.h builds the questions).
#pragma once

#include <string_view>
#include <vector>

#include "unbend/engine/engine.h"
#include "unbend/engine/tokenizer.h"
#include "unbend/lm/decoder.h"
#include "unbend/lm/tasks.h"

namespace unbend::lm {

struct Recall {
  std::int64_t questions = 0;
  double accuracy = 0, chance = 0;
  double accuracy_error = 0;  ///< standard error over texts
  double nats = 0;            ///< mean -log probability of the right token, over the whole vocabulary
};

/// Texts of the tasks copy, codes (K) and words (R): `count` of them, with fillers from `windows` [N, T] and facts
/// `distance` tokens (0: 512) before their recall. Usage error for another task.
std::vector<Probe> recall_probes(std::string_view task, const engine::Tokenizer& tokenizer, const at::Tensor& windows,
                                 std::int64_t count, std::int64_t distance, std::uint64_t seed);

/// Answers of a model to the questions of several texts.
Recall ask(const Decoder& decoder, const std::vector<Probe>& probes);
Recall ask(engine::Engine& engine, const std::vector<Probe>& probes);

}  // namespace unbend::lm
