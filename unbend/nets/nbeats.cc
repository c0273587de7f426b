#include "unbend/nets/nbeats.h"

#include <ATen/Parallel.h>

#include <algorithm>

#include "unbend/tensor/gemm.h"

namespace unbend::nbeats {
namespace {

constexpr std::int64_t kGrain = 1 << 15;  // numbers that are worth a thread

std::int64_t rows_per_thread(std::int64_t width) { return std::max<std::int64_t>(1, kGrain / width); }

/// out [rows, layer.out] = x [rows, layer.in] W^T, without the bias.
template <class T>
void weigh(const Dense& layer, const T* weights, std::int64_t rows, const T* x, T* out) {
  gemm<T>(false, true, rows, layer.out, layer.in, x, layer.in, weights + layer.weight, layer.in, 0, out, layer.out);
}

template <bool kRelu, class T>
void add_bias(std::int64_t rows, std::int64_t width, const T* bias, T* z) {
  at::parallel_for(0, rows, rows_per_thread(width), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      T* row = z + r * width;
      for (std::int64_t i = 0; i < width; ++i) {
        const T v = row[i] + bias[i];
        row[i] = kRelu ? (v > 0 ? v : T(0)) : v;
      }
    }
  });
}

/// Gradient through relu: 0 where its result was 0.
template <class T>
void mask_relu(std::int64_t count, const T* __restrict hidden, T* __restrict d) {
  at::parallel_for(0, count, kGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) d[i] = hidden[i] > 0 ? d[i] : T(0);
  });
}

template <class T>
void column_sums(std::int64_t rows, std::int64_t width, const T* __restrict d, T* __restrict sums) {
  at::parallel_for(0, width, std::max<std::int64_t>(16, kGrain / rows), [&](std::int64_t begin, std::int64_t end) {
    std::fill(sums + begin, sums + end, T(0));
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t i = begin; i < end; ++i) sums[i] += d[r * width + i];
    }
  });
}

/// Gradients of a layer's weight and bias from all rows at once.
template <class T>
void layer_gradient(const Dense& layer, std::int64_t rows, const T* d, const T* x, T* gradient) {
  gemm<T>(true, false, layer.out, layer.in, rows, d, layer.out, x, layer.in, 0, gradient + layer.weight, layer.in);
  column_sums(rows, layer.out, d, gradient + layer.bias);
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
        weigh(layer, weights, batch, input, h);
        add_bias<true>(batch, layer.out, weights + layer.bias, h);
        input = h;
      }
      T* const theta = kept.theta.data() + use * batch * set.theta.out;
      weigh(set.theta, weights, batch, input, theta);
      add_bias<false>(batch, set.theta.out, weights + set.theta.bias, theta);

      // The backcast, by the basis or as a part of theta; the forecast likewise.
      const bool generic = set.basis == Basis::Generic;
      const T* backcast = theta + set.backcast_at;
      std::int64_t stride = set.theta.out;
      if (!generic) {
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

      if (block + 1 == layout.blocks) break;  // nobody reads the last residual
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
  work.down.resize(static_cast<std::size_t>(batch * lookback));
  T* const d_next = work.gradient.data();
  T* const d_backcast = work.down.data();
  auto& d_hidden = work.hidden_gradients;  // of one set at a time, [uses, batch, width] per layer

  const T* bases = work.bases.data() + work.bases.size();
  int block = layout.blocks - 1;
  for (std::size_t s = layout.sets.size(); s-- > 0;) {
    const auto& set = layout.sets[s];
    auto& kept = work.sets[s];
    const T* const forecast_basis = bases - set.forecast_basis.size();
    const T* const backcast_basis = forecast_basis - set.backcast_basis.size();
    const bool generic = set.basis == Basis::Generic;
    if (d_hidden.size() < set.hidden.size()) d_hidden.resize(set.hidden.size());
    for (std::size_t l = 0; l < set.hidden.size(); ++l)
      d_hidden[l].resize(std::max(d_hidden[l].size(), kept.hidden[l].size()));
    for (int use = set.uses - 1; use >= 0; --use, --block) {
      // x_{r+1} = mask (x_r - backcast): both get mask d_next, the backcast with a minus sign.
      for (std::int64_t i = 0; i < batch * lookback; ++i) {
        d_next[i] *= windows.mask[i];
        d_backcast[i] = -d_next[i];
      }
      const std::int64_t size = set.theta.out;
      T* const d_theta = kept.theta.data() + use * batch * size;
      if (generic) {
        for (std::int64_t b = 0; b < batch; ++b) {
          std::copy_n(d_backcast + b * lookback, lookback, d_theta + b * size + set.backcast_at);
          std::copy_n(d_forecast + b * horizon, horizon, d_theta + b * size + set.forecast_at);
        }
      } else {
        gemm<T>(false, true, batch, set.backcast_size, lookback, d_backcast, lookback, backcast_basis, lookback, 0,
                d_theta + set.backcast_at, size);
        gemm<T>(false, true, batch, set.forecast_size, horizon, d_forecast, horizon, forecast_basis, horizon, 0,
                d_theta + set.forecast_at, size);
      }
      const T* d = d_theta;
      const Dense* above = &set.theta;
      for (std::size_t l = set.hidden.size(); l-- > 0;) {
        const std::int64_t width = set.hidden[l].out;
        T* const down = d_hidden[l].data() + use * batch * width;
        gemm<T>(false, false, batch, width, above->out, d, above->out, weights + above->weight, width, 0, down, width);
        mask_relu(batch * width, kept.hidden[l].data() + use * batch * width, down);
        d = down, above = &set.hidden[l];
      }
      if (block > 0)
        gemm<T>(false, false, batch, lookback, above->out, d, above->out, weights + above->weight, lookback, 1, d_next,
                lookback);
    }
    // One product per weight over all the blocks that share it.
    const std::int64_t rows = set.uses * batch;
    layer_gradient(set.theta, rows, kept.theta.data(), kept.hidden.back().data(), gradient);
    for (std::size_t l = 0; l < set.hidden.size(); ++l)
      layer_gradient(set.hidden[l], rows, d_hidden[l].data(), l == 0 ? kept.stream.data() : kept.hidden[l - 1].data(),
                     gradient);
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
