#include "unbend/attention/soft_attention.h"

#include <torch/csrc/autograd/custom_function.h>

#include <cmath>

#include "unbend/attention/gaussian.h"
#include "unbend/base/error.h"
#include "unbend/tensor/check.h"

namespace unbend {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

at::ScalarType compute_type(const at::Tensor& x) { return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

// out = C (M (C^T v)) with C = K(q, l), from q [b, n, d], l [b, m, d], v [b, n, dv], M [b, m, m]. Its pull, with
// s = C^T v, t = M s and e = C^T d_out, is dM = e s^T, dv = C M^T e and dC = d_out t^T + v (M^T e)^T.
struct Product : Function<Product> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& l, const at::Tensor& v,
                            const at::Tensor& core) {
    const auto c = gaussian_kernel(q, l);
    context->save_for_backward({q, l, v, core, c});
    return at::bmm(c, at::bmm(core, at::bmm(c.transpose(1, 2), v)));
  }

  static variable_list backward(AutogradContext* context, const variable_list& d) {
    const auto saved = context->get_saved_variables();
    const auto &q = saved[0], &l = saved[1], &v = saved[2], &core = saved[3];
    const bool again = at::GradMode::is_enabled();  // this pull is itself to be differentiated
    const auto c = again ? gaussian_kernel(q, l) : saved[4];
    const auto s = at::bmm(c.transpose(1, 2), v), t = at::bmm(core, s);
    const auto e = at::bmm(c.transpose(1, 2), d[0]), u = at::bmm(core.transpose(1, 2), e);
    auto w = at::bmm(d[0], t.transpose(1, 2));
    w = again ? (w + at::bmm(v, u.transpose(1, 2))) * c : w.baddbmm_(v, u.transpose(1, 2)).mul_(c);
    const auto pull = gaussian_pull(q, l, w);
    return {pull.x, pull.y, at::bmm(c, u), at::bmm(e, s.transpose(1, 2))};
  }
};

void check_arguments(const char* where, const at::Tensor& q, const at::Tensor& landmarks, const at::Tensor& v) {
  require(
      q.dim() == 4 && landmarks.dim() == 4 && v.dim() == 4 && q.sizes().slice(0, 2) == landmarks.sizes().slice(0, 2) &&
          q.sizes().slice(0, 3) == v.sizes().slice(0, 3) && q.size(3) == landmarks.size(3) && landmarks.size(2) >= 1,
      "{}: q, landmarks and v must be [B, H, n, d], [B, H, m, d] and [B, H, n, dv], not {}, {} and {}", where,
      shape_string(q.sizes()), shape_string(landmarks.sizes()), shape_string(v.sizes()));
  check_floating(q, fmt::format("{}: q", where));
  check_same_type(q, fmt::format("{}: q", where), landmarks, "landmarks");
  check_same_type(q, fmt::format("{}: q", where), v, "v");
}

// D^(-1/2) M D^(-1/2), D = diag(A 1).
at::Tensor normalized(const at::Tensor& m, const at::Tensor& a) {
  const auto scale = a.sum(-1, true).rsqrt();
  return scale * m * scale.transpose(-1, -2);
}

}  // namespace

SoftAttention soft_attention(const at::Tensor& q, const at::Tensor& landmarks, const at::Tensor& v,
                             const SoftOptions& options) {
  check_arguments("soft_attention", q, landmarks, v);
  const auto a = gaussian_gram(landmarks);
  const auto inverse = symmetric_inverse(a, options.inverse);
  const auto core = options.normalize ? normalized(inverse.value, a) : inverse.value;
  const auto batched = [&](const at::Tensor& x) { return x.to(a.scalar_type()).flatten(0, 1); };
  const auto out = Product::apply(batched(q), batched(landmarks), batched(v), batched(core));
  return {out.view(v.sizes()).to(q.scalar_type()), inverse.residual};
}

at::Tensor gaussian_attention_naive(const at::Tensor& q, const at::Tensor& v) {
  check_arguments("gaussian_attention_naive", q, q, v);
  return at::matmul(gaussian_kernel_naive(q, q), v.to(compute_type(v))).to(q.scalar_type());
}

at::Tensor soft_matrix_naive(const at::Tensor& q, const at::Tensor& landmarks, const SoftOptions& options) {
  check_arguments("soft_matrix_naive", q, landmarks, q);
  const auto c = gaussian_kernel_naive(q, landmarks), a = gaussian_kernel_naive(landmarks, landmarks);
  const auto& inverse = options.inverse;
  const auto [values, vectors] = at::linalg_eigh(a + inverse.ridge * at::eye(a.size(-1), a.options()));
  auto inverted = values.reciprocal();
  if (inverse.solver == InverseSolver::Newton) {
    const auto alpha = newton_scale(a, inverse).squeeze(-1);
    const auto error = (1 - alpha * values.square()).pow(std::pow(2., static_cast<double>(inverse.iterations)));
    inverted = at::where(values.abs() > 1e-12 * values.amax(-1, true), (1 - error) * inverted, 0);
  }
  const auto y = at::matmul(vectors * inverted.unsqueeze(-2), vectors.transpose(-1, -2));
  return at::matmul(at::matmul(c, options.normalize ? normalized(y, a) : y), c.transpose(-1, -2));
}

}  // namespace unbend
