// Sliced LCOT on spheres: points are turned into angles on random great circles, and squared LCOT is averaged over
// them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "unbend/base/random.h"
#include "unbend/transport/lcot.h"
#include "unbend/transport/measure.h"

namespace unbend::transport {

struct GreatCircles {
  std::int64_t dim = 0, count = 0;
  std::vector<double> axes;  ///< [count, 2, dim], orthonormal pairs
  std::span<const double> axis(std::int64_t circle, int which) const {
    return std::span(axes).subspan(static_cast<std::size_t>((2 * circle + which) * dim), static_cast<std::size_t>(dim));
  }
};

/// Uniformly random. Input error for fewer than two dimensions or no circle.
GreatCircles great_circles(std::int64_t dim, std::int64_t count, Random& random);

/// One map per circle: the measure's angles there, embedded with the uniform reference. Points need not have length 1;
/// their directions count. Input error that starts with `name` for a point without direction, no mass, another
/// dimension.
std::vector<CircularMap> sliced_embed(const Measure& measure, const GreatCircles& circles, std::string_view name);

/// Mean over the circles of LCOT_2^2.
double sliced_lcot(std::span<const CircularMap> a, std::span<const CircularMap> b);

/// Mean of LCOT_2^2 over the circles, and its gradient by the points of `a` [size, dim] (lcot_gradient, through the
/// angles).
struct SlicedGradient {
  double value = 0;
  std::vector<double> points;
};
SlicedGradient sliced_gradient(const Measure& a, const Measure& b, const GreatCircles& circles);

}  // namespace unbend::transport
