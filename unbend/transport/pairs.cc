#include "unbend/transport/pairs.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace unbend::transport {
namespace {

constexpr std::int64_t kMostStored = std::int64_t{1} << 27;  // numbers: 1 GB

std::int64_t widest_axis(const Measure& m) {
  std::int64_t best = 0;
  double most = -1;
  for (std::int64_t k = 0; k < m.dim; ++k) {
    double low = INFINITY, high = -INFINITY;
    for (std::int64_t i = 0; i < m.size(); ++i) {
      const double x = m.point(i)[static_cast<std::size_t>(k)];
      low = std::min(low, x), high = std::max(high, x);
    }
    if (high - low > most) most = high - low, best = k;
  }
  return best;
}

}  // namespace

Pairs::Pairs(const Measure& rows, const Measure& columns, double reach)
    : dim_(rows.dim),
      rows_(rows.size()),
      columns_(columns.size()),
      padded_((columns_ + kLanes - 1) / kLanes * kLanes),
      row_points_(rows.points),
      coordinates_(static_cast<std::size_t>(dim_ * padded_), INFINITY),
      order_(static_cast<std::size_t>(columns_)) {
  const auto axis = static_cast<std::size_t>(widest_axis(columns));
  std::iota(order_.begin(), order_.end(), 0);
  std::ranges::stable_sort(order_, {}, [&](std::int64_t j) { return columns.point(j)[axis]; });
  std::vector<double> along;
  for (std::int64_t j = 0; j < columns_; ++j) {
    const auto y = columns.point(order_[static_cast<std::size_t>(j)]);
    for (std::int64_t k = 0; k < dim_; ++k)
      coordinates_[static_cast<std::size_t>(k * padded_ + j)] = y[static_cast<std::size_t>(k)];
    along.push_back(y[axis]);
  }
  const double radius = std::sqrt(reach);
  std::int64_t total = 0;
  for (std::int64_t i = 0; i < rows_; ++i) {
    const double x = rows.point(i)[axis];
    const std::int64_t begin = std::ranges::lower_bound(along, x - radius) - along.begin();
    const std::int64_t end = std::ranges::upper_bound(along, x + radius) - along.begin();
    low_.push_back(begin / kLanes * kLanes);
    high_.push_back(begin == end ? low_.back() : (end + kLanes - 1) / kLanes * kLanes);
    start_.push_back(total);
    total += high_.back() - low_.back();
  }
  if (dim_ <= 3 || total > kMostStored) return;
  std::vector<double> stored(static_cast<std::size_t>(total));
  for (std::int64_t i = 0; i < rows_; ++i) {
    double* row = stored.data() + start_[static_cast<std::size_t>(i)] - low(i);
    for_row(i, [&](std::int64_t j, Vector costs) { hn::StoreU(costs, Lanes(), row + j); });
  }
  stored_ = std::move(stored);
}

double Pairs::cost(std::int64_t row, std::int64_t column) const {
  double sum = 0;
  for (std::int64_t k = 0; k < dim_; ++k) {
    const double gap = row_points_[static_cast<std::size_t>(row * dim_ + k)] -
                       coordinates_[static_cast<std::size_t>(k * padded_ + column)];
    sum += gap * gap;
  }
  return sum;
}

template <bool kSecond>
RowMinimum scan(const Pairs& pairs, std::int64_t row, std::span<const double> prices) {
  const Lanes d;
  auto best = hn::Set(d, INFINITY), second = best, at = hn::Zero(d);
  pairs.for_row(row, [&](std::int64_t j, Vector costs) {
    const auto reduced = hn::Sub(costs, hn::LoadU(d, prices.data() + j));
    if constexpr (kSecond) second = hn::Min(second, hn::Max(best, reduced));
    at = hn::IfThenElse(hn::Lt(reduced, best), hn::Set(d, static_cast<double>(j)), at);
    best = hn::Min(best, reduced);
  });
  double bests[kLanes], seconds[kLanes], ats[kLanes];
  hn::StoreU(best, d, bests), hn::StoreU(second, d, seconds), hn::StoreU(at, d, ats);
  RowMinimum found;
  for (std::int64_t lane = 0; lane < kLanes; ++lane) {
    const std::int64_t column = static_cast<std::int64_t>(ats[lane]) + lane;
    const double value = bests[lane];
    if (value < found.value || (value == found.value && column < found.column)) {
      found.second = std::min(found.value, seconds[lane]);
      found.value = value;
      found.column = column;
    } else {
      found.second = std::min(found.second, value);
    }
  }
  return found;
}

RowMinimum least_reduced(const Pairs& pairs, std::int64_t row, std::span<const double> prices) {
  return scan<false>(pairs, row, prices);
}

RowMinimum two_least_reduced(const Pairs& pairs, std::int64_t row, std::span<const double> prices) {
  return scan<true>(pairs, row, prices);
}

}  // namespace unbend::transport
