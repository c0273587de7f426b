#include "unbend/engine/sampler.h"

#include <cmath>
#include <vector>

#include "llama.h"
#include "unbend/base/error.h"

namespace unbend::engine {

void Sampler::Free::operator()(void* chain) const { llama_sampler_free(static_cast<llama_sampler*>(chain)); }

Sampler::Sampler(const SamplerOptions& o) {
  if (!(o.temperature >= 0) || !std::isfinite(o.temperature))
    fail_usage("temperature must be 0 or more, not {}", o.temperature);
  if (!(o.top_p > 0 && o.top_p <= 1)) fail_usage("top-p must be in (0, 1], not {}", o.top_p);
  if (o.top_k < 0) fail_usage("top-k must be 0 (off) or more, not {}", o.top_k);
  if (!(o.repeat_penalty > 0) || !std::isfinite(o.repeat_penalty))
    fail_usage("repeat penalty must be above 0, not {}", o.repeat_penalty);
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

TokenId Sampler::next(std::span<const float> logits) {
  std::vector<llama_token_data> candidates(logits.size());
  for (std::size_t i = 0; i < logits.size(); ++i) candidates[i] = {static_cast<llama_token>(i), logits[i], 0};
  llama_token_data_array array{candidates.data(), candidates.size(), -1, false};
  auto* chain = static_cast<llama_sampler*>(chain_.get());
  llama_sampler_apply(chain, &array);
  const TokenId token = array.data[array.selected].id;
  llama_sampler_accept(chain, token);
  return token;
}

}  // namespace unbend::engine
