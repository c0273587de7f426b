#include "unbend/attention/recurrences.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "unbend/attention/gated_scan_checks.h"
#include "unbend/base/error.h"

namespace unbend {
namespace {

std::string shape(const at::Tensor& x) {
  return x.defined() ? fmt::format("[{}]", fmt::join(x.sizes(), ", ")) : "no tensor";
}

// Arguments of the delta rule, of one dtype; queries are grouped: [B, Hkv, G, T, dk].
struct Delta {
  at::Tensor q, k, v, log_decay, beta, state;
};

Scan recurrent_delta(const Delta& x) {
  at::Tensor state = x.state;
  std::vector<at::Tensor> out;
  for (int64_t t = 0; t < x.k.size(2); ++t) {
    const at::Tensor key = x.k.select(2, t).unsqueeze(-2);  // [B, Hkv, 1, dk]
    const at::Tensor rate = x.beta.select(2, t).unsqueeze(-1).unsqueeze(-1);
    state = state * x.log_decay.select(2, t).exp().unsqueeze(-1).unsqueeze(-1);
    const at::Tensor error = x.v.select(2, t).unsqueeze(-2) - at::matmul(key, state);
    state = state + rate * at::matmul(key.transpose(-1, -2), error);
    out.push_back(at::matmul(x.q.select(3, t), state));
  }
  return {at::stack(out, 3), state};
}

// Chunks of n tokens. Within one, the written values N solve (I + strict lower(diag(beta) K K^T . L)) N = diag(beta) V
// - diag(beta e^b) K S by forward substitution, L_ij = exp(b_i - b_j); what does not depend on S is done for all chunks
// at once.
Scan chunked_delta(const Delta& x, int64_t n) {
  const int64_t length = x.k.size(2), chunks = (length + n - 1) / n, missing = chunks * n - length;
  // Missing tokens write nothing and decay nothing.
  const auto split = [&](const at::Tensor& t, int64_t time) {
    std::vector<int64_t> pad(2 * (t.dim() - time), 0);
    pad.back() = missing;
    return at::constant_pad_nd(t, pad).unflatten(time, {chunks, n});
  };
  const at::Tensor q = split(x.q, 3), k = split(x.k, 2), v = split(x.v, 2), beta = split(x.beta, 2).unsqueeze(-1);
  const double limit = q.scalar_type() == at::kDouble ? 800 : 110;  // exp(-limit) is 0; -inf - -inf would be NaN
  const at::Tensor sum = split(x.log_decay, 2).clamp_min(-limit).cumsum(-1);  // [B, Hkv, chunks, n]
  const at::Tensor future = at::ones({n, n}, q.options().dtype(at::kBool)).triu(1);
  const at::Tensor decay =
      (sum.unsqueeze(-1) - sum.unsqueeze(-2)).masked_fill(future, -std::numeric_limits<double>::infinity()).exp();
  const at::Tensor from_start = sum.exp().unsqueeze(-1), last = sum.slice(-1, n - 1).unsqueeze(-1);
  const at::Tensor to_end = (last - sum.unsqueeze(-1)).exp(), total = last.exp();

  const at::Tensor overlap = (beta * at::matmul(k, k.transpose(-1, -2)) * decay).tril(-1);
  const auto solve = [&](const at::Tensor& right) {
    return at::linalg_solve_triangular(overlap, right, /*upper=*/false, /*left=*/true, /*unitriangular=*/true);
  };
  const at::Tensor written = solve(beta * v), erased = solve(beta * from_start * k);
  const at::Tensor scores = at::matmul(q, k.unsqueeze(2).transpose(-1, -2)) * decay.unsqueeze(2);
  const at::Tensor queries = q * from_start.unsqueeze(2), keys = (k * to_end).transpose(-1, -2);

  at::Tensor state = x.state;
  std::vector<at::Tensor> out;
  for (int64_t c = 0; c < chunks; ++c) {
    const at::Tensor values = written.select(2, c) - at::matmul(erased.select(2, c), state);
    out.push_back(at::matmul(scores.select(3, c), values.unsqueeze(2)) +
                  at::matmul(queries.select(3, c), state.unsqueeze(2)));
    state = state * total.select(2, c) + at::matmul(keys.select(2, c), values);
  }
  return {at::cat(out, 3).slice(3, 0, length), state};
}

}  // namespace

Scan hgrn2(const at::Tensor& q, const at::Tensor& v, const at::Tensor& log_decay, const at::Tensor& initial_state,
           const ScanOptions& options) {
  require(options.axis == DecayAxis::Key, "hgrn2: the decay is on the key axis");
  require(log_decay.defined(), "hgrn2: log_decay must be [batch, kv heads, time, dk], got no tensor");
  check_scan("hgrn2", q, /*k=*/log_decay, v, log_decay, initial_state, DecayAxis::Key);
  return gated_scan(q, -at::expm1(log_decay), v, log_decay, initial_state, options);
}

Scan doubly_gated_scan(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& log_key_decay,
                       const at::Tensor& log_value_decay, const at::Tensor& initial_state, const ScanOptions& options) {
  require(log_key_decay.defined() && log_value_decay.defined(), "doubly_gated_scan: a decay is missing");
  check_scan("doubly_gated_scan", q, k, v, log_key_decay, initial_state, DecayAxis::Key);
  check_scan("doubly_gated_scan", q, k, v, log_value_decay, initial_state, DecayAxis::Value);
  require(log_value_decay.le(0).all().item<bool>(),
          "doubly_gated_scan: log_value_decay has an entry that is positive or NaN");
  ScanOptions inner = options;
  inner.axis = DecayAxis::Key;
  const int64_t length = q.size(2), batch = k.size(0), heads = k.size(1);
  const auto compute = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  at::Tensor state = initial_state.defined()
                         ? initial_state
                         : at::zeros({batch, heads, k.size(3), v.size(3)}, q.options().dtype(compute));
  // Factors up to exp(60) and their inverses: beyond half's range and bfloat16's digits.
  const at::Tensor queries = q.to(compute), values = v.to(compute), decay = log_value_decay.to(compute);
  // In pieces over which the products of beta stay in float's range, values are divided by their product since the
  // piece's first token, and outputs multiplied by it; the first token's own beta meets the incoming state.
  constexpr int64_t kPiece = 16;
  constexpr double kLowest = -60;
  std::vector<at::Tensor> out;
  for (int64_t begin = 0, n = 0; begin < length; begin += n) {
    n = std::min(kPiece, length - begin);
    at::Tensor sum = decay.narrow(2, begin, n).cumsum(2);
    sum = sum - sum.slice(2, 0, 1);
    while (n > 1 && !sum.ge(kLowest).all().item<bool>()) {
      n /= 2;
      sum = decay.narrow(2, begin, n).cumsum(2);
      sum = sum - sum.slice(2, 0, 1);
    }
    if (n == 1) sum = at::zeros_like(sum);
    const auto piece = [&](const at::Tensor& x) { return x.narrow(2, begin, n); };
    const Scan scan = gated_scan(piece(queries), piece(k), piece(values) * (-sum).exp(), piece(log_key_decay),
                                 state * piece(decay).slice(2, 0, 1).exp(), inner);
    const int64_t group = q.size(1) / heads;
    out.push_back(scan.out * (group == 1 ? sum : sum.repeat_interleave(group, 1)).exp());
    state = scan.state * sum.slice(2, -1).exp();
  }
  if (out.empty()) return {at::zeros({batch, q.size(1), 0, v.size(3)}, q.options()), state};
  return {at::cat(out, 2).to(q.scalar_type()), state};
}

SlotScan gated_slot_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                              const at::Tensor& log_decay, const at::Tensor& initial_key_state,
                              const at::Tensor& initial_value_state, const ScanOptions& options) {
  require(log_decay.defined() && log_decay.dim() == 4,
          "gated_slot_attention: log_decay must be [batch, kv heads, time, slots], got {}", shape(log_decay));
  check_scan("gated_slot_attention (keys)", q, k, log_decay, log_decay, initial_key_state, DecayAxis::Value);
  const at::Tensor writes = -at::expm1(log_decay);  // 1 - alpha
  ScanOptions pass = options;
  pass.axis = DecayAxis::Value;
  const Scan keys = gated_scan(q, k, writes, log_decay, initial_key_state, pass);
  const at::Tensor weights = at::softmax(keys.out, -1);
  check_scan("gated_slot_attention (values)", weights, writes, v, log_decay, initial_value_state, DecayAxis::Key);
  pass.axis = DecayAxis::Key;
  const Scan values = gated_scan(weights, writes, v, log_decay, initial_value_state, pass);
  return {values.out, keys.state, values.state};
}

Scan gated_delta_rule(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& log_decay,
                      const at::Tensor& beta, const at::Tensor& initial_state, const ScanOptions& options) {
  check_scan("gated_delta_rule", q, k, v, {}, initial_state, DecayAxis::Key);
  const at::IntArrayRef tokens = k.sizes().slice(0, 3);
  require(beta.defined() && beta.sizes() == tokens, "gated_delta_rule: beta must be [{}] (one per token), got {}",
          fmt::join(tokens, ", "), shape(beta));
  require(!log_decay.defined() || log_decay.sizes() == tokens,
          "gated_delta_rule: log_decay must be [{}] (one per token), got {}", fmt::join(tokens, ", "),
          shape(log_decay));
  require(options.chunk > 0, "gated_delta_rule: chunk must be positive, got {}", options.chunk);
  require(!log_decay.defined() || log_decay.le(0).all().item<bool>(),
          "gated_delta_rule: log_decay has an entry that is positive or NaN");

  const auto type = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const int64_t length = k.size(2), kv_heads = k.size(1);
  const Delta x = {
      q.to(type).unflatten(1, {kv_heads, q.size(1) / kv_heads}),
      k.to(type),
      v.to(type),
      log_decay.defined() ? log_decay.to(type) : at::zeros(tokens, k.options().dtype(type)),
      beta.to(type),
      initial_state.defined() ? initial_state.to(type)
                              : at::zeros({k.size(0), kv_heads, k.size(3), v.size(3)}, k.options().dtype(type)),
  };
  if (length == 0) return {at::zeros({q.size(0), q.size(1), 0, v.size(3)}, q.options()), x.state};
  const int64_t chunk = options.form == Form::Parallel ? length : std::min(options.chunk, length);
  const Scan scan = options.form == Form::Recurrent ? recurrent_delta(x) : chunked_delta(x, chunk);
  return {scan.out.flatten(1, 2).to(q.scalar_type()), scan.state};
}

}  // namespace unbend
