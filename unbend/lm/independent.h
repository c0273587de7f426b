// Evaluating texts that need nothing of each other.
#pragma once

#include <ATen/Parallel.h>
#include <torch/types.h>

#include <cstdint>
#include <functional>

namespace unbend::lm {

/// Calls `work(i)` for i < count without gradients: on a CPU side by side, each call on one thread from end to end
/// (threads that share one text lose a third of their time to waiting for each other); elsewhere one after the other.
inline void for_each_independent(std::int64_t count, at::Device device, const std::function<void(std::int64_t)>& work) {
  const auto some = [&](std::int64_t first, std::int64_t last) {
    const at::NoGradGuard no_grad;  // holds for one thread only
    for (std::int64_t i = first; i < last; ++i) work(i);
  };
  if (device.is_cpu())
    at::parallel_for(0, count, 1, some);
  else
    some(0, count);
}

}  // namespace unbend::lm
