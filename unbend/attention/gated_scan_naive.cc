#include "unbend/attention/gated_scan_naive.h"

#include <algorithm>
#include <limits>
#include <vector>

namespace unbend::naive {
namespace {

// [B, H, T, d] as [B, Hkv, G, T, d]: the query heads of a group side by side.
at::Tensor grouped(const at::Tensor& q, int64_t kv_heads) { return q.unflatten(1, {kv_heads, q.size(1) / kv_heads}); }

// Decay of one or more tokens, shaped to multiply a state [..., dk, dv]: [..., dk, 1] or [..., 1, dv].
at::Tensor on_state(const at::Tensor& decay, DecayAxis axis) {
  return axis == DecayAxis::Key ? decay.unsqueeze(-1) : decay.unsqueeze(-2);
}

// One chunk of n tokens; q is grouped.
Scan chunk_scan(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& log_decay,
                const at::Tensor& state, DecayAxis axis) {
  const int64_t n = q.size(3);
  const at::Tensor keys = k.unsqueeze(2), values = v.unsqueeze(2), memory = state.unsqueeze(2);
  const at::Tensor scores = at::matmul(q, keys.transpose(-1, -2));  // [B, Hkv, G, n, n]
  if (!log_decay.defined()) {
    return {at::matmul(scores.tril(), values) + at::matmul(q, memory), state + at::matmul(k.transpose(-1, -2), v)};
  }

  // exp(-limit) is 0, and differences of sums of such numbers are still accurate; -inf - -inf would be NaN.
  const double limit = q.scalar_type() == at::kDouble ? 800 : 110;
  const at::Tensor sum = log_decay.clamp_min(-limit).cumsum(-2);  // inclusive
  const at::Tensor last = sum.slice(-2, n - 1);
  const at::Tensor future = at::ones({n, n}, q.options().dtype(at::kBool)).triu(1).unsqueeze(-1);
  // Mask before exp: the exponents of the future are positive and may overflow.
  const at::Tensor decay = (sum.unsqueeze(-2) - sum.unsqueeze(-3))
                               .masked_fill(future, -std::numeric_limits<double>::infinity())
                               .exp();  // [B, Hkv, n, n, 1 | dk | dv], from token j to token i

  const at::Tensor from_start = sum.exp(), to_end = (last - sum).exp();
  const at::Tensor kept = state * on_state(last.exp().squeeze(-2), axis);
  if (log_decay.size(-1) == 1) {
    const at::Tensor weights = scores * decay.squeeze(-1).unsqueeze(2);
    return {at::matmul(weights, values) + at::matmul(q * from_start.unsqueeze(2), memory),
            kept + at::matmul((k * to_end).transpose(-1, -2), v)};
  }
  if (axis == DecayAxis::Key) {
    const at::Tensor decayed = k.unsqueeze(2) * decay;                          // [B, Hkv, i, j, dk]
    const at::Tensor weights = at::matmul(decayed, q.permute({0, 1, 3, 4, 2}))  // [B, Hkv, i, j, G]
                                   .permute({0, 1, 4, 2, 3});
    return {at::matmul(weights, values) + at::matmul(q * from_start.unsqueeze(2), memory),
            kept + at::matmul((k * to_end).transpose(-1, -2), v)};
  }
  const at::Tensor decayed = v.unsqueeze(2) * decay;  // [B, Hkv, i, j, dv]
  const at::Tensor recent = at::matmul(scores.permute({0, 1, 3, 2, 4}), decayed).permute({0, 1, 3, 2, 4});
  return {recent + at::matmul(q, memory) * from_start.unsqueeze(2), kept + at::matmul(k.transpose(-1, -2), v * to_end)};
}

}  // namespace

Scan recurrent_scan(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& log_decay,
                    const at::Tensor& initial_state, DecayAxis axis) {
  const int64_t length = q.size(2);
  const at::Tensor queries = grouped(q, k.size(1));
  at::Tensor state = initial_state;
  std::vector<at::Tensor> out;
  for (int64_t t = 0; t < length; ++t) {
    if (log_decay.defined()) state = state * on_state(log_decay.select(2, t).exp(), axis);
    state = state + k.select(2, t).unsqueeze(-1) * v.select(2, t).unsqueeze(-2);
    out.push_back(at::matmul(queries.select(3, t), state));  // [B, Hkv, G, dv]
  }
  if (out.empty()) return {at::zeros({q.size(0), q.size(1), 0, v.size(3)}, q.options()), state};
  return {at::stack(out, 3).flatten(1, 2), state};
}

Scan chunked_scan(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& log_decay,
                  const at::Tensor& initial_state, DecayAxis axis, int64_t chunk) {
  const int64_t length = q.size(2);
  const at::Tensor queries = grouped(q, k.size(1));
  at::Tensor state = initial_state;
  std::vector<at::Tensor> out;
  for (int64_t begin = 0; begin < length; begin += chunk) {
    const int64_t end = std::min(begin + chunk, length);
    const auto rows = [&](const at::Tensor& x, int64_t axis) { return x.defined() ? x.slice(axis, begin, end) : x; };
    Scan piece = chunk_scan(rows(queries, 3), rows(k, 2), rows(v, 2), rows(log_decay, 2), state, axis);
    out.push_back(piece.out);
    state = piece.state;
  }
  if (out.empty()) return {at::zeros({q.size(0), q.size(1), 0, v.size(3)}, q.options()), state};
  return {at::cat(out, 3).flatten(1, 2), state};
}

}  // namespace unbend::naive
