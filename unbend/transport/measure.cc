#include "unbend/transport/measure.h"

#include <cmath>
#include <numeric>

#include "unbend/base/error.h"

namespace unbend::transport {

double Measure::total() const { return std::accumulate(masses.begin(), masses.end(), 0.0); }

void Measure::add(std::span<const double> at, double mass) {
  points.insert(points.end(), at.begin(), at.end());
  masses.push_back(mass);
}

void check(const Measure& m, std::string_view name) {
  require(m.dim > 0 || m.size() == 0, "{}: points of {} dimensions", name, m.dim);
  require(m.points.size() == static_cast<std::size_t>(m.size() * m.dim),
          "{}: {} coordinates for {} masses, expected {} ({} per point)", name, m.points.size(), m.size(),
          m.size() * m.dim, m.dim);
  for (std::int64_t i = 0; i < m.size(); ++i) {
    const double mass = m.masses[static_cast<std::size_t>(i)];
    require(std::isfinite(mass) && mass >= 0, "{}: the mass of point {} is {}, expected a finite number from 0 on",
            name, i, mass);
    for (const double x : m.point(i))
      require(std::isfinite(x), "{}: point {} has a coordinate {}, expected a finite number", name, i, x);
  }
  require(std::isfinite(m.total()), "{}: its masses add up to {}", name, m.total());
}

Measure normalised(Measure m, std::string_view name) {
  check(m, name);
  const double total = m.total();
  require(total > 0, "{}: its total mass is 0", name);
  for (double& mass : m.masses) mass /= total;
  return m;
}

double squared_distance(std::span<const double> a, std::span<const double> b) {
  double sum = 0;
  for (std::size_t k = 0; k < a.size(); ++k) sum += (a[k] - b[k]) * (a[k] - b[k]);
  return sum;
}

}  // namespace unbend::transport
