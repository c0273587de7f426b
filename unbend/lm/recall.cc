#include "unbend/lm/recall.h"

#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <span>

#include "unbend/base/error.h"
#include "unbend/lm/evaluate.h"
#include "unbend/lm/independent.h"

namespace unbend::lm {
namespace {

/// Sums over the questions of one text, from logits [questions, vocabulary].
Recall judge(const Probe& probe, const at::Tensor& logits) {
  Recall sums;
  const auto log_probs = at::log_softmax(logits, -1);
  for (std::size_t i = 0; i < probe.questions.size(); ++i) {
    const auto& q = probe.questions[i];
    const auto row = log_probs[static_cast<std::int64_t>(i)];
    sums.nats -= row[q.token].item<double>();
    if (q.candidates.empty()) {
      sums.accuracy += row.argmax().item<std::int64_t>() == q.token;
      sums.chance += 1. / static_cast<double>(row.numel());
    } else {
      const auto among = row.index_select(0, at::tensor(at::ArrayRef<TokenId>(q.candidates), at::kInt).to(at::kLong));
      sums.accuracy += q.candidates[among.argmax().item<std::int64_t>()] == q.token;
      sums.chance += 1. / static_cast<double>(q.candidates.size());
    }
  }
  sums.questions = std::ssize(probe.questions);
  return sums;
}

Recall mean_of(const std::vector<Recall>& texts) {
  require(!texts.empty(), "recall: no questions");
  Recall result;
  std::vector<double> accuracies;
  for (const auto& one : texts) {
    result.questions += one.questions;
    result.accuracy += one.accuracy, result.chance += one.chance, result.nats += one.nats;
    accuracies.push_back(one.accuracy / static_cast<double>(one.questions));
  }
  const auto n = static_cast<double>(result.questions), count = static_cast<double>(accuracies.size());
  result.accuracy /= n, result.chance /= n, result.nats /= n;
  double mean = 0, squares = 0;
  for (double a : accuracies) mean += a / count;
  for (double a : accuracies) squares += (a - mean) * (a - mean);
  result.accuracy_error = count > 1 ? std::sqrt(squares / (count - 1) / count) : 0;
  return result;
}

at::Tensor positions_of(const Probe& probe) {
  std::vector<std::int64_t> positions;
  for (const auto& q : probe.questions) positions.push_back(q.position);
  return at::tensor(positions, at::kLong);
}

}  // namespace

Recall ask(const Decoder& decoder, const std::vector<Probe>& probes) {
  std::vector<Recall> of_texts(probes.size());
  for_each_independent(std::ssize(probes), decoder.embedding.device(), [&](std::int64_t i) {
    const auto ids = at::tensor(at::ArrayRef<TokenId>(probes[i].ids), at::kInt).to(at::kLong).unsqueeze(0);
    const auto hidden = decoder.hidden(ids)[0];
    const auto asked = hidden.index_select(0, positions_of(probes[i]).to(hidden.device()));
    of_texts[i] = judge(probes[i], decoder.logits(asked).to(at::kCPU));
  });
  return mean_of(of_texts);
}

Recall ask(engine::Engine& engine, const std::vector<Probe>& probes) {
  std::vector<Recall> of_texts;
  for (const auto& probe : probes) {
    const auto logits = logits_of(engine, probe.ids);
    of_texts.push_back(judge(probe, logits.index_select(0, positions_of(probe))));
  }
  return mean_of(of_texts);
}

std::vector<Probe> recall_probes(std::string_view task, const engine::Tokenizer& tokenizer, const at::Tensor& windows,
                                 std::int64_t count, std::int64_t distance, std::uint64_t seed) {
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
  return probes;
}

}  // namespace unbend::lm
