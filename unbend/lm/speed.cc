#include "unbend/lm/speed.h"

#include <torch/types.h>

#include <algorithm>
#include <chrono>
#include <set>

#include "unbend/base/error.h"

namespace unbend::lm {
std::vector<SpeedPoint> decode_speed(const Decoder& decoder, const std::vector<std::int64_t>& contexts,
                                     std::int64_t tokens, const std::function<void()>& progress) {
  const at::NoGradGuard no_grad;
  require(tokens > 0, "speed: {} tokens to decode", tokens);
  std::vector<SpeedPoint> points;
  for (const auto context : contexts) {
    require(context > 0, "speed: context {} is not a length", context);
    engine::reset_peak_resident();
    auto state = decoder.start();
    state.pretend(context);
    const auto id = at::zeros({1, 1}, at::kLong);
    std::vector<double> seconds;
    for (std::int64_t i = -1; i < tokens; ++i) {  // the first one warms up
      const auto start = std::chrono::steady_clock::now();
      decoder.logits(decoder.extend(id, state)).argmax().item<std::int64_t>();
      if (i >= 0) seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    std::nth_element(seconds.begin(), seconds.begin() + seconds.size() / 2, seconds.end());
    points.push_back({context, 1 / seconds[seconds.size() / 2], 0, state.bytes(), engine::peak_resident()});
    if (progress) progress();
  }
  return points;
}

std::int64_t weight_bytes(const Decoder& decoder) {
  auto copy = decoder;
  std::set<const void*> seen;
  std::int64_t total = 0;
  auto all = weights(copy), extra = adapter(copy);
  all.insert(all.end(), extra.begin(), extra.end());
  for (const auto& p : all)
    if (seen.insert(p.tensor->const_data_ptr()).second) total += static_cast<std::int64_t>(p.tensor->nbytes());
  return total;
}

}  // namespace unbend::lm
