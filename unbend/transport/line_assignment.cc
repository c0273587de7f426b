#include <algorithm>
#include <cmath>

#include "unbend/transport/solvers.h"

namespace unbend::transport {
namespace {

enum Move : unsigned { kUp = 0, kLeft = 1, kMatch = 2 };

/// Moves of the pairs in the bands, two bits each.
class Moves {
 public:
  void push(Move move) {
    if (size_ % 4 == 0) packed_.push_back(0);
    packed_.back() = static_cast<std::uint8_t>(packed_.back() | move << (2 * (size_++ % 4)));
  }
  Move operator[](std::int64_t i) const {
    return static_cast<Move>(packed_[static_cast<std::size_t>(i / 4)] >> (2 * (i % 4)) & 3);
  }
  std::int64_t size() const { return size_; }

 private:
  std::vector<std::uint8_t> packed_;
  std::int64_t size_ = 0;
};

struct Band {
  std::int64_t low, high;  // columns that the row reaches
  std::int64_t moves;      // where its moves begin
};

}  // namespace

// gain[j] is the most that rows up to i and columns before j can save, sum of 2 lambda - c. Columns left of row i's
// band keep the gain of the rows before; right of it the gain is that of the band's end, so neither is visited.
Solution line_assignment(std::span<const double> rows, std::span<const double> columns, double lambda) {
  const auto n = static_cast<std::int64_t>(rows.size()), m = static_cast<std::int64_t>(columns.size());
  const double reach = std::sqrt(2 * lambda);
  std::vector<double> gain(static_cast<std::size_t>(m) + 1, 0.0);
  std::vector<Band> bands;
  Moves moves;
  std::int64_t low = 0, high = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const double x = rows[static_cast<std::size_t>(i)];
    const std::int64_t known = high;
    while (low < m && columns[static_cast<std::size_t>(low)] <= x - reach) ++low;
    while (high < m && columns[static_cast<std::size_t>(high)] < x + reach) ++high;
    high = std::max(high, low);
    for (std::int64_t j = known + 1; j <= high; ++j)
      gain[static_cast<std::size_t>(j)] = gain[static_cast<std::size_t>(known)];
    bands.push_back({low, high, moves.size()});
    double above_left = gain[static_cast<std::size_t>(low)];  // of the row before, one column to the left
    for (std::int64_t j = low; j < high; ++j) {
      const auto at = static_cast<std::size_t>(j);
      const double gap = x - columns[at], matched = above_left + (2 * lambda - gap * gap);
      above_left = gain[at + 1];
      Move move = kUp;
      if (gain[at] > gain[at + 1]) gain[at + 1] = gain[at], move = kLeft;
      if (matched > gain[at + 1]) gain[at + 1] = matched, move = kMatch;
      moves.push(move);
    }
  }
  Solution solution;
  solution.steps = moves.size();
  std::int64_t j = m;
  for (std::int64_t i = n - 1; i >= 0; --i) {
    const Band& band = bands[static_cast<std::size_t>(i)];
    j = std::min(j, band.high);
    while (j > band.low) {
      const Move move = moves[band.moves + (j - 1 - band.low)];
      if (move == kUp) break;
      --j;
      if (move == kMatch) {
        solution.flows.push_back({i, j, 1});
        break;
      }
    }
  }
  std::ranges::reverse(solution.flows);
  return solution;
}

}  // namespace unbend::transport
