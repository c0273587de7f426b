#include "unbend/lm/generate.h"

#include <algorithm>

#include "unbend/base/error.h"
#include "unbend/base/interrupt.h"

namespace unbend::lm {

at::Tensor prefill(const Decoder& decoder, DecoderState& state, const std::vector<engine::TokenId>& ids,
                   std::int64_t chunk) {
  require(!ids.empty(), "generate: the prompt has no tokens");
  const auto all = at::tensor(std::vector<std::int64_t>(ids.begin(), ids.end()), at::kLong).unsqueeze(0);
  at::Tensor hidden;
  for (std::int64_t at = 0; at < all.size(1); at += chunk)
    hidden = decoder.extend(all.slice(1, at, std::min(at + chunk, all.size(1))), state);
  return hidden.slice(1, hidden.size(1) - 1);
}

Generation generate(const Decoder& decoder, const engine::Tokenizer& tokenizer,
                    const std::vector<engine::TokenId>& prompt, const GenerateOptions& options,
                    const std::function<void(std::string_view)>& stream) {
  const at::NoGradGuard no_grad;
  auto state = decoder.start();
  at::Tensor logits;
  const auto next = [&](std::span<const engine::TokenId> tokens) -> std::span<const float> {
    const auto hidden = prefill(decoder, state, {tokens.begin(), tokens.end()}, 512);
    logits = decoder.logits(hidden).to(at::kCPU, at::kFloat).contiguous();
    return {logits.const_data_ptr<float>(), static_cast<std::size_t>(logits.numel())};
  };
  auto result = engine::generate(next, tokenizer, prompt, options, stream);
  result.state_bytes = state.bytes();
  return result;
}

std::vector<std::string> sample_texts(const Decoder& decoder, const engine::Tokenizer& tokenizer, std::int64_t count,
                                      std::int64_t length, std::int64_t batch, const engine::SamplerOptions& options,
                                      const std::function<void(std::int64_t)>& done) {
  const at::NoGradGuard no_grad;
  require(count > 0 && length > 0 && batch > 0, "sample: {} texts of {} tokens, {} at a time", count, length, batch);
  require(tokenizer.bos() >= 0, "sample: the tokenizer has no beginning-of-text token to start from");
  std::vector<std::string> texts;
  std::int64_t tokens = 0;
  for (std::int64_t first = 0; first < count && !interrupted(); first += batch) {
    const std::int64_t rows = std::min(batch, count - first);
    std::vector<engine::Sampler> samplers;
    for (std::int64_t r = 0; r < rows; ++r) {
      auto own = options;
      own.seed =
          static_cast<std::uint32_t>(Random(options.seed + static_cast<std::uint64_t>(first + r) * 0x9E3779B9).bits());
      samplers.emplace_back(own, &tokenizer);
    }
    std::vector<std::vector<engine::TokenId>> ids(rows);
    std::vector<bool> ended(rows, false);
    auto state = decoder.start(rows);
    auto next = at::full({rows, 1}, tokenizer.bos(), at::kLong);
    for (std::int64_t t = 0;
         t < length && std::find(ended.begin(), ended.end(), false) != ended.end() && !interrupted(); ++t) {
      const auto logits = decoder.logits(decoder.extend(next, state)).to(at::kCPU, at::kFloat).contiguous();
      const auto vocab = static_cast<std::size_t>(logits.size(-1));
      for (std::int64_t r = 0; r < rows; ++r) {
        if (ended[r]) continue;
        const auto token =
            samplers[r].next({logits.const_data_ptr<float>() + static_cast<std::size_t>(r) * vocab, vocab});
        ended[r] = tokenizer.is_end(token);
        if (ended[r]) continue;
        ids[r].push_back(token);
        next[r][0] = token;
        ++tokens;
      }
      if (done) done(tokens);
    }
    for (const auto& row : ids) texts.push_back(tokenizer.decode(row));
  }
  return texts;
}

}  // namespace unbend::lm
