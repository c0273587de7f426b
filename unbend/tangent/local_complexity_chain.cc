// Per probe, the values of a layer at the vertices are a combination of few rows:
//   z(x +- r v_p) = row_0 +- row_p + sum over c of coefficient_c(+- p) row_{P + 1 + c}.
// A layer maps rows to rows; its bias goes to row 0. A neuron that is not crossed is linear over the vertices, so its
// activation scales its column of all rows by one slope. A crossed neuron is taken as linear too, with the slope at row
// 0, and what its activation differs from that at each vertex becomes the coefficients of a new row: the unit vector of
// the neuron, which the next layer turns into a row of its weights. Neurons of slope 0 drop out of the products. Once
// 2 P rows of plain values are cheaper, and after smooth activations, those are used.
#include "unbend/tangent/local_complexity_chain.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <limits>

#include "unbend/base/error.h"
#include "unbend/base/simd_tile.h"

namespace unbend {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using kernel::kLanes;
using kernel::Lanes;
using kernel::padded;

// ---- Products with gathered rows

template <class T>
struct Weights {
  const T* data;   // [inputs, stride]: the transpose of Linear's, padded to whole vectors
  int64_t stride;  // numbers per row
};

// R rows x V vectors of out = sum over the listed k of rows[r][k] weights[k].
template <int R, int V, class T>
HWY_INLINE void block(const T* const* rows, const std::vector<int32_t>& listed, const Weights<T>& w, int64_t column,
                      T* out, int64_t stride) {
  const Lanes<T> d;
  hn::Vec<Lanes<T>> sum[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[r][v] = hn::Zero(d);
  }
  const T* row[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) row[r] = rows[r];
  for (const int32_t k : listed) {
    const T* b = w.data + k * w.stride + column;
    hn::Vec<Lanes<T>> right[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) right[v] = hn::LoadU(d, b + v * kLanes<T>);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const auto left = hn::Set(d, row[r][k]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[r][v] = hn::MulAdd(left, right[v], sum[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) hn::StoreU(sum[r][v], d, out + r * stride + column + v * kLanes<T>);
  }
}

// All rows, in blocks of nearly equal height, so that no block is too thin to be fast.
template <int V, class T>
HWY_NOINLINE void strip(const std::vector<const T*>& rows, const std::vector<int32_t>& listed, const Weights<T>& w,
                        int64_t column, T* out, int64_t stride) {
  constexpr int64_t kMost = 6;
  const auto count = static_cast<int64_t>(rows.size());
  for (int64_t first = 0; first < count;) {
    const int64_t left = count - first, blocks = (left + kMost - 1) / kMost;
    const auto run = [&]<int R>() {
      block<R, V>(rows.data() + first, listed, w, column, out + first * stride, stride);
    };
    const int64_t height = (left + blocks - 1) / blocks;
    switch (height) {
      case 6: run.template operator()<6>(); break;
      case 5: run.template operator()<5>(); break;
      case 4: run.template operator()<4>(); break;
      case 3: run.template operator()<3>(); break;
      case 2: run.template operator()<2>(); break;
      default: run.template operator()<1>();
    }
    first += height;
  }
}

template <class T>
void product(const std::vector<const T*>& rows, const std::vector<int32_t>& listed, const Weights<T>& w, T* out,
             int64_t stride) {
  int64_t column = 0;
  for (int64_t left = w.stride / kLanes<T>; left > 0;) {
    const int64_t strips = (left + 3) / 4, vectors = (left + strips - 1) / strips;
    switch (vectors) {
      case 4: strip<4>(rows, listed, w, column, out, stride); break;
      case 3: strip<3>(rows, listed, w, column, out, stride); break;
      case 2: strip<2>(rows, listed, w, column, out, stride); break;
      default: strip<1>(rows, listed, w, column, out, stride);
    }
    column += vectors * kLanes<T>;
    left -= vectors;
  }
}

// ---- A chain as the kernel reads it

template <class T>
struct Layer {
  at::Tensor weight, bias;  // transposed and padded; the bias is 1 in padding, where nothing is ever crossed
  int64_t width, stride;    // outputs, without and with padding
  Elementwise activation;
  bool piecewise;  // linear on both sides of 0
  T slope;         // below 0
  Weights<T> weights() const { return {weight.const_data_ptr<T>(), stride}; }
};

template <class T>
Layer<T> pack(const ChainLayer& from) {
  Layer<T> layer;
  layer.width = from.linear.weight.size(0), layer.stride = padded<T>(layer.width);
  const int64_t padding = layer.stride - layer.width;
  layer.weight = at::constant_pad_nd(from.linear.weight.detach().t(), {0, padding}).contiguous();
  const auto bias =
      from.linear.bias.defined() ? from.linear.bias.detach() : at::zeros({layer.width}, layer.weight.options());
  layer.bias = at::constant_pad_nd(bias, {0, padding}, 1).contiguous();
  layer.activation = from.activation.value_or(Elementwise{Activation::Identity});
  const auto f = layer.activation.function;
  layer.piecewise = f == Activation::Relu || f == Activation::LeakyRelu || f == Activation::Identity;
  layer.slope = f == Activation::Relu ? T(0) : f == Activation::Identity ? T(1) : T(layer.activation.slope);
  return layer;
}

// What all probes share.
template <class T>
struct Shared {
  std::vector<Layer<T>> layers;
  at::Tensor directions;  // [P, stride] at the first layer: r V W^T
  std::vector<T> reach;   // the largest magnitude in each of their columns
  bool centre = false;
  int64_t stride = 0;  // of scratch rows: the widest layer's
  int64_t half() const { return directions.size(0); }
  int64_t vertices() const { return 2 * half() + (centre ? 1 : 0); }
};

template <class T>
bool is_crossed(T low, T high) {
  return (low <= 0) & (high >= 0) & ((low != 0) | (high != 0));
}

// ---- One probe after the other, with the scratch of one thread

template <class T>
class Worker {
 public:
  explicit Worker(const Shared<T>& shared)
      : shared_(shared),
        half_(shared.half()),
        low_(shared.stride),
        high_(shared.stride),
        factor_(shared.stride),
        scaled_((shared.vertices() + 1) * shared.stride) {
    for (auto& buffer : buffers_) buffer.resize((shared.vertices() + 1) * shared.stride);
  }

  // Crossed neurons of each layer for the probe with first-layer values u: counts[layer * step]. Returns the first
  // layer with values that are not finite, or -1.
  int count(const T* u, int64_t* counts, int64_t step) {
    rows_ = {u};
    for (int64_t p = 0; p < half_; ++p)
      rows_.push_back(shared_.directions.template const_data_ptr<T>() + p * first().stride);
    coefficients_.clear(), reaches_.clear();
    plain_ = false;
    first_range(u);
    for (size_t l = 0;; ++l) {
      const auto& layer = shared_.layers[l];
      list_crossed(layer.width);
      counts[static_cast<int64_t>(l) * step] = static_cast<int64_t>(crossed_.size());
      if (l + 1 == shared_.layers.size()) return -1;
      activate(layer, shared_.layers[l + 1]);
      if (!finite(shared_.layers[l + 1])) return static_cast<int>(l) + 1;
      plain_ ? range_of_values(shared_.layers[l + 1]) : range_of_combination(shared_.layers[l + 1]);
    }
  }

 private:
  const Layer<T>& first() const { return shared_.layers.front(); }
  int64_t corrections() const { return static_cast<int64_t>(reaches_.size()); }
  const T* correction(int64_t c) const { return rows_[1 + half_ + c]; }

  // Lowest and highest value of each neuron, or any two numbers of their sign if it is not crossed.
  void first_range(const T* u) {
    for (int64_t j = 0; j < first().width; ++j) {
      const T m = shared_.reach[j];
      const bool reached = std::abs(u[j]) <= m;
      low_[j] = reached ? u[j] - m : u[j], high_[j] = reached ? u[j] + m : u[j];
    }
  }

  void range_of_combination(const Layer<T>& layer) {
    const Lanes<T> d;
    const auto slack = hn::Set(d, 1 + 64 * std::numeric_limits<T>::epsilon());
    for (int64_t j = 0; j < layer.stride; j += kLanes<T>) {
      const auto base = hn::LoadU(d, rows_[0] + j);
      auto most = hn::Zero(d), bound = hn::Zero(d);
      for (int64_t p = 1; p <= half_; ++p) most = hn::Max(most, hn::Abs(hn::LoadU(d, rows_[p] + j)));
      for (int64_t c = 0; c < corrections(); ++c)
        bound = hn::MulAdd(hn::Set(d, reaches_[c]), hn::Abs(hn::LoadU(d, correction(c) + j)), bound);
      auto low = hn::Sub(base, most), high = hn::Add(base, most);
      if (hn::AllTrue(d, hn::Gt(hn::Abs(base), hn::Mul(hn::Add(most, bound), slack)))) {
        low = high = base;
      } else if (corrections() > 0) {
        const auto extremes = corrected_range(j);
        low = extremes.first, high = extremes.second;
        if (shared_.centre) low = hn::Min(low, base), high = hn::Max(high, base);
      }
      hn::StoreU(low, d, low_.data() + j);
      hn::StoreU(high, d, high_.data() + j);
    }
  }

  std::pair<hn::Vec<Lanes<T>>, hn::Vec<Lanes<T>>> corrected_range(int64_t j) const {
    const Lanes<T> d;
    const auto base = hn::LoadU(d, rows_[0] + j);
    auto low = hn::Set(d, std::numeric_limits<T>::infinity()), high = hn::Neg(low);
    for (int64_t p = 0; p < half_; ++p) {
      auto plus = base, minus = base;
      for (int64_t c = 0; c < corrections(); ++c) {
        const auto row = hn::LoadU(d, correction(c) + j);
        const T* coefficient = coefficients_.data() + c * 2 * half_ + p;
        plus = hn::MulAdd(hn::Set(d, coefficient[0]), row, plus);
        minus = hn::MulAdd(hn::Set(d, coefficient[half_]), row, minus);
      }
      const auto difference = hn::LoadU(d, rows_[1 + p] + j);
      plus = hn::Add(plus, difference), minus = hn::Sub(minus, difference);
      low = hn::Min(low, hn::Min(plus, minus)), high = hn::Max(high, hn::Max(plus, minus));
    }
    return {low, high};
  }

  void range_of_values(const Layer<T>& layer) {
    const Lanes<T> d;
    for (int64_t j = 0; j < layer.stride; j += kLanes<T>) {
      auto low = hn::LoadU(d, rows_[0] + j), high = low;
      for (const T* row : rows_) {
        const auto x = hn::LoadU(d, row + j);
        low = hn::Min(low, x), high = hn::Max(high, x);
      }
      hn::StoreU(low, d, low_.data() + j);
      hn::StoreU(high, d, high_.data() + j);
    }
  }

  // The numbers below `width` that are wanted, without branches.
  template <class Wanted>
  static void list(std::vector<int32_t>& numbers, int64_t width, const Wanted& wanted) {
    numbers.resize(width + 1);
    int64_t count = 0;
    for (int64_t j = 0; j < width; ++j) numbers[count] = static_cast<int32_t>(j), count += wanted(j) ? 1 : 0;
    numbers.resize(count);
  }

  void list_crossed(int64_t width) {
    list(crossed_, width, [&](int64_t j) { return is_crossed(low_[j], high_[j]); });
  }

  // Value of neuron j at vertex i: P times +, P times -.
  T value(int64_t i, int64_t j) const {
    T z = rows_[0][j];
    for (int64_t c = 0; c < corrections(); ++c) z += coefficients_[c * 2 * half_ + i] * correction(c)[j];
    return i < half_ ? z + rows_[1 + i][j] : z - rows_[1 + i - half_][j];
  }

  // Through the activation of a layer and the products of the next.
  void activate(const Layer<T>& layer, const Layer<T>& next) {
    if (!plain_) {
      list_alive(layer);
      plain_ = !layer.piecewise || !worth_it(layer);
      if (plain_) write_vertices(layer);
    }
    plain_ ? plain_step(layer, next) : combined_step(layer, next);
  }

  // Whether rows that combine cost less than the vertices. A correction costs about three products at every vertex, and
  // many of them make the crossed neurons dear, which are put together one by one.
  bool worth_it(const Layer<T>& layer) const {
    const auto rows = std::ssize(rows_), alive = std::ssize(alive_);
    const auto added = layer.slope == 1 ? 0 : std::ssize(crossed_), all = corrections() + added;
    return 2 * all <= half_ && rows * alive + 6 * half_ * all < 2 * half_ * (alive + added);
  }

  // Neurons whose slope is not 0, and the slopes.
  void list_alive(const Layer<T>& layer) {
    for (int64_t j = 0; j < layer.width; ++j) factor_[j] = low_[j] > 0 ? T(1) : layer.slope;
    for (const int32_t k : crossed_) factor_[k] = rows_[0][k] > 0 ? T(1) : layer.slope;
    list(alive_, layer.width, [&](int64_t j) { return factor_[j] != 0; });
  }

  void combined_step(const Layer<T>& layer, const Layer<T>& next) {
    new_coefficients_.clear(), new_reaches_.clear();
    if (layer.slope == 1) crossed_.clear();  // the identity needs no correction
    for (const int32_t k : crossed_) {
      T reach = 0;
      for (int64_t i = 0; i < 2 * half_; ++i) {
        const T z = value(i, k), slope = z > 0 ? T(1) : layer.slope;
        new_coefficients_.push_back((slope - factor_[k]) * z);
        reach = std::max(reach, std::abs(new_coefficients_.back()));
      }
      new_reaches_.push_back(reach);
    }
    if (layer.slope != 0 && layer.slope != 1) {
      for (size_t r = 0; r < rows_.size(); ++r) {
        T* to = scaled_.data() + static_cast<int64_t>(r) * shared_.stride;
        for (int64_t j = 0; j < layer.width; ++j) to[j] = rows_[r][j] * factor_[j];
        rows_[r] = to;
      }
    }
    multiply(next, 1);
    for (const int32_t k : crossed_) rows_.push_back(next.weights().data + k * next.stride);
    coefficients_.insert(coefficients_.end(), new_coefficients_.begin(), new_coefficients_.end());
    reaches_.insert(reaches_.end(), new_reaches_.begin(), new_reaches_.end());
  }

  // From rows that combine to the values at the vertices, as plain rows.
  void write_vertices(const Layer<T>& layer) {
    const Lanes<T> d;
    T* buffer = other_buffer();
    for (int64_t i = 0; i < shared_.vertices(); ++i) {
      const bool centre = i == 2 * half_;
      const auto sign = hn::Set(d, centre ? T(0) : i < half_ ? T(1) : T(-1));
      const T* difference = rows_[1 + (centre ? 0 : i % half_)];
      for (int64_t j = 0; j < layer.stride; j += kLanes<T>) {
        auto z = hn::LoadU(d, rows_[0] + j);
        for (int64_t c = 0; !centre && c < corrections(); ++c)
          z = hn::MulAdd(hn::Set(d, coefficients_[c * 2 * half_ + i]), hn::LoadU(d, correction(c) + j), z);
        hn::StoreU(hn::MulAdd(sign, hn::LoadU(d, difference + j), z), d, buffer + i * shared_.stride + j);
      }
    }
    set_rows(buffer, shared_.vertices());
  }

  void plain_step(const Layer<T>& layer, const Layer<T>& next) {
    T* values = const_cast<T*>(rows_[0]);  // plain rows lie in our own buffer
    const int64_t count = shared_.vertices();
    if (layer.piecewise) {
      for (int64_t i = 0; i < count; ++i) {
        T* row = values + i * shared_.stride;
        for (int64_t j = 0; j < layer.width; ++j) row[j] = row[j] > 0 ? row[j] : layer.slope * row[j];
      }
    } else {
      auto rows = at::from_blob(values, {count, layer.width}, {shared_.stride, 1}, layer.weight.options());
      rows.copy_(layer.activation(rows));
    }
    const bool all = !layer.piecewise || layer.slope != 0;
    list(alive_, layer.width, [&](int64_t j) { return all || high_[j] > 0; });
    multiply(next, count);
  }

  // rows_ = rows_ W^T over the neurons that are alive, with the bias added to the first ones.
  void multiply(const Layer<T>& next, int64_t biased) {
    T* out = other_buffer();
    product(rows_, alive_, next.weights(), out, shared_.stride);
    const T* bias = next.bias.template const_data_ptr<T>();
    for (int64_t r = 0; r < biased; ++r) {
      for (int64_t j = 0; j < next.stride; ++j) out[r * shared_.stride + j] += bias[j];
    }
    set_rows(out, static_cast<int64_t>(rows_.size()));
  }

  T* other_buffer() { return buffers_[flip_ = 1 - flip_].data(); }

  void set_rows(const T* data, int64_t count) {
    rows_.resize(count);
    for (int64_t r = 0; r < count; ++r) rows_[r] = data + r * shared_.stride;
  }

  bool finite(const Layer<T>& layer) const {
    const Lanes<T> d;
    auto sum = hn::Zero(d);  // 0 x is NaN for infinities and NaN
    for (const T* row : rows_) {
      for (int64_t j = 0; j < layer.stride; j += kLanes<T>) sum = hn::MulAdd(hn::LoadU(d, row + j), hn::Zero(d), sum);
    }
    return hn::AllTrue(d, hn::Eq(sum, hn::Zero(d)));
  }

  const Shared<T>& shared_;
  const int64_t half_;                     // P
  bool plain_ = false;                     // rows are the vertices' values
  std::vector<const T*> rows_;             // centre, half differences, corrections; or vertices
  std::vector<T> coefficients_, reaches_;  // of corrections: at the 2 P vertices, and the largest magnitude
  std::vector<T> new_coefficients_, new_reaches_;
  std::vector<T> low_, high_, factor_;    // per neuron; factor_ is the slope
  std::vector<int32_t> alive_, crossed_;  // neurons, increasing
  std::vector<T> scaled_;
  std::array<std::vector<T>, 2> buffers_;  // rows of this layer and of the next, in turns
  int flip_ = 0;
};

template <class T>
at::Tensor crossings_of(const std::vector<ChainLayer>& chain, const at::Tensor& probes, const at::Tensor& directions,
                        bool include_centre) {
  Shared<T> shared;
  for (const auto& layer : chain) {
    shared.layers.push_back(pack<T>(layer));
    shared.stride = std::max(shared.stride, shared.layers.back().stride);
  }
  const auto& first = shared.layers.front();
  shared.centre = include_centre;
  shared.directions = at::mm(directions, first.weight);
  const auto reach = shared.directions.abs().amax(0);
  shared.reach.assign(reach.template const_data_ptr<T>(), reach.template const_data_ptr<T>() + reach.numel());

  const int64_t count = probes.size(0), at_once = std::max<int64_t>((1 << 24) / first.stride, 1);
  auto counts = at::zeros({std::ssize(chain), count}, at::kLong);
  std::atomic<int> overflowed = at::isfinite(shared.directions).all().template item<bool>() ? -1 : 0;
  for (int64_t begin = 0; begin < count && overflowed < 0; begin += at_once) {
    const auto part = probes.slice(0, begin, std::min(count, begin + at_once));
    const auto values = at::addmm(first.bias, part, first.weight);
    if (!at::isfinite(values).all().template item<bool>()) overflowed = 0;
    at::parallel_for(0, overflowed < 0 ? part.size(0) : 0, 8, [&](int64_t from, int64_t to) {
      const at::NoGradGuard no_grad;
      Worker<T> worker(shared);
      for (int64_t s = from; s < to; ++s) {
        const int layer = worker.count(values.template const_data_ptr<T>() + s * first.stride,
                                       counts.template mutable_data_ptr<int64_t>() + begin + s, count);
        if (layer >= 0) overflowed = layer;
      }
    });
  }
  if (overflowed >= 0)
    fail_computation("local complexity: layer '{}' has values that are not finite", chain[overflowed].name);
  return counts;
}

}  // namespace

std::optional<std::vector<ChainLayer>> linear_chain(const Network& network) {
  std::vector<ChainLayer> chain;
  for (size_t i = 0; i < network.nodes.size(); ++i) {
    const auto& node = network.nodes[i];
    if (node.inputs != std::vector{static_cast<int>(i)}) return std::nullopt;
    if (const auto* reshape = std::get_if<Reshape>(&node.operation)) {
      if (i > 0 || reshape->shape.size() != 1) return std::nullopt;
    } else if (const auto* linear = std::get_if<Linear>(&node.operation)) {
      if (!chain.empty() && !chain.back().activation) return std::nullopt;  // an activation is between any two
      const auto& w = linear->weight;
      const bool known = w.scalar_type() == at::kFloat || w.scalar_type() == at::kDouble;
      if (!w.device().is_cpu() || !known || w.dim() != 2) return std::nullopt;
      if (!chain.empty() && (w.size(1) != chain.back().linear.weight.size(0) ||
                             w.scalar_type() != chain.front().linear.weight.scalar_type()))
        return std::nullopt;
      chain.push_back({node.name, *linear, std::nullopt});
    } else if (const auto* activation = std::get_if<Elementwise>(&node.operation)) {
      if (chain.empty() || chain.back().activation) return std::nullopt;
      chain.back().activation = *activation;
    } else {
      return std::nullopt;
    }
  }
  return chain.empty() ? std::nullopt : std::optional(chain);
}

at::Tensor chain_crossings(const std::vector<ChainLayer>& chain, const at::Tensor& probes, const at::Tensor& directions,
                           bool include_centre) {
  return probes.scalar_type() == at::kDouble ? crossings_of<double>(chain, probes, directions, include_centre)
                                             : crossings_of<float>(chain, probes, directions, include_centre);
}

}  // namespace unbend
