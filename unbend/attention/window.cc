// Gradients of the fused window attention: Fwd, whose backward is Pull, whose backward in the cotangents is the push.
#include "unbend/attention/window.h"

#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include "unbend/attention/composite.h"
#include "unbend/attention/window_checks.h"
#include "unbend/attention/window_kernel.h"
#include "unbend/base/error.h"
#include "unbend/tensor/transform.h"

namespace unbend {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

void keep(AutogradContext* context, const WindowOptions& options) {
  context->saved_data["window"] = options.window;
  context->saved_data["sinks"] = options.sinks;
  context->saved_data["scale"] = options.scale;
  context->saved_data["step"] = options.step;
}

WindowOptions kept(AutogradContext* context) {
  return {.window = context->saved_data["window"].toInt(),
          .sinks = context->saved_data["sinks"].toInt(),
          .scale = context->saved_data["scale"].toDouble(),
          .step = context->saved_data["step"].toInt()};
}

// Directional derivatives of (out, max, lse) for the directions dq, dk, dv, block by block of queries:
// ds = scale (dq.k + q.dk), dlse = sum p ds, dout = sum p (ds v + dv) - dlse out, dmax = ds at the largest score.
variable_list push(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const WindowForward& forward,
                   const at::Tensor& dq, const at::Tensor& dk, const at::Tensor& dv, const WindowOptions& options) {
  if (q.size(2) == 0) return {forward.out, forward.max, forward.lse};  // nothing
  const auto compute = forward.lse.scalar_type();
  const int64_t tokens = q.size(2), kv_heads = k.size(1), group = q.size(1) / kv_heads;
  const auto grouped = [&](const at::Tensor& x) { return x.to(compute).unflatten(1, {kv_heads, group}); };
  const auto shared = [&](const at::Tensor& x) { return x.to(compute).unsqueeze(2); };
  const auto all_q = grouped(q), all_dq = grouped(dq), all_k = shared(k), all_dk = shared(dk), all_v = shared(v),
             all_dv = shared(dv), lse = grouped(forward.lse), out = grouped(forward.out),
             largest = forward.largest.unflatten(1, {kv_heads, group});
  const auto positions = at::arange(tokens, forward.largest.options());
  std::vector<at::Tensor> douts, dmaxs, dlses;
  constexpr int64_t kBlock = 256;
  for (int64_t t0 = 0; t0 < tokens; t0 += kBlock) {
    const int64_t count = std::min(kBlock, tokens - t0);
    const int64_t band = std::max<int64_t>(0, options.first(t0)), sinks = std::min(options.sinks, band);
    const auto keys = at::cat({positions.narrow(0, 0, sinks), positions.slice(0, band, t0 + count)});
    const auto at_keys = [&](const at::Tensor& x) { return x.index_select(3, keys); };
    const auto here = [&](const at::Tensor& x) { return x.narrow(3, t0, count); };
    const auto t = positions.narrow(0, t0, count).unsqueeze(1), j = keys.unsqueeze(0);
    const auto hidden = ((j > t) | ((j <= t - t.remainder(options.step) - options.window) & (j >= options.sinks)));
    const auto k_t = at_keys(all_k).transpose(-1, -2), dk_t = at_keys(all_dk).transpose(-1, -2);
    const auto weights =
        (at::matmul(here(all_q), k_t) * options.scale - here(lse).unsqueeze(-1)).exp().masked_fill(hidden, 0);
    const auto ds = (at::matmul(here(all_dq), k_t) + at::matmul(here(all_q), dk_t)) * options.scale;
    const auto weighted = weights * ds;
    const auto dlse = weighted.sum(-1);
    douts.push_back(at::matmul(weighted, at_keys(all_v)) + at::matmul(weights, at_keys(all_dv)) -
                    dlse.unsqueeze(-1) * here(out));
    dmaxs.push_back(ds.gather(-1, at::searchsorted(keys, here(largest).contiguous()).unsqueeze(-1)).squeeze(-1));
    dlses.push_back(dlse);
  }
  const auto join = [&](const std::vector<at::Tensor>& blocks) { return at::cat(blocks, 3).flatten(1, 2); };
  return {join(douts), join(dmaxs), join(dlses)};
}

at::Tensor zeros_if_undefined(const at::Tensor& x, const at::Tensor& like) {
  return x.defined() ? x : at::zeros_like(like);
}

using Cotangent = std::optional<at::Tensor>;
Cotangent cotangent(const at::Tensor& x) { return x.defined() ? Cotangent(x) : std::nullopt; }

// (q, k, v, results of the forward, cotangents) -> gradients of q, k, v.
struct Pull : Function<Pull> {
  static variable_list forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               const at::Tensor& out, const at::Tensor& max, const at::Tensor& lse,
                               const at::Tensor& largest, const Cotangent& d_out, const Cotangent& d_max,
                               const Cotangent& d_lse, const WindowOptions& options) {
    keep(context, options);
    context->set_materialize_grads(false);
    const auto or_undefined = [](const Cotangent& x) { return x.value_or(at::Tensor()); };
    const auto d_o = or_undefined(d_out), d_m = or_undefined(d_max), d_l = or_undefined(d_lse);
    context->save_for_backward({q, k, v, out, max, lse, largest, d_o, d_m, d_l});
    const auto pull = window_pull(q, k, v, {out, max, lse, largest}, d_o, d_m, d_l, options);
    return {pull.q, pull.k, pull.v};
  }

  static variable_list backward(AutogradContext* context, variable_list directions) {
    const auto saved = context->get_saved_variables();
    const auto options = kept(context);
    const auto &q = saved[0], &k = saved[1], &v = saved[2];
    const auto dq = zeros_if_undefined(directions[0], q), dk = zeros_if_undefined(directions[1], k),
               dv = zeros_if_undefined(directions[2], v);
    variable_list gradients(11);
    if (context->needs_input_grad(0) || context->needs_input_grad(1) || context->needs_input_grad(2)) {
      // Second derivatives in q, k, v are rare: through the definition, at the memory it takes.
      const auto definition = [&](const variable_list& x) -> variable_list {
        const auto positions = at::arange(q.size(2), saved[6].options());
        const auto partial = window_attention_at(x[0], x[1], x[2], positions, positions, options);
        return {partial.out, partial.max, partial.lse};
      };
      const auto second = pull_backward(definition, {q, k, v}, {saved[7], saved[8], saved[9]}, {dq, dk, dv});
      std::copy_n(second.begin(), 3, gradients.begin());
    }
    const auto pushed = push(q, k, v, {saved[3], saved[4], saved[5], saved[6]}, dq, dk, dv, options);
    for (int i = 0; i < 3; ++i) {
      if (saved[7 + i].defined()) gradients[7 + i] = pushed[i];
    }
    return gradients;
  }
};

struct Fwd : Function<Fwd> {
  static variable_list forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               const WindowOptions& options) {
    keep(context, options);
    context->set_materialize_grads(false);
    const auto result = window_forward(q, k, v, options);
    context->save_for_backward({q, k, v, result.out, result.max, result.lse, result.largest});
    context->mark_non_differentiable({result.largest});
    return {result.out, result.max, result.lse, result.largest};
  }

  static variable_list backward(AutogradContext* context, variable_list d) {
    const auto saved = context->get_saved_variables();
    // The results are constants to the second derivative: Pull differentiates through the definition itself.
    const auto pulled =
        Pull::apply(saved[0], saved[1], saved[2], saved[3].detach(), saved[4].detach(), saved[5].detach(), saved[6],
                    cotangent(d[0]), cotangent(d[1]), cotangent(d[2]), kept(context));
    return {pulled[0], pulled[1], pulled[2], at::Tensor()};
  }
};

}  // namespace

Partial window_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const WindowOptions& options) {
  check_window_arguments(q, k, v, options);
  require(q.size(2) == k.size(2), "window_attention: q {} and k {} must have the same length", q.sizes(), k.sizes());
  if (!q.is_cpu() || under_transform(q, k, v)) {
    const auto positions = at::arange(q.size(2), q.options().dtype(at::kLong));
    return window_attention_at(q, k, v, positions, positions, options);
  }
  const auto results = Fwd::apply(q, k, v, options);
  return {results[0], results[1], results[2]};
}

}  // namespace unbend
