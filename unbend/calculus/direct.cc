// Solving by factorisation, and the choice of a method.
#include <algorithm>

#include "unbend/base/error.h"
#include "unbend/calculus/algebra.h"
#include "unbend/calculus/dense.h"
#include "unbend/calculus/krylov.h"

namespace unbend {
namespace {

// A factorised square matrix: solves with it and with its transpose.
using Solver = std::function<at::Tensor(const at::Tensor& b, bool transposed)>;

// |A|_1 |A^-1|_1, the second factor estimated from a few solves (Higham 1988, algorithm 4.1, without its last
// safeguard).
double condition_1(const at::Tensor& matrix, const Solver& solve) {
  const int64_t n = matrix.size(0);
  auto x = at::full({n}, 1. / static_cast<double>(n), matrix.options());
  double estimate = 0;
  for (int step = 0; step < 5; ++step) {
    const auto y = solve(x, false);
    const double size = y.abs().sum().item<double>();
    if (!(size > estimate)) break;
    estimate = size;
    const auto z = solve(at::where(y.ge(0), at::ones_like(y), -at::ones_like(y)), true);
    const auto at_most = z.abs().argmax();
    if (step > 0 && z.abs().max().item<double>() <= at::dot(z, x).item<double>()) break;
    x = at::zeros_like(x).index_fill(0, at_most, 1);
  }
  return estimate * matrix.abs().sum(0).max().item<double>();
}

at::Tensor as_column(const at::Tensor& b) { return b.unsqueeze(1); }

Solver cholesky_solver(const at::Tensor& factor) {
  return [factor](const at::Tensor& b, bool) { return at::cholesky_solve(as_column(b), factor).squeeze(1); };
}

Solver lu_solver(const at::Tensor& lu, const at::Tensor& pivots) {
  return [lu, pivots](const at::Tensor& b, bool transposed) {
    return at::linalg_lu_solve(lu, pivots, as_column(b), /*left=*/true, /*adjoint=*/transposed).squeeze(1);
  };
}

// What singular values and eigenvalues of a matrix of this size are off by.
double rounding(const krylov::Iteration& it, const at::Tensor& matrix, double largest) {
  return it.eps * static_cast<double>(std::max(matrix.size(0), matrix.size(1))) * largest;
}

SolveResult least_squares(krylov::Iteration& it, const at::Tensor& matrix, at::Tensor& r) {
  const auto [u, s, vt] = at::linalg_svd(matrix, /*full_matrices=*/false);
  const double largest = s.numel() > 0 ? s[0].item<double>() : 0;
  const auto inverse = at::where(s.gt(rounding(it, matrix, largest)), s.reciprocal(), at::zeros_like(s));
  it.x.copy_(at::mv(vt.t(), inverse * at::mv(u.t(), it.b)));
  it.take(it.residual(r));
  const double condition = s.numel() > 0 ? largest / s[-1].item<double>() : 0;
  if (!(condition <= .01 / it.eps)) {
    return it.finish(Outcome::IllConditioned,
                     fmt::format("the condition number is {:.2g}: x is that of the pseudo-inverse", condition),
                     condition);
  }
  return it.finish(Outcome::Converged, "", condition);
}

// Where Cholesky fails: a negative eigenvalue, or one that is 0 up to rounding.
SolveResult not_definite(krylov::Iteration& it, const at::Tensor& matrix, at::Tensor& r) {
  const auto values = at::linalg_eigvalsh(matrix);
  const double least = values[0].item<double>(), largest = values.abs().max().item<double>();
  if (least < -10 * rounding(it, matrix, largest))
    return it.finish(Outcome::Indefinite, fmt::format("the least eigenvalue is {:.2g}", least));
  return least_squares(it, matrix, r);
}

SolveResult square_solve(krylov::Iteration& it, const at::Tensor& matrix, bool psd, at::Tensor& r) {
  Solver solver;
  if (psd) {
    const auto [factor, failed] = at::linalg_cholesky_ex(matrix);
    if (failed.item<int64_t>() != 0) return not_definite(it, matrix, r);
    solver = cholesky_solver(factor);
  } else {
    const auto [lu, pivots, failed] = at::linalg_lu_factor_ex(matrix);
    if (failed.item<int64_t>() != 0) {
      return it.finish(Outcome::IllConditioned, fmt::format("A is singular: pivot {} is zero", failed.item<int64_t>()),
                       std::numeric_limits<double>::infinity());
    }
    solver = lu_solver(lu, pivots);
  }
  const double condition = condition_1(matrix, solver);
  const auto x = solver(it.b, false);
  if (!at::isfinite(x).all().item<bool>()) {
    return it.finish(Outcome::IllConditioned, "A is singular to the precision of its dtype",
                     std::numeric_limits<double>::infinity());
  }
  it.x.copy_(x);
  it.take(it.residual(r));
  if (!(condition <= .01 / it.eps)) {
    return it.finish(Outcome::IllConditioned, fmt::format("the condition number is about {:.2g}", condition),
                     condition);
  }
  return it.finish(Outcome::Converged, "", condition);
}

SolveResult diagonal_solve(const DiagonalKind& kind, const Tensors& b) {
  krylov::Iteration it("diagonal", LinearMap(std::make_shared<DiagonalKind>(kind.d)), b, {});
  if (auto done = it.immediate()) return *done;
  const auto d = flatten(kind.d, kind.domain);
  const auto zero = d.eq(0);
  it.x.copy_(at::where(zero, at::zeros_like(d), it.b / d));
  at::Tensor r = at::empty_like(it.b);
  if (!at::isfinite(it.x).all().item<bool>()) {
    it.x.zero_();
    it.take(it.residual(r));
    return it.finish(Outcome::IllConditioned, "b / d overflows");
  }
  it.take(it.residual(r));
  if (zero.any().item<bool>() && at::where(zero, it.b, at::zeros_like(d)).ne(0).any().item<bool>()) {
    return it.finish(Outcome::IllConditioned, "the diagonal has zeros where b has none: x minimises the residual",
                     std::numeric_limits<double>::infinity());
  }
  return it.converged();
}

SolveResult block_solve(const BlockKind& kind, const Tensors& b, const SolveOptions& options) {
  SolveResult all{.x = {}, .outcome = Outcome::Converged};
  auto next = b.begin();
  auto start = options.x0 ? options.x0->begin() : b.end();
  double squares = 0;
  for (const LinearMap& block : kind.maps) {
    const auto rows = static_cast<std::ptrdiff_t>(block.codomain().leaves.size());
    const auto columns = static_cast<std::ptrdiff_t>(block.domain().leaves.size());
    SolveOptions own = options;
    own.preconditioner.reset();
    if (options.x0) own.x0 = Tensors(start, start + columns), start += columns;
    const SolveResult part = solve(block, Tensors(next, next + rows), own);
    next += rows;
    all.x.insert(all.x.end(), part.x.begin(), part.x.end());
    all.iterations += part.iterations;
    squares += part.residual * part.residual;
    all.condition = std::max(all.condition, part.condition);
    if (all.converged() && !part.converged()) all.outcome = part.outcome, all.message = part.message;
  }
  all.residual = std::sqrt(squares);
  if (all.message.empty()) all.message = fmt::format("all {} blocks converged", kind.maps.size());
  return all;
}

}  // namespace

SolveResult solve_directly(const LinearMap& a, const Tensors& b, int64_t limit) {
  krylov::check_system("solve_directly", a, b, {}, /*square=*/false);
  const at::NoGradGuard no_gradients;
  krylov::Iteration it("solve_directly", a, b, {});
  if (auto done = it.immediate()) return *done;
  const auto matrix = to_dense(a, limit).to(it.b.scalar_type());
  if (!at::isfinite(matrix).all().item<bool>()) return it.nonfinite();
  at::Tensor r = it.a.vector(it.a.rows());
  return a.square() ? square_solve(it, matrix, a.has(Property::Psd), r) : least_squares(it, matrix, r);
}

SolveResult solve(const LinearMap& a, const Tensors& b, const SolveOptions& options) {
  krylov::check_system("solve", a, b, options, /*square=*/false);
  if (const auto* d = a.as<DiagonalKind>()) return diagonal_solve(*d, b);
  if (const auto* k = a.as<BlockKind>(); k && k->shape == BlockShape::Diagonal) return block_solve(*k, b, options);
  constexpr int64_t kSmall = 64, kMatrix = 2048;
  const int64_t size = std::max(a.domain().dim(), a.codomain().dim());
  if (size <= kSmall || (a.as<DenseKind>() && size <= kMatrix)) return solve_directly(a, b);
  if (a.has(Property::Psd)) return cg(a, b, options);
  if (a.has(Property::Symmetric)) return minres(a, b, options);
  return a.square() ? gmres(a, b, options) : lsqr(a, b, options);
}

}  // namespace unbend
