#include "unbend/lm/evaluate.h"

#include <torch/types.h>

#include <algorithm>
#include <cmath>

#include "unbend/base/error.h"
#include "unbend/nets/head.h"
#include "unbend/tensor/check.h"

namespace unbend::lm {

std::vector<Scores> evaluate(const std::vector<const Decoder*>& models, const at::Tensor& windows,
                             const std::function<void(std::int64_t)>& progress) {
  const at::NoGradGuard no_grad;
  require(!models.empty(), "evaluate: no model");
  check_dims(windows, 2, "evaluate: windows");
  const std::int64_t count = windows.size(0), length = windows.size(1);
  require(count > 0 && length > 1, "evaluate: windows {} are too few or too short", shape_string(windows.sizes()));
  check_indices(windows, models[0]->config.vocab, "evaluate: windows");

  std::vector<Scores> scores(models.size());
  for (auto& s : scores)
    for (auto* part : {&s.nats, &s.kl, &s.agreement}) *part = at::zeros({count, length - 1});
  std::vector<FrozenHead> heads;
  for (const auto* model : models) heads.push_back(freeze_head(model->head));
  const std::int64_t batch = std::max<std::int64_t>(1, 2048 / length);
  std::int64_t done = 0;
  for (std::int64_t at = 0; at < count; at += batch) {
    const auto ids = windows.slice(0, at, std::min(at + batch, count));
    const auto targets = ids.slice(1, 1).reshape({-1});
    const auto predicted_from = [&](const Decoder& model) {
      return model.hidden(ids.slice(1, 0, length - 1)).reshape({-1, model.config.hidden});
    };
    const auto teacher = predicted_from(*models[0]);
    const auto best = next_token_scores(teacher, heads[0], targets);
    for (std::size_t m = 0; m < models.size(); ++m) {
      const auto hidden = m == 0 ? teacher : predicted_from(*models[m]);
      const auto mine = m == 0 ? best : next_token_scores(hidden, heads[m], targets);
      const auto rows = [&](const at::Tensor& t) { return t.to(at::kFloat).view({ids.size(0), length - 1}); };
      scores[m].nats.slice(0, at, at + ids.size(0)).copy_(rows(-mine.log_prob));
      scores[m].agreement.slice(0, at, at + ids.size(0)).copy_(rows(mine.best == best.best));
      if (m > 0)
        scores[m].kl.slice(0, at, at + ids.size(0)).copy_(rows(full_divergence(teacher, heads[0], hidden, heads[m])));
      if (progress) progress(done += ids.numel());
    }
  }
  return scores;
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

at::Tensor head_fidelity(const Decoder& teacher, const Decoder& student, const at::Tensor& windows) {
  const at::NoGradGuard no_grad;
  const std::int64_t length = windows.size(1);
  auto error = at::zeros({teacher.config.layers, length}, at::kDouble), energy = at::zeros_like(error);
  for (std::int64_t n = 0; n < windows.size(0); ++n)
    teacher.hidden(windows.slice(0, n, n + 1), Form::Chunked,
                   [&](std::int64_t layer, const MixerInput& input, const at::Tensor& heads) {
                     const auto mine = student.layers[layer].mixer->forward(input, Form::Chunked);
                     const auto sum = [](const at::Tensor& t) { return t.to(at::kDouble).square().sum({0, 1, 3}); };
                     error[layer] += sum(mine - heads);
                     energy[layer] += sum(heads);
                   });
  return (error / energy).to(at::kFloat);
}

}  // namespace unbend::lm
