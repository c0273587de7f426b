// Random measures for the tests of this folder.
#pragma once

#include "unbend/base/random.h"
#include "unbend/transport/measure.h"

namespace unbend::transport {

inline Measure measure(std::int64_t dim, std::vector<double> points, std::vector<double> masses) {
  return {dim, std::move(points), std::move(masses)};
}

/// Normal points; masses in [0.1, 1.1), or all `equal` where that is not 0.
inline Measure random_measure(std::int64_t size, std::int64_t dim, double equal, Random& random) {
  Measure m{dim, {}, {}};
  for (std::int64_t i = 0; i < size * dim; ++i) m.points.push_back(random.normal());
  for (std::int64_t i = 0; i < size; ++i) m.masses.push_back(equal > 0 ? equal : .1 + random.uniform());
  return m;
}

}  // namespace unbend::transport
