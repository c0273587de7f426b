// linearize goes through every kernel of the project: each is a triple (forward, pull, push), so that one recording
// gives exact pushes. Against dot tests and central differences in float64.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/calculus/maps.h"
#include "unbend/attention/feature_map.h"
#include "unbend/attention/gaussian.h"
#include "unbend/attention/landmarks.h"
#include "unbend/attention/recurrences.h"
#include "unbend/attention/soft_attention.h"
#include "unbend/attention/window.h"
#include "unbend/calculus/check.h"
#include "unbend/nets/fused.h"
#include "unbend/nets/grid_attention.h"
#include "unbend/nets/head.h"

namespace unbend::test {
namespace {

struct Kernel {
  std::string name;
  Function f;
  Tensors at;
  at::ScalarType type = at::kDouble;
};

at::Tensor normal(std::vector<int64_t> shape, uint64_t seed) {
  return at::randn(shape, at::make_generator<at::CPUGeneratorImpl>(seed), at::kDouble);
}

at::Tensor log_decay(std::vector<int64_t> shape, uint64_t seed) { return -.3 * normal(shape, seed).exp(); }

Tensors pair(const Scan& scan) { return {scan.out, scan.state}; }

void add_scans(std::vector<Kernel>& list) {
  const int64_t b = 2, h = 4, hkv = 2, t = 19, dk = 4, dv = 3;
  const auto q = normal({b, h, t, dk}, 1), k = normal({b, hkv, t, dk}, 2), v = normal({b, hkv, t, dv}, 3),
             state = normal({b, hkv, dk, dv}, 4);
  const auto scan = [](const ScanOptions& options) {
    return [=](const Tensors& x) { return pair(gated_scan(x[0], x[1], x[2], x[3], x[4], options)); };
  };
  list.push_back({"gated_scan, decay of keys", scan({}), {q, k, v, log_decay({b, hkv, t, dk}, 5), state}});
  list.push_back({"gated_scan, scalar decay", scan({}), {q, k, v, log_decay({b, hkv, t, 1}, 5), state}});
  list.push_back({"gated_scan, decay of values",
                  scan({.axis = DecayAxis::Value}),
                  {q, k, v, log_decay({b, hkv, t, dv}, 5), state}});
  list.push_back(
      {"gated_scan, parallel", scan({.form = Form::Parallel}), {q, k, v, log_decay({b, hkv, t, dk}, 5), state}});
  list.push_back(
      {"gated_scan, recurrent", scan({.form = Form::Recurrent}), {q, k, v, log_decay({b, hkv, t, dk}, 5), state}});
  list.push_back(
      {"gated_scan, no decay", [](const Tensors& x) { return pair(gated_scan(x[0], x[1], x[2])); }, {q, k, v}});
  list.push_back(
      {"hgrn2", [](const Tensors& x) { return pair(hgrn2(x[0], x[1], x[2])); }, {q, v, log_decay({b, hkv, t, dk}, 6)}});
  list.push_back({"doubly_gated_scan",
                  [](const Tensors& x) { return pair(doubly_gated_scan(x[0], x[1], x[2], x[3], x[4])); },
                  {q, k, v, log_decay({b, hkv, t, dk}, 6), log_decay({b, hkv, t, dv}, 7)}});
  list.push_back({"gated_slot_attention",
                  [](const Tensors& x) -> Tensors {
                    const SlotScan s = gated_slot_attention(x[0], x[1], x[2], x[3]);
                    return {s.out, s.key_state, s.value_state};
                  },
                  {q, k, v, log_decay({b, hkv, t, 5}, 8)}});
  list.push_back({"gated_delta_rule",
                  [](const Tensors& x) { return pair(gated_delta_rule(x[0], x[1], x[2], x[3], x[4])); },
                  {q, .4 * k, v, log_decay({b, hkv, t}, 9), normal({b, hkv, t}, 10).sigmoid()}});
}

void add_attention(std::vector<Kernel>& list) {
  const auto window = [](const WindowOptions& options) {
    return [=](const Tensors& x) -> Tensors {
      const Partial p = window_attention(x[0], x[1], x[2], options);
      return {p.out, p.max, p.lse};
    };
  };
  const auto q = normal({2, 4, 23, 5}, 1), k = normal({2, 2, 23, 5}, 2), v = normal({2, 2, 23, 3}, 3);
  list.push_back({"window_attention", window({.window = 7, .sinks = 2, .scale = .4}), {q, k, v}});
  list.push_back({"window_attention, full", window({.window = 64, .scale = .4}), {q, k, v}});
  list.push_back({"softmax_pair_map",
                  [](const Tensors& x) -> Tensors { return {softmax_pair_map(x[0], x[1])}; },
                  {q, normal({4, 5, 2}, 4)}});
  list.push_back({"gaussian_kernel",
                  [](const Tensors& x) -> Tensors { return {gaussian_kernel(x[0], x[1])}; },
                  {q, normal({2, 4, 6, 5}, 5)}});
  list.push_back({"gaussian_gram", [](const Tensors& x) -> Tensors { return {gaussian_gram(x[0])}; }, {q}});
  for (const auto solver : {InverseSolver::Newton, InverseSolver::Cholesky}) {
    const InverseOptions inverse{.ridge = .1, .solver = solver, .iterations = 40, .tolerance = 1e-13};
    const std::string by = solver == InverseSolver::Newton ? ", Newton" : ", Cholesky";
    list.push_back({"symmetric_inverse" + by,
                    [=](const Tensors& x) -> Tensors {  // of a symmetric matrix, made from any
                      return {symmetric_inverse(at::matmul(x[0], x[0].transpose(-1, -2)), inverse).value};
                    },
                    {normal({2, 5, 5}, 6)}});
    for (const bool normalize : {false, true}) {
      list.push_back({(normalize ? "soft_attention, normalised" : "soft_attention") + by,
                      [=](const Tensors& x) -> Tensors {
                        return {soft_attention(x[0], x[1], x[2], {.normalize = normalize, .inverse = inverse}).out};
                      },
                      {normal({2, 2, 16, 3}, 7), normal({2, 2, 4, 3}, 8), normal({2, 2, 16, 4}, 9)}});
    }
  }
  list.push_back({"convolved_landmarks",
                  [](const Tensors& x) -> Tensors {
                    return {convolved_landmarks(x[0], {4, 4}, {x[1], x[2], x[3]})};
                  },
                  {normal({2, 2, 16, 3}, 1), normal({3, 3, 2, 2}, 2), normal({3}, 3), normal({3}, 4)}});
  list.push_back({"mean_landmarks",
                  [](const Tensors& x) -> Tensors {
                    return {mean_landmarks(x[0], {4, 4}, 2)};
                  },
                  {normal({2, 2, 16, 3}, 1)}});
}

void add_nets(std::vector<Kernel>& list) {
  list.push_back({"rms_norm",
                  [](const Tensors& x) -> Tensors { return {rms_norm(x[0], x[1], 1e-5, at::kDouble)}; },
                  {normal({3, 4, 11}, 1), normal({11}, 2)}});
  list.push_back({"layer_norm",
                  [](const Tensors& x) -> Tensors { return {at::layer_norm(x[0], x[1].sizes(), x[1], x[2], 1e-5)}; },
                  {normal({3, 4, 11}, 1), normal({11}, 2), normal({11}, 3)}});
  list.push_back({"swiglu", [](const Tensors& x) -> Tensors { return {swiglu(x[0])}; }, {normal({3, 4, 22}, 1)}});
  for (const auto pairs : {RotaryPairs::Halves, RotaryPairs::Adjacent}) {
    const Rotary tables = rotary_tables(at::arange(7), at::pow(1e4, -at::arange(3) / 3.), pairs, at::kDouble);
    list.push_back({fmt::format("split_heads, pairs {}", static_cast<int>(pairs)),
                    [=](const Tensors& x) -> Tensors {  // ranges that overlap, and one that nobody reads
                      return split_heads(x[0], 6, {{0, 2, true}, {2, 1, true}, {2, 1, false}}, tables, at::kDouble);
                    },
                    {normal({2, 7, 24}, 1)}});
  }
  const FrozenHead head = freeze_head(normal({40, 8}, 3));
  auto next = at::randint(40, {6}, at::make_generator<at::CPUGeneratorImpl>(4), at::TensorOptions(at::kLong));
  next[2] = -1;
  const TokenScores scores = next_token_scores(normal({6, 8}, 5), head, next, 4);
  const TokenTargets targets{next, scores.top_ids, scores.top_log_probs.to(at::kFloat)};
  list.push_back({"distillation_loss",
                  [=](const Tensors& x) -> Tensors { return {distillation_loss(x[0], head, targets, .9, .1).loss}; },
                  {normal({6, 8}, 6)}});
  for (const auto mixing : {TokenMixing::Soft, TokenMixing::Softmax, TokenMixing::Linear}) {
    Random random(1);
    GridAttentionConfig config{.width = 8, .heads = 2, .mixing = mixing};
    config.soft.inverse.solver = InverseSolver::Cholesky;
    GridBlock block = make_grid_block(config, GridBlock::Norm::Before, 0, random);
    std::vector<Parameter> parameters;
    collect("", block, parameters);
    Tensors weights{normal({2, 16, 8}, 1)};
    for (const Parameter& p : parameters) weights.push_back(*p.tensor = p.tensor->to(at::kDouble));
    list.push_back({fmt::format("grid block, mixing {}, all weights", static_cast<int>(mixing)),
                    [block](const Tensors& x) -> Tensors {
                      GridBlock copy = block;
                      std::vector<Parameter> places;
                      collect("", copy, places);
                      for (size_t i = 0; i < places.size(); ++i) *places[i].tensor = x[i + 1];
                      return {copy(x[0], {4, 4})};
                    },
                    weights});
  }
}

std::vector<Kernel> kernels() {
  std::vector<Kernel> list;
  add_scans(list);
  add_attention(list);
  add_nets(list);
  return list;
}

TEST(Kernels, HaveExactPullsAndPushes) {
  for (const Kernel& kernel : kernels()) {
    int calls = 0;
    const Function counted = [&](const Tensors& x) { return ++calls, kernel.f(x); };
    const LinearMap j = linearize(counted, kernel.at).jacobian;
    const CheckResult adjoint = dot_test(j, 2);
    EXPECT_TRUE(adjoint) << kernel.name << ": " << adjoint.message;
    EXPECT_EQ(calls, 1) << kernel.name;
    const CheckResult derivative = check_linearization(kernel.f, kernel.at);
    EXPECT_TRUE(derivative) << kernel.name << ": " << derivative.message;
  }
}

TEST(Kernels, TakeManyVectorsWhetherTheyBatchOrNot) {
  for (const Kernel& kernel : kernels()) {
    const LinearMap j = linearize(kernel.f, kernel.at).jacobian;
    Random random(3);
    const Tensors v = random_normals(j.domain(), random, 3), c = random_normals(j.codomain(), random, 3);
    const Tensors pushed = j.push_many(v), pulled = j.pull_many(c);
    for (int64_t k = 0; k < 3; ++k) {
      EXPECT_LT(distance(select(pushed, k), j.push(select(v, k))), 1e-11) << kernel.name;
      EXPECT_LT(distance(select(pulled, k), j.pull(select(c, k))), 1e-11) << kernel.name;
    }
  }
}

TEST(Kernels, InFloat32) {
  for (const Kernel& kernel : kernels()) {
    if (kernel.name.starts_with("distillation") || kernel.name.starts_with("rms_norm") ||
        kernel.name.starts_with("split_heads") || kernel.name.starts_with("grid block"))
      continue;  // their functions hold float64 tensors
    Tensors single;
    for (const auto& x : kernel.at) single.push_back(x.to(at::kFloat));
    const LinearMap j = linearize(kernel.f, single).jacobian;
    const CheckResult adjoint = dot_test(j, 2);
    EXPECT_TRUE(adjoint) << kernel.name << ": " << adjoint.message;
    Random random(3);
    const Tensors v = random_normals(j.domain(), random);
    Tensors wide;
    for (const auto& x : v) wide.push_back(x.to(at::kDouble));
    const Tensors exact = linearize(kernel.f, kernel.at).jacobian.push(wide);
    EXPECT_LT(distance(j.push(v), exact), kernel.name.find("Newton") != std::string::npos ? 1e-2 : 1e-3) << kernel.name;
  }
}

}  // namespace
}  // namespace unbend::test
