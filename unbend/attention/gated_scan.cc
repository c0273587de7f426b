#include "unbend/attention/gated_scan.h"

#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <optional>

#include "unbend/attention/composite.h"
#include "unbend/attention/cuda/gated_scan_cuda.h"
#include "unbend/attention/gated_scan_checks.h"
#include "unbend/attention/gated_scan_kernel.h"
#include "unbend/attention/gated_scan_naive.h"
#include "unbend/base/error.h"
#include "unbend/tensor/transform.h"

namespace unbend {
namespace {

using kernel::ScanArguments;
using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

// The kernel as autograd functions (methods/autofd.md, B2): the backward of Chunked is Pull; Pull is linear in its
// cotangents and its backward there is Push; Push is linear in its tangents and its backward there is Pull. So one
// recorded backward gives the push-forward without running the scan again. Derivatives of Pull and Push with respect to
// the arguments themselves (second derivatives of the scan) go through the plain ATen form.
struct Settings {
  DecayAxis axis;
  int64_t chunk;
  variable_list kept = {};  // by the forward, for the first pull
};

std::optional<at::Tensor> optional(const at::Tensor& x) { return x.defined() ? std::make_optional(x) : std::nullopt; }

void save(AutogradContext* context, const Settings& settings, const variable_list& tensors) {
  context->saved_data["axis"] = static_cast<int64_t>(settings.axis);
  context->saved_data["chunk"] = settings.chunk;
  context->save_for_backward(tensors);
}

Settings settings_of(AutogradContext* context) {
  return {static_cast<DecayAxis>(context->saved_data["axis"].toInt()), context->saved_data["chunk"].toInt()};
}

variable_list list(const ScanArguments& x) { return {x.q, x.k, x.v, x.log_decay, x.state}; }
ScanArguments arguments(const variable_list& x, size_t first = 0) {
  return {x[first], x[first + 1], x[first + 2], x[first + 3], x[first + 4]};
}

// ---- The kernel of the device

bool has_kernel(const ScanArguments& at) {
  if (at.q.is_cpu()) return true;
  return cuda::kBuiltIn && at.q.is_cuda() && at.q.scalar_type() != at::kDouble &&
         std::max(at.k.size(3), at.v.size(3)) <= cuda::kWidest;
}

// `kept` gets what the first pull can use.
Scan fused_forward(const ScanArguments& at, DecayAxis axis, int64_t chunk, Form form, variable_list* kept) {
  const bool recurrent = form == Form::Recurrent;
  if constexpr (cuda::kBuiltIn) {
    if (at.q.is_cuda()) return cuda::scan_forward(at, axis, recurrent, kept);
  }
  if (!kept) return kernel::scan_forward(at, axis, recurrent ? 1 : chunk);
  kept->resize(1);
  return kernel::scan_forward(at, axis, chunk, kept->data());
}

ScanArguments fused_pull(const ScanArguments& at, const Settings& settings, const at::Tensor& d_out,
                         const at::Tensor& d_state) {
  if constexpr (cuda::kBuiltIn) {
    if (at.q.is_cuda()) return cuda::scan_pull(at, settings.axis, d_out, d_state, settings.kept);
  }
  return kernel::scan_pull(at, settings.axis, settings.chunk, d_out, d_state,
                           settings.kept.empty() ? at::Tensor() : settings.kept[0]);
}

// ---- Plain operations, for what the kernels do not do

// float64 or float32.
ScanArguments of_one_type(const ScanArguments& at) {
  const auto cast = [&](const at::Tensor& x) { return x.defined() ? x.to(at.state.scalar_type()) : x; };
  return {cast(at.q), cast(at.k), cast(at.v), cast(at.log_decay), at.state};
}

Scan plain_scan(const ScanArguments& at, DecayAxis axis) {
  const ScanArguments x = of_one_type(at);
  return naive::chunked_scan(x.q, x.k, x.v, x.log_decay, x.state, axis, 16);
}

// Derivative of both results along a tangent.
Scan plain_push(const ScanArguments& at, DecayAxis axis, const ScanArguments& tangent) {
  const auto out = at::zeros({at.q.size(0), at.q.size(1), at.q.size(2), at.v.size(3)}, at.state.options());
  if (at.q.size(2) == 0) return {out.to(at.q.scalar_type()), tangent.state};
  const bool decays = at.log_decay.defined();
  variable_list inputs = {at.q, at.k, at.v, at.state}, directions = {tangent.q, tangent.k, tangent.v, tangent.state};
  if (decays) inputs.push_back(at.log_decay), directions.push_back(tangent.log_decay);
  const auto definition = [&](const variable_list& x) -> variable_list {
    const Scan scan = plain_scan({x[0], x[1], x[2], decays ? x[4] : at::Tensor(), x[3]}, axis);
    return {scan.out, scan.state};
  };
  const auto state = at::zeros_like(at.state);
  const auto second = pull_backward(definition, inputs, {out, state}, directions);
  const auto pushed = [&](size_t i, const at::Tensor& zero) { return second[i].defined() ? second[i] : zero; };
  return {pushed(inputs.size(), out).to(at.q.scalar_type()), pushed(inputs.size() + 1, state)};
}

// Gradient of <cotangents, J(at) tangent> with respect to `at`, itself differentiable.
variable_list second_order(const ScanArguments& at, const Settings& settings, const variable_list& cotangents,
                           const variable_list& tangent) {
  const bool differentiable = at::GradMode::is_enabled();
  const at::AutoGradMode with_graph(true);
  variable_list x, direction;
  std::vector<size_t> place;
  ScanArguments leaves = at;
  size_t i = 0;
  for (at::Tensor* t : {&leaves.q, &leaves.k, &leaves.v, &leaves.log_decay, &leaves.state}) {
    if (t->defined()) {
      // Aliases: the tangent and the cotangents may depend on the argument itself, and that path must not count here.
      *t = t->requires_grad() ? t->view_as(*t) : t->detach().requires_grad_();
      x.push_back(*t);
      direction.push_back(tangent[i]);
      place.push_back(i);
    }
    ++i;
  }
  const Scan scan = plain_scan(leaves, settings.axis);
  const variable_list pulled =
      torch::autograd::grad({scan.out, scan.state}, x, {cotangents[0].to(scan.out.scalar_type()), cotangents[1]},
                            /*retain_graph=*/true, /*create_graph=*/true,
                            /*allow_unused=*/true);
  at::Tensor product = at::zeros({}, at.state.options());
  for (size_t j = 0; j < x.size(); ++j) {
    if (pulled[j].defined()) product = product + (pulled[j] * direction[j]).sum();
  }
  variable_list result(5);
  if (!product.requires_grad()) return result;
  const variable_list gradients = torch::autograd::grad({product}, x, {}, /*retain_graph=*/differentiable,
                                                        /*create_graph=*/differentiable, /*allow_unused=*/true);
  for (size_t j = 0; j < x.size(); ++j) result[place[j]] = gradients[j];
  return result;
}

// Whether any of the scan's own arguments (the first edges of Pull and Push) needs a gradient.
bool needs_arguments(AutogradContext* context, const ScanArguments& at) {
  return context->needs_input_grad({{0, at.log_decay.defined() ? size_t(5) : size_t(4)}});
}

struct Pull : torch::autograd::Function<Pull> {
  static variable_list forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               const std::optional<at::Tensor>& log_decay, const at::Tensor& state,
                               const at::Tensor& d_out, const at::Tensor& d_state, Settings settings) {
    const ScanArguments at = {q, k, v, log_decay.value_or(at::Tensor()), state};
    save(context, settings, {q, k, v, at.log_decay, state, d_out, d_state});
    const ScanArguments d = fused_pull(at, settings, d_out, d_state);
    // An undefined result is not allowed; without decay its place is taken by an empty tensor.
    return {d.q, d.k, d.v, d.log_decay.defined() ? d.log_decay : at::empty({0}, q.options()), d.state};
  }
  static variable_list backward(AutogradContext* context, const variable_list& tangent);
};

struct Push : torch::autograd::Function<Push> {
  static variable_list forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               const std::optional<at::Tensor>& log_decay, const at::Tensor& state,
                               const at::Tensor& tq, const at::Tensor& tk, const at::Tensor& tv,
                               const std::optional<at::Tensor>& t_decay, const at::Tensor& t_state, Settings settings) {
    const ScanArguments at = {q, k, v, log_decay.value_or(at::Tensor()), state};
    const ScanArguments tangent = {tq, tk, tv, t_decay.value_or(at::Tensor()), t_state};
    save(context, settings, {q, k, v, at.log_decay, state, tq, tk, tv, tangent.log_decay, t_state});
    const Scan scan = q.is_cpu() ? kernel::scan_push(at, settings.axis, settings.chunk, tangent)
                                 : plain_push(at, settings.axis, tangent);
    return {scan.out, scan.state};
  }
  static variable_list backward(AutogradContext* context, const variable_list& cotangents);
};

variable_list pull(const ScanArguments& at, const Settings& settings, const variable_list& cotangents) {
  variable_list d =
      Pull::apply(at.q, at.k, at.v, optional(at.log_decay), at.state, cotangents[0], cotangents[1], settings);
  if (!at.log_decay.defined()) d[3] = at::Tensor();
  return d;
}

variable_list Pull::backward(AutogradContext* context, const variable_list& tangent) {
  const variable_list saved = context->get_saved_variables();
  const ScanArguments at = arguments(saved);
  const Settings settings = settings_of(context);
  variable_list result(8);
  if (needs_arguments(context, at)) {
    const variable_list d = second_order(at, settings, {saved[5], saved[6]}, tangent);
    std::copy(d.begin(), d.end(), result.begin());
  }
  const at::Tensor t_decay = at.log_decay.defined() ? tangent[3] : at::Tensor();
  const variable_list pushed = Push::apply(at.q, at.k, at.v, optional(at.log_decay), at.state, tangent[0], tangent[1],
                                           tangent[2], optional(t_decay), tangent[4], settings);
  result[5] = pushed[0];
  result[6] = pushed[1];
  return result;
}

variable_list Push::backward(AutogradContext* context, const variable_list& cotangents) {
  const variable_list saved = context->get_saved_variables();
  const ScanArguments at = arguments(saved);
  const Settings settings = settings_of(context);
  variable_list result(11);
  if (needs_arguments(context, at)) {
    const variable_list d = second_order(at, settings, cotangents, list(arguments(saved, 5)));
    std::copy(d.begin(), d.end(), result.begin());
  }
  const variable_list d = pull(at, settings, cotangents);
  std::copy(d.begin(), d.end(), result.begin() + 5);
  return result;
}

struct Chunked : torch::autograd::Function<Chunked> {
  static variable_list forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               const std::optional<at::Tensor>& log_decay, const at::Tensor& state, Settings settings) {
    const ScanArguments at = {q, k, v, log_decay.value_or(at::Tensor()), state};
    const Scan scan = fused_forward(at, settings.axis, settings.chunk, Form::Chunked, &settings.kept);
    variable_list saved = list(at);
    saved.insert(saved.end(), settings.kept.begin(), settings.kept.end());
    save(context, settings, saved);
    return {scan.out, scan.state};
  }
  static variable_list backward(AutogradContext* context, const variable_list& cotangents) {
    const variable_list saved = context->get_saved_variables();
    Settings settings = settings_of(context);
    settings.kept.assign(saved.begin() + 5, saved.end());
    variable_list d = pull(arguments(saved), settings, cotangents);
    d.emplace_back();
    return d;
  }
};

bool needs_gradient(const ScanArguments& at) {
  return at::GradMode::is_enabled() &&
         (at.q.requires_grad() || at.k.requires_grad() || at.v.requires_grad() || at.state.requires_grad() ||
          (at.log_decay.defined() && at.log_decay.requires_grad()));
}

/// Dual numbers go through plain operations, which know what to do with them.
bool has_tangent(const ScanArguments& at) {
  const auto dual = [](const at::Tensor& x) { return x.defined() && x._fw_grad(0).defined(); };
  return dual(at.q) || dual(at.k) || dual(at.v) || dual(at.log_decay) || dual(at.state);
}

Scan run(const ScanArguments& at, const ScanOptions& options) {
  const bool differentiate = needs_gradient(at);
  const bool transformed = under_transform(at.q, at.k, at.v, at.log_decay, at.state);
  const bool fused = !transformed && has_kernel(at) && !has_tangent(at) && options.form != Form::Parallel &&
                     !(options.form == Form::Recurrent && differentiate);
  if (fused && differentiate) {
    const variable_list scan =
        Chunked::apply(at.q, at.k, at.v, optional(at.log_decay), at.state, Settings{options.axis, options.chunk});
    return {scan[0], scan[1]};
  }
  if (fused) return fused_forward(at, options.axis, options.chunk, options.form, nullptr);

  require(transformed || !at.log_decay.defined() || at.log_decay.le(0).all().item<bool>(),
          "gated_scan: log_decay has an entry that is positive or NaN");
  const ScanArguments x = of_one_type(at);
  if (options.form == Form::Recurrent) return naive::recurrent_scan(x.q, x.k, x.v, x.log_decay, x.state, options.axis);
  const int64_t chunk = options.form == Form::Parallel ? std::max<int64_t>(x.q.size(2), 1) : options.chunk;
  return naive::chunked_scan(x.q, x.k, x.v, x.log_decay, x.state, options.axis, chunk);
}

}  // namespace

Scan gated_scan(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& log_decay,
                const at::Tensor& initial_state, const ScanOptions& options) {
  check_scan("gated_scan", q, k, v, log_decay, initial_state, options.axis);
  require(options.chunk > 0, "gated_scan: chunk must be positive, got {}", options.chunk);
  const auto type = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  // The kernels for CUDA multiply bfloat16 as it is; decays and states are float32 there too.
  const bool narrow = cuda::kBuiltIn && q.is_cuda() && q.scalar_type() == at::kBFloat16;
  const auto cast = [&](const at::Tensor& x) { return x.defined() ? x.to(type) : x; };
  const auto cast_rows = [&](const at::Tensor& x) { return x.to(narrow ? at::kBFloat16 : type); };
  const at::Tensor state = initial_state.defined() ? cast(initial_state)
                                                   : at::zeros({k.size(0), k.size(1), k.size(3), v.size(3)},
                                                               k.options().dtype(type).requires_grad(false));
  const Scan scan = run({cast_rows(q), cast_rows(k), cast_rows(v), cast(log_decay), state}, options);
  return {scan.out.to(q.scalar_type()), scan.state};
}

}  // namespace unbend
