// Text from a model, token by token.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "unbend/engine/sampler.h"
#include "unbend/engine/tokenizer.h"

namespace unbend::engine {

class Engine;

struct GenerateOptions {
  std::int64_t max_tokens = 256;
  SamplerOptions sampler;
  std::vector<std::string> stop;  ///< texts that end the generation; they are not part of the result
  bool ignore_end = false;        ///< go on after an end-of-text token
};

struct Generation {
  std::string text;
  std::vector<TokenId> ids;
  std::string reason;  ///< "end" (the model ended), "stop" (a stop text), "length", "interrupted"
  std::int64_t prompt_tokens = 0;
  std::int64_t decode_steps = 0;  ///< calls of the model after the prompt's, which gives the first token
  double prefill_seconds = 0;
  double decode_seconds = 0;     ///< of those steps, with the choice of tokens
  std::int64_t state_bytes = 0;  ///< memory of the mixers at the end
};

/// Holds back text that may turn out to be the start of a stop text, or that ends within a UTF-8 character.
class StopFilter {
 public:
  explicit StopFilter(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  /// Adds text; returns what is certain to be kept. Sets stopped() when a stop text is complete.
  std::string add(std::string_view piece);
  std::string flush() { return std::exchange(pending_, {}); }
  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string pending_;
  bool stopped_ = false;
};

/// Adds tokens to what a model has seen; returns the logits [vocab] after the last one, valid until the next call.
using NextLogits = std::function<std::span<const float>(std::span<const TokenId> tokens)>;

/// Continues `prompt`. `stream` gets text as soon as it is certain (whole UTF-8 characters, never part of a stop text).
Generation generate(const NextLogits& model, const Tokenizer& tokenizer, const std::vector<TokenId>& prompt,
                    const GenerateOptions& options, const std::function<void(std::string_view)>& stream = {});

/// The same in a new sequence of the engine, which ends afterwards.
Generation generate(Engine& engine, const Tokenizer& tokenizer, const std::vector<TokenId>& prompt,
                    const GenerateOptions& options, const std::function<void(std::string_view)>& stream = {});

}  // namespace unbend::engine
