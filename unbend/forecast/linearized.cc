#include "unbend/forecast/linearized.h"

#include <cmath>
#include <limits>

#include "unbend/base/error.h"
#include "unbend/calculus/dense.h"
#include "unbend/calculus/linearize.h"

namespace unbend::forecast {
namespace {

struct LayerTensors {
  at::Tensor weight, bias;
};

LayerTensors tensors_of(const nbeats::Dense& d, const at::Tensor& weights) {
  return {weights.narrow(0, static_cast<std::int64_t>(d.weight), d.out * d.in).view({d.out, d.in}),
          weights.narrow(0, static_cast<std::int64_t>(d.bias), d.out)};
}

/// h(x) of a set: x [.., lookback] -> [.., width].
at::Tensor hidden(const nbeats::BlockSet& set, const at::Tensor& weights, at::Tensor x) {
  for (const auto& d : set.hidden) {
    const auto layer = tensors_of(d, weights);
    x = at::relu(at::linear(x, layer.weight, layer.bias));
  }
  return x;
}

at::Tensor basis(const std::vector<double>& values, std::int64_t rows) {
  return at::tensor(values, at::kDouble).view({rows, -1});
}

/// Maps from features (h, 1) to backcast and forecast: [lookback or horizon, width + 1].
std::pair<at::Tensor, at::Tensor> maps_of(const nbeats::BlockSet& set, const at::Tensor& weights) {
  const auto layer = tensors_of(set.theta, weights);
  const auto all = at::cat({layer.weight, layer.bias.unsqueeze(1)}, 1);
  const auto back = all.narrow(0, set.backcast_at, set.backcast_size),
             fore = all.narrow(0, set.forecast_at, set.forecast_size);
  if (set.basis == nbeats::Basis::Generic) return {back, fore};
  return {basis(set.backcast_basis, set.backcast_size).t().mm(back),
          basis(set.forecast_basis, set.forecast_size).t().mm(fore)};
}

at::Tensor with_one(const at::Tensor& h) {
  auto shape = h.sizes().vec();
  shape.back() = 1;
  return at::cat({h, at::ones(shape, h.options())}, -1);
}

}  // namespace

at::Tensor forward_definition(const nbeats::Layout& layout, const at::Tensor& weights, const at::Tensor& x,
                              const at::Tensor& mask) {
  auto residual = x;
  auto y = at::zeros({x.size(0), layout.config.horizon}, x.options());
  if (layout.config.last_level) y = y + x.narrow(1, 0, 1);
  for (const auto& set : layout.sets) {
    const auto [back, fore] = maps_of(set, weights);
    for (int use = 0; use < set.uses; ++use) {
      const auto f = with_one(hidden(set, weights, residual));
      residual = (residual - f.mm(back.t())) * mask;
      y = y + f.mm(fore.t());
    }
  }
  return y;
}

InnerLoop linearize_blocks(const nbeats::Layout& layout, const at::Tensor& weights, const at::Tensor& x,
                           const at::Tensor& mask) {
  const auto lookback = layout.config.lookback;
  require(x.dim() == 1 && x.size(0) == lookback && mask.sizes() == x.sizes() && x.scalar_type() == at::kDouble &&
              mask.scalar_type() == at::kDouble && weights.scalar_type() == at::kDouble &&
              weights.numel() == static_cast<std::int64_t>(layout.parameters),
          "linearized blocks: the window and its mask must be {} numbers, the weights {}, all float64", lookback,
          layout.parameters);
  LinearizeOptions options;
  options.allow_constant = true;  // no unit may be active
  InnerLoop loop;
  loop.spectral_radius = std::numeric_limits<double>::quiet_NaN();
  for (const auto& set : layout.sets) {
    BlockLinearization b;
    const auto at = linearize([&](const Tensors& in) { return Tensors{hidden(set, weights, in[0])}; }, {x}, options);
    b.features = with_one(at.value[0]);
    b.jacobian = at::cat({to_dense(at.jacobian), at::zeros({1, lookback}, at::kDouble)}, 0);
    std::tie(b.backcast, b.forecast) = maps_of(set, weights);
    b.backcast = b.backcast * mask.unsqueeze(1);
    loop.sets.push_back(std::move(b));
  }

  // The linearised loop: features at the residual are those at the window, less J times what was taken off.
  auto removed = at::zeros_like(x), y = at::zeros({layout.config.horizon}, at::kDouble);
  if (layout.config.last_level) y = y + x[0];
  for (std::size_t s = 0; s < layout.sets.size(); ++s) {
    const auto& b = loop.sets[s];
    for (int use = 0; use < layout.sets[s].uses; ++use) {
      const auto f = b.features - b.jacobian.mv(removed);
      y = y + b.forecast.mv(f);
      removed = removed + b.backcast.mv(f);
    }
  }
  loop.linear = y;
  const auto whole = [&](const Tensors& in) {
    return Tensors{forward_definition(layout, weights, in[0].unsqueeze(0), mask.unsqueeze(0))[0]};
  };
  const auto network = linearize(whole, {x}, options);
  loop.exact = network.value[0];
  loop.weights_of_past = to_dense(network.jacobian) * mask;
  loop.gap = ((loop.exact - loop.linear).norm() / loop.exact.norm().clamp_min(1e-300)).item<double>();

  if (layout.sets.size() == 1) {
    const auto& b = loop.sets[0];
    auto q = b.forecast;
    for (int r = 0; r < layout.blocks; ++r) {
      loop.updated.push_back(q);
      q = q - q.mm(b.jacobian).mm(b.backcast);
    }
    // Only where the mask lets something through: elsewhere I - G J is the identity on nothing.
    const auto seen = mask.nonzero().flatten();
    const auto inner = b.backcast.index_select(0, seen).mm(b.jacobian.index_select(1, seen));
    const auto change = at::eye(seen.numel(), at::kDouble) - inner;
    loop.spectral_radius = seen.numel() ? at::linalg_eigvals(change).abs().max().item<double>() : 0;
  }
  return loop;
}

}  // namespace unbend::forecast
