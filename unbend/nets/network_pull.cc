#include "unbend/nets/network_pull.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/native/Pool.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>
#include <vector>

#include "unbend/base/error.h"

namespace unbend {
namespace {

// Numbers that one group of outputs brings to the widest value: they stay in the second-level cache.
constexpr int64_t kNumbersAtOnce = int64_t{1} << 20;
// Below so many numbers per column, a convolution's pull is a product of matrices and a sum over windows.
constexpr int64_t kFewPerColumn = 40;

using Sizes = std::vector<int64_t>;

Sizes joined(at::IntArrayRef front, at::IntArrayRef back) {
  auto all = front.vec();
  all.insert(all.end(), back.begin(), back.end());
  return all;
}

// Windows over the last dimensions, all of three: cells of a plane, windows on it, and what a window is.
struct Windows {
  std::array<int64_t, 3> in{1, 1, 1}, out{1, 1, 1}, kernel{1, 1, 1}, stride{1, 1, 1}, padding{}, dilation{1, 1, 1};

  // Of a Pooling or a Convolution with this kernel.
  template <class Operation>
  Windows(const Operation& o, at::IntArrayRef kernel_sizes, at::IntArrayRef before, at::IntArrayRef after) {
    const size_t d = kernel_sizes.size();
    for (size_t i = 0, to = 3 - d; i < d; ++i, ++to) {
      in[to] = before[before.size() - d + i], out[to] = after[after.size() - d + i];
      kernel[to] = kernel_sizes[i] == 0 ? in[to] : kernel_sizes[i];
      stride[to] = o.stride[i], padding[to] = o.padding[i], dilation[to] = o.dilation[i];
    }
  }
  // The cell that is number `i` of window `number`, along one dimension; it may lie outside.
  int64_t place(int dimension, int64_t number, int64_t i) const {
    return number * stride[dimension] - padding[dimension] + i * dilation[dimension];
  }
  // The windows of a row whose cell number `i` lies inside: [first, second).
  std::pair<int64_t, int64_t> inside(int64_t i) const {
    const int64_t left = place(2, 0, i), begin = left < 0 ? (-left + stride[2] - 1) / stride[2] : 0;
    return {begin, std::min(out[2], left < in[2] ? (in[2] - 1 - left) / stride[2] + 1 : 0)};
  }
  int64_t cells() const { return in[0] * in[1] * in[2]; }
  int64_t windows() const { return out[0] * out[1] * out[2]; }
};

// ---- Maxima

// The maxima of windows, and which cell of its plane each takes: the first of equal ones. [planes, windows]
template <class T>
void find_maxima(const Windows& w, const T* x, int64_t planes, T* maxima, int64_t* taken) {
  struct Tap {
    int64_t left, begin, end;  // cell of window 0 of the row; windows where it lies inside
  };
  at::parallel_for(0, planes, 1, [&](int64_t first, int64_t last) {
    std::vector<Tap> taps;
    for (int64_t plane = first; plane < last; ++plane) {
      const T* cells = x + plane * w.cells();
      T* maximum = maxima + plane * w.windows();
      int64_t* cell = taken + plane * w.windows();
      for (int64_t a = 0; a < w.out[0]; ++a)
        for (int64_t b = 0; b < w.out[1]; ++b) {
          taps.clear();
          for (int64_t i = 0; i < w.kernel[0]; ++i)
            for (int64_t j = 0; j < w.kernel[1]; ++j) {
              const int64_t z = w.place(0, a, i), y = w.place(1, b, j);
              if (z < 0 || z >= w.in[0] || y < 0 || y >= w.in[1]) continue;
              for (int64_t k = 0; k < w.kernel[2]; ++k) {
                const auto [begin, end] = w.inside(k);
                taps.push_back({(z * w.in[1] + y) * w.in[2] + w.place(2, 0, k), begin, end});
              }
            }
          for (int64_t c = 0; c < w.out[2]; ++c) {
            int64_t best = -1;
            for (const auto& [left, begin, end] : taps) {
              const int64_t here = left + c * w.stride[2];
              if (c >= begin && c < end && (best < 0 || cells[here] > cells[best])) best = here;
            }
            *maximum++ = cells[best], *cell++ = best;
          }
        }
    }
  });
}

// What windows give back to the cells that they took: [groups, planes, windows] -> [groups, planes, cells].
template <class T>
void give_back(const Windows& w, const T* rows, const int64_t* taken, int64_t groups, int64_t planes, T* to) {
  at::parallel_for(0, groups * planes, 1, [&](int64_t first, int64_t last) {
    for (int64_t p = first; p < last; ++p) {
      T* cells = to + p * w.cells();
      std::fill_n(cells, w.cells(), T(0));
      const T* from = rows + p * w.windows();
      const int64_t* cell = taken + p % planes * w.windows();
      for (int64_t i = 0; i < w.windows(); ++i) cells[cell[i]] += from[i];
    }
  });
}

// ---- Convolutions

// Sums what windows hold over the cells that they cover: [planes, window, windows] -> [planes, cells]. Of two
// dimensions: the first of the three has one cell.
template <class T>
void sum_windows(const Windows& w, const T* columns, int64_t planes, T* to) {
  const int64_t step = w.stride[2];
  at::parallel_for(0, planes, 1, [&](int64_t first, int64_t last) {
    for (int64_t plane = first; plane < last; ++plane) {
      T* cells = to + plane * w.cells();
      std::fill_n(cells, w.cells(), T(0));
      const T* from = columns + plane * w.kernel[1] * w.kernel[2] * w.windows();
      for (int64_t i = 0; i < w.kernel[1]; ++i)
        for (int64_t j = 0; j < w.kernel[2]; ++j) {
          const auto [begin, end] = w.inside(j);
          for (int64_t b = 0; b < w.out[1]; ++b, from += w.out[2]) {
            const int64_t y = w.place(1, b, i), left = w.place(2, 0, j);
            if (y < 0 || y >= w.in[1]) continue;
            T* row = cells + y * w.in[2] + left;
            if (step == 1)
              for (int64_t c = begin; c < end; ++c) row[c] += from[c];
            else
              for (int64_t c = begin; c < end; ++c) row[c * step] += from[c];
          }
        }
    }
  });
}

// ---- The operations, backwards

// Rows are [outputs, B or 1, sample ..]: 1 as long as all samples have the same.
class Sweep {
 public:
  Sweep(const Network& network, const at::Tensor& x)
      : network_(network), values_(network.nodes.size() + 1), slopes_(values_.size()), taken_(values_.size()) {
    std::vector<int> uses(values_.size());
    for (const auto& node : network.nodes)
      for (const int i : node.inputs) ++uses[i];
    gates_.assign(values_.size(), -1);
    values_[0] = x.contiguous();
    for (int i = 0; i < static_cast<int>(network.nodes.size()); ++i) {
      const auto& node = network.nodes[i];
      const auto* pool = std::get_if<Pooling>(&node.operation);
      if (pool && pool->maximum) {
        find(i, *pool, uses);
        continue;
      }
      std::vector<at::Tensor> inputs;
      for (const int input : node.inputs) inputs.push_back(values_[input]);
      values_[i + 1] = value_at(node, inputs).contiguous();
      const auto* f = std::get_if<Elementwise>(&node.operation);
      if (f && f->function != Activation::Identity) slopes_[i + 1] = f->derivative(inputs[0]);
    }
  }

  const at::Tensor& value() const { return values_.back(); }
  int64_t outputs() const { return value().numel() / value().size(0); }
  int64_t widest() const {
    int64_t most = 1;
    for (const auto& v : values_) most = std::max(most, v.numel());
    return most;
  }

  // [count, B, n] of the outputs from `first` on.
  at::Tensor pull(int64_t first, int64_t count) {
    rows_.assign(values_.size(), {});
    const auto last = static_cast<int>(values_.size()) - 1;
    const auto unit = at::eye(outputs(), value().options()).narrow(0, first, count);
    rows_[last] = unit.reshape(joined({count, 1}, value().sizes().slice(1)));
    for (int i = last - 1; i >= 0; --i) {
      if (!rows_[i + 1].defined()) continue;  // nothing comes from there, or its reader took it along
      node(i, std::move(rows_[i + 1]));
    }
    const auto& x = values_[0];
    if (!rows_[0].defined()) return at::zeros({count, x.size(0), x.numel() / x.size(0)}, x.options());
    return rows_[0].flatten(2).expand({count, x.size(0), -1});
  }

 private:
  // Maxima, and the cells that they take. Where an activation is read by maxima alone, its slopes meet what comes
  // through, a fraction of its values.
  void find(int i, const Pooling& pool, const std::vector<int>& uses) {
    const int from = network_.nodes[i].inputs[0];
    const auto& x = values_[from];
    const size_t d = pool.kernel.size();
    auto sizes = x.sizes().vec();
    require(sizes.size() > d, "layer '{}' does not take [{}]", network_.nodes[i].name, fmt::join(sizes, ", "));
    for (size_t j = 0, to = sizes.size() - d; j < d; ++j, ++to)
      sizes[to] = at::native::pooling_output_shape(sizes[to], pool.kernel[j] == 0 ? sizes[to] : pool.kernel[j],
                                                   pool.padding[j], pool.stride[j], pool.dilation[j], pool.ceil);
    require(std::ranges::min(sizes) > 0, "layer '{}' does not take [{}]", network_.nodes[i].name,
            fmt::join(x.sizes(), ", "));
    values_[i + 1] = at::empty(sizes, x.options());
    const Windows w(pool, pool.kernel, x.sizes(), sizes);
    const int64_t planes = x.numel() / w.cells();
    auto& taken = taken_[i + 1] = at::empty({planes, w.windows()}, at::kLong);
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "find_maxima", [&] {
      find_maxima(w, x.const_data_ptr<scalar_t>(), planes, values_[i + 1].mutable_data_ptr<scalar_t>(),
                  taken.mutable_data_ptr<int64_t>());
    });
    if (from == 0 || uses[from] != 1 || !slopes_[from].defined()) return;
    slopes_[i + 1] = slopes_[from].reshape({planes, w.cells()}).gather(1, taken).reshape(values_[i + 1].sizes());
    slopes_[from].reset();
    gates_[i + 1] = network_.nodes[from - 1].inputs[0];
  }

  void give(int value, const at::Tensor& rows) {
    auto& all = rows_[value];
    all = all.defined() ? all + rows : rows;
  }

  // With every sample's own rows, as one batch; then back.
  at::Tensor batched(const at::Tensor& rows, const at::Tensor& like) const {
    return rows.expand(joined({rows.size(0), like.size(0)}, rows.sizes().slice(2))).flatten(0, 1);
  }
  static at::Tensor apart(const at::Tensor& batch, int64_t outputs) {
    return batch.unflatten(0, {outputs, batch.size(0) / outputs});
  }
  // Of operations that do the same to all samples, with no more rows than there are.
  static at::Tensor flat(const at::Tensor& rows) { return rows.flatten(0, 1); }
  static at::Tensor unflat(const at::Tensor& batch, const at::Tensor& rows) {
    return batch.unflatten(0, {rows.size(0), rows.size(1)});
  }

  void node(int i, at::Tensor rows) {
    const auto& [operation, inputs, name] = network_.nodes[i];
    const auto& x = values_[inputs[0]];
    std::visit([&](const auto& o) { pull(o, i, inputs, x, rows); }, operation);
  }

  void pull(const Linear& o, int, const std::vector<int>& in, const at::Tensor&, const at::Tensor& rows) {
    give(in[0], at::matmul(rows, o.weight));
  }

  void pull(const Elementwise&, int i, const std::vector<int>& in, const at::Tensor&, const at::Tensor& rows) {
    give(in[0], slopes_[i + 1].defined() ? rows * slopes_[i + 1] : rows);
  }

  void pull(const ChannelAffine& o, int, const std::vector<int>& in, const at::Tensor& x, const at::Tensor& rows) {
    const auto scale = o.scale.to(x.scalar_type());
    if (scale.numel() == 1) return give(in[0], rows * scale.reshape({}));
    Sizes shape(static_cast<size_t>(x.dim()), 1);
    shape[static_cast<size_t>(o.dimension < 0 ? o.dimension + x.dim() : o.dimension)] = -1;
    give(in[0], rows * scale.reshape(shape));
  }

  void pull(const LayerNorm& o, int, const std::vector<int>& in, const at::Tensor& x, const at::Tensor& rows) {
    const auto centred = x - x.mean(-1, true);
    const auto inverse = at::rsqrt(centred.square().mean(-1, true) + o.eps);
    const auto normed = centred * inverse, g = rows * o.weight;
    give(in[0], (g - g.mean(-1, true) - normed * (g * normed).mean(-1, true)) * inverse);
  }

  void pull(const Convolution& o, int, const std::vector<int>& in, const at::Tensor& x, const at::Tensor& rows) {
    const auto batch = flat(rows);
    const size_t d = o.stride.size();
    const auto kernel = o.weight.sizes().slice(2);
    const int64_t per_column = o.weight[0].numel();
    if (d == 2 && !o.transposed && o.groups == 1 && per_column <= kFewPerColumn) {
      const auto columns = at::matmul(o.weight.flatten(1).t(), batch.flatten(2));
      const Windows w(o, kernel, x.sizes(), batch.sizes());
      auto cells = at::empty(joined({batch.size(0)}, x.sizes().slice(1)), x.options());
      AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "sum_windows", [&] {
        sum_windows(w, columns.const_data_ptr<scalar_t>(), batch.size(0) * x.size(1),
                    cells.mutable_data_ptr<scalar_t>());
      });
      return give(in[0], unflat(cells, rows));
    }
    Sizes output_padding(d, 0);  // what the strides left over at the border
    if (!o.transposed)
      for (size_t i = 0; i < d; ++i)
        output_padding[i] =
            x.size(static_cast<int64_t>(i) + 2) - ((batch.size(static_cast<int64_t>(i) + 2) - 1) * o.stride[i] -
                                                   2 * o.padding[i] + o.dilation[i] * (kernel[i] - 1) + 1);
    give(in[0], unflat(at::convolution(batch, o.weight, {}, o.stride, o.padding, o.dilation, !o.transposed,
                                       output_padding, o.groups),
                       rows));
  }

  void pull(const Pooling& o, int i, const std::vector<int>& in, const at::Tensor& x, at::Tensor rows) {
    const auto sizes = joined({rows.size(0), x.size(0)}, x.sizes().slice(1));
    if (!o.maximum) return give(in[0], average(o, x, rows));
    const auto& taken = taken_[i + 1];
    const Windows w(o, o.kernel, x.sizes(), values_[i + 1].sizes());
    const int64_t planes = taken.size(0);
    if (slopes_[i + 1].defined()) rows = rows * slopes_[i + 1];
    const auto dense = rows.expand(joined({rows.size(0)}, values_[i + 1].sizes())).contiguous();
    auto cells = at::empty(sizes, x.options());
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "give_back", [&] {
      give_back(w, dense.const_data_ptr<scalar_t>(), taken.const_data_ptr<int64_t>(), rows.size(0), planes,
                cells.mutable_data_ptr<scalar_t>());
    });
    give(gates_[i + 1] >= 0 ? gates_[i + 1] : in[0], cells);
  }

  // Every cell gets its share of all windows that hold it.
  static at::Tensor average(const Pooling& o, const at::Tensor& x, const at::Tensor& rows) {
    const size_t d = o.kernel.size();
    const auto batch = flat(rows);
    Sizes kernel = o.kernel, stride = o.stride, padding = o.padding;
    for (size_t i = 0; i < d; ++i)
      if (kernel[i] == 0) kernel[i] = x.size(static_cast<int64_t>(i) - static_cast<int64_t>(d));
    auto sizes = joined({batch.size(0)}, x.sizes().slice(1));
    const auto like = at::empty({}, x.options()).expand(sizes);
    if (d == 3)
      return unflat(at::avg_pool3d_backward(batch, like, kernel, stride, padding, o.ceil, true, std::nullopt), rows);
    if (d == 2)
      return unflat(at::avg_pool2d_backward(batch, like, kernel, stride, padding, o.ceil, true, std::nullopt), rows);
    const auto plane = at::avg_pool2d_backward(batch.unsqueeze(-2), like.unsqueeze(-2), {1, kernel[0]}, {1, stride[0]},
                                               {0, padding[0]}, o.ceil, true, std::nullopt);
    return unflat(plane.squeeze(-2), rows);
  }

  void pull(const MeanOver& o, int, const std::vector<int>& in, const at::Tensor& x, at::Tensor rows) {
    auto dimensions = o.dimensions;
    int64_t count = 1;
    for (auto& d : dimensions) {
      if (d < 0) d += x.dim();
      count *= x.size(d);
    }
    std::ranges::sort(dimensions);
    if (!o.keep)
      for (const int64_t d : dimensions) rows = rows.unsqueeze(d + 1);
    give(in[0], (rows / static_cast<double>(count)).expand(joined({rows.size(0), rows.size(1)}, x.sizes().slice(1))));
  }

  void pull(const Reshape&, int, const std::vector<int>& in, const at::Tensor& x, const at::Tensor& rows) {
    give(in[0], rows.reshape(joined({rows.size(0), rows.size(1)}, x.sizes().slice(1))));
  }

  void pull(const Addition&, int, const std::vector<int>& in, const at::Tensor&, const at::Tensor& rows) {
    for (const int i : in) give(i, together(rows, values_[i]));
  }
  // A sum repeats a value along its dimensions of size 1: what comes back from the copies adds up.
  static at::Tensor together(const at::Tensor& rows, const at::Tensor& value) {
    Sizes repeated;
    for (int64_t d = 1; d < value.dim(); ++d)
      if (value.size(d) == 1 && rows.size(d + 1) > 1) repeated.push_back(d + 1);
    return repeated.empty() ? rows : rows.sum(repeated, true);
  }

  void pull(const Concatenation& o, int, const std::vector<int>& in, const at::Tensor& x, const at::Tensor& rows) {
    const int64_t dimension = o.dimension < 0 ? o.dimension + x.dim() : o.dimension;
    int64_t first = 0;
    for (const int i : in) {
      const int64_t size = values_[i].size(dimension);
      give(i, rows.narrow(dimension + 1, first, size));
      first += size;
    }
  }

  const Network& network_;
  std::vector<at::Tensor> values_, rows_;
  std::vector<at::Tensor> slopes_, taken_;  // of activations and maxima
  std::vector<int> gates_;                  // of maxima with slopes: the activation's input; else -1
};

}  // namespace

at::Tensor sample_jacobians(const Network& network, const at::Tensor& x, at::Tensor& value) {
  const at::NoGradGuard no_graph;
  require(x.is_cpu() && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble),
          "a sweep without a graph wants float or double on the CPU, not {}", c10::toString(x.scalar_type()));
  Sweep sweep(network, x);
  value = sweep.value().flatten(1);
  const int64_t outputs = sweep.outputs(), group = std::clamp<int64_t>(kNumbersAtOnce / sweep.widest(), 1, outputs);
  auto jacobian = at::empty({x.size(0), outputs, x.numel() / x.size(0)}, x.options());
  for (int64_t first = 0; first < outputs; first += group) {
    const int64_t count = std::min(group, outputs - first);
    jacobian.narrow(1, first, count).copy_(sweep.pull(first, count).transpose(0, 1));
  }
  return jacobian;
}

}  // namespace unbend
