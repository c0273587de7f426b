// Training of one N-BEATS on many series (arXiv 1905.10437, sections 3.4 and 4; methods/meta_forecast.md, "Training").
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "unbend/base/json.h"
#include "unbend/forecast/windows.h"
#include "unbend/nets/nbeats.h"

namespace unbend::forecast {

/// In the units of the scaled window, over all points of a batch (those beyond a series' end count 0):
///   Smape 200 mean(|f - y| / (|f| + |y|)), the denominator held fixed in the gradient; Mape mean(|f - y| / y);
///   Mase mean(|f - y| / mean |x_t - x_{t-m}| of the window). 0 / 0 is 0.
enum class Loss { Smape, Mape, Mase };
std::string name(Loss loss);
Loss find_loss(const std::string& name);  ///< Input error that lists the names

/// Value; `gradient` [size, horizon] is overwritten.
double loss_gradient(Loss loss, const TrainingBatch& batch, const float* forecast, float* gradient);

/// Of step `step` (from 0): halved every iterations / 3 steps.
double rate_factor(std::int64_t step, std::int64_t iterations);

struct Training {
  nbeats::Config network;
  Loss loss = Loss::Smape;
  std::int64_t iterations = 5000, batch = 128;
  double rate = 1e-3, clip = 1;  ///< of Adam, and of the gradient's norm
  int period = 1;
  std::int64_t recent = 27;  ///< Sampling::recent
  bool scaled = true;
  std::uint64_t seed = 1;
};
Json to_json(const Training& training);
Training training_from_json(const Json& json, std::string_view where);

struct Member {
  Training training;
  nbeats::Layout layout;
  std::vector<float> weights;
  std::vector<double> losses;  ///< means over tenths of the iterations
};

/// What train() refuses. Input error (naming the series) for a source that is empty, too short, not finite or, with
/// Mape, not positive, and for settings that are not above 0.
void check_training(const series::Collection& source, const Training& training);

/// Called after each step with its number (from 1) and loss; false stops the training.
using Step = std::function<bool(std::int64_t, double)>;

/// Source: complete series of at least two points. Repeats bit for bit with the same number of threads. Errors
/// of check_training(); Computation error for a loss that is not finite, and if `step` stopped it.
Member train(const series::Collection& source, const Training& training, const Step& step = {});

}  // namespace unbend::forecast
