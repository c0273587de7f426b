// The inner loop of N-BEATS as meta-learning, linearised (methods/meta_forecast.md, "Meta-learning reading"): with
// features f(x) = (h(x), 1) of a block, backcast map G and forecast map Q, and J the Jacobian of f at the window,
//   x_{r+1} = x_r - G f(x_r),   f(x_{r+1}) ~ (I - J G) f(x_r),   y ~ sum_r Q (I - J G)^r f(x):
// block r forecasts with an updated last layer Q_r = Q (I - J G)^r. Exact while no unit of f switches.
#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "unbend/nets/nbeats.h"

namespace unbend::forecast {

/// f(x) of a block set and its Jacobian at x: features [width + 1], jacobian [width + 1, lookback].
struct BlockLinearization {
  at::Tensor features, jacobian;
  at::Tensor backcast, forecast;  ///< G [lookback, width + 1] (rows beyond the mask are 0), Q [horizon, width + 1]
};

struct InnerLoop {
  std::vector<BlockLinearization> sets;  ///< per block set, all at the window itself
  at::Tensor exact, linear;              ///< [horizon]: the network's forecast and that of the linearised loop
  double gap = 0;                        ///< |exact - linear| / |exact|
  /// Of networks whose blocks all share their weights, otherwise empty and NaN: Q_r [horizon, width + 1] per block, and
  /// the spectral radius of I - G J on the window, which tells whether more blocks converge. (I - J G has the same
  /// spectrum but for ones.)
  std::vector<at::Tensor> updated;
  double spectral_radius;
  /// [horizon, lookback]: the forecast's derivative by the window (newest point first), by calculus/linearize.
  at::Tensor weights_of_past;
};

/// `x` and `mask` [lookback], float64, as nbeats::Windows has them; `weights` [parameters]. All results are float64.
InnerLoop linearize_blocks(const nbeats::Layout& layout, const at::Tensor& weights, const at::Tensor& x,
                           const at::Tensor& mask);

/// The network in plain tensor operations, the definition that nbeats::forward is checked against: x and mask
/// [batch, lookback] -> [batch, horizon].
at::Tensor forward_definition(const nbeats::Layout& layout, const at::Tensor& weights, const at::Tensor& x,
                              const at::Tensor& mask);

}  // namespace unbend::forecast
