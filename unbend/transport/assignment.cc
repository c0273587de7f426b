#include <algorithm>
#include <cmath>

#include "unbend/base/error.h"
#include "unbend/base/interrupt.h"
#include "unbend/transport/solvers.h"

namespace unbend::transport {
namespace {

constexpr std::int64_t kAlone = -1;

/// Prices v_j <= 0 of columns, 0 while a column is free; u_i = min(0, min over j of c_ij - 2 lambda - v_j).
class Assignment {
 public:
  Assignment(const Pairs& pairs, double lambda)
      : pairs_(pairs),
        gain_(2 * lambda),
        u_(static_cast<std::size_t>(pairs.rows()), 0.0),
        v_(static_cast<std::size_t>(pairs.padded()), 0.0),
        column_of_(static_cast<std::size_t>(pairs.rows()), kAlone),
        row_of_(static_cast<std::size_t>(pairs.padded()), kAlone),
        distance_(v_.size()),
        open_(v_.size()),
        from_(v_.size()) {}

  Solution solve() {
    for (const std::int64_t row : reduce_rows()) augment(row);
    Solution solution;
    for (std::int64_t i = 0; i < pairs_.rows(); ++i)
      if (column(i) != kAlone) solution.flows.push_back({i, column(i), 1});
    solution.row_potentials = u_;
    solution.column_potentials.assign(v_.begin(), v_.begin() + pairs_.columns());
    solution.steps = steps_;
    return solution;
  }

 private:
  std::int64_t& column(std::int64_t row) { return column_of_[static_cast<std::size_t>(row)]; }
  std::int64_t& row(std::int64_t column) { return row_of_[static_cast<std::size_t>(column)]; }
  double& u(std::int64_t row) { return u_[static_cast<std::size_t>(row)]; }
  double& v(std::int64_t column) { return v_[static_cast<std::size_t>(column)]; }

  /// Each row takes its best column for the price at which the next best (or staying alone) is as good; who held it
  /// looks again. Returns the rows that are left without a decision after a few rounds.
  std::vector<std::int64_t> reduce_rows() {
    std::vector<std::int64_t> waiting(u_.size()), later;
    for (std::size_t i = 0; i < waiting.size(); ++i) waiting[i] = static_cast<std::int64_t>(i);
    for (int round = 0; round < 3 && !waiting.empty(); ++round) {
      for (std::int64_t i : waiting) {
        for (std::int64_t tries = 0;; ++tries) {
          const RowMinimum best = scan(i);
          const double first = best.value - gain_, second = std::min(best.second - gain_, 0.0);
          u(i) = second;
          if (!(first < 0)) {  // alone is as good; prices only fall, so it stays so
            u(i) = 0;
            break;
          }
          const std::int64_t j = best.column, before = row(j);
          v(j) -= second - first;
          row(j) = i, column(i) = j;
          if (before == kAlone) break;
          column(before) = kAlone;
          if (first < second && tries < 4 * pairs_.rows()) {
            i = before;
            continue;
          }
          later.push_back(before);
          break;
        }
      }
      waiting.swap(later);
      later.clear();
    }
    return waiting;
  }

  RowMinimum scan(std::int64_t i) {
    if (++steps_ % 4096 == 0 && interrupted()) fail_computation("optimal partial transport: interrupted");
    return two_least_reduced(pairs_, i, v_);
  }

  /// Shortest path in reduced costs from `start` to a free column or to a row that is better left alone.
  void augment(std::int64_t start) {
    const Lanes d;
    u(start) = std::min(0.0, scan(start).value - gain_);
    std::ranges::fill(distance_, INFINITY);
    std::ranges::fill(open_, INFINITY);
    struct Scanned {
      std::int64_t column;
      double distance;
    };
    std::vector<Scanned> scanned;
    std::int64_t low = pairs_.padded(), high = 0, i = start, lonely = start, end = kAlone;
    double base = 0, alone = INFINITY;
    while (true) {
      if (base - u(i) < alone) alone = base - u(i), lonely = i;
      if (++steps_ % 4096 == 0 && interrupted()) fail_computation("optimal partial transport: interrupted");
      const auto shift = hn::Set(d, base - u(i) - gain_);
      const auto here = hn::Set(hn::RebindToSigned<Lanes>(), i);
      pairs_.for_row(i, [&](std::int64_t j, Vector costs) {
        const auto length = hn::Add(shift, hn::Sub(costs, hn::LoadU(d, v_.data() + j)));
        const auto old = hn::LoadU(d, distance_.data() + j);
        const auto shorter = hn::Lt(length, old);
        if (hn::AllFalse(d, shorter)) return;
        hn::StoreU(hn::IfThenElse(shorter, length, old), d, distance_.data() + j);
        hn::BlendedStore(here, hn::RebindMask(hn::RebindToSigned<Lanes>(), shorter), hn::RebindToSigned<Lanes>(),
                         from_.data() + j);
        hn::BlendedStore(length, shorter, d, open_.data() + j);
      });
      low = std::min(low, pairs_.low(i)), high = std::max(high, pairs_.high(i));
      const std::int64_t next = nearest_open(low, high);
      if (next == kAlone || !(distance_[static_cast<std::size_t>(next)] < alone)) break;
      base = std::max(base, distance_[static_cast<std::size_t>(next)]);  // rounding must not turn time back
      if (row(next) == kAlone) {
        end = next;
        break;
      }
      scanned.push_back({next, base});
      open_[static_cast<std::size_t>(next)] = INFINITY;
      distance_[static_cast<std::size_t>(next)] = -INFINITY;  // nothing is shorter from now on
      i = row(next);
    }
    const double length = end == kAlone ? alone : base;
    for (const auto& [j, distance] : scanned) {
      const double left = std::max(0.0, length - distance);
      v(j) -= left;
      u(row(j)) = std::min(0.0, u(row(j)) + left);
    }
    u(start) = std::min(0.0, u(start) + length);
    if (end == kAlone) {  // `lonely` gives its column to the path that leads there
      end = column(lonely);
      column(lonely) = kAlone;
      if (lonely == start) return;
    }
    while (true) {
      const std::int64_t owner = from_[static_cast<std::size_t>(end)];
      row(end) = owner;
      std::swap(column(owner), end);
      if (owner == start) return;
    }
  }

  std::int64_t nearest_open(std::int64_t low, std::int64_t high) const {
    const Lanes d;
    auto best = hn::Set(d, INFINITY), at = hn::Zero(d);
    for (std::int64_t j = low; j < high; j += kLanes) {
      const auto value = hn::LoadU(d, open_.data() + j);
      at = hn::IfThenElse(hn::Lt(value, best), hn::Set(d, static_cast<double>(j)), at);
      best = hn::Min(best, value);
    }
    double bests[kLanes], ats[kLanes];
    hn::StoreU(best, d, bests), hn::StoreU(at, d, ats);
    std::int64_t found = kAlone;
    double least = INFINITY;
    for (std::int64_t lane = 0; lane < kLanes; ++lane)
      if (bests[lane] < least) least = bests[lane], found = static_cast<std::int64_t>(ats[lane]) + lane;
    return found;
  }

  const Pairs& pairs_;
  double gain_;
  std::vector<double> u_, v_;
  std::vector<std::int64_t> column_of_, row_of_;
  std::vector<double> distance_, open_;  // [padded]; open: the same, infinity once scanned
  std::vector<std::int64_t> from_;       // [padded], the row from which the distance came
  std::int64_t steps_ = 0;
};

}  // namespace

Solution assignment(const Pairs& pairs, double lambda) { return Assignment(pairs, lambda).solve(); }

}  // namespace unbend::transport
