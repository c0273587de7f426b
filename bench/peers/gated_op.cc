// The gated linear recurrence of one layer: ggml's own operator (ggml_gated_linear_attn) beside ours, one thread each,
// for one token (decoding) and for 512 (reading a prompt), in SmolLM2-135M's shape. ggml's has no groups: it keeps one
// state per query head, so ours runs with as many states (equal work; results are compared first) and, as our recipes
// do, with one per key-value head.
#include <benchmark/benchmark.h>
#include <ggml-cpp.h>
#include <ggml-cpu.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "unbend/base/random.h"
#include "unbend/engine/mixer.h"

namespace unbend::engine {
namespace {

constexpr std::int64_t kHeads = 9, kWidth = 64;

std::vector<float> uniform(std::int64_t count, double low, double high, std::uint64_t seed) {
  Random random(seed);
  std::vector<float> out(static_cast<std::size_t>(count));
  for (auto& x : out) x = static_cast<float>(low + (high - low) * random.uniform());
  return out;
}

/// [tokens][heads or groups][d] each; one key and decay per group.
struct Inputs {
  std::vector<float> q, k, v, decay;
  Inputs(std::int64_t tokens, std::int64_t groups)
      : q(uniform(tokens * kHeads * kWidth, 0, .03, 1)),
        k(uniform(tokens * groups * kWidth, 0, .03, 2)),
        v(uniform(tokens * groups * kWidth, -1, 1, 3)),
        decay(uniform(tokens * groups * kWidth, .9, 1, 4)) {}
};

class Ours {
 public:
  Ours(const Inputs& in, std::int64_t tokens, std::int64_t groups) {
    DecoderConfig config;
    config.heads = kHeads, config.kv_heads = groups, config.head_dim = kWidth;
    MixerSettings settings;
    settings.kind = MixerKind::Liger, settings.window = 1, settings.groups = groups;
    layout_ = MixerLayout(config, settings, CacheType::F16);
    memory_.resize(static_cast<std::size_t>(layout_.bytes));
    slices_ = {{0, tokens, 1, memory_.data()}};
    place_ = MixerScratch(layout_, slices_);
    scratch_.resize(static_cast<std::size_t>(place_.floats));
    read.resize(static_cast<std::size_t>(tokens * kHeads * (kWidth + 1)));
    std::ranges::copy(in.q, scratch_.begin() + place_.query_features);
    std::ranges::copy(in.k, scratch_.begin() + place_.key_features);
    std::ranges::copy(in.v, scratch_.begin() + place_.values);
    std::ranges::copy(in.decay, scratch_.begin() + place_.decay);
  }
  void run() { mixer_scan(layout_, slices_, 0, place_, scratch_.data(), read.data(), 0, 1); }

  std::vector<float> read;  // [tokens][H][d]

 private:
  MixerLayout layout_;
  std::vector<std::byte> memory_;
  std::vector<Slice> slices_;
  MixerScratch place_;
  std::vector<float> scratch_;
};

class Ggml {
 public:
  Ggml(const Inputs& in, std::int64_t tokens) {
    const std::size_t size = static_cast<std::size_t>(tokens * kHeads * kWidth) * 24 + 4 * kHeads * kWidth * kWidth * 4;
    context_.reset(ggml_init({size + ggml_graph_overhead() + 16 * ggml_tensor_overhead(), nullptr, false}));
    auto* c = context_.get();
    const auto tensor = [&](const std::vector<float>& values) {
      auto* t = ggml_new_tensor_3d(c, GGML_TYPE_F32, kWidth, kHeads, tokens);
      std::memcpy(t->data, values.data(), ggml_nbytes(t));
      return t;
    };
    auto* state = ggml_new_tensor_2d(c, GGML_TYPE_F32, kWidth * kWidth * kHeads, 1);
    std::memset(state->data, 0, ggml_nbytes(state));
    out_ = ggml_gated_linear_attn(c, tensor(in.k), tensor(in.v), tensor(in.q), tensor(in.decay), state, 1);
    graph_ = ggml_new_graph(c);
    ggml_build_forward_expand(graph_, out_);
    plan_ = ggml_graph_plan(graph_, 1, nullptr);
    work_.resize(plan_.work_size);
    plan_.work_data = work_.data();
  }
  void run() { ggml_graph_compute(graph_, &plan_); }
  const float* read() const { return static_cast<const float*>(out_->data); }

 private:
  ggml_context_ptr context_;
  ggml_tensor* out_ = nullptr;
  ggml_cgraph* graph_ = nullptr;
  ggml_cplan plan_{};
  std::vector<std::uint8_t> work_;
};

void rate(benchmark::State& bench) {
  bench.counters["tokens_per_s"] =
      benchmark::Counter(static_cast<double>(bench.iterations() * bench.range(0)), benchmark::Counter::kIsRate);
}

void ggml(benchmark::State& bench) {
  const auto tokens = bench.range(0);
  const Inputs in(tokens, kHeads);
  Ggml theirs(in, tokens);
  for (auto _ : bench) theirs.run();
  rate(bench);
}

void ours(benchmark::State& bench, std::int64_t groups) {
  const auto tokens = bench.range(0);
  const Inputs in(tokens, groups);
  Ours mine(in, tokens, groups);
  if (groups == kHeads) {
    Ggml theirs(in, tokens);
    theirs.run();
    mine.run();
    double worst = 0, largest = 0;
    for (std::size_t i = 0; i < in.q.size(); ++i) {
      worst = std::max(worst, std::abs(static_cast<double>(mine.read[i]) - theirs.read()[i]));
      largest = std::max(largest, std::abs(static_cast<double>(theirs.read()[i])));
    }
    if (!(largest > 0 && worst < 1e-5 * largest)) {
      bench.SkipWithError("not the numbers of ggml's operator");
      return;
    }
  }
  for (auto _ : bench) mine.run();
  rate(bench);
}

BENCHMARK(ggml)->ArgName("tokens")->Arg(1)->Arg(512)->UseRealTime();
BENCHMARK_CAPTURE(ours, state_per_query_head, kHeads)->ArgName("tokens")->Arg(1)->Arg(512)->UseRealTime();
BENCHMARK_CAPTURE(ours, state_per_kv_head, kHeads / 3)->ArgName("tokens")->Arg(1)->Arg(512)->UseRealTime();

}  // namespace
}  // namespace unbend::engine

BENCHMARK_MAIN();
