// Values of the recurrences beside gated linear attention (liger.md, oracles 7 and 8).
#include "unbend/attention/recurrences.h"

#include <gmock/gmock.h>
#include <torch/csrc/autograd/autograd.h>

#include <functional>
#include <limits>

#include "tests/attention/gated_scan_cases.h"
#include "unbend/base/error.h"

namespace unbend::test {
namespace {

at::Tensor rows(std::vector<double> values, int64_t width) {
  return at::tensor(values, at::kDouble).view({1, 1, -1, width});
}

at::Tensor normal(at::IntArrayRef shape, uint64_t seed) {
  return at::randn(shape, at::detail::createCPUGenerator(seed), at::kDouble);
}

// Oracle 7: raw gate logits z = k.
struct Oracle {
  at::Tensor z = rows({.2, -.4, 1, .3, -.5, .8}, 2), v = rows({1, 2, 3}, 1), q = rows({.3, .7, .6, .4, .5, .5}, 2);
  void expect(const Scan& scan, std::vector<double> expected) const {
    EXPECT_LT(distance(scan.out, rows(expected, 1)), 1e-9);
  }
};

TEST(Recurrences, WorkedExamples) {
  const Oracle o;
  const at::Tensor mean = o.z.mean(-1, true), unit = o.z / o.z.norm(2, -1, true);
  for (const Form form : {Form::Parallel, Form::Chunked, Form::Recurrent}) {
    const ScanOptions options = {.form = form, .chunk = 2};
    o.expect(hgrn2(o.q, o.v, at::log_sigmoid(o.z), {}, options), {.5541311629, .9981989815, 1.974656419});
    o.expect(gated_scan(o.q, o.z.softmax(-1), o.v, at::log_sigmoid(o.z) / 16, {}, options),
             {.4417374775, 1.5840687028, 2.918013033});
    o.expect(gated_scan(o.q, o.z, o.v, -at::softplus(mean), {}, options), {-.22, 1.4262804185, 1.0354755287});
    o.expect(gated_scan(o.q, o.z, o.v, -o.z.exp(), {}, options), {-.22, 1.4064342657, 1.0256389858});
    o.expect(gated_delta_rule(o.q, unit, o.v, rows({.9, .5, .7}, 1).log().squeeze(-1), rows({.5, 1, .8}, 1).squeeze(-1),
                              {}, options),
             {-.2459674775, 1.3273684564, 1.2635835655});
  }
}

TEST(Recurrences, BothAxesDecay) {
  const int64_t batch = 2, kv_heads = 2, group = 2, length = 41, dk = 5, dv = 4;
  const at::Tensor q = normal({batch, kv_heads * group, length, dk}, 1), k = normal({batch, kv_heads, length, dk}, 2),
                   v = normal({batch, kv_heads, length, dv}, 3),
                   key_decay = at::log_sigmoid(normal({batch, kv_heads, length, dk}, 4)),
                   state = normal({batch, kv_heads, dk, dv}, 6);
  // Weak, strong (pieces get shorter) and complete forgetting.
  for (const double strength : {1., 30.}) {
    at::Tensor value_decay = at::log_sigmoid(normal({batch, kv_heads, length, dv}, 5)) * strength;
    if (strength > 1) value_decay.select(2, 20).fill_(-std::numeric_limits<double>::infinity());
    at::Tensor s = state;
    std::vector<at::Tensor> out;
    for (int64_t t = 0; t < length; ++t) {
      s = s * key_decay.select(2, t).exp().unsqueeze(-1) * value_decay.select(2, t).exp().unsqueeze(-2) +
          k.select(2, t).unsqueeze(-1) * v.select(2, t).unsqueeze(-2);
      out.push_back(at::matmul(q.select(2, t).view({batch, kv_heads, group, dk}), s));
    }
    const at::Tensor expected = at::stack(out, 3).flatten(1, 2);
    for (const Form form : {Form::Parallel, Form::Chunked, Form::Recurrent}) {
      const Scan scan = doubly_gated_scan(q, k, v, key_decay, value_decay, state, {.form = form});
      EXPECT_LT(distance(scan.out, expected), 1e-9);
      EXPECT_LT(distance(scan.state, s), 1e-9);
    }
  }
  // In half the factors of a piece, up to exp(60), would be infinite.
  const auto half = [](const at::Tensor& x) { return x.to(at::kHalf); };
  const auto whole = [&](const at::Tensor& x) { return half(x).to(at::kDouble); };
  const at::Tensor steep = at::log_sigmoid(normal({batch, kv_heads, length, dv}, 5)) * 3;
  const Scan narrow = doubly_gated_scan(half(q), half(k), half(v), half(key_decay), half(steep)),
             wide = doubly_gated_scan(whole(q), whole(k), whole(v), whole(key_decay), whole(steep));
  EXPECT_EQ(narrow.out.scalar_type(), at::kHalf);
  EXPECT_LT(distance(narrow.out.to(at::kDouble), wide.out), 5e-3);
  EXPECT_THROW(doubly_gated_scan(q, k, v, key_decay, {}), Error);
  EXPECT_THROW(doubly_gated_scan(q, k, v, key_decay, -key_decay.narrow(3, 0, dv)), Error);
}

TEST(Recurrences, SlotsEqualTheirDefinition) {
  const int64_t batch = 2, kv_heads = 2, group = 3, length = 37, dk = 5, dv = 4, slots = 6;
  const at::Tensor q = normal({batch, kv_heads * group, length, dk}, 1), k = normal({batch, kv_heads, length, dk}, 2),
                   v = normal({batch, kv_heads, length, dv}, 3),
                   log_decay = at::log_sigmoid(normal({batch, kv_heads, length, slots}, 4));
  const at::Tensor key_state = normal({batch, kv_heads, dk, slots}, 5),
                   value_state = normal({batch, kv_heads, slots, dv}, 6);
  at::Tensor keys = key_state.transpose(-1, -2), values = value_state;  // slots as rows
  std::vector<at::Tensor> out;
  for (int64_t t = 0; t < length; ++t) {
    const at::Tensor alpha = log_decay.select(2, t).exp().unsqueeze(-1);
    keys = alpha * keys + (1 - alpha) * k.select(2, t).unsqueeze(-2);
    values = alpha * values + (1 - alpha) * v.select(2, t).unsqueeze(-2);
    const at::Tensor queries = q.select(2, t).view({batch, kv_heads, group, dk});
    out.push_back(at::matmul(at::matmul(queries, keys.transpose(-1, -2)).softmax(-1), values).flatten(1, 2));
  }
  for (const Form form : {Form::Parallel, Form::Chunked, Form::Recurrent}) {
    const SlotScan scan = gated_slot_attention(q, k, v, log_decay, key_state, value_state, {.form = form});
    EXPECT_LT(distance(scan.out, at::stack(out, 2)), 1e-12);
    EXPECT_LT(distance(scan.key_state, keys.transpose(-1, -2)), 1e-12);
    EXPECT_LT(distance(scan.value_state, values), 1e-12);
  }
}

struct DeltaCase {
  at::Tensor q, k, v, log_decay, beta, state;
};

DeltaCase delta_case(int64_t length, uint64_t seed) {
  const at::Tensor k = normal({2, 2, length, 6}, seed + 1);
  return {normal({2, 4, length, 6}, seed),
          k / k.norm(2, -1, true),
          normal({2, 2, length, 5}, seed + 2),
          at::log_sigmoid(normal({2, 2, length}, seed + 3)),
          normal({2, 2, length}, seed + 4).sigmoid(),
          normal({2, 2, 6, 5}, seed + 5)};
}

Scan run_delta(const DeltaCase& c, const ScanOptions& options) {
  return gated_delta_rule(c.q, c.k, c.v, c.log_decay, c.beta, c.state, options);
}

TEST(Recurrences, DeltaChunksEqualTheTokenLoop) {
  for (const int64_t length : {0, 1, 16, 45}) {
    DeltaCase c = delta_case(length, 10);
    for (const double constant : {1.0, 0.0, -50.0, -std::numeric_limits<double>::infinity()}) {
      if (constant <= 0) c.log_decay = at::full_like(c.log_decay, constant);
      const Scan loop = run_delta(c, {.form = Form::Recurrent});
      for (const int64_t chunk : {1, 8, 16, 64}) {
        const Scan scan = run_delta(c, {.chunk = chunk});
        EXPECT_LT(distance(scan.out, loop.out), 1e-12) << length << " chunk " << chunk;
        EXPECT_LT(distance(scan.state, loop.state), 1e-12) << length << " chunk " << chunk;
      }
      EXPECT_LT(distance(run_delta(c, {.form = Form::Parallel}).out, loop.out), 1e-12);
    }
  }
}

TEST(Recurrences, DeltaGradientsEqualTheTokenLoops) {
  DeltaCase c = delta_case(21, 30);
  const std::vector<at::Tensor> x = {c.q, c.k, c.v, c.log_decay, c.beta, c.state};
  for (const at::Tensor& t : x) t.requires_grad_();
  const auto gradients = [&](const ScanOptions& options) {
    const Scan scan = run_delta(c, options);
    return torch::autograd::grad({(scan.out * normal(scan.out.sizes(), 1)).sum(), scan.state.square().sum()}, x);
  };
  const auto loop = gradients({.form = Form::Recurrent}), chunked = gradients({.chunk = 8});
  for (size_t i = 0; i < x.size(); ++i) EXPECT_LT(distance(chunked[i], loop[i]), 1e-11) << i;
}

// Oracle 8.
TEST(Recurrences, DeltaRuleLimits) {
  DeltaCase c = delta_case(12, 20);
  c.beta = at::zeros_like(c.beta);
  const at::Tensor decay = c.log_decay.sum(-1).exp().unsqueeze(-1).unsqueeze(-1);
  EXPECT_LT(distance(run_delta(c, {}).state, c.state * decay), 1e-13);

  const at::Tensor orthonormal = std::get<0>(at::linalg_qr(normal({6, 6}, 1))).view({1, 1, 6, 6});
  const at::Tensor v = normal({1, 1, 6, 5}, 2);
  for (const Form form : {Form::Parallel, Form::Chunked, Form::Recurrent}) {
    const Scan scan = gated_delta_rule(orthonormal, orthonormal, v, {}, at::ones({1, 1, 6}, at::kDouble), {},
                                       {.form = form, .chunk = 4});
    EXPECT_LT(distance(at::matmul(orthonormal, scan.state), v), 1e-13);
  }
}

TEST(Recurrences, BadInputNamesArgumentAndShapes) {
  const auto zeros = [](at::IntArrayRef shape) { return at::zeros(shape, at::kDouble); };
  const auto message = [](const std::function<void()>& call) -> std::string {
    try {
      call();
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  using testing::HasSubstr;
  const at::Tensor q = zeros({1, 4, 5, 3}), k = zeros({1, 2, 5, 3}), v = zeros({1, 2, 5, 2});
  EXPECT_THAT(message([&] { hgrn2(q, v, {}); }), HasSubstr("hgrn2: log_decay must be"));
  EXPECT_THAT(message([&] { hgrn2(q, v, zeros({1, 2, 5, 4})); }), HasSubstr("hgrn2: q [1, 4, 5, 3]"));
  EXPECT_THAT(message([&] { gated_slot_attention(q, k, v, zeros({1, 2, 4, 6})); }), HasSubstr("[1, 2, 4, 6]"));
  EXPECT_THAT(message([&] {
                gated_slot_attention(q, k, v, zeros({1, 2, 5, 6}), zeros({1, 2, 6, 3}));
              }),
              HasSubstr("(keys): initial_state must be [1, 2, 3, 6]"));
  EXPECT_THAT(message([&] {
                gated_delta_rule(q, k, v, {}, zeros({1, 2, 5, 1}));
              }),
              HasSubstr("beta must be [1, 2, 5] (one per token), got [1, 2, 5, 1]"));
  EXPECT_THAT(message([&] {
                gated_delta_rule(q, k, v, zeros({1, 2, 5}) + 1, zeros({1, 2, 5}));
              }),
              HasSubstr("positive or NaN"));
}

}  // namespace
}  // namespace unbend::test
