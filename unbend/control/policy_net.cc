#include "unbend/control/policy_net.h"

#include <hwy/contrib/math/math-inl.h>

#include <cmath>

#include "unbend/base/error.h"
#include "unbend/base/simd_tile.h"

namespace unbend::control {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using kernel::kLanes;
using kernel::Lanes;

enum class After { Nothing, Tanh, Relu };
constexpr std::int64_t kRowsAtOnce = 512;  // of a batch, when it is summed over: a strip of it stays in the cache

template <class T>
std::int64_t strip_width(std::int64_t outputs) {
  return outputs <= kLanes<T> ? kLanes<T> : 2 * kLanes<T>;
}

/// Distance of rows with room for `width`. Never a multiple of 1 kB: rows that begin in the same sets of the cache
/// would evict each other.
template <class T>
std::int64_t row_stride(std::int64_t width) {
  return width + (width * static_cast<std::int64_t>(sizeof(T)) % 1024 == 0 ? kLanes<T> : 0);
}

/// Calls block<R>(i) for blocks of R rows that cover [0, rows).
template <class Block>
void in_blocks(std::int64_t rows, const Block& block) {
  std::int64_t i = 0;
  for (; i + 12 <= rows; i += 12) block.template operator()<12>(i);
  for (; i + 4 <= rows; i += 4) block.template operator()<4>(i);
  for (; i < rows; ++i) block.template operator()<1>(i);
}

/// y = after(x W + b) for one strip of V vectors.
template <int V, class T>
void forward_strip(std::int64_t rows, kernel::Left<T> x, std::int64_t inputs, const T* weights, const T* bias, T* y,
                   std::int64_t y_stride, After after) {
  const Lanes<T> d;
  in_blocks(rows, [&]<int R>(std::int64_t i) {
    T* const out = y + i * y_stride;
    kernel::block_product<R, V, kernel::Into::Set>(
        out, y_stride, kernel::Term<T>{inputs, {x.data + i * x.row, x.row, x.column}, weights, V * kLanes<T>});
    for (int v = 0; v < V; ++v) {
      const auto b = hn::LoadU(d, bias + v * kLanes<T>);
      for (int r = 0; r < R; ++r) {
        T* const at = out + r * y_stride + v * kLanes<T>;
        auto z = hn::Add(hn::LoadU(d, at), b);
        if (after == After::Relu) z = hn::Max(z, hn::Zero(d));
        if (after == After::Tanh) z = hn::Tanh(d, z);
        hn::StoreU(z, d, at);
      }
    }
  });
}

/// c (+)= a b for one strip of V vectors.
template <int V, class T>
void product_strip(std::int64_t rows, kernel::Left<T> a, std::int64_t inner, const T* b, std::int64_t b_stride, T* c,
                   std::int64_t c_stride, bool add) {
  in_blocks(rows, [&]<int R>(std::int64_t i) {
    const kernel::Term<T> term{inner, {a.data + i * a.row, a.row, a.column}, b, b_stride};
    if (add) {
      kernel::block_product<R, V, kernel::Into::Add>(c + i * c_stride, c_stride, term);
    } else {
      kernel::block_product<R, V, kernel::Into::Set>(c + i * c_stride, c_stride, term);
    }
  });
}

template <class T>
void product_strip(std::int64_t width, std::int64_t rows, kernel::Left<T> a, std::int64_t inner, const T* b,
                   std::int64_t b_stride, T* c, std::int64_t c_stride, bool add) {
  if (width == kLanes<T>) {
    product_strip<1>(rows, a, inner, b, b_stride, c, c_stride, add);
  } else {
    product_strip<2>(rows, a, inner, b, b_stride, c, c_stride, add);
  }
}

template <class T>
void require_size(std::int64_t got, std::int64_t expected, const char* what) {
  require(got == expected, "network: {} has {} columns, {} expected", what, got, expected);
}

/// `rows` orthonormal rows of `columns` numbers (columns >= rows), from random ones by two passes of Gram and Schmidt.
std::vector<double> orthonormal(std::int64_t rows, std::int64_t columns, Random& random) {
  std::vector<double> q(static_cast<std::size_t>(rows * columns));
  for (double& value : q) value = random.normal();
  for (std::int64_t i = 0; i < rows; ++i) {
    double* const own = q.data() + i * columns;
    for (int pass = 0; pass < 2; ++pass) {
      for (std::int64_t j = 0; j < i; ++j) {
        const double* const other = q.data() + j * columns;
        double dot = 0;
        for (std::int64_t k = 0; k < columns; ++k) dot += own[k] * other[k];
        for (std::int64_t k = 0; k < columns; ++k) own[k] -= dot * other[k];
      }
    }
    double norm = 0;
    for (std::int64_t k = 0; k < columns; ++k) norm += own[k] * own[k];
    for (std::int64_t k = 0; k < columns; ++k) own[k] /= std::sqrt(norm);
  }
  return q;
}

}  // namespace

template <class T>
Mlp<T>::Mlp(std::vector<std::int64_t> widths, Nonlinearity hidden) : widths_(std::move(widths)), hidden_(hidden) {
  require(widths_.size() >= 2, "a network needs inputs and outputs");
  for (const auto width : widths_) require(width > 0 && width <= 1 << 16, "a layer of {} units", width);
  for (std::size_t l = 0; l + 1 < widths_.size(); ++l) {
    Place p{widths_[l], widths_[l + 1], strip_width<T>(widths_[l + 1]), 0, 0, 0};
    p.strips = (p.outputs + p.width - 1) / p.width;
    p.weights = parameters_;
    p.bias = p.weights + p.strips * p.inputs * p.width;
    parameters_ = p.bias + p.strips * p.width;
    require(parameters_ <= 1 << 28, "a network of more than {} parameters", 1 << 28);
    places_.push_back(p);
  }
}

template <class T>
void Mlp<T>::initialise(T* parameters, Start start, double last_gain, Random& random) const {
  std::vector<Layer> layers;
  for (const Place& p : places_) {
    const bool last = &p == &places_.back();
    Layer layer;
    layer.weight.resize(static_cast<std::size_t>(p.inputs * p.outputs));
    layer.bias.assign(static_cast<std::size_t>(p.outputs), 0);
    if (start == Start::Uniform) {
      const double bound = 1 / std::sqrt(static_cast<double>(p.inputs));
      const auto draw = [&] { return static_cast<T>(bound * (2 * random.uniform() - 1)); };
      for (T& w : layer.weight) w = draw();
      for (T& b : layer.bias) b = draw();
    } else {
      const double gain = last ? last_gain : std::sqrt(2.);
      const auto rows = std::min(p.inputs, p.outputs), columns = std::max(p.inputs, p.outputs);
      const auto q = orthonormal(rows, columns, random);
      for (std::int64_t o = 0; o < p.outputs; ++o) {
        for (std::int64_t i = 0; i < p.inputs; ++i) {
          const auto at = p.outputs <= p.inputs ? o * columns + i : i * columns + o;
          layer.weight[static_cast<std::size_t>(o * p.inputs + i)] =
              static_cast<T>(gain * q[static_cast<std::size_t>(at)]);
        }
      }
    }
    layers.push_back(std::move(layer));
  }
  set_layers(layers, parameters);
}

template <class T>
void Mlp<T>::forward(const T* parameters, const Matrix<T>& x, Work& work) const {
  require_size<T>(x.columns, inputs(), "the input");
  work.outputs.resize(places_.size());
  const Matrix<T>* in = &x;
  for (std::size_t l = 0; l < places_.size(); ++l) {
    const Place& p = places_[l];
    Matrix<T>& out = work.outputs[l];
    out.resize(x.rows, p.outputs, row_stride<T>(p.strips * p.width));
    const After after = l + 1 == places_.size()         ? After::Nothing
                        : hidden_ == Nonlinearity::Tanh ? After::Tanh
                                                        : After::Relu;
    const kernel::Left<T> left{in->data.data(), in->stride, 1};
    for (std::int64_t s = 0; s < p.strips; ++s) {
      const T* const weights = parameters + p.weights + s * p.inputs * p.width;
      const T* const bias = parameters + p.bias + s * p.width;
      T* const y = out.data.data() + s * p.width;
      if (p.width == kLanes<T>) {
        forward_strip<1>(x.rows, left, p.inputs, weights, bias, y, out.stride, after);
      } else {
        forward_strip<2>(x.rows, left, p.inputs, weights, bias, y, out.stride, after);
      }
    }
    in = &out;
  }
}

template <class T>
void Mlp<T>::backward(const T* parameters, const Matrix<T>& x, const Matrix<T>& upstream, Work& work, T* gradient,
                      Matrix<T>* of_input) const {
  require_size<T>(upstream.columns, outputs(), "the gradient");
  const auto n = x.rows;
  const Matrix<T>* above = &upstream;
  for (std::size_t l = places_.size(); l-- > 0;) {
    const Place& p = places_[l];
    const Matrix<T>& in = l == 0 ? x : work.outputs[l - 1];
    const Matrix<T>& out = work.outputs[l];
    const bool last = l + 1 == places_.size(), tanh = hidden_ == Nonlinearity::Tanh;

    // dz = the gradient before the nonlinearity, with zeros behind the last output; in place but for the last layer.
    Matrix<T>& dz = work.upstream;
    const auto padded = p.strips * p.width;
    if (last) dz.resize(n, p.outputs, row_stride<T>(padded));
    T* const bias = gradient ? gradient + p.bias : nullptr;
    if (bias) std::fill(bias, bias + padded, T(0));
    for (std::int64_t i = 0; i < n; ++i) {
      const T* const up = above->row(i);
      const T* HWY_RESTRICT y = out.row(i);
      T* const z = dz.row(i);
      if (last) {
        std::copy_n(up, p.outputs, z);
      } else if (tanh) {
        for (std::int64_t c = 0; c < p.outputs; ++c) z[c] *= 1 - y[c] * y[c];
      } else {
        for (std::int64_t c = 0; c < p.outputs; ++c) z[c] = y[c] > 0 ? z[c] : T(0);
      }
      std::fill(z + p.outputs, z + padded, T(0));
      if (bias) {
        for (std::int64_t c = 0; c < padded; ++c) bias[c] += z[c];
      }
    }

    if (gradient) {  // [inputs, n] [n, width]
      for (std::int64_t begin = 0; begin < n; begin += kRowsAtOnce) {
        const auto count = std::min(kRowsAtOnce, n - begin);
        for (std::int64_t s = 0; s < p.strips; ++s) {
          product_strip(p.width, p.inputs, kernel::Left<T>{in.row(begin), 1, in.stride}, count,
                        dz.row(begin) + s * p.width, dz.stride, gradient + p.weights + s * p.inputs * p.width, p.width,
                        begin > 0);
        }
      }
    }
    if (l == 0 && !of_input) break;

    // [n, outputs] [outputs, inputs]: the weights turned, in strips over the inputs.
    const auto width = strip_width<T>(p.inputs), strips = (p.inputs + width - 1) / width;
    const auto turned = static_cast<std::size_t>(strips * p.outputs * width);
    if (work.turned.size() < turned) work.turned.resize(turned);  // what lies behind the last input means nothing
    for (std::int64_t s = 0; s < p.strips; ++s) {
      const auto outs = std::min(p.width, p.outputs - s * p.width);
      for (std::int64_t t = 0; t < strips; ++t) {
        kernel::transpose(std::min(width, p.inputs - t * width), outs,
                          parameters + p.weights + (s * p.inputs + t * width) * p.width, p.width,
                          work.turned.data() + (t * p.outputs + s * p.width) * width, width);
      }
    }
    work.next.resize(n, p.inputs, row_stride<T>(strips * width));
    for (std::int64_t t = 0; t < strips; ++t) {
      product_strip(width, n, kernel::Left<T>{dz.data.data(), dz.stride, 1}, p.outputs,
                    work.turned.data() + t * p.outputs * width, width, work.next.data.data() + t * width,
                    work.next.stride, false);
    }
    if (l == 0) {
      of_input->resize(n, p.inputs, p.inputs);
      for (std::int64_t i = 0; i < n; ++i) std::copy_n(work.next.row(i), p.inputs, of_input->row(i));
    } else {  // the layer below has the strides of `next`: it becomes its own dz in place
      std::swap(work.upstream, work.next);
      above = &work.upstream;
    }
  }
}

template <class T>
std::vector<typename Mlp<T>::Layer> Mlp<T>::layers(const T* parameters) const {
  std::vector<Layer> layers;
  for (const Place& p : places_) {
    Layer layer;
    for (std::int64_t o = 0; o < p.outputs; ++o) {
      const T* const strip = parameters + p.weights + o / p.width * p.inputs * p.width + o % p.width;
      for (std::int64_t i = 0; i < p.inputs; ++i) layer.weight.push_back(strip[i * p.width]);
      layer.bias.push_back(parameters[p.bias + o]);
    }
    layers.push_back(std::move(layer));
  }
  return layers;
}

template <class T>
void Mlp<T>::set_layers(const std::vector<Layer>& layers, T* parameters) const {
  std::fill(parameters, parameters + parameters_, T(0));
  for (std::size_t l = 0; l < places_.size(); ++l) {
    const Place& p = places_[l];
    for (std::int64_t o = 0; o < p.outputs; ++o) {
      T* const strip = parameters + p.weights + o / p.width * p.inputs * p.width + o % p.width;
      for (std::int64_t i = 0; i < p.inputs; ++i)
        strip[i * p.width] = layers[l].weight[static_cast<std::size_t>(o * p.inputs + i)];
      parameters[p.bias + o] = layers[l].bias[static_cast<std::size_t>(o)];
    }
  }
}

template class Mlp<float>;
template class Mlp<double>;

}  // namespace unbend::control
