#include "unbend/engine/generate.h"

#include <algorithm>
#include <chrono>

#include "unbend/base/error.h"
#include "unbend/base/interrupt.h"
#include "unbend/engine/engine.h"

namespace unbend::engine {
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

}  // namespace

std::string StopFilter::add(std::string_view piece) {
  pending_ += piece;
  auto first = std::string::npos;
  for (const auto& stop : stops_)
    if (!stop.empty()) first = std::min(first, pending_.find(stop));
  if (first != std::string::npos) {
    stopped_ = true;
    pending_.resize(first);
    return flush();
  }
  std::size_t keep = whole_characters(pending_);
  for (const auto& stop : stops_)
    for (std::size_t n = std::min(stop.size(), pending_.size()); n > 0; --n)
      if (pending_.compare(pending_.size() - n, n, stop, 0, n) == 0) keep = std::min(keep, pending_.size() - n);
  std::string out = pending_.substr(0, keep);
  pending_.erase(0, keep);
  return out;
}

Generation generate(const NextLogits& model, const Tokenizer& tokenizer, const std::vector<TokenId>& prompt,
                    const GenerateOptions& options, const std::function<void(std::string_view)>& stream) {
  require(!prompt.empty(), "generate: the prompt has no tokens");
  Generation result;
  result.prompt_tokens = static_cast<std::int64_t>(prompt.size());
  result.reason = "length";
  Sampler sampler(options.sampler, &tokenizer);
  StopFilter filter(options.stop);
  const auto emit = [&](const std::string& text) {
    result.text += text;
    if (stream && !text.empty()) stream(text);
  };

  auto start = std::chrono::steady_clock::now();
  auto logits = model(prompt);
  result.prefill_seconds = seconds_since(start);

  for (std::int64_t i = 0; i < options.max_tokens; ++i) {
    const auto token = sampler.next(logits);
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
    if (i + 1 == options.max_tokens) break;
    if (result.decode_steps++ == 0) start = std::chrono::steady_clock::now();
    logits = model({&token, 1});
  }
  if (!filter.stopped()) emit(filter.flush());
  if (result.decode_steps > 0) result.decode_seconds = seconds_since(start);
  return result;
}

Generation generate(Engine& engine, const Tokenizer& tokenizer, const std::vector<TokenId>& prompt,
                    const GenerateOptions& options, const std::function<void(std::string_view)>& stream) {
  const SequenceScope sequence(engine);
  auto result = generate([&](std::span<const TokenId> tokens) { return engine.run(sequence.id(), tokens); }, tokenizer,
                         prompt, options, stream);
  result.state_bytes = engine.state_bytes(sequence.id());
  return result;
}

}  // namespace unbend::engine
