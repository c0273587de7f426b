#include "unbend/attention/symmetric_inverse.h"

#include <torch/csrc/autograd/custom_function.h>

#include "unbend/base/error.h"
#include "unbend/tensor/check.h"

namespace unbend {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

constexpr int64_t kLargest = 1024;

void check_matrices(const at::Tensor& a, const InverseOptions& options) {
  require(a.dim() >= 2 && a.size(-1) == a.size(-2) && a.size(-1) >= 1,
          "symmetric_inverse: A must be [.., m, m], not {}", shape_string(a.sizes()));
  require(a.scalar_type() == at::kFloat || a.scalar_type() == at::kDouble,
          "symmetric_inverse: A is {}, not float32 or float64", c10::toString(a.scalar_type()));
  require(options.ridge >= 0, "symmetric_inverse: ridge must not be negative, as {} is", options.ridge);
  require(options.iterations >= 1, "symmetric_inverse: iterations must be at least 1, not {}", options.iterations);
  require(options.tolerance >= 0, "symmetric_inverse: tolerance must not be negative, as {} is", options.tolerance);
  require(
      options.solver == InverseSolver::Cholesky || a.size(-1) <= kLargest,
      "symmetric_inverse: Newton's iteration is for matrices up to {0} x {0}, not {1} x {1}: use the Cholesky solver",
      kLargest, a.size(-1));
}

at::Tensor largest_column_sum(const at::Tensor& a) { return a.abs().sum(-2).amax(-1, true).unsqueeze(-1); }

at::Tensor with_ridge(const at::Tensor& a, double ridge) {
  if (ridge == 0) return a;
  auto sum = a.clone();
  sum.diagonal(0, -2, -1).add_(ridge);
  return sum;
}

// product - I in place; its largest magnitude, [b].
at::Tensor subtract_identity(at::Tensor& product) {
  product.diagonal(0, 1, 2).sub_(1);
  return product.abs().amax({1, 2});
}

// Y <- 2 Y - (Y A) Y = Y - (Y A - I) Y. Matrices that have converged keep their value, whatever the others still need.
at::Tensor newton(const at::Tensor& a, const at::Tensor& alpha, const InverseOptions& options) {
  auto y = a * alpha;
  for (int64_t i = 0; i < options.iterations; ++i) {
    auto defect = at::bmm(y, a);
    const auto done = subtract_identity(defect).le(options.tolerance);
    const bool ask = a.is_cpu();  // elsewhere the answer costs more than the work that it saves
    if (ask && done.all().item<bool>()) break;
    const auto next = at::baddbmm(y, defect, y, 1, -1);
    y = ask && !done.any().item<bool>() ? next : at::where(done.view({-1, 1, 1}), y, next);
  }
  return y;
}

at::Tensor cholesky(const at::Tensor& a, double ridge) {
  const auto [factor, failed] = at::linalg_cholesky_ex(a);
  if (failed.any().item<bool>()) {
    fail_computation(
        "symmetric_inverse: {} of {} matrices are not positive definite with a ridge of {}: use a larger one",
        failed.ne(0).sum().item<int64_t>(), a.size(0), ridge);
  }
  return at::cholesky_inverse(factor);
}

struct Inverse : Function<Inverse> {
  // a [b, m, m] -> Y [b, m, m], residual [b].
  static variable_list forward(AutogradContext* context, const at::Tensor& a, const InverseOptions& options) {
    const auto ridged = with_ridge(a, options.ridge);
    const auto y = options.solver == InverseSolver::Newton ? newton(ridged, newton_scale(a, options), options)
                                                           : cholesky(ridged, options.ridge);
    auto defect = at::bmm(y, ridged);
    const auto residual = subtract_identity(defect);
    context->save_for_backward({y});
    context->mark_non_differentiable({residual});
    return {y, residual};
  }
  static variable_list backward(AutogradContext* context, const variable_list& d) {
    const auto transposed = context->get_saved_variables()[0].transpose(1, 2);
    return {at::bmm(at::bmm(transposed, d[0]), transposed).neg(), at::Tensor()};
  }
};

}  // namespace

at::Tensor newton_scale(const at::Tensor& a, const InverseOptions& options) {
  check_matrices(a, options);
  const at::NoGradGuard no_grad;
  const auto ridged = with_ridge(a, options.ridge);
  switch (options.start) {
    case NewtonStart::Safe: return 1.8 / largest_column_sum(ridged).square();
    case NewtonStart::BeforeRidge: return 1.8 / largest_column_sum(a).square();
    case NewtonStart::Backtracking: break;
  }
  const auto columns = largest_column_sum(ridged);
  if (columns.numel() == 0) return columns;
  auto alpha = 2 / columns.max().square();
  const auto square = at::matmul(ridged, ridged), identity = at::eye(a.size(-1), a.options());
  for (int halvings = 0; halvings < 10; ++halvings) {
    if (largest_column_sum(identity - alpha * square).max().item<double>() <= 1.01) break;
    alpha = alpha / 2;
  }
  return alpha.expand_as(columns);
}

SymmetricInverse symmetric_inverse(const at::Tensor& a, const InverseOptions& options) {
  check_matrices(a, options);
  const auto results = Inverse::apply(a.dim() == 2 ? a.unsqueeze(0) : a.flatten(0, -3), options);
  return {results[0].view(a.sizes()), results[1].view(a.sizes().slice(0, a.dim() - 2))};
}

at::Tensor newton_inverse_naive(const at::Tensor& a, const at::Tensor& alpha, int64_t steps) {
  auto y = alpha * a;
  for (int64_t i = 0; i < steps; ++i) y = 2 * y - at::matmul(at::matmul(y, a), y);
  return y;
}

}  // namespace unbend
