// Gaussian kernels between sets of tokens: the similarity of softmax-free attention (methods/soft.md; Lu et al. 2024,
// "Softmax-free Linear Transformers", arXiv 2207.03341). The bandwidth is 1: scale the tokens beforehand.
#pragma once

#include <ATen/ATen.h>

namespace unbend {

/// K_ij = exp(-|x_i - y_j|^2 / 2) for x [.., n, d] and y [.., m, d] with equal leading dimensions: [.., n, m].
///
/// One matrix product through |x|^2 + |y|^2 - 2 x.y; what rounding makes of a zero distance is kept at or above zero,
/// so that no entry exceeds 1. Computes in float64 for float64 and in float32 otherwise, which is the result's dtype.
/// Differentiable any number of times; the pull saves only x, y and K, and double backward gives the push. Throws Error
/// (Input) for shapes that do not fit, and for tokens with NaN, with infinities, or so large that their squared norm
/// overflows (exp would hide these as zeros).
at::Tensor gaussian_kernel(const at::Tensor& x, const at::Tensor& y);

/// The same between the tokens of one set, [.., m, m]: symmetric, with ones on the diagonal.
at::Tensor gaussian_gram(const at::Tensor& x);

/// The pull of gaussian_kernel: gradients of x and y for the cotangent `d` [.., n, m] of K. With W = d * K,
///
///     dx_i = sum_j W_ij (y_j - x_i),    dy_j = sum_i W_ij (x_i - y_j).
///
/// Takes W itself, because fused callers have it; all [b, .., ..] of one dtype. Differentiable.
struct GaussianPull {
  at::Tensor x, y;
};
GaussianPull gaussian_pull(const at::Tensor& x, const at::Tensor& y, const at::Tensor& w);

/// The definition of gaussian_kernel by pairs of tokens, at O(n m d) memory.
at::Tensor gaussian_kernel_naive(const at::Tensor& x, const at::Tensor& y);

}  // namespace unbend
