// Squared distances between the points of two measures, row by row in vectors: what the solvers of partial_transport.h
// search. Columns are sorted along the axis of their widest spread, so that a row only looks at the window that its
// reach covers.
#pragma once

#include <hwy/highway.h>

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "unbend/transport/measure.h"

namespace unbend::transport {

namespace hn = hwy::HWY_NAMESPACE;
using Lanes = hn::ScalableTag<double>;
using Vector = hn::Vec<Lanes>;
constexpr std::int64_t kLanes = hn::MaxLanes(Lanes());

class Pairs {
 public:
  /// Pairs of `rows` and `columns` (same dim) that may be closer than sqrt(reach). Up to three dimensions distances are
  /// computed where they are needed, which is as fast as reading them; above, they are stored where they fit.
  Pairs(const Measure& rows, const Measure& columns, double reach);

  std::int64_t rows() const { return rows_; }
  std::int64_t columns() const { return columns_; }
  std::int64_t padded() const { return padded_; }  ///< columns in whole vectors
  std::int64_t original(std::int64_t column) const { return order_[static_cast<std::size_t>(column)]; }
  std::int64_t low(std::int64_t row) const { return low_[static_cast<std::size_t>(row)]; }    ///< of the window: both
  std::int64_t high(std::int64_t row) const { return high_[static_cast<std::size_t>(row)]; }  ///< in whole vectors
  double cost(std::int64_t row, std::int64_t column) const;

  /// Calls body(j, costs of columns j, j + 1, ... in a vector) over the row's window; columns beyond the last have cost
  /// infinity.
  template <class Body>
  void for_row(std::int64_t row, Body&& body) const {
    const Lanes d;
    const auto r = static_cast<std::size_t>(row);
    const std::int64_t begin = low_[r], end = high_[r];
    if (!stored_.empty()) {
      const double* costs = stored_.data() + start_[r];
      for (std::int64_t j = begin; j < end; j += kLanes) body(j, hn::LoadU(d, costs + (j - begin)));
      return;
    }
    const double* x = row_points_.data() + row * dim_;
    const double* y = coordinates_.data();
    const auto square = [&](std::int64_t k, std::int64_t j) {
      const auto gap = hn::Sub(hn::Set(d, x[k]), hn::LoadU(d, y + k * padded_ + j));
      return hn::Mul(gap, gap);
    };
    const auto add = [&](Vector sum, std::int64_t k, std::int64_t j) {
      const auto gap = hn::Sub(hn::Set(d, x[k]), hn::LoadU(d, y + k * padded_ + j));
      return hn::MulAdd(gap, gap, sum);
    };
    if (dim_ == 1) {
      for (std::int64_t j = begin; j < end; j += kLanes) body(j, square(0, j));
    } else if (dim_ == 2) {
      for (std::int64_t j = begin; j < end; j += kLanes) body(j, add(square(0, j), 1, j));
    } else if (dim_ == 3) {
      for (std::int64_t j = begin; j < end; j += kLanes) body(j, add(add(square(0, j), 1, j), 2, j));
    } else {
      for (std::int64_t j = begin; j < end; j += kLanes) {
        auto sum = square(0, j);
        for (std::int64_t k = 1; k < dim_; ++k) sum = add(sum, k, j);
        body(j, sum);
      }
    }
  }

 private:
  std::int64_t dim_, rows_, columns_, padded_;
  std::vector<double> row_points_;        // [rows, dim]
  std::vector<double> coordinates_;       // [dim, padded]
  std::vector<std::int64_t> order_;       // [columns]
  std::vector<std::int64_t> low_, high_;  // [rows]
  std::vector<double> stored_;            // the windows one after the other; empty: computed
  std::vector<std::int64_t> start_;       // [rows], where each window begins in it
};

/// The least number of a row and where; lowest index among equals.
struct RowMinimum {
  double value = std::numeric_limits<double>::infinity();
  std::int64_t column = -1;
  double second = std::numeric_limits<double>::infinity();  ///< the next one, where it was asked for
};

/// Over the window of `row`: the least of cost - prices[j]. `prices`: [padded].
RowMinimum least_reduced(const Pairs& pairs, std::int64_t row, std::span<const double> prices);
/// The same, and the next one.
RowMinimum two_least_reduced(const Pairs& pairs, std::int64_t row, std::span<const double> prices);

}  // namespace unbend::transport
