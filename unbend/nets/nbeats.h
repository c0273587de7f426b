// N-BEATS (Oreshkin et al. 2020, arXiv 1905.10437): blocks of fully connected layers that each explain a part of the
// past (backcast) and leave the rest to the next, and whose forecasts add up:
//   h = relu(W_k ... relu(W_1 x_r + b_1) ... + b_k),  theta = W h + b,  x_{r+1} = mask (x_r - backcast(theta)),
//   y = level + sum_r forecast(theta).
// The network is plain numbers in one array; forward and backward are written out, without recording, and blocks that
// share their weights share one product for each weight's gradient.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "unbend/base/json.h"
#include "unbend/base/random.h"

namespace unbend::nbeats {

/// How theta becomes backcast and forecast: as it is; by polynomials in t = i / length; by cosines and sines of the
/// frequencies 0, 1/H, ... of the horizon H, backwards in time for the backcast (section 3.3).
enum class Basis { Generic, Trend, Seasonality };

struct Stack {
  Basis basis = Basis::Generic;
  int blocks = 1;
  bool shared = true;  ///< its blocks have the same weights
  int layers = 4, width = 512;
  int degree = 2;     ///< of Trend
  int harmonics = 1;  ///< of Seasonality
};

struct Config {
  int lookback = 0;  ///< points of a window
  int horizon = 0;   ///< points of a forecast
  std::vector<Stack> stacks;
  bool last_level = false;  ///< the forecast starts at the last value of the window instead of 0
};

/// One stack of generic blocks, and the interpretable network: a trend and a seasonality stack of shared blocks.
Config generic(int lookback, int horizon, int blocks, bool shared, int layers, int width);
Config interpretable(int lookback, int horizon, int blocks, int layers, int trend_width, int seasonality_width);

/// "generic", "trend", "seasonality".
std::string name(Basis basis);
Json to_json(const Config& config);
/// Input error that starts with `where`.
Config config_from_json(const Json& json, std::string_view where);

/// A linear layer inside the array: weight [out, in] from `weight` on, bias [out] from `bias` on.
struct Dense {
  std::int64_t in, out;
  std::size_t weight, bias;
};

/// Weights, and the consecutive blocks that use them.
struct BlockSet {
  Basis basis;
  int stack, first, uses;  ///< blocks first .. first + uses - 1
  std::vector<Dense> hidden;
  Dense theta;
  std::int64_t backcast_at, backcast_size, forecast_at, forecast_size;  ///< parts of theta
  std::vector<double> backcast_basis, forecast_basis;  ///< [size, lookback] and [size, horizon]; generic: empty
};

/// Where everything lies. Input error for sizes that make no network.
struct Layout {
  Config config;
  std::vector<BlockSet> sets;
  int blocks = 0;
  std::size_t parameters = 0;
};
Layout layout(const Config& config);

/// Names as in a state dictionary ("stacks.0.blocks.0.layers.1.weight", ".theta.bias", ...) with offset and shape.
struct NamedPart {
  std::string name;
  std::size_t at;
  std::vector<std::int64_t> shape;
};
std::vector<NamedPart> parts(const Layout& layout);

/// Uniform within 1 / sqrt(in) for weights and biases, as PyTorch's Linear starts.
std::vector<float> random_weights(const Layout& layout, Random& random);

/// A batch of windows. The newest point comes first; where the mask is 0, x must be 0 too.
template <class T>
struct Windows {
  std::int64_t batch;
  const T *x, *mask;  ///< [batch, lookback]
  const T* level;     ///< [batch], added to the forecasts if Config::last_level
};

/// What a forward pass leaves: the forecasts, and what backward and explanations need. Memory is kept between calls.
template <class T>
struct Workspace {
  std::vector<T> forecast;         ///< [batch, horizon]
  bool keep_blocks = false;        ///< fill the next two as well
  std::vector<T> block_forecasts;  ///< [blocks, batch, horizon]: their sum and the level are the forecast
  std::vector<T> block_backcasts;  ///< [blocks, batch, lookback]
  struct Set {
    std::vector<T> stream;               ///< [uses, batch, lookback]: x_r
    std::vector<std::vector<T>> hidden;  ///< [uses, batch, width] each
    std::vector<T> theta;                ///< [uses, batch, theta]
  };
  std::vector<Set> sets;
  std::vector<T> bases, gradient, other;         // scratch; `bases` are the sets' in T
  std::vector<std::vector<T>> hidden_gradients;  // scratch, per layer
};

/// T: float or double. `weights` [layout.parameters].
template <class T>
void forward(const Layout& layout, const T* weights, const Windows<T>& windows, Workspace<T>& work);

/// After forward() with the same arguments: the gradient [layout.parameters] for `d_forecast` [batch, horizon].
/// Overwrites the thetas in `work`.
template <class T>
void backward(const Layout& layout, const T* weights, const Windows<T>& windows, const T* d_forecast,
              Workspace<T>& work, T* gradient);

}  // namespace unbend::nbeats
