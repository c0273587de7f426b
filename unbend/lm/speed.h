// Decoding speed and memory against context length.
#pragma once

#include <functional>
#include <vector>

#include "unbend/engine/speed.h"
#include "unbend/lm/decoder.h"

namespace unbend::lm {

using engine::SpeedPoint;

/// Decodes `tokens` tokens one by one after each context. The state is filled with random numbers instead of a prefill.
std::vector<SpeedPoint> decode_speed(const Decoder& decoder, const std::vector<std::int64_t>& contexts,
                                     std::int64_t tokens, const std::function<void()>& progress = {});

std::int64_t weight_bytes(const Decoder& decoder);

}  // namespace unbend::lm
