// Softmax over a window and pinned sinks, and linear attention over everything older, under one denominator: the mixer
// of recipes `hybrid` and `lolcats`, whose headers have the formulas.
#pragma once

#include <memory>
#include <optional>

#include "unbend/lm/mixer.h"

namespace unbend::lm {

struct CommonDenominator {
  /// How the learned number of each head weighs the linear part against the window's e^(score - max).
  enum class Weight {
    LogScale,      ///< e^c
    WindowFactor,  ///< 1 / sigmoid(a): the window weighs sigmoid(a)
  };
  std::int64_t window = 64, sinks = 0;
  bool terraced = false;    ///< the window is a token's own block of `window` tokens and the one before; no gate
  std::int64_t states = 0;  ///< one per kv head or per query head: key maps, gates, recurrences
  bool linear = true;       ///< false: only the window and its sinks (ablation)
  bool gate = false;        ///< false: nothing decays
  std::optional<double> gate_bias;  ///< the mixer has parameters of a gate, whose bias starts here
  Weight weight = Weight::LogScale;
  double weight_start = 0;
};

std::unique_ptr<Mixer> common_denominator_mixer(const DecoderConfig& config, const CommonDenominator& settings);

}  // namespace unbend::lm
