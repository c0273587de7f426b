// Recall from beyond the window, on real text (tasks.h builds the questions).
#pragma once

#include <string_view>
#include <vector>

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

/// Answers of `decoder` to the questions of several probes.
Recall ask(const Decoder& decoder, const std::vector<Probe>& probes);

/// Tasks copy, codes (K) and words (R): `count` texts made with fillers from `windows` [N, T], facts `distance` tokens
/// (0: 512) before their recall. One result per model, on the same texts. Usage error for another task.
std::vector<Recall> recall_on_text(std::string_view task, const std::vector<const Decoder*>& models,
                                   const engine::Tokenizer& tokenizer, const at::Tensor& windows, std::int64_t count,
                                   std::int64_t distance, std::uint64_t seed);

}  // namespace unbend::lm
