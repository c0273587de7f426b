// Choosing the next token from logits, by libllama's samplers.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <string>

#include "unbend/engine/tokenizer.h"

namespace unbend::engine {

struct SamplerOptions {
  double temperature = 0.8;   ///< 0 = greedy
  int top_k = 40;             ///< 0 = off
  double top_p = 0.95;        ///< 1 = off
  double repeat_penalty = 1;  ///< 1 = off; over the last 64 tokens
  std::uint32_t seed = 0;
  std::string grammar;  ///< GBNF with the rule `root`: only texts of it are generated; empty = any text
};

/// A chain of samplers with its own random state. Usage error for options out of range.
class Sampler {
 public:
  /// `tokenizer`: of the model, needed for a grammar; without, all logits are tokens. Input error for a grammar that
  /// cannot be parsed.
  explicit Sampler(const SamplerOptions& options, const Tokenizer* tokenizer = nullptr);
  /// Next token for `logits` [vocab], one that the tokenizer has; remembers it. Computation error where the grammar
  /// allows none.
  TokenId next(std::span<const float> logits);

 private:
  struct Free {
    void operator()(void* chain) const;
  };
  TokenId pick(std::span<const float> logits, bool constrained);
  bool allowed(TokenId token) const;

  std::unique_ptr<void, Free> chain_, grammar_;
  std::size_t named_ = std::numeric_limits<std::size_t>::max();  // tokens of the vocabulary
};

}  // namespace unbend::engine
