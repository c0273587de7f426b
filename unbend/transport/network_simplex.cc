#include <algorithm>
#include <cmath>

#include "unbend/base/error.h"
#include "unbend/base/interrupt.h"
#include "unbend/transport/solvers.h"

namespace unbend::transport {
namespace {

constexpr int kNone = -1;
constexpr std::size_t kMostCandidates = 64;  // more: fewer pivots, each searched longer

// A spanning tree over rows, columns and the root. Arcs lead from rows to columns, from rows to the root and from the
// root to columns, so that an arc between a node and its parent leads up exactly where the node is a row. The tree is
// strongly feasible: an arc that leads down carries mass, so each node can send more mass to the root.
//
// `next` strings all nodes in preorder: a subtree is the stretch from its top to `last`.
class Simplex {
 public:
  Simplex(const Pairs& pairs, double lambda, std::span<const double> row_masses, std::span<const double> column_masses)
      : pairs_(pairs),
        gain_(2 * lambda),
        tolerance_(2e-14 * gain_),
        rows_(static_cast<int>(pairs.rows())),
        root_(rows_ + static_cast<int>(pairs.columns())) {
    supply_.assign(row_masses.begin(), row_masses.end());
    supply_.insert(supply_.end(), column_masses.begin(), column_masses.end());
    for (auto* numbers : {&parent_, &next_, &previous_, &last_, &size_})
      numbers->resize(static_cast<std::size_t>(root_) + 1);
    flow_.resize(parent_.size());
    potential_.resize(static_cast<std::size_t>(rows_ + pairs.padded()) + 1, 0.0);
    for (int v = 0; v <= root_; ++v) {
      parent(v) = v < root_ ? root_ : kNone;
      next(v) = v < root_ ? v + 1 : 0;  // the root comes first, so last in this ring
      previous(v) = v > 0 ? v - 1 : root_;
      last(v) = v < root_ ? v : root_ - 1;
      size(v) = v < root_ ? 1 : root_ + 1;
      flow(v) = v < root_ ? supply_[static_cast<std::size_t>(v)] : 0;
    }
  }

  Solution solve(std::int64_t most_pivots) {
    while (true) {
      const std::int64_t before = pivots_;
      improve(most_pivots);
      refresh();  // potentials and flows afresh from the tree, without the rounding of the pivots
      if (pivots_ == before) break;
    }
    return solution();
  }

 private:
  // One array for each: the walks of a pivot follow one or two of them, which then stay in the first cache.
  int& parent(int v) { return parent_[static_cast<std::size_t>(v)]; }
  int& next(int v) { return next_[static_cast<std::size_t>(v)]; }
  int& previous(int v) { return previous_[static_cast<std::size_t>(v)]; }
  int& last(int v) { return last_[static_cast<std::size_t>(v)]; }
  int& size(int v) { return size_[static_cast<std::size_t>(v)]; }
  double& flow(int v) { return flow_[static_cast<std::size_t>(v)]; }
  // Rows first, then the columns in whole vectors, so that prices can be read in vectors; the root's is 0.
  double& potential(int v) { return potential_[static_cast<std::size_t>(v)]; }
  std::span<const double> prices() const { return std::span(potential_).subspan(static_cast<std::size_t>(rows_)); }
  bool is_row(int v) const { return v < rows_; }

  struct Arc {
    int from, to;
    double reduced;   // cost less potentials; below 0 it helps
    double cost = 0;  // less 2 lambda; 0 of the root's arcs
  };

  /// The best of the arcs to and from the root, among nodes whose potential was seen above 0.
  Arc best_root_arc() {
    Arc best{kNone, kNone, -tolerance_};
    std::erase_if(positive_, [&](int v) { return potential(v) <= tolerance_; });
    for (const int v : positive_)
      if (-potential(v) < best.reduced) best = is_row(v) ? Arc{v, root_, -potential(v)} : Arc{root_, v, -potential(v)};
    return best;
  }

  /// Pivots until no arc helps: each time one more row gives its best arc to the candidates, and the best of these and
  /// of the root's arcs is taken.
  void improve(std::int64_t most_pivots) {
    positive_.clear();
    for (int v = 0; v < root_; ++v)
      if (potential(v) > tolerance_) positive_.push_back(v);
    candidates_.clear();
    for (int quiet = 0, i = 0; quiet < rows_; i = i + 1 < rows_ ? i + 1 : 0) {
      const RowMinimum found = least_reduced(pairs_, i, prices());
      if (found.value - gain_ - potential(i) < -tolerance_)
        candidates_.push_back({i, rows_ + static_cast<int>(found.column), 0, pairs_.cost(i, found.column) - gain_});
      Arc best = best_root_arc();
      std::erase_if(candidates_, [&](Arc& arc) {  // older ones may not help any more
        arc.reduced = arc.cost - potential(arc.from) - potential(arc.to);
        if (arc.reduced < best.reduced) best = arc;
        return arc.reduced >= -tolerance_;
      });
      if (candidates_.size() > kMostCandidates) {
        constexpr std::size_t kKept = kMostCandidates / 2;
        std::ranges::nth_element(candidates_, candidates_.begin() + kKept, {}, &Arc::reduced);
        candidates_.resize(kKept);
      }
      ++quiet;
      if (best.from == kNone) continue;
      quiet = 0;
      pivot(best);
      if (++pivots_ >= most_pivots) give_up();
      if (pivots_ % 4096 == 0 && interrupted()) fail_computation("optimal partial transport: interrupted");
    }
  }

  void pivot(const Arc& arc) {
    // The cycle runs from the apex down to `from`, along the new arc, and up from `to`. The last arc of those that run
    // dry first leaves (Cunningham's rule): then the tree stays strongly feasible and degenerate pivots cannot cycle.
    int apex = arc.from;
    for (int b = arc.to; apex != b;) {
      int& lower = size(apex) < size(b) ? apex : b;
      lower = parent(lower);
    }
    double least = INFINITY;
    int out = kNone;
    bool below_to = false;
    for (int a = arc.from; a != apex; a = parent(a))
      if (is_row(a) && flow(a) < least) least = flow(a), out = a;
    for (int b = arc.to; b != apex; b = parent(b))
      if (!is_row(b) && flow(b) <= least) least = flow(b), out = b, below_to = true;
    for (int a = arc.from; a != apex; a = parent(a)) flow(a) += is_row(a) ? -least : least;
    for (int b = arc.to; b != apex; b = parent(b)) flow(b) += is_row(b) ? least : -least;

    const int top = below_to ? arc.to : arc.from, under = below_to ? arc.from : arc.to;
    hang(top, out, under, apex, least);
    shift(top, arc.reduced);
  }

  /// Cuts the subtree of `out` off, makes `top` its top and hangs it at `under`. Nodes s_0 = top, s_1, ..., s_m = out
  /// turn around; where preorder was s_k A_k (s_(k-1) ...) B_k, it becomes (s_0 ...) s_1 A_1 B_1 s_2 A_2 B_2 ...
  void hang(int top, int out, int under, int apex, double moved) {
    const int before = previous(out), old_last = last(out), after = next(old_last);
    const int whole = size(out), old_parent = parent(out);
    const auto link = [&](int a, int b) { next(a) = b, previous(b) = a; };
    // Out of the old place.
    link(before, after);
    for (int a = old_parent; a != kNone && last(a) == old_last; a = parent(a)) last(a) = before;
    for (int a = old_parent; a != apex; a = parent(a)) size(a) -= whole;

    int tail = last(top);  // of the new preorder so far
    int child = top, child_previous = previous(top), child_last = tail, child_size = size(top);
    int child_after = next(tail);  // what came behind the child's subtree
    int above = under;             // the new parent of `child`
    double child_flow = flow(top);
    int next_up = parent(top);
    parent(top) = above, flow(top) = moved, size(top) = whole;
    while (child != out) {
      const int s = next_up;
      const int s_previous = previous(s), s_last = last(s), s_size = size(s);
      const double s_flow = flow(s);
      const int rest = child_last == s_last ? kNone : child_after;  // B_k begins there
      if (rest != kNone) child_after = next(s_last);
      link(tail, s);
      tail = child_previous;  // the end of s_k A_k
      if (rest != kNone) link(tail, rest), tail = s_last;
      next_up = parent(s);
      parent(s) = child, flow(s) = child_flow, size(s) = whole - child_size;
      child = s, child_previous = s_previous, child_last = s_last, child_size = s_size, child_flow = s_flow;
    }
    for (int s = out; s != under; s = parent(s)) last(s) = tail;

    // Into the new one, right behind its parent.
    const int behind = next(under);
    link(under, top);
    link(tail, behind);
    for (int a = under; a != kNone && last(a) == under; a = parent(a)) last(a) = tail;
    for (int a = under; a != apex; a = parent(a)) size(a) += whole;
  }

  /// Adds `change` to the potentials of nodes of the kind of `top` in the tree below it, takes it from the others.
  void shift(int top, double change) {
    const double of_rows = is_row(top) ? change : -change;
    int v = top;
    for (int left = size(top); left > 0; --left, v = next(v)) {
      double& here = potential(v);
      const double before = here;
      here += is_row(v) ? of_rows : -of_rows;
      if (here > tolerance_ && before <= tolerance_) positive_.push_back(v);
    }
  }

  void refresh() {
    std::vector<double> net(parent_.size(), 0.0);  // supply minus demand below a node
    for (int v = last(root_); v != root_; v = previous(v)) {
      const double own = supply_[static_cast<std::size_t>(v)];
      const double below = net[static_cast<std::size_t>(v)] + (is_row(v) ? own : -own);
      net[static_cast<std::size_t>(parent(v))] += below;
      flow(v) = std::max(0.0, is_row(v) ? below : -below);
    }
    for (int v = next(root_); v != root_; v = next(v)) {
      const int p = parent(v);
      potential(v) = p == root_ ? 0 : weight(v, p) - potential(p);
    }
  }

  double weight(int v, int p) const {
    return (is_row(v) ? pairs_.cost(v, p - rows_) : pairs_.cost(p, v - rows_)) - gain_;
  }

  Solution solution() {
    double total = 0;
    for (const double mass : supply_) total += mass;
    Solution found;
    for (int v = 0; v < root_; ++v) {
      const int p = parent(v);
      if (p == root_ || flow(v) <= 1e-14 * total || weight(v, p) >= 0) continue;
      found.flows.push_back({is_row(v) ? v : p, (is_row(v) ? p : v) - rows_, flow(v)});
    }
    for (int v = 0; v < root_; ++v)
      (is_row(v) ? found.row_potentials : found.column_potentials).push_back(std::min(potential(v), 0.0));
    found.steps = pivots_;
    return found;
  }

  [[noreturn]] void give_up() {
    refresh();
    double primal = 0, dual = 0;
    for (int v = 0; v < root_; ++v)
      if (parent(v) != root_) primal += weight(v, parent(v)) * flow(v);
    // Feasible potentials from the columns': u_i = min(0, min over j of the reduced cost).
    for (int j = rows_; j < root_; ++j) potential(j) = std::min(0.0, potential(j));
    for (int i = 0; i < rows_; ++i)
      dual += supply_[static_cast<std::size_t>(i)] * std::min(0.0, least_reduced(pairs_, i, prices()).value - gain_);
    for (int j = rows_; j < root_; ++j) dual += supply_[static_cast<std::size_t>(j)] * potential(j);
    fail_computation("optimal partial transport: not finished after {} pivots, the duality gap is {:.3g}: allow more",
                     pivots_, primal - dual);
  }

  const Pairs& pairs_;
  double gain_, tolerance_;
  int rows_, root_;
  std::vector<double> supply_;                               // masses of rows, then of columns
  std::vector<int> parent_, next_, previous_, last_, size_;  // of rows, columns, root
  std::vector<double> flow_;                                 // on the arc to the parent
  std::vector<double> potential_;                            // rows, padded columns
  std::vector<int> positive_;                                // nodes whose potential was seen above 0
  std::vector<Arc> candidates_;
  std::int64_t pivots_ = 0;
};

}  // namespace

Solution network_simplex(const Pairs& pairs, double lambda, std::span<const double> row_masses,
                         std::span<const double> column_masses, std::int64_t most_pivots) {
  return Simplex(pairs, lambda, row_masses, column_masses).solve(most_pivots);
}

}  // namespace unbend::transport
