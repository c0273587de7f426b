#include "unbend/attention/gated_scan.h"

#include <algorithm>

#include "unbend/attention/gated_scan_naive.h"
#include "unbend/base/error.h"

namespace unbend {
namespace {

void check(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& log_decay,
           const at::Tensor& state, const ScanOptions& options) {
  const auto heads = [](const at::Tensor& x, const char* name) {
    require(x.defined() && x.dim() == 4, "gated_scan: {} must be [batch, heads, time, width], got {}", name,
            x.defined() ? fmt::format("[{}]", fmt::join(x.sizes(), ", ")) : "no tensor");
    require(at::isFloatingType(x.scalar_type()), "gated_scan: {} must be floating point, got {}", name,
            at::toString(x.scalar_type()));
  };
  heads(q, "q");
  heads(k, "k");
  heads(v, "v");
  const int64_t batch = k.size(0), kv_heads = k.size(1), length = k.size(2), dk = k.size(3), dv = v.size(3);
  require(q.size(0) == batch && q.size(2) == length && q.size(3) == dk,
          "gated_scan: q [{}] and k [{}] must agree in batch, time and width", fmt::join(q.sizes(), ", "),
          fmt::join(k.sizes(), ", "));
  require(kv_heads > 0 && q.size(1) % kv_heads == 0, "gated_scan: q has {} heads, which is no multiple of the {} of k",
          q.size(1), kv_heads);
  require(v.size(0) == batch && v.size(1) == kv_heads && v.size(2) == length,
          "gated_scan: v [{}] and k [{}] must agree in batch, heads and time", fmt::join(v.sizes(), ", "),
          fmt::join(k.sizes(), ", "));
  require(dk > 0 && dv > 0, "gated_scan: widths must be positive, got k [{}] and v [{}]", fmt::join(k.sizes(), ", "),
          fmt::join(v.sizes(), ", "));
  if (log_decay.defined()) {
    heads(log_decay, "log_decay");
    const bool on_key = options.axis == DecayAxis::Key;
    const int64_t width = on_key ? dk : dv;
    require(log_decay.sizes().slice(0, 3) == k.sizes().slice(0, 3) &&
                (log_decay.size(3) == 1 || log_decay.size(3) == width),
            "gated_scan: log_decay must be [{}, {}, {}, 1 or {}] (decay on the {} axis), got [{}]", batch, kv_heads,
            length, width, on_key ? "key" : "value", fmt::join(log_decay.sizes(), ", "));
  }
  if (state.defined()) {
    require(state.sizes() == at::IntArrayRef({batch, kv_heads, dk, dv}),
            "gated_scan: initial_state must be [{}, {}, {}, {}], got [{}]", batch, kv_heads, dk, dv,
            fmt::join(state.sizes(), ", "));
    require(at::isFloatingType(state.scalar_type()), "gated_scan: initial_state must be floating point, got {}",
            at::toString(state.scalar_type()));
  }
  require(options.chunk > 0, "gated_scan: chunk must be positive, got {}", options.chunk);
}

}  // namespace

Scan gated_scan(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& log_decay,
                const at::Tensor& initial_state, const ScanOptions& options) {
  check(q, k, v, log_decay, initial_state, options);
  const auto type = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const auto cast = [&](const at::Tensor& x) { return x.defined() ? x.to(type) : x; };
  const at::Tensor Q = cast(q), K = cast(k), V = cast(v), g = cast(log_decay);
  require(!g.defined() || g.le(0).all().item<bool>(), "gated_scan: log_decay has an entry that is positive or NaN");
  const at::Tensor S = initial_state.defined()
                           ? cast(initial_state)
                           : at::zeros({K.size(0), K.size(1), K.size(3), V.size(3)}, K.options());

  Scan result;
  switch (options.form) {
    case Form::Parallel:
      result = naive::chunked_scan(Q, K, V, g, S, options.axis, std::max<int64_t>(Q.size(2), 1));
      break;
    case Form::Chunked:
      result = naive::chunked_scan(Q, K, V, g, S, options.axis, options.chunk);
      break;
    case Form::Recurrent:
      result = naive::recurrent_scan(Q, K, V, g, S, options.axis);
      break;
  }
  return {result.out.to(q.scalar_type()), result.state};
}

}  // namespace unbend
