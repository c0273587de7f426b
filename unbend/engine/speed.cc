#include "unbend/engine/speed.h"

#include <algorithm>
#include <chrono>
#include <fstream>
#include <string>

#include "unbend/base/error.h"
#include "unbend/engine/engine.h"

namespace unbend::engine {
namespace {

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

void reset_peak_resident() {
  std::ofstream refs("/proc/self/clear_refs");
  refs << "5";
}

std::int64_t peak_resident() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmHWM:")) return std::stoll(line.substr(6)) * 1024;
  return 0;
}

std::vector<SpeedPoint> decode_speed(Engine& engine, const std::vector<std::int64_t>& contexts, std::int64_t tokens,
                                     bool prefill, const std::function<void()>& progress) {
  require(tokens > 0, "speed: {} tokens to decode", tokens);
  constexpr std::int64_t kPrefill = 512;
  std::vector<SpeedPoint> points;
  for (const auto context : contexts) {
    require(context > 0, "speed: context {} is not a length", context);
    reset_peak_resident();
    const int sequence = engine.begin();
    const std::vector<TokenId> some(static_cast<std::size_t>(std::min<std::int64_t>(context, kPrefill)), 1);
    engine.run(sequence, some);
    engine.pretend(sequence, context);
    SpeedPoint point{context};
    std::vector<double> seconds;
    const TokenId id = 1;
    for (std::int64_t i = -2; i < tokens; ++i) {  // the first ones warm up
      const double took = seconds_of([&] { engine.run(sequence, {&id, 1}); });
      if (i >= 0) seconds.push_back(took);
    }
    std::nth_element(seconds.begin(), seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2), seconds.end());
    point.tokens_per_second = 1 / seconds[seconds.size() / 2];
    point.state_bytes = engine.state_bytes(sequence);
    if (prefill) {
      const std::vector<TokenId> ids(kPrefill, 1);
      engine.pretend(sequence, context);
      engine.run(sequence, ids);
      double best = 1e300;
      for (int i = 0; i < 2; ++i) {
        engine.pretend(sequence, context);
        best = std::min(best, seconds_of([&] { engine.run(sequence, ids); }));
      }
      point.prefill_per_second = kPrefill / best;
    }
    point.peak_resident_bytes = peak_resident();
    engine.end(sequence);
    points.push_back(point);
    if (progress) progress();
  }
  return points;
}

}  // namespace unbend::engine
