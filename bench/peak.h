// The matrix products' own speed, as the yardstick of benchmarks.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <map>

namespace unbend {

/// FLOP per CPU-second of at::mm at a size of SmolLM2-135M's layers, best of 20, measured once per type in this run.
inline double matrix_peak(at::ScalarType type) {
  static std::map<at::ScalarType, double> measured;
  auto& rate = measured[type];
  if (rate > 0) return rate;
  const auto a = at::randn({1024, 576}).to(type), b = at::randn({1536, 576}).to(type);
  for (int i = 0; i < 20; ++i) {
    const std::clock_t start = std::clock();
    for (int j = 0; j < 5; ++j) at::mm(a, b.t());
    const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    rate = std::max(rate, 5 * 2.0 * 1024 * 576 * 1536 / seconds);
  }
  return rate;
}

/// FLOP per second of a large float32 at::mm with the threads of this run, in wall time, best of three: for kernels
/// that run on several threads.
inline double wall_matrix_peak() {
  const at::Tensor a = at::randn({2048, 2048}), b = at::randn({2048, 2048});
  double best = 0;
  for (int i = 0; i < 3; ++i) {
    const auto start = std::chrono::steady_clock::now();
    at::mm(a, b);
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    best = std::max(best, 2.0 * 2048 * 2048 * 2048 / time.count());
  }
  return best;
}

}  // namespace unbend
