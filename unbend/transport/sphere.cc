#include "unbend/transport/sphere.h"

#include <cmath>
#include <numbers>
#include <numeric>

#include "unbend/base/error.h"

namespace unbend::transport {
namespace {

constexpr double kTurn = 2 * std::numbers::pi;

double dot(std::span<const double> a, std::span<const double> b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

CircularMeasure on_circle(const Measure& m, const GreatCircles& circles, std::int64_t circle, std::string_view name) {
  std::vector<double> angles;
  for (std::int64_t i = 0; i < m.size(); ++i)
    angles.push_back(std::atan2(dot(m.point(i), circles.axis(circle, 1)), dot(m.point(i), circles.axis(circle, 0))));
  return circular_atoms(angles, m.masses, kTurn, name);
}

void check_sphere(const Measure& m, const GreatCircles& circles, std::string_view name) {
  check(m, name);
  require(m.size() > 0, "{}: no points", name);
  require(m.dim == circles.dim, "{}: points of {} dimensions, circles of {}", name, m.dim, circles.dim);
  for (std::int64_t i = 0; i < m.size(); ++i)
    require(dot(m.point(i), m.point(i)) > 0, "{}: point {} is the origin, which has no direction", name, i);
}

}  // namespace

GreatCircles great_circles(std::int64_t dim, std::int64_t count, Random& random) {
  require(dim >= 2, "great circles in {} dimensions, expected at least 2", dim);
  require(count >= 1, "{} great circles, expected at least 1", count);
  GreatCircles circles{dim, count, {}};
  while (static_cast<std::int64_t>(circles.axes.size()) < 2 * count * dim) {
    std::vector<double> a, b;
    for (std::int64_t k = 0; k < dim; ++k) a.push_back(random.normal()), b.push_back(random.normal());
    const double length = std::sqrt(dot(a, a));
    if (length < 1e-6) continue;
    for (double& x : a) x /= length;
    const double along = dot(a, b);
    for (std::size_t k = 0; k < a.size(); ++k) b[k] -= along * a[k];
    const double rest = std::sqrt(dot(b, b));
    if (rest < 1e-6) continue;
    for (double& x : b) x /= rest;
    circles.axes.insert(circles.axes.end(), a.begin(), a.end());
    circles.axes.insert(circles.axes.end(), b.begin(), b.end());
  }
  return circles;
}

std::vector<CircularMap> sliced_embed(const Measure& measure, const GreatCircles& circles, std::string_view name) {
  check_sphere(measure, circles, name);
  std::vector<CircularMap> maps;
  for (std::int64_t c = 0; c < circles.count; ++c) maps.push_back(lcot_embed(on_circle(measure, circles, c, name)));
  return maps;
}

double sliced_lcot(std::span<const CircularMap> a, std::span<const CircularMap> b) {
  require(a.size() == b.size() && !a.empty(), "sliced LCOT of {} and {} circles", a.size(), b.size());
  double sum = 0;
  for (std::size_t c = 0; c < a.size(); ++c) sum += lcot(a[c], b[c]);
  return sum / static_cast<double>(a.size());
}

SlicedGradient sliced_gradient(const Measure& a, const Measure& b, const GreatCircles& circles) {
  check_sphere(a, circles, "first measure");
  check_sphere(b, circles, "second measure");
  SlicedGradient gradient{0, std::vector<double>(a.points.size(), 0.0)};
  const auto share = 1 / static_cast<double>(circles.count);
  for (std::int64_t c = 0; c < circles.count; ++c) {
    const auto nu = on_circle(a, circles, c, "first measure");
    const auto g = lcot_gradient(nu, lcot_embed(nu), lcot_embed(on_circle(b, circles, c, "second measure")), a.size());
    gradient.value += share * g.value;
    const auto e0 = circles.axis(c, 0), e1 = circles.axis(c, 1);
    for (std::int64_t i = 0; i < a.size(); ++i) {
      const double x = dot(a.point(i), e0), y = dot(a.point(i), e1), square = x * x + y * y;
      if (square <= 0) continue;  // the pole of this circle: its angle is a convention
      const double pull = share * g.values[static_cast<std::size_t>(i)] / (kTurn * square);
      for (std::int64_t k = 0; k < a.dim; ++k) {
        const auto at = static_cast<std::size_t>(k);
        gradient.points[static_cast<std::size_t>(i * a.dim + k)] += pull * (x * e1[at] - y * e0[at]);
      }
    }
  }
  return gradient;
}

}  // namespace unbend::transport
