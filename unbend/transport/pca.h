// Principal components of rows of numbers, and how they place rows.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace unbend::transport {

struct Pca {
  std::int64_t features = 0;
  std::vector<double> mean;        ///< [features]
  std::vector<double> components;  ///< [k, features], orthonormal; the largest entry of each is positive
  std::vector<double> variances;   ///< [k], falling
  double total_variance = 0;       ///< of all components
  std::int64_t size() const { return static_cast<std::int64_t>(variances.size()); }
};

/// Of rows [count, features]; `components` are cut to what the rows span. By the smaller of the covariance and the Gram
/// matrix. Input error for fewer than two rows or numbers that are not finite.
Pca fit_pca(std::span<const double> rows, std::int64_t count, std::int64_t components);

/// Scores [count, k] of rows [count, features].
std::vector<double> scores(const Pca& pca, std::span<const double> rows);

/// Places [count, dim] whose Euclidean distances fit the squared distances [count, count] (classical multidimensional
/// scaling), and all eigenvalues, falling.
struct Places {
  std::vector<double> points, eigenvalues;
};
Places classical_scaling(std::span<const double> squared_distances, std::int64_t count, std::int64_t dim);

}  // namespace unbend::transport
