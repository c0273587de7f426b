// Mixers as model files describe them (docs/gguf.md): settings out of names and options, learned numbers out of
// tensors.
#pragma once

#include <string>
#include <vector>

#include "unbend/base/json.h"
#include "unbend/engine/mixer.h"

namespace unbend::engine {

/// Settings of every layer's mixer from their names and the recipe's options; Input error for what the engine cannot
/// run.
std::vector<MixerSettings> check_mixers(const std::string& where, const DecoderConfig& config,
                                        const std::vector<std::string>& kinds, const Json& options);

/// Learned numbers of the layer whose tensors' names start with `block`; Input error for shapes that do not fit.
MixerWeights read_mixer_weights(const Gguf& file, const std::string& block, const DecoderConfig& config,
                                const MixerSettings& settings);

/// Logits per token that the layer's gates come from; 0 without any.
std::int64_t gate_logits(const DecoderConfig& config, const MixerSettings& settings);

}  // namespace unbend::engine
