#include "unbend/calculus/fn_basis.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "unbend/base/error.h"
#include "unbend/calculus/fn_math.h"
#include "unbend/calculus/fn_node.h"
#include "unbend/tensor/check.h"

namespace unbend::functional {
namespace {

using std::numbers::pi;

Basis make_basis(const char* name, std::int64_t n, double a, double b,
                 std::function<at::Tensor(const at::Tensor&)> code) {
  require(n >= 1, "{}: at least 1 function, not {}", name, n);
  require(a < b, "{}: [{}, {}] is not an interval", name, a, b);
  return {leaf(std::move(code), Spec{}, real({n}), {.name = name}), n, a, b};
}

at::Tensor orders(std::int64_t first, std::int64_t count) { return at::arange(first, first + count, at::kDouble); }

// Where x lies among sorted nodes [n]: the index of the interval, and how far along it.
std::pair<at::Tensor, at::Tensor> locate(const at::Tensor& nodes, const at::Tensor& x) {
  const std::int64_t n = nodes.size(0);
  const auto flat = x.detach().reshape({-1}).contiguous();
  const auto index = (at::searchsorted(nodes, flat, false, true) - 1).clamp(0, n - 2);
  const auto left = nodes.index_select(0, index), right = nodes.index_select(0, index + 1);
  return {index.view(x.sizes()), (x - left.view(x.sizes())) / (right - left).view(x.sizes())};
}

// Piecewise multilinear. Each argument is located on its own batch; only the sum over the 2^d corners of a cell sees
// the product of all.
struct Interpolation final : Node {
  at::Tensor table;   // [n_1 .. n_d], in the order of the grids' nodes
  at::Tensor values;  // the same for sorted ones
  Tensors nodes;      // sorted

  Interpolation(at::Tensor t, at::Tensor v, Tensors x, const std::vector<Grid>& g)
      : Node({Spec{}, std::vector<SpecTree>(g.size())}, g, {}),
        table(std::move(t)),
        values(std::move(v)),
        nodes(std::move(x)) {}
  std::string name() const override { return "interpolation"; }
  bool shared() const override { return false; }
  // The values where each argument runs over the nodes of its own grid, along an axis of its own: as integrals and
  // projections on those grids ask for. Undefined elsewhere, and where derivatives are wanted.
  at::Tensor at_nodes(const Tensors& point) const {
    std::vector<std::pair<std::int64_t, std::int64_t>> axes;  // place in the batch, from the right; argument
    for (std::size_t d = 0; d < point.size(); ++d) {
      const at::Tensor& x = point[d];
      const std::int64_t n = grids[d].size();
      if (x.requires_grad() || n == 1 || x.numel() != n) return {};
      const auto sizes = x.sizes();
      const auto axis = std::find(sizes.begin(), sizes.end(), n) - sizes.begin();
      if (axis == x.dim() || !at::equal(x.reshape({-1}), grids[d].nodes())) return {};
      axes.emplace_back(x.dim() - 1 - axis, static_cast<std::int64_t>(d));
    }
    std::sort(axes.begin(), axes.end(), std::greater());
    std::vector<std::int64_t> order, sizes(axes.front().first + 1, 1);
    for (std::size_t i = 0; i < axes.size(); ++i) {
      if (i > 0 && axes[i].first == axes[i - 1].first) return {};  // a diagonal
      order.push_back(axes[i].second);
      sizes[axes.front().first - axes[i].first] = table.size(axes[i].second);
    }
    return table.permute(order).reshape(sizes);
  }
  Tensors eval(Evaluator&, const Tensors& point, bool) const override {
    if (const at::Tensor known = at_nodes(point); known.defined()) return {known};
    struct Corner {
      at::Tensor weight, place;
    };
    std::vector<Corner> corners{{at::ones({}, at::kDouble), at::zeros({}, at::kLong)}};
    for (std::size_t d = 0; d < point.size(); ++d) {
      const std::int64_t n = nodes[d].size(0);
      if (n == 1) continue;  // constant along this axis
      const auto [index, along] = locate(nodes[d], point[d]);
      std::vector<Corner> next;
      for (const Corner& corner : corners) {
        next.push_back({corner.weight * (1 - along), corner.place * n + index});
        next.push_back({corner.weight * along, corner.place * n + index + 1});
      }
      corners = std::move(next);
    }
    at::Tensor sum = at::zeros({}, at::kDouble);
    for (const Corner& corner : corners) sum = sum + corner.weight * values.take(corner.place);
    return {sum};
  }
  Tangent push(const Tangents&) const override { return {}; }
  Tangents pull(const Fn&, const std::vector<bool>&) const override { return {}; }
};

void check_numbers(const Fn& f, const char* what) {
  require(f.arity() >= 1 && f.type() == FnType{Spec{}, std::vector<SpecTree>(f.arity())},
          "{}: {} is not a function of numbers with values in the numbers, in f64", what, signature(f));
}

}  // namespace

Basis legendre_basis(std::int64_t n, double a, double b) {
  return make_basis("legendre_basis", n, a, b, [n, a, b](const at::Tensor& x) {
    const auto t = (2 * x - (a + b)) / (b - a);
    Tensors p{at::ones_like(t), t};
    for (std::int64_t k = 2; k < n; ++k) {
      const auto j = static_cast<double>(k);
      p.push_back(((2 * j - 1) * t * p[k - 1] - (j - 1) * p[k - 2]) / j);
    }
    p.resize(n);
    return at::stack(p, 1) * ((2 * orders(0, n) + 1) / (b - a)).sqrt();
  });
}

Basis sine_basis(std::int64_t n, double a, double b) {
  return make_basis("sine_basis", n, a, b, [n, a, b](const at::Tensor& x) {
    return ((x - a) * (pi / (b - a))).unsqueeze(1).mul(orders(1, n)).sin() * std::sqrt(2 / (b - a));
  });
}

Basis cosine_basis(std::int64_t n, double a, double b) {
  return make_basis("cosine_basis", n, a, b, [n, a, b](const at::Tensor& x) {
    auto scale = at::full({n}, std::sqrt(2 / (b - a)), at::kDouble);
    scale[0] = std::sqrt(1 / (b - a));
    return ((x - a) * (pi / (b - a))).unsqueeze(1).mul(orders(0, n)).cos() * scale;
  });
}

Basis fourier_basis(std::int64_t n, double a, double b) {
  require(n % 2 == 1, "fourier_basis: a constant and pairs of waves are an odd number of functions, not {}", n);
  return make_basis("fourier_basis", n, a, b, [n, a, b](const at::Tensor& x) {
    const auto angle = ((x - a) * (2 * pi / (b - a))).unsqueeze(1) * orders(1, n / 2);
    const auto constant = at::full({x.size(0), 1}, std::sqrt(1 / (b - a)), at::kDouble);
    const double scale = std::sqrt(2 / (b - a));
    return at::cat({constant, angle.cos() * scale, angle.sin() * scale}, 1);
  });
}

Fn combination(const Basis& basis, const at::Tensor& coefficients) {
  check_shape(coefficients, {basis.size}, "coefficients");
  return dot(basis.functions, constant(coefficients));
}

Fn combination(const std::vector<Basis>& bases, const at::Tensor& coefficients) {
  require(static_cast<std::size_t>(coefficients.dim()) == bases.size() && !bases.empty(),
          "combination: coefficients {} for {} bases", shape_string(coefficients.sizes()), bases.size());
  const std::vector<SpecTree> args(bases.size());
  std::vector<Fn> functions;
  FnType type{Spec{}, {}};
  for (std::size_t i = 0; i < bases.size(); ++i) {
    require(coefficients.size(static_cast<std::int64_t>(i)) == bases[i].size,
            "combination: coefficients {} for a basis of {} functions at axis {}", shape_string(coefficients.sizes()),
            bases[i].size, i);
    functions.push_back(broadcast_arg(bases[i].functions, args, {static_cast<int>(i)}));
    type.args.push_back(real({bases[i].size}));
  }
  const Fn contract = leaf(
      [coefficients](const Tensors& phi) {
        at::Tensor rest = at::matmul(phi[0], coefficients.flatten(1));  // [N, n_2 ..]
        for (std::size_t i = 1; i < phi.size(); ++i) {
          rest = (phi[i].unsqueeze(2) * rest.view({rest.size(0), phi[i].size(1), -1})).sum(1);
        }
        return Tensors{rest.flatten()};
      },
      type, {.name = "combination", .parameters = {coefficients}});
  return bases.size() == 1 ? combination(bases[0], coefficients) : compose(contract, functions);
}

Fn interpolation(const at::Tensor& values, const std::vector<Grid>& grids) {
  require(static_cast<std::size_t>(values.dim()) == grids.size() && !grids.empty(),
          "interpolation: values {} for {} grids", shape_string(values.sizes()), grids.size());
  check_dtype(values, at::kDouble, "values");
  at::Tensor sorted = values.detach();
  Tensors nodes;
  for (std::size_t d = 0; d < grids.size(); ++d) {
    const auto axis = static_cast<std::int64_t>(d);
    require(grids[d] && grids[d].nodes().dim() == 1 && grids[d].size() == values.size(axis),
            "interpolation: values {} need a grid of {} numbers for axis {}", shape_string(values.sizes()),
            values.size(axis), d);
    const auto [x, order] = grids[d].nodes().sort();
    require(x.size(0) == 1 || x.diff().min().item<double>() > 0, "interpolation: nodes of axis {} repeat", d);
    nodes.push_back(x.contiguous());
    sorted = sorted.index_select(axis, order);
  }
  return make<Interpolation>(values.detach(), sorted.contiguous(), nodes, grids);
}

Fn project(const Fn& f, const std::vector<Grid>& grids) {
  check_numbers(f, "project");
  require(static_cast<int>(grids.size()) == f.arity(), "project: {} grids for {}", grids.size(), signature(f));
  // Each argument's nodes along an axis of its own, so that f is computed on their product and no part of it twice.
  Tensors points;
  std::vector<std::int64_t> sizes;
  for (std::size_t d = 0; d < grids.size(); ++d) {
    require(grids[d] && grids[d].nodes().dim() == 1, "project: argument {} has no grid of numbers", d);
    std::vector<std::int64_t> shape(grids.size(), 1);
    shape[d] = grids[d].size();
    sizes.push_back(grids[d].size());
    points.push_back(grids[d].nodes().view(shape));
  }
  const at::NoGradGuard no_graph;
  return interpolation(f(points)[0].expand(sizes), grids);
}

Fn project(const Fn& f) { return project(f, f.grids()); }

Fn project(const Fn& f, const Basis& basis, const Grid& grid, double length) {
  check_numbers(f, "project");
  require(f.arity() == 1, "project: {} is not a function of one number", signature(f));
  require(grid && grid.nodes().dim() == 1, "project: a grid of numbers is needed");
  require(length >= 0, "project: the length {} is negative", length);
  const at::NoGradGuard no_graph;
  const auto phi = basis.functions(grid.nodes());  // [K, n]
  const auto w = grid.weights().unsqueeze(1);
  auto gram = at::matmul(phi.t(), w * phi);
  if (length > 0) {
    const auto slope = nabla(basis.functions)(grid.nodes());
    gram = gram + length * length * at::matmul(slope.t(), w * slope);
  }
  const auto [factor, failed] = at::linalg_cholesky_ex(gram);
  const double least = factor.diagonal().square().min().item<double>();
  if (failed.item<int>() != 0 || least < 1e-12 * gram.diagonal().max().item<double>()) {
    fail_computation("project: {} functions cannot be told apart on {} nodes; take more nodes or a smaller basis",
                     basis.size, grid.size());
  }
  const auto load = at::matmul(phi.t(), w * f(grid.nodes()).unsqueeze(1));
  return combination(basis, at::cholesky_solve(load, factor).squeeze(1));
}

}  // namespace unbend::functional
