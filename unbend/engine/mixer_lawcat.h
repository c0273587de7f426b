// The parts of a LAWCAT layer (unbend/lm/lawcat.h) that no other mixer has; see mixer.h for the phases.
#pragma once

#include "unbend/engine/mixer.h"

namespace unbend::engine {

/// Features of convolved queries and keys, decays, and convolved values, for mixer_scan().
void lawcat_prepare(const MixerLayout& layout, const MixerWeights& weights, std::span<const Slice> slices,
                    std::int64_t layer_offset, const MixerRows& rows, const MixerScratch& at, float* scratch,
                    int thread, int threads);
/// What was read, over the sum of its weights.
void lawcat_finish(const MixerLayout& layout, const MixerScratch& at, const float* read, float* out, int thread,
                   int threads);

}  // namespace unbend::engine
