// Decoding speed and memory against context length.
#pragma once

#include <functional>
#include <vector>

#include "unbend/lm/decoder.h"

namespace unbend::lm {

struct SpeedPoint {
  std::int64_t context = 0;              ///< tokens seen before the measured ones
  double tokens_per_second = 0;          ///< median over single tokens, batch 1
  std::int64_t state_bytes = 0;          ///< KV cache, rings and recurrent states
  std::int64_t peak_resident_bytes = 0;  ///< of the process while decoding (0 where the system does not tell)
};

/// Decodes `tokens` tokens one by one after each context. The state is filled with random numbers instead of a prefill.
std::vector<SpeedPoint> decode_speed(const Decoder& decoder, const std::vector<std::int64_t>& contexts,
                                     std::int64_t tokens, const std::function<void()>& progress = {});

std::int64_t weight_bytes(const Decoder& decoder);

}  // namespace unbend::lm
