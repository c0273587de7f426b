// Softmax attention as mixers: full (the teacher's) and sliding window with pinned sinks (the control of every
// student).
#pragma once

#include "unbend/lm/mixer.h"

namespace unbend::lm {

/// Causal softmax over everything, with a growing KV cache.
std::unique_ptr<Mixer> softmax_mixer();

/// Causal softmax over the last `window` tokens and the first `sinks` tokens, in constant memory.
std::unique_ptr<Mixer> window_mixer(std::int64_t window, std::int64_t sinks);

}  // namespace unbend::lm
