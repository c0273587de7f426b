#include "unbend/forecast/training.h"

#include <ATen/ATen.h>

#include <cmath>

#include "unbend/base/error.h"
#include "unbend/tensor/adamw.h"

namespace unbend::forecast {

std::string name(Loss loss) { return loss == Loss::Smape ? "smape" : loss == Loss::Mape ? "mape" : "mase"; }

Loss find_loss(const std::string& text) {
  for (const Loss loss : {Loss::Smape, Loss::Mape, Loss::Mase})
    if (name(loss) == text) return loss;
  fail_input("loss '{}' is not known: smape, mape, mase", text);
}

double loss_gradient(Loss loss, const TrainingBatch& batch, const float* forecast, float* gradient) {
  const std::size_t horizon = batch.target.size() / static_cast<std::size_t>(batch.size), all = batch.target.size();
  const double factor = (loss == Loss::Smape ? 200. : 1.) / static_cast<double>(all);
  double sum = 0;
  for (std::size_t i = 0; i < all; ++i) {
    const float f = forecast[i], y = batch.target[i], difference = f - y;
    const float below = loss == Loss::Smape  ? std::abs(f) + std::abs(y)
                        : loss == Loss::Mape ? y
                                             : batch.season_scale[i / horizon];
    const bool counts = batch.seen[i] != 0 && below != 0;
    const float weight = counts ? 1 / below : 0;
    sum += std::abs(difference) * weight;
    gradient[i] = static_cast<float>(factor) * weight * static_cast<float>((difference > 0) - (difference < 0));
  }
  return factor * sum;
}

double rate_factor(std::int64_t step, std::int64_t iterations) {
  return std::pow(.5, static_cast<double>(step / std::max<std::int64_t>(1, iterations / 3)));
}

Json to_json(const Training& t) {
  return {{"network", nbeats::to_json(t.network)},
          {"loss", name(t.loss)},
          {"iterations", t.iterations},
          {"batch", t.batch},
          {"rate", t.rate},
          {"clip", t.clip},
          {"period", t.period},
          {"recent", t.recent},
          {"scaled", t.scaled},
          {"seed", t.seed}};
}

Training training_from_json(const Json& json, std::string_view where) {
  Training t;
  t.network = nbeats::config_from_json(json_get<Json>(json, "network", where), where);
  t.loss = find_loss(json_get<std::string>(json, "loss", where));
  t.iterations = json_get<std::int64_t>(json, "iterations", where);
  t.batch = json_get<std::int64_t>(json, "batch", where);
  t.rate = json_get<double>(json, "rate", where);
  t.clip = json_get<double>(json, "clip", where);
  t.period = json_get<int>(json, "period", where);
  t.recent = json_get<std::int64_t>(json, "recent", where);
  t.scaled = json_get<bool>(json, "scaled", where);
  t.seed = json_get<std::uint64_t>(json, "seed", where);
  return t;
}

void check_training(const series::Collection& source, const Training& t) {
  require(!source.empty(), "training: there is no series");
  for (const auto& s : source) {
    require(s.values.size() >= 2, "training: series '{}' has {} point{}, at least 2 are needed", s.id, s.values.size(),
            s.values.size() == 1 ? "" : "s");
    for (std::size_t i = 0; i < s.values.size(); ++i) {
      require(std::isfinite(s.values[i]), "training: series '{}': value {} is not finite", s.id, i + 1);
      require(t.loss != Loss::Mape || s.values[i] > 0,
              "training: series '{}': value {} is {}: the loss mape needs positive values", s.id, i + 1, s.values[i]);
    }
  }
  require(t.iterations > 0 && t.batch > 0 && t.rate > 0 && t.clip > 0 && t.period > 0 && t.recent > 0,
          "training: iterations {}, batch {}, rate {}, clip {}, period {}, recent {}: all must be above 0",
          t.iterations, t.batch, t.rate, t.clip, t.period, t.recent);
}

Member train(const series::Collection& source, const Training& t, const Step& step) {
  check_training(source, t);
  Random random(t.seed);
  Member member{t, nbeats::layout(t.network), {}, {}};
  member.weights = nbeats::random_weights(member.layout, random);
  const auto count = static_cast<std::int64_t>(member.weights.size());
  std::vector<float> gradient(member.weights.size());
  // The optimizer's views of both arrays.
  const auto weights = at::from_blob(member.weights.data(), {count}, at::kFloat).requires_grad_(true);
  weights.mutable_grad() = at::from_blob(gradient.data(), {count}, at::kFloat);
  AdamW adam({{.parameters = {weights}, .lr = t.rate, .weight_decay = 0}});

  const Sampling sampling{t.network.lookback, t.network.horizon, t.period, t.recent, t.scaled};
  TrainingBatch batch;
  nbeats::Workspace<float> work;
  std::vector<float> d_forecast(static_cast<std::size_t>(t.batch * t.network.horizon));
  double sum = 0;
  std::int64_t summed = 0;
  for (std::int64_t i = 0; i < t.iterations; ++i) {
    sample(source, sampling, t.batch, random, batch);
    const nbeats::Windows<float> windows{t.batch, batch.x.data(), batch.mask.data(), batch.level.data()};
    nbeats::forward(member.layout, member.weights.data(), windows, work);
    const double loss = loss_gradient(t.loss, batch, work.forecast.data(), d_forecast.data());
    nbeats::backward(member.layout, member.weights.data(), windows, d_forecast.data(), work, gradient.data());
    if (!std::isfinite(loss) || !adam.step(rate_factor(i, t.iterations), t.clip))
      fail_computation("training: loss or gradient is not finite at step {}: a lower --rate helps, or --clip", i + 1);
    if (step && !step(i + 1, loss)) fail_computation("training was stopped at step {} of {}", i + 1, t.iterations);
    sum += loss, ++summed;
    if ((i + 1) * 10 / t.iterations > i * 10 / t.iterations) {
      member.losses.push_back(sum / static_cast<double>(summed));
      sum = 0, summed = 0;
    }
  }
  return member;
}

}  // namespace unbend::forecast
