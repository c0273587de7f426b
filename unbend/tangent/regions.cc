#include "unbend/tangent/regions.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "unbend/base/error.h"
#include "unbend/tensor/check.h"

namespace unbend {
namespace {

using Polygon = std::vector<Point>;

// z = c + x dx + y dy on the plane.
struct Affine {
  double c, dx, dy;
  double operator()(const Point& p) const { return c + p.x * dx + p.y * dy; }
  double noise() const { return 1e-12 * (std::abs(c) + std::abs(dx) + std::abs(dy)); }
};

bool passes(const Affine& line, const Polygon& polygon) {
  bool above = false, below = false;
  const double noise = line.noise();
  for (const auto& p : polygon) {
    const double z = line(p);
    above = above || z > noise, below = below || z < -noise;
  }
  return above && below;
}

// The two sides of a line that passes through the inside of a convex polygon.
std::pair<Polygon, Polygon> cut(const Polygon& polygon, const Affine& line) {
  std::vector<double> z;
  for (const auto& p : polygon) z.push_back(std::abs(line(p)) <= line.noise() ? 0 : line(p));
  Polygon high, low;
  for (size_t i = 0; i < polygon.size(); ++i) {
    const size_t j = (i + 1) % polygon.size();
    if (z[i] >= 0) high.push_back(polygon[i]);
    if (z[i] <= 0) low.push_back(polygon[i]);
    if (z[i] * z[j] < 0) {
      const double t = z[i] / (z[i] - z[j]);
      const Point between{polygon[i].x + t * (polygon[j].x - polygon[i].x),
                          polygon[i].y + t * (polygon[j].y - polygon[i].y)};
      high.push_back(between), low.push_back(between);
    }
  }
  return {high, low};
}

// Per region, values of the affine map that holds there at three places: (0, 0), (1, 0) and (0, 1). Affine operations
// act on such values as they do on any.
constexpr int64_t kPlaces = 3;

struct Cutting {
  std::vector<Polygon> polygons;
  std::vector<int64_t> parents;       // of each polygon after a layer, among those before it
  std::vector<std::vector<bool>> up;  // [regions after, neurons]: whether the pre-activation is positive
};

// Cuts every polygon by the folds of a layer, z [R, 3, neurons].
Cutting cut_all(const std::vector<Polygon>& polygons, const at::Tensor& z, const std::string& layer, int64_t most) {
  const int64_t neurons = z.size(2);
  Cutting result;
  for (int64_t r = 0; r < std::ssize(polygons); ++r) {
    const double* values = z.const_data_ptr<double>() + r * kPlaces * neurons;
    const auto line = [&](int64_t j) {
      const double c = values[j];
      return Affine{c, values[neurons + j] - c, values[2 * neurons + j] - c};
    };
    std::vector<Polygon> cells = {polygons[r]};
    for (int64_t j = 0; j < neurons; ++j) {
      const auto fold = line(j);
      if (!passes(fold, polygons[r])) continue;
      for (size_t i = 0, before = cells.size(); i < before; ++i) {
        if (!passes(fold, cells[i])) continue;
        auto [high, low] = cut(cells[i], fold);
        cells[i] = std::move(high);
        cells.push_back(std::move(low));
      }
      if (std::ssize(result.polygons) + std::ssize(cells) > most)
        fail_computation("linear regions: more than {} in this square, at layer '{}': take a smaller square", most,
                         layer);
    }
    for (auto& cell : cells) {
      const auto middle = centroid(cell);
      std::vector<bool> up(neurons);
      for (int64_t j = 0; j < neurons; ++j) up[j] = line(j)(middle) > 0;
      result.polygons.push_back(std::move(cell)), result.parents.push_back(r), result.up.push_back(std::move(up));
    }
  }
  return result;
}

bool is_affine(const Operation& operation) {
  if (const auto* pool = std::get_if<Pooling>(&operation)) return !pool->maximum;
  return !std::holds_alternative<LayerNorm>(operation) && !std::holds_alternative<Elementwise>(operation);
}

// Slope below 0 of a piecewise linear activation.
double lower_slope(const Elementwise& activation, const std::string& name) {
  if (activation.function == Activation::Relu) return 0;
  if (activation.function == Activation::LeakyRelu) return activation.slope;
  fail_input("linear regions: '{}' is smooth ({}): only piecewise linear networks have regions", name,
             name_of(activation.function));
}

// From [R * 3, ..] to rows of the children: those of their parents.
at::Tensor inherited(const at::Tensor& value, const at::Tensor& parents) {
  auto shape = value.sizes().vec();
  shape[0] = parents.size(0) * kPlaces;
  return value.reshape({-1, kPlaces, value.numel() / value.size(0)}).index_select(0, parents).reshape(shape);
}

void check(const Network& network, const Slice& slice) {
  require(!network.nodes.empty(), "linear regions: the network has no layers");
  check_finite(slice.origin, "linear regions: origin");
  check_finite(slice.across, "linear regions: direction");
  check_finite(slice.up, "linear regions: direction");
  for (const auto& node : network.nodes) {
    if (const auto* f = std::get_if<Elementwise>(&node.operation)) {
      if (f->function != Activation::Identity) lower_slope(*f, node.name);
    } else {
      require(is_affine(node.operation), "linear regions: layer '{}' is neither affine nor an activation", node.name);
    }
  }
}

}  // namespace

Slice slice_through(const at::Tensor& points, double margin) {
  check_floating(points, "slice: points");
  require(points.dim() >= 2 && points.size(0) == 3, "slice: points of shape {}, expected [3, ..]",
          shape_string(points.sizes()));
  check_finite(points, "slice: points");
  require(margin >= 0 && margin < .5, "slice: a margin of {}, expected 0 to below 0.5", margin);
  const auto p = points.detach().to(at::kDouble).cpu();
  const auto a = p[0], ab = p[1] - p[0], ac = p[2] - p[0];
  const auto norm = [](const at::Tensor& v) { return v.norm().item<double>(); };
  const double width = norm(ab);
  require(width > 0 && norm(ac) > 0, "slice: two of the points are equal");
  const auto first = ab / width;
  const double along = (ac * first).sum().item<double>();
  const auto rest = ac - along * first;
  const double height = norm(rest);
  require(height > 1e-9 * norm(ac), "slice: the points lie on one line");
  const auto second = rest / height;
  const double left = std::min(0., along), right = std::max(width, along);
  const double half = std::max(right - left, height) / 2 / (1 - 2 * margin);
  const Point middle{(left + right) / 2, height / 2};
  const auto mark = [&](double x, double y) { return Point{(x - middle.x) / half, (y - middle.y) / half}; };
  return {a + middle.x * first + middle.y * second,
          half * first,
          half * second,
          {mark(0, 0), mark(width, 0), mark(along, height)},
          half};
}

double area(const Polygon& polygon) {
  double twice = 0;
  for (size_t i = 0; i < polygon.size(); ++i) {
    const auto &p = polygon[i], &q = polygon[(i + 1) % polygon.size()];
    twice += p.x * q.y - q.x * p.y;
  }
  return twice / 2;
}

Point centroid(const Polygon& polygon) {
  Point sum{0, 0};
  for (const auto& p : polygon) sum.x += p.x, sum.y += p.y;
  const auto n = static_cast<double>(polygon.size());
  return {sum.x / n, sum.y / n};
}

LinearRegions linear_regions(const Network& network, const Slice& slice, int64_t most) {
  const at::NoGradGuard no_grad;
  check(network, slice);
  const auto exact = to(network, at::TensorOptions().dtype(at::kDouble).device(at::kCPU));
  std::vector<Polygon> polygons = {{{-1, -1}, {1, -1}, {1, 1}, {-1, 1}}};
  std::map<int, at::Tensor> values;  // that a later node reads
  values[0] = at::stack({slice.origin, slice.origin + slice.across, slice.origin + slice.up});
  std::map<int, int> last;
  const int count = static_cast<int>(exact.nodes.size());
  for (int i = 0; i < count; ++i)
    for (const int input : exact.nodes[i].inputs) last[input] = i;
  for (int i = 0; i < count; ++i) {
    const auto& node = exact.nodes[i];
    std::vector<at::Tensor> inputs;
    for (const int input : node.inputs) inputs.push_back(values.at(input));
    const auto* activation = std::get_if<Elementwise>(&node.operation);
    if (activation == nullptr || activation->function == Activation::Identity) {
      try {
        values[i + 1] = value_of(node.operation, inputs);
      } catch (const c10::Error& error) {
        fail_input("layer '{}' does not take {}: {}", node.name, shape_string(inputs.front().sizes()),
                   error.what_without_backtrace());
      }
    } else {
      const auto& z = inputs.front();
      const auto flat = z.reshape({std::ssize(polygons), kPlaces, -1}).contiguous();
      auto cutting = cut_all(polygons, flat, node.name, most);
      const auto parents = at::tensor(cutting.parents, at::kLong);
      for (auto& [value, tensor] : values) tensor = inherited(tensor, parents);
      const double below = lower_slope(*activation, node.name);
      auto slopes = at::empty({std::ssize(cutting.polygons), 1, flat.size(2)}, at::kDouble);
      auto* slope = slopes.mutable_data_ptr<double>();
      for (const auto& up : cutting.up) {
        for (const bool positive : up) *slope++ = positive ? 1 : below;
      }
      const auto& inherited_z = values.at(node.inputs.front());
      values[i + 1] = (inherited_z.reshape({slopes.size(0), kPlaces, -1}) * slopes).reshape(inherited_z.sizes());
      polygons = std::move(cutting.polygons);
    }
    for (const int input : node.inputs)
      if (last.at(input) == i) values.erase(input);
  }
  const auto out = values.at(count).reshape({std::ssize(polygons), kPlaces, -1});
  check_finite(out, "linear regions: outputs");
  const auto constant = out.select(1, 0);
  const auto maps = at::stack({constant, out.select(1, 1) - constant, out.select(1, 2) - constant}, -1);
  return {slice, std::move(polygons), maps};
}

}  // namespace unbend
