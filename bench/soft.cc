// Softmax-free attention against the number of tokens, beside its definition, the full Gaussian kernel, and exact
// softmax attention; the inverse of its landmarks' kernel by both solvers. CPU time per token and the fraction of the
// matrix products' measured peak.
#include <benchmark/benchmark.h>
#include <torch/types.h>

#include <cmath>

#include "bench/peak.h"
#include "unbend/attention/gaussian.h"
#include "unbend/attention/soft_attention.h"
#include "unbend/nets/grid_attention.h"

namespace unbend {
namespace {

constexpr int64_t kHeads = 2, kWidth = 32, kLandmarks = 49;

void count(benchmark::State& state, double tokens, double flops) {
  const double done = static_cast<double>(state.iterations());
  state.counters["peak_fraction"] =
      benchmark::Counter(flops * done / matrix_peak(at::kFloat), benchmark::Counter::kIsRate);
  state.counters["us_per_token"] =
      benchmark::Counter(tokens * done / 1e6, benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
  state.SetComplexityN(static_cast<int64_t>(tokens));
}

enum class Method { Soft, SoftNaive, Gaussian, Softmax };

// One layer's heads from queries, landmarks and values.
void heads(benchmark::State& state, Method method, bool backward) {
  const int64_t batch = state.range(0), n = state.range(1);
  const auto make = [&](int64_t count, double spread) {
    return (at::randn({batch, kHeads, count, kWidth}) * spread).requires_grad_(backward);
  };
  const auto q = make(n, .4), l = make(kLandmarks, .4), v = make(n, 1);
  const auto cotangent = at::randn({batch, kHeads, n, kWidth});
  const auto run = [&] {
    switch (method) {
      case Method::Soft: return soft_attention(q, l, v).out;
      case Method::SoftNaive: return at::matmul(soft_matrix_naive(q, l), v);
      case Method::Gaussian: return at::matmul(gaussian_kernel(q, q), v);
      case Method::Softmax: break;
    }
    return at::scaled_dot_product_attention(q, q, v);
  };
  for (auto _ : state) {
    const auto out = run();
    if (backward) benchmark::DoNotOptimize(torch::autograd::grad({out}, {q, v}, {cotangent}));
    benchmark::DoNotOptimize(out);
  }
  const double pairs =
      static_cast<double>(batch * kHeads * n) * static_cast<double>(method == Method::Soft ? kLandmarks : n);
  const double products = method == Method::Soft ? (backward ? 10 : 3) : (backward ? 7 : 2);
  count(state, static_cast<double>(batch * n), products * pairs * 2 * kWidth);
}

void lengths(benchmark::internal::Benchmark* b, int64_t last) {
  b->ArgNames({"batch", "tokens"})->Unit(benchmark::kMillisecond)->MeasureProcessCPUTime();
  for (int64_t side = 14; side <= last; side *= 2) b->Args({1, side * side});
  b->Complexity();
}
void to_50176(benchmark::internal::Benchmark* b) { lengths(b, 224); }
void to_12544(benchmark::internal::Benchmark* b) { lengths(b, 112); }
void to_3136(benchmark::internal::Benchmark* b) { lengths(b, 56); }
void training(benchmark::internal::Benchmark* b) {
  b->ArgNames({"batch", "tokens"})->Unit(benchmark::kMillisecond)->MeasureProcessCPUTime()->Args({64, 196});
}

BENCHMARK_CAPTURE(heads, soft_forward, Method::Soft, false)->Apply(to_50176);
BENCHMARK_CAPTURE(heads, soft_both, Method::Soft, true)->Apply(to_50176);
BENCHMARK_CAPTURE(heads, softmax_forward, Method::Softmax, false)->Apply(to_12544);
BENCHMARK_CAPTURE(heads, softmax_both, Method::Softmax, true)->Apply(to_12544);
BENCHMARK_CAPTURE(heads, gaussian_forward, Method::Gaussian, false)->Apply(to_3136);
BENCHMARK_CAPTURE(heads, soft_naive_forward, Method::SoftNaive, false)->Apply(to_3136);
BENCHMARK_CAPTURE(heads, soft_both_training, Method::Soft, true)->Apply(training);
BENCHMARK_CAPTURE(heads, softmax_both_training, Method::Softmax, true)->Apply(training);

// The inverse alone: one image of two heads, and a batch of 64.
void inverse(benchmark::State& state, InverseSolver solver) {
  const auto a = gaussian_gram(at::randn({state.range(0), state.range(1), kWidth}) * .4);
  InverseOptions options;
  options.solver = solver;
  for (auto _ : state) benchmark::DoNotOptimize(symmetric_inverse(a, options));
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
void matrices(benchmark::internal::Benchmark* b) {
  b->ArgNames({"matrices", "m"})->Unit(benchmark::kMillisecond)->MeasureProcessCPUTime();
  b->Args({2, 49})->Args({128, 49})->Args({2, 196});
}
BENCHMARK_CAPTURE(inverse, newton, InverseSolver::Newton)->Apply(matrices);
BENCHMARK_CAPTURE(inverse, cholesky, InverseSolver::Cholesky)->Apply(matrices);

// The whole layer with its projections, landmarks and filter.
void layer(benchmark::State& state, TokenMixing mixing) {
  const int64_t side = state.range(1);
  GridAttentionConfig config{.width = kHeads * kWidth, .heads = kHeads};
  config.mixing = mixing, config.ratio = side / 7;
  Random random(1);
  auto attention = make_grid_attention(config, random);
  std::vector<Parameter> all;
  collect("", attention, all);
  for (const auto& p : all) p.tensor->requires_grad_();
  const auto x = at::randn({state.range(0), side * side, config.width}).requires_grad_();
  const auto cotangent = at::randn_like(x);
  for (auto _ : state) attention(x, {side, side}).backward(cotangent);
  state.SetItemsProcessed(state.iterations() * state.range(0) * side * side);
}
void sides(benchmark::internal::Benchmark* b) {
  b->ArgNames({"batch", "side"})->Unit(benchmark::kMillisecond)->MeasureProcessCPUTime();
  b->Args({64, 14})->Args({1, 56})->Args({1, 112});
}
BENCHMARK_CAPTURE(layer, soft, TokenMixing::Soft)->Apply(sides);
BENCHMARK_CAPTURE(layer, softmax, TokenMixing::Softmax)->Apply(sides);
BENCHMARK_CAPTURE(layer, linear, TokenMixing::Linear)->Apply(sides);
BENCHMARK_CAPTURE(layer, none, TokenMixing::None)->Apply(sides);

}  // namespace
}  // namespace unbend

BENCHMARK_MAIN();
