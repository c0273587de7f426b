// Low-rank factors for the projections of a decoder, by the names of their parts.
#pragma once

#include <string>
#include <vector>

#include "unbend/lm/projection.h"

namespace unbend::lm {

/// Gives the parts of these names fresh Lora factors.
void add_lora(Projection& projection, const std::vector<std::string>& targets, std::int64_t rank, double alpha,
              Random& random);

/// Usage error for a target that no projection of a decoder has ("q", "k", "v", "o", "gate", "up", "down").
void check_lora_targets(const std::vector<std::string>& targets);

}  // namespace unbend::lm
