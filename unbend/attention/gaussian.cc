#include "unbend/attention/gaussian.h"

#include <torch/csrc/autograd/custom_function.h>

#include "unbend/base/error.h"
#include "unbend/tensor/check.h"
#include "unbend/tensor/transform.h"

namespace unbend {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

at::ScalarType compute_type(const at::Tensor& x) { return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

// |x_i|^2 / 2, [.., n].
at::Tensor half_norms(const at::Tensor& x) { return at::linalg_vecdot(x, x).mul_(.5); }

void check_norms(const at::Tensor& norms, const at::Tensor& x, const char* name) {
  if (at::isfinite(norms).all().item<bool>()) return;
  check_finite(x, name);
  fail_input("gaussian_kernel: tokens of {} are so large that their squared norm overflows", name);
}

// x [b, n, d] and y [b, m, d] -> [b, n, m], without gradients.
at::Tensor forward_kernel(const at::Tensor& x, const at::Tensor& y, bool same) {
  const auto of_x = half_norms(x);
  check_norms(of_x, x, "the tokens");
  const auto of_y = same ? of_x : half_norms(y);
  if (!same) check_norms(of_y, y, "the landmarks");
  auto exponent = at::bmm(x, y.transpose(1, 2));
  exponent.sub_(of_x.unsqueeze(2)).sub_(of_y.unsqueeze(1)).clamp_max_(0);
  if (same) exponent.diagonal(0, 1, 2).zero_();
  return exponent.exp_();
}

struct Kernel : Function<Kernel> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& y) {
    const auto k = forward_kernel(x, y, false);
    context->save_for_backward({x, y, k});
    return k;
  }
  static variable_list backward(AutogradContext* context, const variable_list& d) {
    const auto saved = context->get_saved_variables();
    const auto pull = gaussian_pull(saved[0], saved[1], d[0] * saved[2]);
    return {pull.x, pull.y};
  }
};

struct Gram : Function<Gram> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x) {
    const auto k = forward_kernel(x, x, true);
    context->save_for_backward({x, k});
    return k;
  }
  static variable_list backward(AutogradContext* context, const variable_list& d) {
    const auto saved = context->get_saved_variables();
    const auto w = d[0] * saved[1];
    // x stands on both sides: sum_j (W + W^T)_ij (x_j - x_i). The diagonal cancels.
    const auto both = w + w.transpose(1, 2);
    return {at::bmm(both, saved[0]) - both.sum(2, true) * saved[0]};
  }
};

void check_tokens(const at::Tensor& x, const at::Tensor& y) {
  check_floating(x, "gaussian_kernel: x");
  check_same_type(x, "gaussian_kernel: x", y, "y");
  require(x.dim() >= 2 && x.dim() == y.dim() && x.sizes().slice(0, x.dim() - 2) == y.sizes().slice(0, y.dim() - 2) &&
              x.size(-1) == y.size(-1),
          "gaussian_kernel: x and y must be [.., n, d] and [.., m, d], not {} and {}", shape_string(x.sizes()),
          shape_string(y.sizes()));
}

at::Tensor batched(const at::Tensor& x) {
  const auto cast = x.to(compute_type(x));
  return x.dim() == 2 ? cast.unsqueeze(0) : cast.flatten(0, -3);
}

at::Tensor unbatched(const at::Tensor& k, const at::Tensor& like) {
  auto shape = like.sizes().vec();
  shape[shape.size() - 2] = k.size(1), shape.back() = k.size(2);
  return k.view(shape);
}

}  // namespace

GaussianPull gaussian_pull(const at::Tensor& x, const at::Tensor& y, const at::Tensor& w) {
  return {at::bmm(w, y) - w.sum(2).unsqueeze(2) * x, at::bmm(w.transpose(1, 2), x) - w.sum(1).unsqueeze(2) * y};
}

at::Tensor gaussian_kernel(const at::Tensor& x, const at::Tensor& y) {
  check_tokens(x, y);
  if (under_transform(x, y)) return gaussian_kernel_naive(x, y);
  return unbatched(Kernel::apply(batched(x), batched(y)), x);
}

at::Tensor gaussian_gram(const at::Tensor& x) {
  check_tokens(x, x);
  return unbatched(Gram::apply(batched(x)), x);
}

at::Tensor gaussian_kernel_naive(const at::Tensor& x, const at::Tensor& y) {
  check_tokens(x, y);
  const auto type = compute_type(x);
  return (x.to(type).unsqueeze(-2) - y.to(type).unsqueeze(-3)).square().sum(-1).mul(-.5).exp();
}

}  // namespace unbend
