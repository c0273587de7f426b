// Feature maps of linear attention: non-negative vectors whose products stand in for exp(q.k).
#pragma once

#include <ATen/ATen.h>

#include <cstdint>

namespace unbend {

/// [softmax(x M), softmax(-x M)] over the last dimension (Hedgehog, Zhang et al. 2024, arXiv 2402.04347, in the softmax
/// form of LoLCATs, arXiv 2410.10254): x [B, h, T, d], map [h, d, f] -> [B, h, T, 2f].
inline at::Tensor softmax_pair_map(const at::Tensor& x, const at::Tensor& map) {
  const auto y = at::matmul(x, map);
  return at::cat({at::softmax(y, -1), at::softmax(-y, -1)}, -1);
}

/// Where its training starts: M takes the first d/2 channels. [heads, d, d/2].
inline at::Tensor softmax_pair_map_start(std::int64_t heads, std::int64_t width) {
  return at::eye(width).slice(1, 0, width / 2).expand({heads, -1, -1}).contiguous();
}

}  // namespace unbend
