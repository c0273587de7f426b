// Decoding one token at a time after contexts of 256 to 32K tokens: a decoder of SmolLM2-135M's sizes with softmax
// attention, with a window, and with the recipes' students, all on random weights (speed does not depend on them).
#include <benchmark/benchmark.h>
#include <torch/types.h>

#include <string>

#include "unbend/lm/recipe.h"

namespace unbend {
namespace {

const lm::Decoder& teacher() {
  static const lm::Decoder decoder = [] {
    lm::DecoderConfig config;
    config.layers = 30, config.hidden = 576, config.heads = 9, config.kv_heads = 3, config.head_dim = 64;
    config.ffn = 1536, config.vocab = 49152, config.context = 65536, config.tied = true;
    Random random(1);
    return lm::random_decoder(config, .02, .5, random);
  }();
  return decoder;
}

void decode(benchmark::State& bench, const std::string& recipe) {
  const at::NoGradGuard no_grad;
  auto decoder = teacher();
  if (!recipe.empty()) {
    const auto& found = lm::find_recipe(recipe);
    Json options{{"lora_rank", 0}};
    if (recipe != "supra") options["window"] = 256;
    decoder = lm::convert(decoder, found, lm::recipe_options(found, options), 1).decoder;
  }
  auto state = decoder.start();
  state.pretend(bench.range(0));
  const auto id = at::zeros({1, 1}, at::kLong);
  for (auto _ : bench)
    benchmark::DoNotOptimize(decoder.logits(decoder.extend(id, state)).argmax().item<std::int64_t>());
  bench.counters["tokens_per_s"] =
      benchmark::Counter(static_cast<double>(bench.iterations()), benchmark::Counter::kIsRate);
  bench.counters["state_MB"] = static_cast<double>(state.bytes()) / 1e6;
}

void contexts(benchmark::internal::Benchmark* b) {
  b->ArgName("context")->Unit(benchmark::kMillisecond)->UseRealTime();
  for (const std::int64_t context : {256, 1024, 4096, 16384, 32768}) b->Arg(context);
}

BENCHMARK_CAPTURE(decode, softmax, "")->Apply(contexts);
BENCHMARK_CAPTURE(decode, window, "window")->Apply(contexts);
BENCHMARK_CAPTURE(decode, liger, "liger")->Apply(contexts);
BENCHMARK_CAPTURE(decode, hybrid, "hybrid")->Apply(contexts);
BENCHMARK_CAPTURE(decode, supra, "supra")->Apply(contexts);

}  // namespace
}  // namespace unbend

BENCHMARK_MAIN();
