#include "unbend/calculus/quadrature.h"

#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <numbers>

#include "unbend/base/error.h"
#include "unbend/tensor/check.h"

namespace unbend::functional {
namespace {

using std::numbers::pi;

void check_rule(std::int64_t n, std::int64_t least, double a, double b, const char* name) {
  require(n >= least, "{}: at least {} nodes, not {}", name, least, n);
  require(std::isfinite(a) && std::isfinite(b) && a < b, "{}: [{}, {}] is not an interval", name, a, b);
}

Grid from(const std::vector<double>& nodes, const std::vector<double>& weights) {
  return {at::tensor(nodes, at::kDouble), at::tensor(weights, at::kDouble)};
}

// Nodes are the eigenvalues of the symmetric tridiagonal matrix of the recurrence, weights the squared first entries of
// its eigenvectors times the integral of the weight function.
Grid golub_welsch(const std::vector<double>& diagonal, const std::vector<double>& off_diagonal, double total) {
  const auto d = at::tensor(diagonal, at::kDouble);
  const auto e = at::tensor(off_diagonal, at::kDouble);
  const auto matrix = at::diag(d) + at::diag(e, 1) + at::diag(e, -1);
  const auto [values, vectors] = at::linalg_eigh(matrix);
  return {values.contiguous(), total * vectors[0].square()};
}

// All points that signs and permutations make of (x, y, z).
void orbit(double x, double y, double z, double weight, std::vector<std::array<double, 3>>& nodes,
           std::vector<double>& weights) {
  std::array<double, 3> sorted{x, y, z};
  std::sort(sorted.begin(), sorted.end());
  do {
    for (int signs = 0; signs < 8; ++signs) {
      std::array<double, 3> p = sorted;
      bool repeated = false;
      for (int i = 0; i < 3; ++i) {
        const bool minus = (signs >> i & 1) != 0;
        repeated = repeated || (minus && p[i] == 0);
        if (minus) p[i] = -p[i];
      }
      if (repeated) continue;
      nodes.push_back(p);
      weights.push_back(weight);
    }
  } while (std::next_permutation(sorted.begin(), sorted.end()));
}

}  // namespace

Grid::Grid(const at::Tensor& nodes, const at::Tensor& weights, bool allow_negative) {
  check_floating(nodes, "nodes");
  check_dims(weights, 1, "weights");
  check_same_type(nodes, "nodes", weights, "weights");
  require(nodes.dim() >= 1 && nodes.size(0) == weights.size(0) && weights.size(0) > 0,
          "a grid has as many nodes as weights, at least one: nodes are {}, weights {}", shape_string(nodes.sizes()),
          shape_string(weights.sizes()));
  check_finite(nodes, "nodes");
  check_finite(weights, "weights");
  require(allow_negative || weights.min().item<double>() >= 0,
          "the weights of a grid are not negative, but the least is {} (allow_negative permits them)",
          weights.min().item<double>());
  data_ = std::make_shared<const Data>(Data{nodes.detach(), weights.detach()});
}

Grid gauss_legendre(std::int64_t n, double a, double b) {
  check_rule(n, 1, a, b, "gauss_legendre");
  std::vector<double> nodes(n), weights(n);
  const auto order = static_cast<double>(n);
  for (std::int64_t i = 0; i < n; ++i) {
    double x = std::cos(pi * (static_cast<double>(i) + .75) / (order + .5)), slope = 0;
    for (int step = 0; step < 100; ++step) {
      double before = 1, p = x;  // P_0, P_1
      for (std::int64_t k = 2; k <= n; ++k) {
        const auto j = static_cast<double>(k);
        const double next = ((2 * j - 1) * x * p - (j - 1) * before) / j;
        before = p, p = next;
      }
      slope = order * (x * p - before) / (x * x - 1);
      const double change = p / slope;
      x -= change;
      if (std::abs(change) < 1e-15) break;
    }
    nodes[n - 1 - i] = a + (b - a) / 2 * (1 + x);  // roots come in falling order
    weights[n - 1 - i] = (b - a) / ((1 - x * x) * slope * slope);
  }
  return from(nodes, weights);
}

Grid clenshaw_curtis(std::int64_t n, double a, double b) {
  check_rule(n, 2, a, b, "clenshaw_curtis");
  std::vector<double> nodes(n), weights(n);
  const std::int64_t m = n - 1;
  for (std::int64_t k = 0; k <= m; ++k) {
    const double angle = pi * static_cast<double>(k) / static_cast<double>(m);
    double sum = 1;  // 1 - sum over j of b_j / (4 j^2 - 1) cos(2 j angle), b = 2 but 1 for j = m / 2
    for (std::int64_t j = 1; 2 * j <= m; ++j) {
      const auto r = static_cast<double>(j);
      sum -= (2 * j == m ? 1 : 2) / (4 * r * r - 1) * std::cos(2 * r * angle);
    }
    nodes[m - k] = a + (b - a) / 2 * (1 + std::cos(angle));
    weights[m - k] = (k == 0 || k == m ? 1 : 2) * sum * (b - a) / (2 * static_cast<double>(m));
  }
  return from(nodes, weights);
}

Grid trapezoid(std::int64_t n, double a, double b) {
  check_rule(n, 2, a, b, "trapezoid");
  const double h = (b - a) / static_cast<double>(n - 1);
  auto weights = at::full({n}, h, at::kDouble);
  weights[0] = weights[n - 1] = h / 2;
  return {at::linspace(a, b, n, at::kDouble), weights};
}

Grid periodic_trapezoid(std::int64_t n, double a, double b) {
  check_rule(n, 1, a, b, "periodic_trapezoid");
  const double h = (b - a) / static_cast<double>(n);
  return {a + h * at::arange(n, at::kDouble), at::full({n}, h, at::kDouble)};
}

Grid tanh_sinh(int level, double a, double b) {
  check_rule(1, 1, a, b, "tanh_sinh");
  require(level >= 0 && level <= 12, "tanh_sinh: level is 0 to 12, not {}", level);
  const double h = std::ldexp(1, -level);
  std::vector<double> nodes, weights;
  const auto last = static_cast<std::int64_t>(6 / h);
  for (std::int64_t k = -last; k <= last; ++k) {
    const double s = h * static_cast<double>(k), u = pi / 2 * std::sinh(std::abs(s));
    const double from_end = (b - a) / (1 + std::exp(2 * u));  // distance to the nearer end, to full precision
    const double x = k < 0 ? a + from_end : b - from_end;
    // 1 / cosh(u)^2 without overflow
    const double sech = 2 * std::exp(-u) / (1 + std::exp(-2 * u));
    const double weight = h * (b - a) / 2 * (pi / 2) * std::cosh(s) * sech * sech;
    if (x <= a || x >= b || weight == 0) continue;
    nodes.push_back(x);
    weights.push_back(weight);
  }
  return from(nodes, weights);
}

Grid gauss_jacobi(std::int64_t n, double alpha, double beta) {
  require(n >= 1, "gauss_jacobi: at least 1 node, not {}", n);
  require(alpha > -1 && beta > -1, "gauss_jacobi: exponents {} and {} must both exceed -1", alpha, beta);
  const double sum = alpha + beta;
  std::vector<double> diagonal{(beta - alpha) / (sum + 2)}, off;
  for (std::int64_t i = 1; i < n; ++i) {
    const auto k = static_cast<double>(i);
    const double s = 2 * k + sum;
    diagonal.push_back((beta * beta - alpha * alpha) / (s * (s + 2)));
    const double square = i == 1 ? 4 * (1 + alpha) * (1 + beta) / (s * s * (s + 1))
                                 : 4 * k * (k + alpha) * (k + beta) * (k + sum) / (s * s * (s + 1) * (s - 1));
    off.push_back(std::sqrt(square));
  }
  const double total =
      std::exp((sum + 1) * std::numbers::ln2 + std::lgamma(alpha + 1) + std::lgamma(beta + 1) - std::lgamma(sum + 2));
  return golub_welsch(diagonal, off, total);
}

Grid gauss_laguerre(std::int64_t n, double alpha) {
  require(n >= 1, "gauss_laguerre: at least 1 node, not {}", n);
  require(alpha > -1, "gauss_laguerre: the exponent {} must exceed -1", alpha);
  std::vector<double> diagonal, off;
  for (std::int64_t i = 0; i < n; ++i) {
    const auto k = static_cast<double>(i);
    diagonal.push_back(2 * k + 1 + alpha);
    if (i > 0) off.push_back(std::sqrt(k * (k + alpha)));
  }
  return golub_welsch(diagonal, off, std::tgamma(alpha + 1));
}

Grid gauss_hermite(std::int64_t n) {
  require(n >= 1, "gauss_hermite: at least 1 node, not {}", n);
  std::vector<double> diagonal(n, 0), off;
  for (std::int64_t i = 1; i < n; ++i) off.push_back(std::sqrt(static_cast<double>(i) / 2));
  return golub_welsch(diagonal, off, std::sqrt(pi));
}

Grid through(const Grid& grid, const std::function<at::Tensor(const at::Tensor&)>& map) {
  require(static_cast<bool>(grid), "through: there is no grid");
  const at::AutoGradMode with_graph(true);
  const auto s = grid.nodes().detach().requires_grad_(true);
  const auto x = map(s);
  require(x.sizes() == s.sizes(), "through: the map turns nodes {} into {}", shape_string(s.sizes()),
          shape_string(x.sizes()));
  const auto flat = x.reshape({s.size(0), -1});
  std::vector<at::Tensor> rows;
  for (std::int64_t j = 0; j < flat.size(1); ++j) {
    const auto column = flat.select(1, j);
    rows.push_back(torch::autograd::grad({column}, {s}, {at::ones_like(column)}, true)[0].reshape({s.size(0), -1}));
  }
  const auto jacobian = at::stack(rows, 1);  // [n, d, d]
  return {x.detach(), (grid.weights() * at::linalg_det(jacobian).abs()).detach()};
}

Grid tensor_product(const std::vector<Grid>& axes) {
  require(!axes.empty(), "tensor_product: no axes");
  std::vector<at::Tensor> nodes, weights;
  for (const Grid& axis : axes) {
    require(axis && axis.nodes().dim() == 1, "tensor_product: each axis is a grid of numbers");
    nodes.push_back(axis.nodes());
    weights.push_back(axis.weights());
  }
  at::Tensor weight = at::ones({}, weights[0].options());
  for (const auto& factor : at::meshgrid(weights, "ij")) weight = weight * factor;
  std::vector<at::Tensor> columns;
  for (const auto& axis : at::meshgrid(nodes, "ij")) columns.push_back(axis.flatten());
  return {at::stack(columns, 1), weight.flatten(), true};
}

Grid random_grid(std::int64_t n, const std::vector<double>& low, const std::vector<double>& high, Random& random) {
  require(n >= 1 && !low.empty() && low.size() == high.size(),
          "random_grid: {} points in a box with {} lower and {} upper bounds", n, low.size(), high.size());
  const auto d = static_cast<std::int64_t>(low.size());
  auto nodes = at::empty({n, d}, at::kDouble);
  double volume = 1;
  for (std::int64_t j = 0; j < d; ++j) {
    require(low[j] < high[j], "random_grid: [{}, {}] is not an interval", low[j], high[j]);
    volume *= high[j] - low[j];
  }
  auto* value = nodes.mutable_data_ptr<double>();
  for (std::int64_t i = 0; i < n * d; ++i) value[i] = low[i % d] + (high[i % d] - low[i % d]) * random.uniform();
  const auto weights = at::full({n}, volume / static_cast<double>(n), at::kDouble);
  return {d == 1 ? nodes.flatten() : nodes, weights};
}

Grid lebedev(std::int64_t points) {
  std::vector<std::array<double, 3>> nodes;
  std::vector<double> weights;
  const auto add = [&](double x, double y, double z, double weight) { orbit(x, y, z, weight, nodes, weights); };
  const double edge = std::sqrt(.5), corner = std::sqrt(1. / 3);
  switch (points) {
    case 6: add(0, 0, 1, 1. / 6); break;
    case 14: add(0, 0, 1, 1. / 15), add(corner, corner, corner, 3. / 40); break;
    case 26: add(0, 0, 1, 1. / 21), add(0, edge, edge, 4. / 105), add(corner, corner, corner, 9. / 280); break;
    case 38: {
      // p^2 + q^2 = 1 and p^2 q^2 = 1 / 6.
      const double p = std::sqrt((1 - std::sqrt(1. / 3)) / 2), q = std::sqrt((1 + std::sqrt(1. / 3)) / 2);
      add(0, 0, 1, 1. / 105), add(corner, corner, corner, 9. / 280), add(0, p, q, 1. / 35);
      break;
    }
    case 50:
      add(0, 0, 1, 4. / 315), add(0, edge, edge, 64. / 2835), add(corner, corner, corner, 27. / 1280);
      add(std::sqrt(1. / 11), std::sqrt(1. / 11), 3 * std::sqrt(1. / 11), 14641. / 725760);
      break;
    default: fail_input("lebedev: {} points; the rules here have 6, 14, 26, 38 or 50", points);
  }
  auto tensor = at::empty({static_cast<std::int64_t>(nodes.size()), 3}, at::kDouble);
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    for (int j = 0; j < 3; ++j) tensor.mutable_data_ptr<double>()[3 * i + j] = nodes[i][j];
  }
  return {tensor, at::tensor(weights, at::kDouble)};
}

Grid radial(std::int64_t n, double scale) {
  require(scale > 0, "radial: the scale must be positive, not {}", scale);
  return through(gauss_legendre(n), [&](const at::Tensor& s) { return scale * (1 + s) / (1 - s); });
}

Grid atomic(const Grid& radii, const Grid& sphere) {
  require(radii && radii.nodes().dim() == 1, "atomic: radii is a grid of numbers");
  require(sphere && sphere.nodes().dim() == 2 && sphere.nodes().size(1) == 3, "atomic: sphere has nodes [n, 3]");
  const auto r = radii.nodes(), w = radii.weights();
  const auto nodes = r.view({-1, 1, 1}) * sphere.nodes();
  const auto weights = (4 * pi * r.square() * w).view({-1, 1}) * sphere.weights();
  return {nodes.reshape({-1, 3}), weights.flatten()};
}

}  // namespace unbend::functional
