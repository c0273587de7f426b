// The parts of a layer without a window that no other mixer has; see mixer.h for the phases.
#pragma once

#include "unbend/engine/mixer.h"

namespace unbend::engine {

/// Features of queries and keys, decays, and values, for mixer_scan().
void linear_prepare(const MixerLayout& layout, const MixerWeights& weights, std::span<const Slice> slices,
                    std::int64_t layer_offset, const MixerRows& rows, const MixerScratch& at, float* scratch,
                    int thread, int threads);
/// What was read, normalised.
void linear_finish(const MixerLayout& layout, const MixerWeights& weights, const MixerScratch& at, const float* read,
                   float* out, int thread, int threads);

}  // namespace unbend::engine
