// LayerNorm as a triple. LibTorch's own push is a composition of some forty small operations; this one is its fused
// kernels (what it does to x is symmetric) and one pass more.
#include <torch/csrc/autograd/custom_function.h>

#include "unbend/attention/composite.h"
#include "unbend/base/error.h"
#include "unbend/nets/layers.h"
#include "unbend/tensor/check.h"

namespace unbend {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// (x, weight, bias, statistics, cotangent) -> gradients of x, weight, bias.
struct LayerNormPull : Function<LayerNormPull> {
  static variable_list forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                               const at::Tensor& bias, const at::Tensor& mean, const at::Tensor& inverse,
                               const at::Tensor& c, double eps, bool weights_too) {
    context->saved_data["eps"] = eps;
    context->set_materialize_grads(false);
    context->save_for_backward({x, weight, bias, mean, inverse, c});
    auto [dx, dweight, dbias] = at::native_layer_norm_backward(c, x, weight.sizes(), mean, inverse, weight, bias,
                                                               {true, weights_too, weights_too});
    if (!weights_too) dweight = at::zeros_like(weight), dbias = at::zeros_like(bias);
    return {dx, dweight, dbias};
  }

  // y = x' weight + bias with x' = (x - mean) inverse; dx' = inverse (dx - mean(dx) - x' mean(x' dx)). So the share of
  // dweight and dbias is a LayerNorm with these, and that of dx the weight times a pull without weight.
  static at::Tensor push(const variable_list& saved, const variable_list& d, double eps) {
    const auto &x = saved[0], &weight = saved[1], &mean = saved[3], &inverse = saved[4];
    at::Tensor pushed;
    if (d[1].defined()) {
      pushed = std::get<0>(at::native_layer_norm(x, weight.sizes(), d[1], d[2], eps));
    } else if (d[2].defined()) {
      pushed = d[2].expand_as(x);
    }
    if (d[0].defined()) {
      const auto normal = std::get<0>(
          at::native_layer_norm_backward(d[0], x, weight.sizes(), mean, inverse, {}, {}, {true, false, false}));
      pushed = pushed.defined() ? at::addcmul(pushed, normal, weight) : normal * weight;
    }
    return pushed.defined() ? pushed.to(saved[5].scalar_type()) : pushed;
  }

  static variable_list backward(AutogradContext* context, variable_list directions) {
    const auto saved = context->get_saved_variables();
    variable_list gradients(8);
    const double eps = context->saved_data["eps"].toDouble();
    if (context->needs_input_grad(0) || context->needs_input_grad(1)) {
      const auto definition = [&](const variable_list& in) -> variable_list {
        return {at::layer_norm(in[0], in[1].sizes(), in[1], in[2], eps)};
      };
      const auto second = pull_backward(definition, {saved[0], saved[1], saved[2]}, {saved[5]}, directions);
      gradients[0] = second[0], gradients[1] = second[1];
    }
    gradients[5] = push(saved, directions, eps);
    return gradients;
  }
};

struct Normalise : Function<Normalise> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            const at::Tensor& bias, double eps) {
    const auto [y, mean, inverse] = at::native_layer_norm(x, weight.sizes(), weight, bias, eps);
    context->saved_data["eps"] = eps;
    context->saved_data["weights_too"] = weight.requires_grad() || bias.requires_grad();
    context->save_for_backward({x, weight, bias, mean, inverse});
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list c) {
    const auto saved = context->get_saved_variables();
    const auto pulled =
        LayerNormPull::apply(saved[0], saved[1], saved[2], saved[3], saved[4], c[0],
                             context->saved_data["eps"].toDouble(), context->saved_data["weights_too"].toBool());
    return {pulled[0], pulled[1], pulled[2], {}};
  }
};

}  // namespace

at::Tensor layer_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double eps) {
  require(x.dim() >= 1 && weight.dim() == 1 && weight.sizes() == bias.sizes() && weight.size(0) == x.size(-1),
          "layer_norm: weight {} and bias {} must be [M], the last dimension of x {}", shape_string(weight.sizes()),
          shape_string(bias.sizes()), shape_string(x.sizes()));
  const bool gradients = x.requires_grad() || weight.requires_grad() || bias.requires_grad();
  if (!at::GradMode::is_enabled() || !gradients) return at::layer_norm(x, weight.sizes(), weight, bias, eps);
  return Normalise::apply(x, weight, bias, eps);
}

}  // namespace unbend
