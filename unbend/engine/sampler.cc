#include "unbend/engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "llama.h"
#include "unbend/base/error.h"
#include "unbend/engine/llama.h"

namespace unbend::engine {

void Sampler::Free::operator()(void* chain) const { llama_sampler_free(static_cast<llama_sampler*>(chain)); }

Sampler::Sampler(const SamplerOptions& o, const Tokenizer* tokenizer) {
  if (tokenizer) named_ = static_cast<std::size_t>(tokenizer->size());
  if (!(o.temperature >= 0) || !std::isfinite(o.temperature))
    fail_usage("temperature must be 0 or more, not {}", o.temperature);
  if (!(o.top_p > 0 && o.top_p <= 1)) fail_usage("top-p must be in (0, 1], not {}", o.top_p);
  if (o.top_k < 0) fail_usage("top-k must be 0 (off) or more, not {}", o.top_k);
  if (!(o.repeat_penalty > 0) || !std::isfinite(o.repeat_penalty))
    fail_usage("repeat penalty must be above 0, not {}", o.repeat_penalty);
  if (!o.grammar.empty()) {
    require(tokenizer != nullptr, "a grammar needs the model's tokenizer");
    const LlamaLog log;
    grammar_.reset(llama_sampler_init_grammar(tokenizer->vocabulary(), o.grammar.c_str(), "root"));
    require(grammar_ != nullptr, "the grammar cannot be parsed: {}", log.last_error());
  }
  auto* chain = llama_sampler_chain_init(llama_sampler_chain_default_params());
  chain_.reset(chain);
  if (o.repeat_penalty != 1)
    llama_sampler_chain_add(chain, llama_sampler_init_penalties(64, 0, static_cast<float>(o.repeat_penalty), 0, 0));
  if (o.temperature == 0) {
    llama_sampler_chain_add(chain, llama_sampler_init_greedy());
    return;
  }
  if (o.top_k > 0) llama_sampler_chain_add(chain, llama_sampler_init_top_k(o.top_k));
  if (o.top_p < 1) llama_sampler_chain_add(chain, llama_sampler_init_top_p(static_cast<float>(o.top_p), 1));
  llama_sampler_chain_add(chain, llama_sampler_init_temp(static_cast<float>(o.temperature)));
  llama_sampler_chain_add(chain, llama_sampler_init_dist(o.seed));
}

TokenId Sampler::pick(std::span<const float> logits, bool constrained) {
  // A model may have room for more tokens than its vocabulary names.
  std::vector<llama_token_data> candidates(std::min(logits.size(), named_));
  for (std::size_t i = 0; i < candidates.size(); ++i) candidates[i] = {static_cast<llama_token>(i), logits[i], 0};
  llama_token_data_array array{candidates.data(), candidates.size(), -1, false};
  if (constrained) {
    llama_sampler_apply(static_cast<llama_sampler*>(grammar_.get()), &array);
    if (std::ranges::none_of(candidates, [](const auto& c) { return std::isfinite(c.logit); }))
      fail_computation("the grammar cannot go on: none of the model's tokens continues it");
  }
  llama_sampler_apply(static_cast<llama_sampler*>(chain_.get()), &array);
  return array.data[array.selected].id;
}

bool Sampler::allowed(TokenId token) const {
  llama_token_data one{token, 0, 0};
  llama_token_data_array array{&one, 1, -1, false};
  llama_sampler_apply(static_cast<llama_sampler*>(grammar_.get()), &array);
  return one.logit == 0;
}

TokenId Sampler::next(std::span<const float> logits) {
  TokenId token = pick(logits, false);
  // The grammar looks at the whole vocabulary only where the free choice breaks it.
  if (grammar_ && !allowed(token)) token = pick(logits, true);
  llama_sampler_accept(static_cast<llama_sampler*>(chain_.get()), token);
  if (grammar_) llama_sampler_accept(static_cast<llama_sampler*>(grammar_.get()), token);
  return token;
}

}  // namespace unbend::engine
