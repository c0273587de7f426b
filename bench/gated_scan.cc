// Gated linear attention: the fused kernel against the same chunks in plain ATen operations, the token loop, the matrix
// form and softmax attention. Reports the fraction of the measured matrix peak, and at the end the exponent with which
// time grows with length.
#include <ATen/Parallel.h>
#include <benchmark/benchmark.h>
#include <malloc.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <cstdio>
#include <map>

#include "bench/gated_scan.h"
#include "bench/peak.h"
#include "unbend/attention/gated_scan.h"
#include "unbend/attention/gated_scan_naive.h"

namespace unbend {
namespace {

enum Method { kFused, kPlain, kLoop, kMatrix, kSoftmax };
enum DecayKind { kNone, kScalar, kVector };

double matrix_peak() {
  static const double rate = wall_matrix_peak();
  return rate;
}

void run(benchmark::State& bench, Method method, DecayKind decay, bool backward) {
  const int64_t heads = bench.range(0), kv_heads = bench.range(1), d = bench.range(2), tokens = bench.range(3);
  const auto make = [&](int64_t h, int64_t width) {  // as projections give them: [B, T, H, d] seen as [B, H, T, d]
    return at::randn({1, tokens, h, width}).transpose(1, 2).requires_grad_(backward);
  };
  const at::Tensor q = make(heads, d), k = make(kv_heads, d), v = make(kv_heads, d);
  at::Tensor log_decay;
  if (decay != kNone) {
    log_decay = (at::log_sigmoid(make(kv_heads, decay == kScalar ? 1 : d)) / 16).detach().requires_grad_(backward);
  }
  const at::Tensor state = at::zeros({1, kv_heads, d, d}), cotangent = at::randn({1, heads, tokens, d});
  std::vector<at::Tensor> inputs = {q, k, v};
  if (log_decay.defined() && method != kSoftmax) inputs.push_back(log_decay);

  const auto forward = [&]() -> at::Tensor {
    switch (method) {
      case kFused: return gated_scan(q, k, v, log_decay).out;
      case kPlain: return naive::chunked_scan(q, k, v, log_decay, state, DecayAxis::Key, 64).out;
      case kLoop: return naive::recurrent_scan(q, k, v, log_decay, state, DecayAxis::Key).out;
      case kMatrix: return naive::chunked_scan(q, k, v, log_decay, state, DecayAxis::Key, tokens).out;
      default: return at::scaled_dot_product_attention(q, k, v, {}, 0, /*is_causal=*/true, {}, /*enable_gqa=*/true);
    }
  };
  for (auto _ : bench) {
    at::Tensor out = forward();
    if (backward) out = torch::autograd::grad({out}, inputs, {cotangent})[0];
    benchmark::DoNotOptimize(out);
  }
  const double done = double(bench.iterations());
  bench.counters["us_per_token"] =
      benchmark::Counter(double(tokens) * done / 1e6, benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
  if (method == kFused) {
    const double flops = gated_scan_flops(heads, kv_heads, d, tokens, ScanOptions().chunk, backward);
    bench.counters["peak_fraction"] = benchmark::Counter(flops * done / matrix_peak(), benchmark::Counter::kIsRate);
  }
}

void step(benchmark::State& bench, DecayKind decay) {
  const int64_t heads = 9, kv_heads = 3, d = 64;
  const at::Tensor q = at::randn({1, heads, 1, d}), k = at::randn({1, kv_heads, 1, d}),
                   v = at::randn({1, kv_heads, 1, d});
  const at::Tensor log_decay = -at::rand({1, kv_heads, 1, decay == kScalar ? 1 : d});
  at::Tensor state = at::zeros({1, kv_heads, d, d});
  for (auto _ : bench) state = gated_scan(q, k, v, log_decay, state, {.form = Form::Recurrent}).state;
}

// Remembers the time of every length, to print exponents after the table.
class GrowthReporter : public benchmark::ConsoleReporter {
 public:
  void ReportRuns(const std::vector<Run>& runs) override {
    ConsoleReporter::ReportRuns(runs);
    for (const Run& run : runs) {
      const std::string name = run.benchmark_name();
      const size_t at = name.find("/tokens:");
      if (run.error_occurred || at == std::string::npos) continue;
      points_[name.substr(0, at)].emplace_back(std::log(std::stod(name.substr(at + 8))),
                                               std::log(run.GetAdjustedRealTime()));
    }
  }
  void Finalize() override {
    std::printf("\nmatrix peak %.1f GFLOP/s on %d threads\ntime ~ length^x:\n", matrix_peak() / 1e9,
                at::get_num_threads());
    for (const auto& [name, points] : points_) {
      double x = 0, y = 0, xx = 0, xy = 0;
      const double n = double(points.size());
      for (const auto& [a, b] : points) x += a / n, y += b / n;
      for (const auto& [a, b] : points) xx += (a - x) * (a - x), xy += (a - x) * (b - y);
      if (points.size() > 1) std::printf("  %-64s x = %.3f\n", name.c_str(), xy / xx);
    }
  }

 private:
  std::map<std::string, std::vector<std::pair<double, double>>> points_;
};

template <int kLongest>
void shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"H", "Hkv", "d", "tokens"})->Unit(benchmark::kMillisecond)->UseRealTime();
  for (const auto& [heads, kv_heads] : {std::pair<int64_t, int64_t>(9, 3), {8, 8}}) {
    for (int64_t tokens = 1024; tokens <= kLongest; tokens *= 2) b->Args({heads, kv_heads, 64, tokens});
  }
}

BENCHMARK_CAPTURE(run, fused_none_forward, kFused, kNone, false)->Apply(shapes<16384>);
BENCHMARK_CAPTURE(run, fused_scalar_forward, kFused, kScalar, false)->Apply(shapes<16384>);
BENCHMARK_CAPTURE(run, fused_vector_forward, kFused, kVector, false)->Apply(shapes<16384>);
BENCHMARK_CAPTURE(run, fused_none_both, kFused, kNone, true)->Apply(shapes<16384>);
BENCHMARK_CAPTURE(run, fused_scalar_both, kFused, kScalar, true)->Apply(shapes<16384>);
BENCHMARK_CAPTURE(run, fused_vector_both, kFused, kVector, true)->Apply(shapes<16384>);
BENCHMARK_CAPTURE(run, plain_scalar_forward, kPlain, kScalar, false)->Apply(shapes<4096>);
BENCHMARK_CAPTURE(run, plain_scalar_both, kPlain, kScalar, true)->Apply(shapes<4096>);
BENCHMARK_CAPTURE(run, plain_vector_both, kPlain, kVector, true)->Apply(shapes<2048>);
BENCHMARK_CAPTURE(run, loop_scalar_forward, kLoop, kScalar, false)->Apply(shapes<2048>);
BENCHMARK_CAPTURE(run, loop_scalar_both, kLoop, kScalar, true)->Apply(shapes<2048>);
BENCHMARK_CAPTURE(run, matrix_scalar_forward, kMatrix, kScalar, false)->Apply(shapes<2048>);
BENCHMARK_CAPTURE(run, matrix_scalar_both, kMatrix, kScalar, true)->Apply(shapes<2048>);
BENCHMARK_CAPTURE(run, softmax_forward, kSoftmax, kNone, false)->Apply(shapes<16384>);
BENCHMARK_CAPTURE(run, softmax_both, kSoftmax, kNone, true)->Apply(shapes<4096>);
BENCHMARK_CAPTURE(step, scalar, kScalar)->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(step, vector, kVector)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace unbend

int main(int argc, char** argv) {
  // Keep freed memory: otherwise every result above 32 MB is paged in anew, which costs as much as the scan itself.
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  unbend::GrowthReporter reporter;
  benchmark::RunSpecifiedBenchmarks(&reporter);
}
