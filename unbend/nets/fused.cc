#include "unbend/nets/fused.h"

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>

#include "unbend/attention/composite.h"
#include "unbend/attention/simd.h"
#include "unbend/base/error.h"
#include "unbend/nets/fused_plain.h"
#include "unbend/tensor/transform.h"

namespace unbend {
namespace {

using namespace simd;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

at::ScalarType compute_type(at::ScalarType dtype) { return dtype == at::kDouble ? at::kDouble : at::kFloat; }

void check_dtype(const char* function, const char* name, at::ScalarType dtype) {
  require(dtype == at::kFloat || dtype == at::kDouble || dtype == at::kBFloat16,
          "{}: {} is {}, not float32, float64 or bfloat16", function, name, c10::toString(dtype));
}

void check_result(const char* function, at::ScalarType in, at::ScalarType out) {
  check_dtype(function, "the result", out);
  require((in == at::kDouble) == (out == at::kDouble), "{}: a result of {} cannot be had from {}", function,
          c10::toString(out), c10::toString(in));
}

// Calls kernel(X(), Y()) with the element types of two tensors that compute in the same type.
template <class Kernel>
void dispatch(at::ScalarType x, at::ScalarType y, const Kernel& kernel) {
  if (x == at::kDouble) {
    kernel(double(), double());
  } else if (x == at::kFloat) {
    y == at::kFloat ? kernel(float(), float()) : kernel(float(), c10::BFloat16());
  } else {
    y == at::kFloat ? kernel(c10::BFloat16(), float()) : kernel(c10::BFloat16(), c10::BFloat16());
  }
}

// Rows that are worth a thread of their own.
int64_t grain(int64_t width) { return std::max<int64_t>(1, 16384 / std::max<int64_t>(width, 1)); }

template <class X, class Y>
void rms_norm_forward(const at::Tensor& x, const at::Tensor& weight, double eps, at::Tensor& y, at::Tensor& inverse) {
  using C = Compute<X>;
  const int64_t width = x.size(-1), rows = width == 0 ? 0 : x.numel() / width;
  const X* const from = x.const_data_ptr<X>();
  const C* const w = weight.const_data_ptr<C>();
  Y* const to = y.data_ptr<Y>();
  C* const scales = inverse.data_ptr<C>();
  at::parallel_for(0, rows, grain(width), [&](int64_t begin, int64_t end) {
    const hn::ScalableTag<C> d;
    for (int64_t r = begin; r < end; ++r) {
      const X* const in = from + r * width;
      Y* const out = to + r * width;
      auto squares = hn::Zero(d);
      for_each_vector(d, width, [&](int64_t i, auto load, auto) {
        const auto v = load(in + i);
        squares = hn::MulAdd(v, v, squares);
      });
      const C scale =
          1 / std::sqrt(hn::GetLane(hn::SumOfLanes(d, squares)) / static_cast<C>(width) + static_cast<C>(eps));
      scales[r] = scale;
      const auto factor = hn::Set(d, scale);
      for_each_vector(d, width, [&](int64_t i, auto load, auto store) {
        store(hn::Mul(hn::Mul(load(in + i), factor), load(w + i)), out + i);
      });
    }
  });
}

// dx = inverse (dy w - xhat mean(dy w xhat)), xhat = x inverse.
template <class X, class Y>
void rms_norm_pull(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& inverse, const at::Tensor& dy,
                   at::Tensor& dx) {
  using C = Compute<X>;
  const int64_t width = x.size(-1), rows = width == 0 ? 0 : x.numel() / width;
  const X* const from = x.const_data_ptr<X>();
  const C* const w = weight.const_data_ptr<C>();
  const C* const scales = inverse.const_data_ptr<C>();
  const Y* const cotangent = dy.const_data_ptr<Y>();
  X* const to = dx.data_ptr<X>();
  at::parallel_for(0, rows, grain(width), [&](int64_t begin, int64_t end) {
    const hn::ScalableTag<C> d;
    for (int64_t r = begin; r < end; ++r) {
      const X* const in = from + r * width;
      const Y* const in_dy = cotangent + r * width;
      X* const out = to + r * width;
      auto products = hn::Zero(d);
      for_each_vector(d, width, [&](int64_t i, auto load, auto) {
        products = hn::MulAdd(hn::Mul(load(in_dy + i), load(w + i)), load(in + i), products);
      });
      const C scale = scales[r], sum = hn::GetLane(hn::SumOfLanes(d, products));
      const auto a = hn::Set(d, scale), b = hn::Set(d, scale * scale * scale * sum / static_cast<C>(width));
      for_each_vector(d, width, [&](int64_t i, auto load, auto store) {
        const auto direct = hn::Mul(hn::Mul(load(in_dy + i), load(w + i)), a);
        store(hn::NegMulAdd(load(in + i), b, direct), out + i);
      });
    }
  });
}

struct RmsNormPull : Function<RmsNormPull> {
  static variable_list forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                               const at::Tensor& inverse, const at::Tensor& dy_any, double eps, bool weight_too) {
    const auto dy = dy_any.contiguous();
    context->saved_data["eps"] = eps;
    context->set_materialize_grads(false);
    context->save_for_backward({x, weight, dy});
    auto dx = at::empty_like(x);
    const auto wide = weight.to(inverse.scalar_type()).contiguous();
    dispatch(x.scalar_type(), dy.scalar_type(),
             [&](auto a, auto b) { rms_norm_pull<decltype(a), decltype(b)>(x, wide, inverse, dy, dx); });
    at::Tensor dweight;
    if (weight_too) {
      const auto xhat = x.to(inverse.scalar_type()) * inverse.unsqueeze(-1);
      dweight = (dy * xhat).reshape({-1, x.size(-1)}).sum(0).to(weight.scalar_type());
    } else {
      dweight = at::zeros_like(weight);
    }
    return {dx, dweight};
  }

  static variable_list backward(AutogradContext* context, variable_list directions) {
    const auto saved = context->get_saved_variables();
    const double eps = context->saved_data["eps"].toDouble();
    const auto definition = [&](const variable_list& in) -> variable_list {
      return {plain::rms_norm(in[0], in[1], eps, saved[2].scalar_type())};
    };
    const auto second = pull_backward(definition, {saved[0], saved[1]}, {saved[2]}, directions);
    return {second[0], second[1], {}, second[2], {}, {}};
  }
};

struct RmsNorm : Function<RmsNorm> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x_any, const at::Tensor& weight, double eps,
                            at::ScalarType out) {
    const auto x = x_any.contiguous();
    const auto compute = compute_type(x.scalar_type());
    auto y = at::empty(x.sizes(), x.options().dtype(out));
    auto inverse = at::empty(x.sizes().slice(0, x.dim() - 1), x.options().dtype(compute));
    const auto wide = weight.to(compute).contiguous();
    dispatch(x.scalar_type(), out,
             [&](auto a, auto b) { rms_norm_forward<decltype(a), decltype(b)>(x, wide, eps, y, inverse); });
    context->saved_data["eps"] = eps;
    context->saved_data["weight_too"] = weight.requires_grad();
    context->save_for_backward({x, weight, inverse});
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list dy) {
    const auto saved = context->get_saved_variables();
    const auto pulled = RmsNormPull::apply(saved[0], saved[1], saved[2], dy[0], context->saved_data["eps"].toDouble(),
                                           context->saved_data["weight_too"].toBool());
    return {pulled[0], pulled[1], {}, {}};
  }
};

// 1 / (1 + exp(-x)); exp(88) is still finite in float32.
template <class D>
HWY_INLINE hn::Vec<D> sigmoid(D d, hn::Vec<D> x) {
  using C = hn::TFromD<D>;
  const auto bounded = hn::Min(hn::Neg(x), hn::Set(d, C(sizeof(C) == 4 ? 88 : 700)));
  return hn::Div(hn::Set(d, C(1)), hn::Add(hn::Set(d, C(1)), hn::Exp(d, bounded)));
}

template <class T>
void swiglu_forward(const at::Tensor& gate_up, at::Tensor& y) {
  using C = Compute<T>;
  const int64_t width = y.size(-1), rows = width == 0 ? 0 : y.numel() / width;
  const T* const from = gate_up.const_data_ptr<T>();
  T* const to = y.data_ptr<T>();
  at::parallel_for(0, rows, grain(width), [&](int64_t begin, int64_t end) {
    const hn::ScalableTag<C> d;
    for (int64_t r = begin; r < end; ++r) {
      const T *const gate = from + r * 2 * width, *const up = gate + width;
      T* const out = to + r * width;
      for_each_vector(d, width, [&](int64_t i, auto load, auto store) {
        const auto g = load(gate + i);
        store(hn::Mul(hn::Mul(g, sigmoid(d, g)), load(up + i)), out + i);
      });
    }
  });
}

// d silu(g) / dg = s (1 + g (1 - s)), s = sigmoid(g).
template <class T>
void swiglu_pull(const at::Tensor& gate_up, const at::Tensor& dy, at::Tensor& d_gate_up) {
  using C = Compute<T>;
  const int64_t width = dy.size(-1), rows = width == 0 ? 0 : dy.numel() / width;
  const T* const from = gate_up.const_data_ptr<T>();
  const T* const cotangent = dy.const_data_ptr<T>();
  T* const to = d_gate_up.data_ptr<T>();
  at::parallel_for(0, rows, grain(width), [&](int64_t begin, int64_t end) {
    const hn::ScalableTag<C> d;
    const auto one = hn::Set(d, C(1));
    for (int64_t r = begin; r < end; ++r) {
      const T *const gate = from + r * 2 * width, *const up = gate + width, *const in_dy = cotangent + r * width;
      T *const d_gate = to + r * 2 * width, *const d_up = d_gate + width;
      for_each_vector(d, width, [&](int64_t i, auto load, auto store) {
        const auto g = load(gate + i), t = load(in_dy + i), s = sigmoid(d, g);
        store(hn::Mul(t, hn::Mul(g, s)), d_up + i);
        store(hn::Mul(hn::Mul(t, load(up + i)), hn::Mul(s, hn::MulAdd(g, hn::Sub(one, s), one))), d_gate + i);
      });
    }
  });
}

template <class Kernel>
void dispatch_one(at::ScalarType x, const Kernel& kernel) {
  dispatch(x, x, [&](auto a, auto) { kernel(a); });
}

struct SwigluPull : Function<SwigluPull> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& gate_up, const at::Tensor& dy_any) {
    const auto dy = dy_any.contiguous();
    context->save_for_backward({gate_up, dy});
    auto pulled = at::empty_like(gate_up);
    dispatch_one(gate_up.scalar_type(), [&](auto a) { swiglu_pull<decltype(a)>(gate_up, dy, pulled); });
    return pulled;
  }

  static variable_list backward(AutogradContext* context, variable_list directions) {
    const auto saved = context->get_saved_variables();
    const auto definition = [&](const variable_list& in) -> variable_list { return {plain::swiglu(in[0])}; };
    return pull_backward(definition, {saved[0]}, {saved[1]}, directions);
  }
};

struct Swiglu : Function<Swiglu> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& any) {
    const auto gate_up = any.contiguous();
    auto sizes = gate_up.sizes().vec();
    sizes.back() /= 2;
    auto y = at::empty(sizes, gate_up.options());
    dispatch_one(gate_up.scalar_type(), [&](auto a) { swiglu_forward<decltype(a)>(gate_up, y); });
    context->save_for_backward({gate_up});
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list dy) {
    return {SwigluPull::apply(context->get_saved_variables()[0], dy[0])};
  }
};

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps, at::ScalarType out) {
  require(x.dim() >= 1 && weight.dim() == 1 && weight.size(0) == x.size(-1),
          "rms_norm: weight {} must be [M], the last dimension of x {}", weight.sizes(), x.sizes());
  check_dtype("rms_norm", "x", x.scalar_type());
  check_dtype("rms_norm", "weight", weight.scalar_type());
  check_result("rms_norm", x.scalar_type(), out);
  require(std::isfinite(eps) && eps >= 0, "rms_norm: eps must be finite and not negative, not {}", eps);
  if (!x.is_cpu() || under_transform(x, weight)) return plain::rms_norm(x, weight, eps, out);
  return RmsNorm::apply(x, weight, eps, out);
}

at::Tensor swiglu(const at::Tensor& gate_up) {
  require(gate_up.dim() >= 1 && gate_up.size(-1) % 2 == 0, "swiglu: the last dimension of {} must be even",
          gate_up.sizes());
  check_dtype("swiglu", "gate_up", gate_up.scalar_type());
  if (!gate_up.is_cpu() || under_transform(gate_up)) return plain::swiglu(gate_up);
  return Swiglu::apply(gate_up);
}

}  // namespace unbend
