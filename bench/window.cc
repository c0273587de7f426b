// Window attention, forward and forward + backward: time per token and the fraction of the matrix products' measured
// peak.
#include <ATen/Parallel.h>
#include <benchmark/benchmark.h>

#include <cmath>

#include "bench/peak.h"
#include "unbend/attention/window.h"

namespace unbend {
namespace {

// The shape of SmolLM2-135M's heads: 9 query heads on 3 kv heads of width 64.
void run(benchmark::State& state, at::ScalarType dtype, bool backward) {
  const int64_t batch = state.range(0), tokens = state.range(1), window = state.range(2), sinks = state.range(3);
  const int64_t heads = 9, kv_heads = 3, d = 64;
  const auto make = [&](int64_t h) { return at::randn({batch, h, tokens, d}).to(dtype).requires_grad_(backward); };
  const auto q = make(heads), k = make(kv_heads), v = make(kv_heads);
  const auto cotangent = at::randn({batch, heads, tokens, d});
  for (auto _ : state) {
    const auto partial = window_attention(q, k, v, {.window = window, .sinks = sinks, .scale = 0.125});
    if (backward) {
      benchmark::DoNotOptimize(torch::autograd::grad({partial.out}, {q, k, v}, {cotangent}));
    } else {
      benchmark::DoNotOptimize(partial);
    }
  }
  // Two products of the forward, five of the backward, over the visible keys only.
  double visible = 0;
  for (int64_t t = 0; t < tokens; ++t)
    visible += std::min({t + 1, window + std::min(sinks, std::max<int64_t>(0, t - window + 1))});
  const double flops = visible * batch * heads * 2 * d * (backward ? 7 : 2);
  const double done = static_cast<double>(state.iterations());
  state.counters["peak_fraction"] = benchmark::Counter(flops * done / matrix_peak(dtype), benchmark::Counter::kIsRate);
  state.counters["us_per_token"] = benchmark::Counter(static_cast<double>(batch * tokens) * done / 1e6,
                                                      benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

void shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"batch", "tokens", "window", "sinks"})->Unit(benchmark::kMillisecond)->MeasureProcessCPUTime();
  for (const int64_t window : {64, 256, 2048}) b->Args({2, 512, window, 4});
  for (const int64_t tokens : {1024, 2048}) b->Args({1, tokens, 256, 4});
  b->Args({1, 2048, 2048, 0});
}

BENCHMARK_CAPTURE(run, forward_float32, at::kFloat, false)->Apply(shapes);
BENCHMARK_CAPTURE(run, forward_bfloat16, at::kBFloat16, false)->Apply(shapes);
BENCHMARK_CAPTURE(run, both_float32, at::kFloat, true)->Apply(shapes);
BENCHMARK_CAPTURE(run, both_bfloat16, at::kBFloat16, true)->Apply(shapes);

}  // namespace
}  // namespace unbend

BENCHMARK_MAIN();
