#include "unbend/lm/recall.h"

#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <span>

#include "unbend/base/error.h"

namespace unbend::lm {

Recall ask(const Decoder& decoder, const std::vector<Probe>& probes) {
  const at::NoGradGuard no_grad;
  require(!probes.empty(), "recall: no questions");
  Recall result;
  std::vector<double> accuracies;
  for (const auto& probe : probes) {
    const auto ids = at::tensor(at::ArrayRef<TokenId>(probe.ids), at::kInt).to(at::kLong).unsqueeze(0);
    std::vector<std::int64_t> positions;
    for (const auto& q : probe.questions) positions.push_back(q.position);
    const auto hidden = decoder.hidden(ids)[0].index_select(0, at::tensor(positions, at::kLong));
    const auto logits = at::log_softmax(decoder.logits(hidden).to(at::kCPU), -1);
    double right = 0;
    for (std::size_t i = 0; i < probe.questions.size(); ++i) {
      const auto& q = probe.questions[i];
      const auto row = logits[static_cast<std::int64_t>(i)];
      result.nats -= row[q.token].item<double>();
      if (q.candidates.empty()) {
        right += row.argmax().item<std::int64_t>() == q.token;
        result.chance += 1. / static_cast<double>(row.numel());
      } else {
        const auto among = row.index_select(0, at::tensor(at::ArrayRef<TokenId>(q.candidates), at::kInt).to(at::kLong));
        right += q.candidates[among.argmax().item<std::int64_t>()] == q.token;
        result.chance += 1. / static_cast<double>(q.candidates.size());
      }
    }
    result.questions += static_cast<std::int64_t>(probe.questions.size());
    result.accuracy += right;
    accuracies.push_back(right / static_cast<double>(probe.questions.size()));
  }
  const auto n = static_cast<double>(result.questions), texts = static_cast<double>(accuracies.size());
  result.accuracy /= n, result.chance /= n, result.nats /= n;
  double mean = 0, squares = 0;
  for (double a : accuracies) mean += a / texts;
  for (double a : accuracies) squares += (a - mean) * (a - mean);
  result.accuracy_error = texts > 1 ? std::sqrt(squares / (texts - 1) / texts) : 0;
  return result;
}

std::vector<Recall> recall_on_text(std::string_view task, const std::vector<const Decoder*>& models,
                                   const engine::Tokenizer& tokenizer, const at::Tensor& windows, std::int64_t count,
                                   std::int64_t distance, std::uint64_t seed) {
  if (task != "copy" && task != "codes" && task != "words") fail_usage("no task '{}': use copy, codes or words", task);
  if (distance <= 0) distance = 512;
  Random random(seed);
  const auto flat = windows.to(at::kInt).reshape({-1}).contiguous();
  const std::span<const TokenId> stream(flat.const_data_ptr<TokenId>(), static_cast<std::size_t>(flat.numel()));
  // A piece of `distance` tokens: the fillers, or for `copy` the text itself and the gap behind it.
  const std::int64_t text = std::min<std::int64_t>(256, distance), need = distance;
  require(static_cast<std::int64_t>(stream.size()) >= need,
          "task {}: {} tokens of text are too few for a distance of {}", task, stream.size(), distance);
  const TokenId bos = tokenizer.adds_bos() ? tokenizer.bos() : -1;
  std::vector<Probe> probes;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto at = static_cast<std::size_t>(static_cast<std::int64_t>(stream.size() - need) * i /
                                             std::max<std::int64_t>(1, count - 1));
    const auto piece =
        stream.subspan(std::min(at, stream.size() - static_cast<std::size_t>(need)), static_cast<std::size_t>(need));
    if (task == "copy")
      probes.push_back(
          copy_probe(piece.first(static_cast<std::size_t>(text)), piece.subspan(static_cast<std::size_t>(text)), bos));
    else if (task == "codes")
      probes.push_back(codes_probe(random, tokenizer, tokenizer.decode(piece)));
    else
      probes.push_back(words_probe(random, tokenizer, tokenizer.decode(piece)));
  }
  std::vector<Recall> results;
  for (const auto* model : models) results.push_back(ask(*model, probes));
  return results;
}

}  // namespace unbend::lm
