// Batched (pseudo-)inverses of small symmetric positive semi-definite matrices by Newton's iteration, which needs
// matrix products only (methods/soft.md, section 4; Ben-Israel and Cohen 1966; Lu et al. 2024, arXiv 2207.03341).
#pragma once

#include <ATen/ATen.h>

#include <cstdint>

namespace unbend {

/// Where Newton's iteration starts: Y_0 = alpha (A + ridge I). It converges iff 0 < alpha < 2 / lambda_max^2, and the
/// largest column sum of absolute values, |A|_1, is at least lambda_max.
enum class NewtonStart {
  Safe,         ///< alpha = 1.8 / |A + ridge I|_1^2, for each matrix: always converges
  BeforeRidge,  ///< alpha = 1.8 / |A|_1^2, for each matrix: the published code without normalisation (ridge 0.01)
  /// alpha = 2 / max |A|_1^2, halved at most ten times until every column sum of |I - alpha A A| is at most 1.01; one
  /// alpha for all matrices: the rule of the paper (ridge 0). Stalls where |A|_1 = lambda_max, for example at A = I.
  Backtracking,
};

enum class InverseSolver {
  Newton,    ///< matrix products only, the method as published
  Cholesky,  ///< exact up to rounding and several times faster on CPUs; a ridge must make the matrix definite
};

struct InverseOptions {
  double ridge = 0.01;  ///< added to the diagonal; 0 gives the pseudo-inverse (Newton only)
  InverseSolver solver = InverseSolver::Newton;
  NewtonStart start = NewtonStart::Safe;
  int64_t iterations = 20;  ///< at most
  double tolerance = 1e-6;  ///< a matrix is done when max |I - Y (A + ridge I)| is at most this
};

struct SymmetricInverse {
  at::Tensor value;     ///< Y, shape and dtype of A
  at::Tensor residual;  ///< [..], max |I - Y (A + ridge I)| of each matrix: read it to know whether Newton converged
};

/// Y, close to (A + ridge I)^+, for A [.., m, m], symmetric positive semi-definite, float32 or float64.
///
/// A finite number of steps T damps small eigenvalues: in the eigenvectors of A + ridge I with eigenvalue l, Y has
/// (1 - (1 - alpha l^2)^(2^T)) / l. What has not converged comes back as it is, with its residual. Each matrix is
/// treated by itself (but for NewtonStart::Backtracking). In float32 and without ridge, rounding in the null space of a
/// singular matrix doubles with every step.
///
/// The gradient is dA = -Y^T dY Y^T, from Y alone. It is that of the inverse, which is exact up to the residual; where
/// A is singular and ridge = 0 the true differential of the pseudo-inverse has two more terms, which are left out as in
/// the paper. Differentiable any number of times; `residual` is not differentiable.
///
/// Throws Error (Input) for anything but square float32 or float64 matrices, negative ridge, iterations < 1, tolerance
/// < 0, and m > 1024 with Newton.
SymmetricInverse symmetric_inverse(const at::Tensor& a, const InverseOptions& options = {});

/// alpha of `options.start` for matrices A [.., m, m]: [.., 1, 1].
at::Tensor newton_scale(const at::Tensor& a, const InverseOptions& options);

/// The definition: `steps` times Y <- 2 Y - Y A Y from Y_0 = alpha A, in plain tensor operations, with the gradient
/// through every step.
at::Tensor newton_inverse_naive(const at::Tensor& a, const at::Tensor& alpha, int64_t steps);

}  // namespace unbend
