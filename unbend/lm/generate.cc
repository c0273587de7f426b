#include "unbend/lm/generate.h"

#include <algorithm>
#include <chrono>

#include "unbend/base/error.h"
#include "unbend/base/interrupt.h"

namespace unbend::lm {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Length of `text` without an unfinished UTF-8 character at its end.
std::size_t whole_characters(std::string_view text) {
  for (std::size_t back = 1; back <= std::min<std::size_t>(4, text.size()); ++back) {
    const auto byte = static_cast<unsigned char>(text[text.size() - back]);
    if ((byte & 0xC0) == 0x80) continue;
    const std::size_t length = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : byte >= 0xC0 ? 2 : 1;
    return length > back ? text.size() - back : text.size();
  }
  return text.size();
}

/// Holds back text that may turn out to be the start of a stop text.
class StopFilter {
 public:
  explicit StopFilter(const std::vector<std::string>& stops) : stops_(stops) {}

  /// Adds text; returns what is certain to be kept. Sets stopped() when a stop text is complete.
  std::string add(std::string_view piece) {
    pending_ += piece;
    for (const auto& stop : stops_) {
      const auto at = stop.empty() ? std::string::npos : pending_.find(stop);
      if (at != std::string::npos) {
        stopped_ = true;
        pending_.resize(at);
        return flush();
      }
    }
    std::size_t keep = whole_characters(pending_);
    for (const auto& stop : stops_)
      for (std::size_t n = std::min(stop.size(), pending_.size()); n > 0; --n)
        if (pending_.compare(pending_.size() - n, n, stop, 0, n) == 0) keep = std::min(keep, pending_.size() - n);
    std::string out = pending_.substr(0, keep);
    pending_.erase(0, keep);
    return out;
  }
  std::string flush() { return std::exchange(pending_, {}); }
  bool stopped() const { return stopped_; }

 private:
  const std::vector<std::string>& stops_;
  std::string pending_;
  bool stopped_ = false;
};

}  // namespace

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
  Generation result;
  result.prompt_tokens = static_cast<std::int64_t>(prompt.size());
  result.reason = "length";
  engine::Sampler sampler(options.sampler);
  StopFilter filter(options.stop);
  const auto emit = [&](const std::string& text) {
    result.text += text;
    if (stream && !text.empty()) stream(text);
  };

  auto start = std::chrono::steady_clock::now();
  auto state = decoder.start();
  auto hidden = prefill(decoder, state, prompt, options.prefill_chunk);
  result.prefill_seconds = seconds_since(start);

  start = std::chrono::steady_clock::now();
  for (std::int64_t i = 0; i < options.max_tokens; ++i) {
    const auto logits = decoder.logits(hidden).to(at::kFloat).contiguous();
    const auto token = sampler.next({logits.const_data_ptr<float>(), static_cast<std::size_t>(logits.numel())});
    if (tokenizer.is_end(token) && !options.ignore_end) {
      result.reason = "end";
      break;
    }
    result.ids.push_back(token);
    emit(filter.add(tokenizer.decode({&token, 1})));
    if (filter.stopped() || interrupted()) {
      result.reason = filter.stopped() ? "stop" : "interrupted";
      break;
    }
    if (i + 1 < options.max_tokens) hidden = decoder.extend(at::full({1, 1}, token, at::kLong), state);
  }
  if (!filter.stopped()) emit(filter.flush());
  result.decode_seconds = seconds_since(start);
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
      samplers.emplace_back(own);
    }
    std::vector<std::vector<engine::TokenId>> ids(rows);
    std::vector<bool> ended(rows, false);
    auto state = decoder.start(rows);
    auto next = at::full({rows, 1}, tokenizer.bos(), at::kLong);
    for (std::int64_t t = 0;
         t < length && std::find(ended.begin(), ended.end(), false) != ended.end() && !interrupted(); ++t) {
      const auto logits = decoder.logits(decoder.extend(next, state)).to(at::kFloat).contiguous();
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
