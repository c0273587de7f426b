// The work that the benchmarks of the gated scan count.
#pragma once

#include <cstdint>

namespace unbend {

/// FLOP of a chunked scan: per token and query head the causal half of two [chunk x chunk] products and one product
/// with the state, per kv head the update of the state; a backward counts as two and a half forwards.
inline double gated_scan_flops(std::int64_t heads, std::int64_t kv_heads, std::int64_t d, std::int64_t tokens,
                               std::int64_t chunk, bool backward) {
  const auto per_token = heads * (2 * d * d + 2 * (chunk + 1) * d) + kv_heads * 2 * d * d;
  return static_cast<double>(tokens * per_token) * (backward ? 3.5 : 1);
}

}  // namespace unbend
