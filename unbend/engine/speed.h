// Decoding and prefill speed and memory against context length.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace unbend::engine {

class Engine;

struct SpeedPoint {
  std::int64_t context = 0;              ///< tokens seen before the measured ones
  double tokens_per_second = 0;          ///< median over single tokens, batch 1
  double prefill_per_second = 0;         ///< of 512 tokens more (0: not measured)
  std::int64_t state_bytes = 0;          ///< KV cache, rings and recurrent states
  std::int64_t peak_resident_bytes = 0;  ///< of the process meanwhile (0 where the system does not tell)
};

/// Decodes `tokens` tokens one by one after each context, then (if `prefill`) reads 512 more. The context is not read
/// but made up of a short one repeated.
std::vector<SpeedPoint> decode_speed(Engine& engine, const std::vector<std::int64_t>& contexts, std::int64_t tokens,
                                     bool prefill, const std::function<void()>& progress = {});

/// Linux: forgets the peak so far, so that the next reading is of what follows.
void reset_peak_resident();
std::int64_t peak_resident();

}  // namespace unbend::engine
