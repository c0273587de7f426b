#include "unbend/lm/evaluate.h"

#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <mutex>

#include "unbend/base/error.h"
#include "unbend/lm/independent.h"
#include "unbend/nets/head.h"
#include "unbend/tensor/check.h"

namespace unbend::lm {
namespace {

void check_windows(const at::Tensor& windows, std::int64_t vocab) {
  check_dims(windows, 2, "evaluate: windows");
  require(windows.size(0) > 0 && windows.size(1) > 1, "evaluate: windows {} are too few or too short",
          shape_string(windows.sizes()));
  check_indices(windows, vocab, "evaluate: windows");
}

std::vector<Scores> zero_scores(std::size_t models, std::int64_t count, std::int64_t length) {
  std::vector<Scores> scores(models);
  for (auto& s : scores)
    for (auto* part : {&s.nats, &s.kl, &s.agreement}) *part = at::zeros({count, length - 1});
  return scores;
}

/// [tokens, vocabulary] over the engine's own memory: valid until it runs again.
at::Tensor run_all(engine::Engine& engine, int sequence, std::span<const engine::TokenId> ids) {
  const auto n = std::ssize(ids);
  const auto logits = engine.run(sequence, ids, n);
  return at::from_blob(const_cast<float*>(logits.data()), {n, std::ssize(logits) / n}, at::kFloat);
}

}  // namespace

std::vector<Scores> evaluate(const std::vector<const Decoder*>& models, const at::Tensor& windows,
                             const std::function<void(std::int64_t)>& progress) {
  const at::NoGradGuard no_grad;
  require(!models.empty(), "evaluate: no model");
  check_windows(windows, models[0]->config.vocab);
  const std::int64_t count = windows.size(0), length = windows.size(1);
  auto scores = zero_scores(models.size(), count, length);
  std::vector<FrozenHead> heads;
  for (const auto* model : models) heads.push_back(freeze_head(model->head));
  const std::int64_t batch = std::max<std::int64_t>(1, 2048 / length);
  std::mutex reporting;
  std::int64_t done = 0;
  for_each_independent((count + batch - 1) / batch, models[0]->device(), [&](std::int64_t i) {
    const std::int64_t at = i * batch;
    const auto ids = windows.slice(0, at, std::min(at + batch, count));
    const auto targets = ids.slice(1, 1).reshape({-1}).to(models[0]->device());
    std::vector<at::Tensor> hidden;
    for (const auto* model : models) {
      hidden.push_back(model->hidden(ids.slice(1, 0, length - 1)).reshape({-1, model->config.hidden}));
      if (!progress) continue;
      const std::lock_guard lock(reporting);
      progress(done += ids.numel());
    }
    const auto compared = compare_scores(hidden, heads, targets);
    const auto rows = [&](const at::Tensor& t) { return t.to(at::kFloat).view({ids.size(0), length - 1}); };
    for (std::size_t m = 0; m < models.size(); ++m) {
      scores[m].nats.slice(0, at, at + ids.size(0)).copy_(rows(-compared[m].log_prob));
      scores[m].agreement.slice(0, at, at + ids.size(0)).copy_(rows(compared[m].best == compared[0].best));
      scores[m].kl.slice(0, at, at + ids.size(0)).copy_(rows(compared[m].divergence));
    }
  });
  return scores;
}

std::vector<Scores> evaluate_on_engines(const std::vector<engine::Engine*>& models, const at::Tensor& windows,
                                        const std::function<void(std::int64_t)>& progress) {
  const at::NoGradGuard no_grad;
  require(!models.empty(), "evaluate: no model");
  for (const auto* model : models) check_windows(windows, model->model().config().vocab);
  const std::int64_t count = windows.size(0), length = windows.size(1);
  auto scores = zero_scores(models.size(), count, length);
  const auto ids = windows.to(at::kInt).contiguous();
  constexpr std::int64_t kPart = 256;  // tokens whose logits are kept at a time
  std::int64_t done = 0;
  for (std::int64_t n = 0; n < count; ++n) {
    const std::span<const engine::TokenId> window(ids.const_data_ptr<engine::TokenId>() + n * length,
                                                  static_cast<std::size_t>(length));
    std::vector<engine::SequenceScope> sequences;
    for (auto* model : models) sequences.emplace_back(*model);
    for (std::int64_t first = 0; first < length - 1; first += kPart) {
      const std::int64_t last = std::min(first + kPart, length - 1);
      const auto part = window.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(last - first));
      const auto targets = windows[n].slice(0, first + 1, last + 1).to(at::kLong).unsqueeze(1);
      at::Tensor teacher, best;
      for (std::size_t m = 0; m < models.size(); ++m) {
        const auto log_probs = at::log_softmax(run_all(*models[m], sequences[m].id(), part), -1);
        const auto mine = log_probs.argmax(-1);
        if (m == 0) teacher = log_probs, best = mine;
        const auto row = [&](at::Tensor& t) { return t[n].slice(0, first, last); };
        row(scores[m].nats).copy_(-log_probs.gather(1, targets).squeeze(1));
        row(scores[m].agreement).copy_(mine == best);
        if (m > 0) row(scores[m].kl).copy_((teacher.exp() * (teacher - log_probs)).sum(-1));
        if (progress) progress(done += last - first);
      }
    }
  }
  return scores;
}

at::Tensor logits_of(engine::Engine& engine, std::span<const engine::TokenId> ids) {
  const engine::SequenceScope sequence(engine);
  return run_all(engine, sequence.id(), ids).clone();
}

double mean_nats(const Decoder& decoder, const at::Tensor& windows) {
  return evaluate({&decoder}, windows)[0].nats.mean().item<double>();
}

Estimate mean_over(const at::Tensor& values, std::int64_t first, std::int64_t last) {
  const auto per_window = values.slice(1, first, last).to(at::kDouble).mean(1);
  const auto n = per_window.size(0);
  return {per_window.mean().item<double>(),
          n > 1 ? per_window.std().item<double>() / std::sqrt(static_cast<double>(n)) : 0};
}

Estimate paired_difference(const at::Tensor& a, const at::Tensor& b, std::int64_t first, std::int64_t last) {
  return mean_over(a - b, first, last);
}

std::vector<std::pair<std::int64_t, std::int64_t>> position_buckets(std::int64_t positions) {
  std::vector<std::pair<std::int64_t, std::int64_t>> buckets;
  std::int64_t first = 0;
  for (std::int64_t edge : {64, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768}) {
    if (first >= positions) break;
    buckets.emplace_back(first, std::min(edge, positions));
    first = edge;
  }
  return buckets;
}

std::vector<at::Tensor> head_fidelity(const Decoder& teacher, const std::vector<const Decoder*>& students,
                                      const at::Tensor& windows) {
  const at::NoGradGuard no_grad;
  const std::int64_t count = windows.size(0), length = windows.size(1), layers = teacher.config.layers;
  const auto size = at::zeros({count, layers, length}, at::kDouble);
  std::vector<at::Tensor> errors;
  for (std::size_t s = 0; s < students.size(); ++s) errors.push_back(at::zeros_like(size));
  for_each_independent(count, teacher.device(), [&](std::int64_t n) {
    const auto sum = [](const at::Tensor& t) { return t.to(at::kDouble).square().sum({0, 1, 3}); };
    teacher.hidden(
        windows.slice(0, n, n + 1), Form::Chunked,
        [&](std::int64_t layer, const MixerInput& input, const at::Tensor& heads) {
          size[n][layer].copy_(sum(heads));
          for (std::size_t s = 0; s < students.size(); ++s)
            errors[s][n][layer].copy_(sum(students[s]->layers[layer].mixer->forward(input, Form::Chunked) - heads));
        });
  });
  for (auto& error : errors) error = (error.sum(0) / size.sum(0)).to(at::kFloat);
  return errors;
}

std::vector<std::vector<Gauge>> gauges(const Decoder& decoder, const at::Tensor& windows) {
  const at::NoGradGuard no_grad;
  std::vector<std::vector<Gauge>> all;
  decoder.hidden(windows, Form::Chunked, [&](std::int64_t layer, const MixerInput& input, const at::Tensor&) {
    all.push_back(decoder.layers[static_cast<std::size_t>(layer)].mixer->gauges(input));
  });
  return all;
}

}  // namespace unbend::lm
