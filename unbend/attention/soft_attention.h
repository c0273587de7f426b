// Softmax-free attention: a Gaussian kernel between all tokens, through a few landmarks and so in linear time (SOFT
// and, with normalisation, SOFT++; methods/soft.md; Lu et al. 2024, "Softmax-free Linear Transformers", arXiv
// 2207.03341).
#pragma once

#include <ATen/ATen.h>

#include "unbend/attention/symmetric_inverse.h"

namespace unbend {

struct SoftOptions {
  bool normalize = false;  ///< SOFT++: D^(-1/2) A^+ D^(-1/2) with D = diag(A 1) takes the place of A^+
  InverseOptions inverse;
};

struct SoftAttention {
  at::Tensor out;       ///< [B, H, n, dv], dtype of q
  at::Tensor residual;  ///< [B, H], of A's inverse (SymmetricInverse::residual)
};

/// With the kernels C = K(q, l) [n, m] and A = K(l, l) [m, m] of gaussian.h,
///
///     out = C A^+ C^T v,
///
/// evaluated from right to left: O(n m (d + dv)) for the tokens, never n x n. Keys are the queries themselves.
///
/// @param q          [B, H, n, d]; scale them by d^(-1/4) for a bandwidth of sqrt(d), the paper's
/// @param landmarks  [B, H, m, d]; not scaled (landmarks.h)
/// @param v          [B, H, n, dv]
///
/// Differentiable in q, landmarks and v any number of times (see symmetric_inverse about its gradient); a backward pass
/// holds two matrices of n x m per head. Computes in float64 for float64 and in float32 otherwise. Throws Error (Input)
/// for shapes or dtypes that do not fit, and for tokens that are not finite; errors of symmetric_inverse pass through.
SoftAttention soft_attention(const at::Tensor& q, const at::Tensor& landmarks, const at::Tensor& v,
                             const SoftOptions& options = {});

/// The attention that it approximates, by its definition: S v with S_ij = exp(-|q_i - q_j|^2 / 2), O(n^2) memory.
at::Tensor gaussian_attention_naive(const at::Tensor& q, const at::Tensor& v);

/// The definition of soft_attention: the matrix C A^+ C^T [B, H, n, n], with A^+ from the eigenvectors of A + ridge I
/// and the closed form of Newton's steps (options.inverse.start and .iterations; Cholesky: the inverse). For tests:
/// O(n^2) memory.
at::Tensor soft_matrix_naive(const at::Tensor& q, const at::Tensor& landmarks, const SoftOptions& options = {});

}  // namespace unbend
