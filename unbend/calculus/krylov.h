// What the iterative solvers share: flat vectors, true residuals, the best x so far, how to end.
#pragma once

#include <ATen/core/grad_mode.h>

#include <cmath>
#include <limits>
#include <string>

#include "unbend/calculus/solve.h"

namespace unbend::krylov {

/// A map on flat vectors [n], [m] of one dtype.
class FlatMap {
 public:
  FlatMap(const LinearMap& a, at::ScalarType type) : map_(a), type_(type) {}
  int64_t rows() const { return map_.codomain().dim(); }
  int64_t columns() const { return map_.domain().dim(); }
  /// out = A v, out = A^T c; `out` exists.
  void push(const at::Tensor& v, const at::Tensor& out) const {
    flatten_into(map_.kind().push(unflatten(v, map_.domain())), map_.codomain(), out);
  }
  void pull(const at::Tensor& c, const at::Tensor& out) const {
    flatten_into(map_.kind().pull(unflatten(c, map_.codomain())), map_.domain(), out);
  }
  at::Tensor vector(int64_t n) const {
    return at::zeros({n}, at::TensorOptions().dtype(type_).device(map_.domain().device()));
  }

 private:
  LinearMap map_;
  at::ScalarType type_;
};

inline double flat_dot(const at::Tensor& a, const at::Tensor& b) { return at::dot(a, b).item<double>(); }
inline double flat_norm(const at::Tensor& a) { return a.norm().item<double>(); }

inline at::ScalarType work_type(const LinearMap& a) {
  return a.domain().dtype() == at::kDouble || a.codomain().dtype() == at::kDouble ? at::kDouble : at::kFloat;
}
inline double epsilon(at::ScalarType type) {
  return type == at::kDouble ? std::numeric_limits<double>::epsilon() : std::numeric_limits<float>::epsilon();
}

/// Checks arguments; throws Error (Input).
void check_system(const char* method, const LinearMap& a, const Tensors& b, const SolveOptions& options, bool square);

/// A result with its message: cause, why, and the advice for it.
SolveResult report(const char* method, Outcome outcome, const std::string& why, Tensors x, int64_t iterations,
                   double residual, double b_norm, double condition = 0);

/// The iterations allowed, and rtol, where the caller says nothing.
int64_t iteration_limit(const SolveOptions& options, int64_t dimension);
double relative_tolerance(const SolveOptions& options, at::ScalarType type);

/// The state of an iterative solver from its start to its result.
class Iteration {
 public:
  /// Arguments have been checked.
  Iteration(const char* method, const LinearMap& a, const Tensors& b, const SolveOptions& options);

  const FlatMap a;
  const std::optional<FlatMap> m;  ///< the preconditioner
  const double eps;                ///< of the dtype
  const double rtol;
  double b_norm, target;  ///< done at |r| <= target
  const int64_t limit;
  int64_t count = 0;  ///< iterations so far
  at::Tensor b, x;

  /// The result if there is nothing to iterate: non-finite arguments, b = 0.
  std::optional<SolveResult> immediate();

  /// r = b - A x; its norm. Keeps x if it is the best so far; non-finite ones never are.
  double residual(at::Tensor& r);
  /// Asks the caller's progress function.
  bool cancelled(double residual) const { return options_.progress && !options_.progress(count, residual); }

  /// The best x, with the cause; `why` goes into the message, followed by the advice for it.
  SolveResult finish(Outcome outcome, const std::string& why, double condition = 0) const;
  SolveResult converged() const { return finish(Outcome::Converged, ""); }
  SolveResult exhausted(double condition = 0) const;
  SolveResult nonfinite() const { return finish(Outcome::NonfiniteResult, "A gave values that are not finite"); }

  /// x is what to return, whatever came before.
  void take(double residual);

 private:
  const char* method_;
  const LinearMap map_;
  const SolveOptions options_;
  at::Tensor best_;
  double best_residual_ = std::numeric_limits<double>::infinity();
};

/// Solvers that run in cycles: each starts from the true residual and adds to x until its own estimate says that it is
/// done. The true residual decides: a cycle that claims success without it has met the rounding of the dtype, unless it
/// has at least halved the residual.
struct Cycle {
  enum class End {
    Claims,  ///< to be done (or, with another outcome than Converged, that no more can be had)
    Limit,   ///< of the iterations, or of the cycle's own length
    Stop,    ///< for the cause in `outcome`
  } end;
  Outcome outcome = Outcome::Converged;
  std::string why = {};
};

}  // namespace unbend::krylov
