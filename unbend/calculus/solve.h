// Linear systems and least squares with matrix-free maps (methods/autofd.md, B4). Solvers work on one flat vector in
// the widest dtype of the spaces, and make no vectors inside their loops. What comes out is always finite, with the
// cause for which the solver stopped; a caller's mistake (spaces that do not fit, a method that needs a square map)
// throws Error (Input).
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "unbend/calculus/linear_map.h"
#include "unbend/calculus/outcome.h"

namespace unbend {

struct SolveResult {
  Tensors x = {};                        ///< the best x seen
  Outcome outcome = Outcome::Converged;  ///< why the solver stopped
  int64_t iterations = 0;    ///< steps of the method, each one product with A (LSQR: one with A and one with A^T)
  double residual = 0;       ///< |b - A x|, computed from x
  double condition = 0;      ///< estimate of A's condition number by solvers that have one (LSQR, MINRES, direct); or 0
  std::string message = {};  ///< cause and advice in a sentence
  bool converged() const { return outcome == Outcome::Converged; }
};

struct SolveOptions {
  /// Done when |b - A x| <= atol + rtol |b|. rtol is 1e-8 in float64 and 1e-5 in float32 unless given.
  std::optional<double> rtol = std::nullopt;
  double atol = 0;
  int64_t max_iterations = 0;      ///< 0: twice the dimension and 20 more, at most 10,000
  std::optional<Tensors> x0 = {};  ///< where to start, in A's domain
  /// M, close to the inverse of A, cheap. For cg and minres psd; for gmres and lsqr it stands on the right (A M y = b,
  /// x = M y; lsqr's damping is then still that of x).
  std::optional<LinearMap> preconditioner = {};
  /// Called with (iterations, |b - A x|) now and then; false stops.
  std::function<bool(int64_t, double)> progress = {};
};

/// Conjugate gradients (Hestenes and Stiefel 1952) for psd A. p.Ap < 0 gives Indefinite, p.Ap of rounding size gives
/// IllConditioned. Every 10 iterations the residual is computed anew; where the recursion has lost contact with it, it
/// starts again from there, and if that does not halve it the rounding of the dtype is reached: Stagnated.
/// `quadratic_tolerance` > 0 also stops (Converged) when i (Q_i - Q_{i-1}) / Q_i falls below it for Q = x.Ax - 2 b.x:
/// enough for inexact Newton steps (Nash and Sofer 1990).
SolveResult cg(const LinearMap& a, const Tensors& b, const SolveOptions& options = {}, double quadratic_tolerance = 0);

/// cg for K right-hand sides at once, along a leading axis of b's leaves: K recurrences in step, whose products are one
/// push_many; those that are done leave. For Jacobians that batch. x0 is not taken.
std::vector<SolveResult> cg_many(const LinearMap& a, const Tensors& b, const SolveOptions& options = {});

/// MINRES (Paige and Saunders 1975) for symmetric A, definite or not. Where A is singular and b not in its range, x
/// minimises |b - A x| and the outcome is IllConditioned.
SolveResult minres(const LinearMap& a, const Tensors& b, const SolveOptions& options = {});

/// GMRES (Saad and Schultz 1986) for square A, restarted after `restart` steps, each orthogonalised twice. 20 restarts
/// in a row without progress give Stagnated, a singular Hessenberg matrix gives Breakdown.
SolveResult gmres(const LinearMap& a, const Tensors& b, const SolveOptions& options = {}, int64_t restart = 20);

struct LsqrOptions {
  double damping = 0;                          ///< lambda
  std::optional<double> condition_limit = {};  ///< 1e8 in float64, 1e6 in float32
};

/// LSQR (Paige and Saunders 1982) for A of any shape: minimises |A x - b|^2 + lambda^2 |x|^2, and |x| where A alone
/// does not decide (with x0 = 0). Done also when |A^T r| <= rtol |A| |r|: least squares, whose residual does not
/// vanish. With x0 or a preconditioner, damping is added as rows lambda I.
SolveResult lsqr(const LinearMap& a, const Tensors& b, const SolveOptions& options = {}, const LsqrOptions& lsqr = {});

/// By factorising the matrix (dense.h; at most `limit` elements): Cholesky for psd, LU for square, and the
/// pseudo-inverse through the SVD for other shapes and where psd is singular. Condition numbers above 0.01 / eps give
/// IllConditioned, with the x that came out.
SolveResult solve_directly(const LinearMap& a, const Tensors& b, int64_t limit = int64_t(1) << 22);

/// The method that fits the structure and the declared properties: diagonals and blocks at once, matrices and
/// dimensions up to 64 directly, otherwise cg, minres, gmres or lsqr.
SolveResult solve(const LinearMap& a, const Tensors& b, const SolveOptions& options = {});

}  // namespace unbend
