// The parts of a decoder between its matrix products, at SmolLM2-135M's sizes (M 576, 9 + 2 x 3 heads of 64, F 1536,
// vocabulary 49152): tokens per CPU-second, forward and backward, and for the head the fraction of the products' peak.
#include <ATen/Parallel.h>
#include <benchmark/benchmark.h>

#include "bench/peak.h"
#include "unbend/nets/fused.h"
#include "unbend/nets/head.h"

namespace unbend {
namespace {

constexpr int64_t kTokens = 1024, kWidth = 576, kInner = 1536, kVocabulary = 49152;

void count(benchmark::State& state, double flops = 0) {
  const double done = static_cast<double>(state.iterations());
  state.counters["tokens_per_s"] = benchmark::Counter(kTokens * done, benchmark::Counter::kIsRate);
  if (flops == 0) return;
  state.counters["peak_fraction"] =
      benchmark::Counter(flops * done / matrix_peak(at::kBFloat16), benchmark::Counter::kIsRate);
}

void norm(benchmark::State& state) {
  const auto x = at::randn({kTokens, kWidth}).requires_grad_(), w = at::ones({kWidth});
  const auto dy = at::randn({kTokens, kWidth}).to(at::kBFloat16);
  for (auto _ : state) torch::autograd::grad({rms_norm(x, w, 1e-5, at::kBFloat16)}, {x}, {dy});
  count(state);
}

void gate(benchmark::State& state) {
  const auto x = at::randn({kTokens, 2 * kInner}).to(at::kBFloat16).requires_grad_();
  const auto dy = at::randn({kTokens, kInner}).to(at::kBFloat16);
  for (auto _ : state) torch::autograd::grad({swiglu(x)}, {x}, {dy});
  count(state);
}

void heads(benchmark::State& state) {
  const auto x = at::randn({2, kTokens / 2, 15 * 64}).to(at::kBFloat16).requires_grad_();
  const auto tables = rotary_tables(at::arange(kTokens / 2), at::pow(1e4, -at::arange(32) / 32.0), RotaryPairs::Halves);
  const std::vector<HeadRange> ranges{{0, 9, true}, {9, 3, true}, {12, 3}};
  std::vector<at::Tensor> dy;
  for (const auto& r : ranges) dy.push_back(at::randn({2, r.count, kTokens / 2, 64}).to(at::kBFloat16));
  for (auto _ : state) torch::autograd::grad(split_heads(x, 64, ranges, tables, at::kBFloat16), {x}, dy);
  count(state);
}

struct Head {
  at::Tensor hidden = at::randn({kTokens, kWidth});
  FrozenHead head = freeze_head((at::randn({kVocabulary, kWidth}) * 0.05).to(at::kBFloat16));
  at::Tensor next = at::randint(kVocabulary, {kTokens}, at::TensorOptions(at::kLong));
  double products(double times) const { return times * 2.0 * kTokens * kWidth * kVocabulary; }
};

void loss(benchmark::State& state) {
  Head h;
  const auto scores = next_token_scores(h.hidden, h.head, h.next, 64);
  const TokenTargets targets{h.next, scores.top_ids, scores.top_log_probs};
  const auto hidden = (h.hidden + 0.1 * at::randn_like(h.hidden)).requires_grad_();
  for (auto _ : state) torch::autograd::grad({distillation_loss(hidden, h.head, targets, 0.9, 0.1).loss}, {hidden});
  count(state, h.products(2));
}

void scores(benchmark::State& state) {
  Head h;
  for (auto _ : state) benchmark::DoNotOptimize(next_token_scores(h.hidden, h.head, h.next, state.range(0)));
  count(state, h.products(1));
}

void divergence(benchmark::State& state) {
  Head h;
  const auto other = h.hidden + 0.1 * at::randn_like(h.hidden);
  for (auto _ : state) benchmark::DoNotOptimize(compare_scores({h.hidden, other}, {h.head, h.head}, h.next));
  count(state, h.products(2));
}

BENCHMARK(norm)->MeasureProcessCPUTime()->Unit(benchmark::kMillisecond);
BENCHMARK(gate)->MeasureProcessCPUTime()->Unit(benchmark::kMillisecond);
BENCHMARK(heads)->MeasureProcessCPUTime()->Unit(benchmark::kMillisecond);
BENCHMARK(loss)->MeasureProcessCPUTime()->Unit(benchmark::kMillisecond);
BENCHMARK(scores)->ArgName("top")->Arg(0)->Arg(64)->MeasureProcessCPUTime()->Unit(benchmark::kMillisecond);
BENCHMARK(divergence)->MeasureProcessCPUTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace unbend

BENCHMARK_MAIN();
