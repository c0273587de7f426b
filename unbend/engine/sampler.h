// Choosing the next token from logits, by libllama's samplers.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "unbend/engine/tokenizer.h"

namespace unbend::engine {

struct SamplerOptions {
  double temperature = 0.8;   ///< 0 = greedy
  int top_k = 40;             ///< 0 = off
  double top_p = 0.95;        ///< 1 = off
  double repeat_penalty = 1;  ///< 1 = off; over the last 64 tokens
  std::uint32_t seed = 0;
};

/// A chain of samplers with its own random state. Usage error for options out of range.
class Sampler {
 public:
  explicit Sampler(const SamplerOptions& options);
  /// Next token for `logits` [vocab]; remembers it.
  TokenId next(std::span<const float> logits);

 private:
  struct Free {
    void operator()(void* chain) const;
  };
  std::unique_ptr<void, Free> chain_;
};

}  // namespace unbend::engine
