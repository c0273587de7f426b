#include "unbend/nets/nbeats.h"

#include <ATen/Parallel.h>

#include <algorithm>

#include "unbend/tensor/gemm.h"

namespace unbend::nbeats {
namespace {

constexpr std::int64_t kGrain = 1 << 15;      // numbers that are worth a thread
constexpr std::int64_t kRowsToSum = 1 << 10;  // over which one product sums a weight's gradient well

/// z [rows, width] = x W^T + b, rows of z `stride` apart; then relu.
template <bool kRelu, class T>
void dense(std::int64_t rows, std::int64_t in, std::int64_t width, const T* x, const T* weight, const T* bias, T* z,
           std::int64_t stride) {
  gemm<T>(false, true, rows, width, in, x, in, weight, in, 0, z, stride);
  at::parallel_for(0, rows, std::max<std::int64_t>(1, kGrain / width), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      T* const row = z + r * stride;
      for (std::int64_t i = 0; i < width; ++i) {
        const T v = row[i] + bias[i];
        row[i] = kRelu ? (v > 0 ? v : T(0)) : v;
      }
    }
  });
}

/// Gradient of a layer's bias: adds the columns of d up. With `hidden`, first takes d through the relu that gave it: 0
/// where its result was 0.
template <class T>
void bias_gradient(std::int64_t rows, std::int64_t width, const T* __restrict hidden, T* __restrict d,
                   T* __restrict sums) {
  at::parallel_for(0, width, std::max<std::int64_t>(16, kGrain / rows), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = 0; r < rows; ++r) {
      T* const row = d + r * width;
      if (hidden) {
        const T* const h = hidden + r * width;
        for (std::int64_t i = begin; i < end; ++i) {
          row[i] = h[i] > 0 ? row[i] : T(0);
          sums[i] += row[i];
        }
      } else {
        for (std::int64_t i = begin; i < end; ++i) sums[i] += row[i];
      }
    }
  });
}

/// The basis matrices of all sets, in T, one after the other.
template <class T>
void fill_bases(const Layout& layout, std::vector<T>& bases) {
  bases.clear();
  for (const auto& set : layout.sets) {
    bases.insert(bases.end(), set.backcast_basis.begin(), set.backcast_basis.end());
    bases.insert(bases.end(), set.forecast_basis.begin(), set.forecast_basis.end());
  }
}

template <class T>
void prepare(const Layout& layout, std::int64_t batch, Workspace<T>& work) {
  const auto size = [](std::int64_t n) { return static_cast<std::size_t>(n); };
  const std::int64_t lookback = layout.config.lookback, horizon = layout.config.horizon;
  work.forecast.resize(size(batch * horizon));
  work.block_forecasts.resize(work.keep_blocks ? size(layout.blocks * batch * horizon) : 0);
  work.block_backcasts.resize(work.keep_blocks ? size(layout.blocks * batch * lookback) : 0);
  work.other.resize(size(batch * lookback));
  work.sets.resize(layout.sets.size());
  fill_bases(layout, work.bases);
  for (std::size_t s = 0; s < layout.sets.size(); ++s) {
    const auto& set = layout.sets[s];
    auto& kept = work.sets[s];
    kept.stream.resize(size(set.uses * batch * lookback));
    kept.hidden.resize(set.hidden.size());
    for (std::size_t l = 0; l < set.hidden.size(); ++l)
      kept.hidden[l].resize(size(set.uses * batch * set.hidden[l].out));
    kept.theta.resize(size(set.uses * batch * set.theta.out));
  }
}

/// What of theta is computed: all, or its forecast only.
struct Part {
  std::int64_t at, size;
};
Part part_of_theta(const BlockSet& set, bool forecast_only) {
  return forecast_only ? Part{set.forecast_at, set.forecast_size} : Part{0, set.theta.out};
}

}  // namespace

template <class T>
void forward(const Layout& layout, const T* weights, const Windows<T>& windows, Workspace<T>& work) {
  const std::int64_t batch = windows.batch, lookback = layout.config.lookback, horizon = layout.config.horizon;
  prepare(layout, batch, work);
  for (std::int64_t b = 0; b < batch; ++b)
    std::fill_n(work.forecast.data() + b * horizon, horizon, layout.config.last_level ? windows.level[b] : T(0));
  std::copy_n(windows.x, batch * lookback, work.sets[0].stream.data());
  const T* bases = work.bases.data();
  int block = 0;
  for (std::size_t s = 0; s < layout.sets.size(); ++s) {
    const auto& set = layout.sets[s];
    auto& kept = work.sets[s];
    const T* const forecast_basis = bases + set.backcast_basis.size();
    for (int use = 0; use < set.uses; ++use, ++block) {
      T* const stream = kept.stream.data() + use * batch * lookback;
      const T* input = stream;
      for (std::size_t l = 0; l < set.hidden.size(); ++l) {
        const auto& layer = set.hidden[l];
        T* const h = kept.hidden[l].data() + use * batch * layer.out;
        dense<true>(batch, layer.in, layer.out, input, weights + layer.weight, weights + layer.bias, h, layer.out);
        input = h;
      }
      T* const theta = kept.theta.data() + use * batch * set.theta.out;
      const bool last = block + 1 == layout.blocks;  // nobody reads its backcast
      const Part used = part_of_theta(set, last && !work.keep_blocks);
      dense<false>(batch, set.theta.in, used.size, input, weights + set.theta.weight + used.at * set.theta.in,
                   weights + set.theta.bias + used.at, theta + used.at, set.theta.out);

      // The backcast, by the basis or as a part of theta; the forecast likewise.
      const bool generic = set.basis == Basis::Generic;
      const T* backcast = theta + set.backcast_at;
      std::int64_t stride = set.theta.out;
      if (!generic && used.size == set.theta.out) {
        gemm<T>(false, false, batch, lookback, set.backcast_size, backcast, set.theta.out, bases, lookback, 0,
                work.other.data(), lookback);
        backcast = work.other.data(), stride = lookback;
      }
      T* const part = work.keep_blocks ? work.block_forecasts.data() + block * batch * horizon : nullptr;
      if (part) {
        std::copy(work.forecast.begin(), work.forecast.end(), part);  // from sum before to sum after, below
        for (std::int64_t b = 0; b < batch; ++b)
          std::copy_n(backcast + b * stride, lookback, work.block_backcasts.data() + (block * batch + b) * lookback);
      }
      if (generic) {
        for (std::int64_t b = 0; b < batch; ++b) {
          const T* const from = theta + b * set.theta.out + set.forecast_at;
          T* const to = work.forecast.data() + b * horizon;
          for (std::int64_t i = 0; i < horizon; ++i) to[i] += from[i];
        }
      } else {
        gemm<T>(false, false, batch, horizon, set.forecast_size, theta + set.forecast_at, set.theta.out, forecast_basis,
                horizon, 1, work.forecast.data(), horizon);
      }
      if (part)
        for (std::int64_t i = 0; i < batch * horizon; ++i)
          part[i] = work.forecast[static_cast<std::size_t>(i)] - part[i];

      if (last) break;
      T* const next = use + 1 < set.uses ? stream + batch * lookback : work.sets[s + 1].stream.data();
      for (std::int64_t b = 0; b < batch; ++b) {
        const T *const x = stream + b * lookback, *const mask = windows.mask + b * lookback,
                       *const back = backcast + b * stride;
        T* const to = next + b * lookback;
        for (std::int64_t i = 0; i < lookback; ++i) to[i] = (x[i] - back[i]) * mask[i];
      }
    }
    bases = forecast_basis + set.forecast_basis.size();
  }
}

template <class T>
void backward(const Layout& layout, const T* weights, const Windows<T>& windows, const T* d_forecast,
              Workspace<T>& work, T* gradient) {
  const std::int64_t batch = windows.batch, lookback = layout.config.lookback, horizon = layout.config.horizon;
  work.gradient.assign(static_cast<std::size_t>(batch * lookback), T(0));  // of x_{r+1}, then of x_r
  T* const d_next = work.gradient.data();
  auto& d_hidden = work.hidden_gradients;  // per layer [at_once, batch, width]

  const T* bases = work.bases.data() + work.bases.size();
  int block = layout.blocks - 1;
  for (std::size_t s = layout.sets.size(); s-- > 0;) {
    const auto& set = layout.sets[s];
    auto& kept = work.sets[s];
    const T* const forecast_basis = bases - set.forecast_basis.size();
    const T* const backcast_basis = forecast_basis - set.backcast_basis.size();
    const bool generic = set.basis == Basis::Generic;
    // Blocks whose gradients by the weights that they share are summed by one product.
    const std::int64_t at_once = std::clamp<std::int64_t>(kRowsToSum / batch, 1, set.uses);
    if (d_hidden.size() < set.hidden.size()) d_hidden.resize(set.hidden.size());
    for (std::size_t l = 0; l < set.hidden.size(); ++l)
      d_hidden[l].resize(std::max(d_hidden[l].size(), static_cast<std::size_t>(at_once * batch * set.hidden[l].out)));
    for (const auto& layer : set.hidden) std::fill_n(gradient + layer.bias, layer.out, T(0));
    std::fill_n(gradient + set.theta.bias, set.theta.out, T(0));
    for (int use = set.uses - 1; use >= 0; --use, --block) {
      // x_{r+1} = mask (x_r - backcast): both get mask d_next, the backcast with a minus sign.
      const std::int64_t size = set.theta.out;
      T* const d_theta = kept.theta.data() + use * batch * size;
      T* const d_backcast = generic ? d_theta + set.backcast_at : work.other.data();
      const std::int64_t backcast_stride = generic ? size : lookback;
      for (std::int64_t b = 0; b < batch; ++b) {
        const T* const mask = windows.mask + b * lookback;
        T *const next = d_next + b * lookback, *const back = d_backcast + b * backcast_stride;
        for (std::int64_t i = 0; i < lookback; ++i) {
          const T d = next[i] * mask[i];
          next[i] = d, back[i] = -d;
        }
        if (generic) std::copy_n(d_forecast + b * horizon, horizon, d_theta + b * size + set.forecast_at);
      }
      if (!generic) {
        gemm<T>(false, true, batch, set.backcast_size, lookback, d_backcast, lookback, backcast_basis, lookback, 0,
                d_theta + set.backcast_at, size);
        gemm<T>(false, true, batch, set.forecast_size, horizon, d_forecast, horizon, forecast_basis, horizon, 0,
                d_theta + set.forecast_at, size);
      }
      const Part used = part_of_theta(set, block + 1 == layout.blocks);
      const std::int64_t slot = use % at_once;
      bias_gradient<T>(batch, size, nullptr, d_theta, gradient + set.theta.bias);
      const T *d = d_theta + used.at, *above = weights + set.theta.weight + used.at * set.theta.in;
      std::int64_t outputs = used.size, stride = size;
      for (std::size_t l = set.hidden.size(); l-- > 0;) {
        const auto& layer = set.hidden[l];
        T* const down = d_hidden[l].data() + slot * batch * layer.out;
        gemm<T>(false, false, batch, layer.out, outputs, d, stride, above, layer.out, 0, down, layer.out);
        bias_gradient<T>(batch, layer.out, kept.hidden[l].data() + use * batch * layer.out, down,
                         gradient + layer.bias);
        d = down, above = weights + layer.weight, outputs = stride = layer.out;
      }
      if (block > 0) gemm<T>(false, false, batch, lookback, outputs, d, stride, above, lookback, 1, d_next, lookback);
      if (slot > 0) continue;
      const std::int64_t left = set.uses - use, rows = std::min(at_once, left) * batch;
      const T beta = left <= at_once ? 0 : 1;
      const auto sum = [&](const Dense& layer, const T* d_out, const std::vector<T>& in) {
        gemm<T>(true, false, layer.out, layer.in, rows, d_out, layer.out, in.data() + use * batch * layer.in, layer.in,
                beta, gradient + layer.weight, layer.in);
      };
      sum(set.theta, d_theta, kept.hidden.back());
      for (std::size_t l = 0; l < set.hidden.size(); ++l)
        sum(set.hidden[l], d_hidden[l].data(), l == 0 ? kept.stream : kept.hidden[l - 1]);
    }
    bases = backcast_basis;
  }
}

#define UNBEND_NBEATS(T)                                                            \
  template void forward(const Layout&, const T*, const Windows<T>&, Workspace<T>&); \
  template void backward(const Layout&, const T*, const Windows<T>&, const T*, Workspace<T>&, T*);
UNBEND_NBEATS(float)
UNBEND_NBEATS(double)
#undef UNBEND_NBEATS

}  // namespace unbend::nbeats
