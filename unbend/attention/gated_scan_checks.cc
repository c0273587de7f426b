#include "unbend/attention/gated_scan_checks.h"

#include <fmt/ranges.h>

#include "unbend/base/error.h"

namespace unbend {

void check_scan(const char* function, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                const at::Tensor& log_decay, const at::Tensor& initial_state, DecayAxis axis) {
  const auto heads = [&](const at::Tensor& x, const char* name) {
    require(x.defined() && x.dim() == 4, "{}: {} must be [batch, heads, time, width], got {}", function, name,
            x.defined() ? fmt::format("[{}]", fmt::join(x.sizes(), ", ")) : "no tensor");
    require(at::isFloatingType(x.scalar_type()), "{}: {} must be floating point, got {}", function, name,
            at::toString(x.scalar_type()));
  };
  heads(q, "q");
  heads(k, "k");
  heads(v, "v");
  const int64_t batch = k.size(0), kv_heads = k.size(1), length = k.size(2), dk = k.size(3), dv = v.size(3);
  require(q.size(0) == batch && q.size(2) == length && q.size(3) == dk,
          "{}: q [{}] and k [{}] must agree in batch, time and width", function, fmt::join(q.sizes(), ", "),
          fmt::join(k.sizes(), ", "));
  require(kv_heads > 0 && q.size(1) % kv_heads == 0, "{}: q has {} heads, which is no multiple of the {} of k",
          function, q.size(1), kv_heads);
  require(v.size(0) == batch && v.size(1) == kv_heads && v.size(2) == length,
          "{}: v [{}] and k [{}] must agree in batch, heads and time", function, fmt::join(v.sizes(), ", "),
          fmt::join(k.sizes(), ", "));
  require(dk > 0 && dv > 0, "{}: widths must be positive, got k [{}] and v [{}]", function, fmt::join(k.sizes(), ", "),
          fmt::join(v.sizes(), ", "));
  if (log_decay.defined()) {
    heads(log_decay, "log_decay");
    const bool on_key = axis == DecayAxis::Key;
    const int64_t width = on_key ? dk : dv;
    require(log_decay.sizes().slice(0, 3) == k.sizes().slice(0, 3) &&
                (log_decay.size(3) == 1 || log_decay.size(3) == width),
            "{}: log_decay must be [{}, {}, {}, 1 or {}] (decay on the {} axis), got [{}]", function, batch, kv_heads,
            length, width, on_key ? "key" : "value", fmt::join(log_decay.sizes(), ", "));
  }
  if (initial_state.defined()) {
    require(initial_state.sizes() == at::IntArrayRef({batch, kv_heads, dk, dv}),
            "{}: initial_state must be [{}, {}, {}, {}], got [{}]", function, batch, kv_heads, dk, dv,
            fmt::join(initial_state.sizes(), ", "));
    require(at::isFloatingType(initial_state.scalar_type()), "{}: initial_state must be floating point, got {}",
            function, at::toString(initial_state.scalar_type()));
  }
}

}  // namespace unbend
