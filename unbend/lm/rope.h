// Rotary position angles (Su et al. 2021) with the scaling variants of the Llama family.
#pragma once

#include <ATen/ATen.h>

#include "unbend/engine/config.h"

namespace unbend::lm {

using engine::DecoderConfig;
using engine::RopeScaling;

/// cos and sin, [T, head_dim/2] each, for the pairs (i, i + head_dim/2).
struct RopeTable {
  at::Tensor cos, sin;
};

/// Angles of positions first .. first+count-1, computed in double and stored as `options` say.
RopeTable rope_table(const DecoderConfig& config, std::int64_t first, std::int64_t count,
                     const at::TensorOptions& options);

}  // namespace unbend::lm
