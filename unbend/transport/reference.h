// A reference for embeddings, from the measures themselves.
#pragma once

#include <span>

#include "unbend/base/random.h"
#include "unbend/transport/measure.h"

namespace unbend::transport {

/// k-means centres (Lloyd's iteration from random distinct points) of all points together, masses left aside; at most
/// `count`, of equal masses that sum to `total`. Input error if there are no points, or of different dimensions.
Measure kmeans_reference(std::span<const Measure> clouds, std::int64_t count, double total, Random& random);

/// A random order of 0 .. count - 1.
std::vector<std::int64_t> shuffled(std::int64_t count, Random& random);

}  // namespace unbend::transport
