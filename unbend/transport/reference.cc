#include "unbend/transport/reference.h"

#include <cmath>
#include <limits>
#include <numeric>

#include "unbend/base/error.h"

namespace unbend::transport {

std::vector<std::int64_t> shuffled(std::int64_t count, Random& random) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
  return order;
}

Measure kmeans_reference(std::span<const Measure> clouds, std::int64_t count, double total, Random& random) {
  require(count >= 1, "a reference of {} points, expected at least 1", count);
  Measure all;
  for (const Measure& cloud : clouds) {
    require(all.size() == 0 || cloud.size() == 0 || cloud.dim == all.dim, "points of {} and of {} dimensions", all.dim,
            cloud.dim);
    if (cloud.size() > 0) all.dim = cloud.dim;
    for (std::int64_t k = 0; k < cloud.size(); ++k) all.add(cloud.point(k), 1);
  }
  require(all.size() > 0, "no points to take a reference from");
  Measure centres{all.dim, {}, {}};
  for (const std::int64_t i : shuffled(all.size(), random)) {  // distinct starts
    if (centres.size() == count) break;
    bool taken = false;
    for (std::int64_t c = 0; c < centres.size(); ++c)
      taken = taken || squared_distance(centres.point(c), all.point(i)) == 0;
    if (!taken) centres.add(all.point(i), 1);
  }
  for (double& mass : centres.masses) mass = total / static_cast<double>(centres.size());
  for (int round = 0; round < 50; ++round) {
    std::vector<double> sums(centres.points.size(), 0.0), members(centres.masses.size(), 0.0);
    for (std::int64_t i = 0; i < all.size(); ++i) {
      std::int64_t nearest = 0;
      double least = std::numeric_limits<double>::infinity();
      for (std::int64_t c = 0; c < centres.size(); ++c)
        if (const double gap = squared_distance(centres.point(c), all.point(i)); gap < least) least = gap, nearest = c;
      ++members[static_cast<std::size_t>(nearest)];
      for (std::int64_t k = 0; k < all.dim; ++k)
        sums[static_cast<std::size_t>(nearest * all.dim + k)] += all.point(i)[static_cast<std::size_t>(k)];
    }
    double moved = 0;
    for (std::size_t k = 0; k < sums.size(); ++k) {
      const double of = members[k / static_cast<std::size_t>(all.dim)], x = of > 0 ? sums[k] / of : centres.points[k];
      moved += std::abs(x - centres.points[k]);
      centres.points[k] = x;
    }
    if (moved < 1e-9) break;
  }
  return centres;
}

}  // namespace unbend::transport
