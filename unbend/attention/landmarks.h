// Landmarks: a few tokens that stand for all tokens of an image (methods/soft.md, section 2; Lu et al. 2024, arXiv
// 2207.03341). Tokens lie on a grid, row by row.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>

#include "unbend/base/random.h"

namespace unbend {

struct Grid {
  int64_t height, width;
  int64_t tokens() const { return height * width; }
};

/// Throws Error (Input) unless tokens [.., n, d] fill the grid, `where` being who asks.
void check_grid(const at::Tensor& tokens, const Grid& grid, const char* where);

/// A learned sampling: one convolution whose kernel and stride are the same r, LayerNorm, and the exact GELU.
struct LandmarkConvolution {
  at::Tensor filter;                  ///< [d, d, r, r], shared by all heads; no bias
  at::Tensor norm_weight, norm_bias;  ///< [d]
  double norm_eps = 1e-5;
};

/// tokens [B, H, n, d] -> landmarks [B, H, (h / r)(w / r), d]. Differentiable. Throws Error (Input) for r < 2, for a
/// grid that r does not divide, and for shapes that do not fit.
at::Tensor convolved_landmarks(const at::Tensor& tokens, const Grid& grid, const LandmarkConvolution& convolution);

/// Means over the cells of ratio x ratio tokens: [.., n, d] -> [.., (h / ratio)(w / ratio), d]. ratio >= 1 divides the
/// grid.
at::Tensor mean_landmarks(const at::Tensor& tokens, const Grid& grid, int64_t ratio);

/// `count` tokens drawn without replacement, the same places for all leading dimensions: [.., n, d] -> [.., count, d].
at::Tensor random_landmarks(const at::Tensor& tokens, int64_t count, Random random);

}  // namespace unbend
