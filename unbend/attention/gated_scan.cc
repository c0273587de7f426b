#include "unbend/attention/gated_scan.h"

#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <optional>

#include "unbend/attention/gated_scan_checks.h"
#include "unbend/attention/gated_scan_kernel.h"
#include "unbend/attention/gated_scan_naive.h"
#include "unbend/base/error.h"

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
  at::Tensor segment_states = {};  // of the forward, for the first pull
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
  const Scan scan =
      naive::chunked_scan(leaves.q, leaves.k, leaves.v, leaves.log_decay, leaves.state, settings.axis, 16);
  const variable_list pulled =
      torch::autograd::grad({scan.out, scan.state}, x, cotangents, /*retain_graph=*/true, /*create_graph=*/true,
                            /*allow_unused=*/true);
  at::Tensor product = at::zeros({}, at.q.options());
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
    const ScanArguments d =
        kernel::scan_pull(at, settings.axis, settings.chunk, d_out, d_state, settings.segment_states);
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
    const Scan scan = kernel::scan_push(at, settings.axis, settings.chunk, tangent);
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
    const Scan scan = kernel::scan_forward(at, settings.axis, settings.chunk, &settings.segment_states);
    variable_list saved = list(at);
    saved.push_back(settings.segment_states);
    save(context, settings, saved);
    return {scan.out, scan.state};
  }
  static variable_list backward(AutogradContext* context, const variable_list& cotangents) {
    const variable_list saved = context->get_saved_variables();
    Settings settings = settings_of(context);
    settings.segment_states = saved[5];
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

Scan run(const ScanArguments& at, const ScanOptions& options) {
  const bool differentiate = needs_gradient(at);
  const bool fused =
      at.q.is_cpu() && options.form != Form::Parallel && !(options.form == Form::Recurrent && differentiate);
  if (fused && differentiate) {
    const variable_list scan =
        Chunked::apply(at.q, at.k, at.v, optional(at.log_decay), at.state, Settings{options.axis, options.chunk});
    return {scan[0], scan[1]};
  }
  if (fused) return kernel::scan_forward(at, options.axis, options.form == Form::Recurrent ? 1 : options.chunk);

  require(!at.log_decay.defined() || at.log_decay.le(0).all().item<bool>(),
          "gated_scan: log_decay has an entry that is positive or NaN");
  if (options.form == Form::Recurrent) {
    return naive::recurrent_scan(at.q, at.k, at.v, at.log_decay, at.state, options.axis);
  }
  const int64_t chunk = options.form == Form::Parallel ? std::max<int64_t>(at.q.size(2), 1) : options.chunk;
  return naive::chunked_scan(at.q, at.k, at.v, at.log_decay, at.state, options.axis, chunk);
}

}  // namespace

Scan gated_scan(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& log_decay,
                const at::Tensor& initial_state, const ScanOptions& options) {
  check_scan("gated_scan", q, k, v, log_decay, initial_state, options.axis);
  require(options.chunk > 0, "gated_scan: chunk must be positive, got {}", options.chunk);
  const auto type = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const auto cast = [&](const at::Tensor& x) { return x.defined() ? x.to(type) : x; };
  const at::Tensor state = initial_state.defined() ? cast(initial_state)
                                                   : at::zeros({k.size(0), k.size(1), k.size(3), v.size(3)},
                                                               k.options().dtype(type).requires_grad(false));
  const Scan scan = run({cast(q), cast(k), cast(v), cast(log_decay), state}, options);
  return {scan.out.to(q.scalar_type()), scan.state};
}

}  // namespace unbend
