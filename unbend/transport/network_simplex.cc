#include <algorithm>
#include <cmath>

#include "unbend/base/error.h"
#include "unbend/base/interrupt.h"
#include "unbend/transport/solvers.h"

namespace unbend::transport {
namespace {

constexpr int kNone = -1;
constexpr int kRowsPerPivot = 4;  // more rows: fewer pivots, each searched longer

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
    nodes_.resize(static_cast<std::size_t>(root_) + 1);
    potential_.resize(static_cast<std::size_t>(rows_ + pairs.padded()) + 1, 0.0);
    for (int v = 0; v <= root_; ++v) {
      Node& n = node(v);
      n.parent = v < root_ ? root_ : kNone;
      n.next = v < root_ ? v + 1 : 0;  // the root comes first, so last in this ring
      n.previous = v > 0 ? v - 1 : root_;
      n.last = v < root_ ? v : root_ - 1;
      n.size = v < root_ ? 1 : root_ + 1;
      n.flow = v < root_ ? supply_[static_cast<std::size_t>(v)] : 0;
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
  struct Node {
    int parent, next, previous, last, size;
    double flow;  // on the arc to the parent
  };

  Node& node(int v) { return nodes_[static_cast<std::size_t>(v)]; }
  // Rows first, then the columns in whole vectors, so that prices can be read in vectors; the root's is 0.
  double& potential(int v) { return potential_[static_cast<std::size_t>(v)]; }
  std::span<const double> prices() const { return std::span(potential_).subspan(static_cast<std::size_t>(rows_)); }
  bool is_row(int v) const { return v < rows_; }

  struct Arc {
    int from, to;
    double reduced;  // cost less potentials; below 0 it helps
  };

  /// The best of the arcs to and from the root, among nodes whose potential was seen above 0.
  Arc best_root_arc() {
    Arc best{kNone, kNone, -tolerance_};
    std::erase_if(positive_, [&](int v) { return potential(v) <= tolerance_; });
    for (const int v : positive_)
      if (-potential(v) < best.reduced) best = is_row(v) ? Arc{v, root_, -potential(v)} : Arc{root_, v, -potential(v)};
    return best;
  }

  /// Pivots until no arc helps: each time with the best arc of the next few rows and of the root.
  void improve(std::int64_t most_pivots) {
    positive_.clear();
    for (int v = 0; v < root_; ++v)
      if (potential(v) > tolerance_) positive_.push_back(v);
    for (int quiet = 0, i = 0; quiet < rows_;) {
      Arc best = best_root_arc();
      for (int k = 0; k < kRowsPerPivot; ++k, ++quiet) {
        const RowMinimum found = least_reduced(pairs_, i, prices());
        const double reduced = found.value - gain_ - potential(i);
        if (reduced < best.reduced) best = {i, rows_ + static_cast<int>(found.column), reduced};
        i = i + 1 < rows_ ? i + 1 : 0;
      }
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
      int& lower = node(apex).size < node(b).size ? apex : b;
      lower = node(lower).parent;
    }
    double least = INFINITY;
    int out = kNone;
    bool below_to = false;
    for (int a = arc.from; a != apex; a = node(a).parent)
      if (is_row(a) && node(a).flow < least) least = node(a).flow, out = a;
    for (int b = arc.to; b != apex; b = node(b).parent)
      if (!is_row(b) && node(b).flow <= least) least = node(b).flow, out = b, below_to = true;
    for (int a = arc.from; a != apex; a = node(a).parent) node(a).flow += is_row(a) ? -least : least;
    for (int b = arc.to; b != apex; b = node(b).parent) node(b).flow += is_row(b) ? least : -least;

    const int top = below_to ? arc.to : arc.from, parent = below_to ? arc.from : arc.to;
    hang(top, out, parent, apex, least);
    shift(top, arc.reduced);
  }

  /// Cuts the subtree of `out` off, makes `top` its top and hangs it at `parent`. Nodes s_0 = top, s_1, ..., s_m = out
  /// turn around; where preorder was s_k A_k (s_(k-1) ...) B_k, it becomes (s_0 ...) s_1 A_1 B_1 s_2 A_2 B_2 ...
  void hang(int top, int out, int parent, int apex, double flow) {
    const int before = node(out).previous, old_last = node(out).last, after = node(old_last).next;
    const int size = node(out).size, old_parent = node(out).parent;
    const auto link = [&](int a, int b) { node(a).next = b, node(b).previous = a; };
    // Out of the old place.
    link(before, after);
    for (int a = old_parent; a != kNone && node(a).last == old_last; a = node(a).parent) node(a).last = before;
    for (int a = old_parent; a != apex; a = node(a).parent) node(a).size -= size;

    int tail = node(top).last;  // of the new preorder so far
    int child = top, child_previous = node(top).previous, child_last = tail, child_size = node(top).size;
    int child_after = node(tail).next;  // what came behind the child's subtree
    int above = parent;                 // the new parent of `child`
    double child_flow = node(top).flow;
    int next_up = node(top).parent;
    node(top).parent = above, node(top).flow = flow, node(top).size = size;
    while (child != out) {
      const int s = next_up;
      Node& n = node(s);
      const int s_previous = n.previous, s_last = n.last, s_size = n.size;
      const double s_flow = n.flow;
      const int rest = child_last == s_last ? kNone : child_after;  // B_k begins there
      if (rest != kNone) child_after = node(s_last).next;
      link(tail, s);
      tail = child_previous;  // the end of s_k A_k
      if (rest != kNone) link(tail, rest), tail = s_last;
      next_up = n.parent;
      n.parent = child, n.flow = child_flow, n.size = size - child_size;
      child = s, child_previous = s_previous, child_last = s_last, child_size = s_size, child_flow = s_flow;
    }
    for (int s = out; s != parent; s = node(s).parent) node(s).last = tail;

    // Into the new one, right behind its parent.
    const int behind = node(parent).next;
    link(parent, top);
    link(tail, behind);
    for (int a = parent; a != kNone && node(a).last == parent; a = node(a).parent) node(a).last = tail;
    for (int a = parent; a != apex; a = node(a).parent) node(a).size += size;
  }

  /// Adds `change` to the potentials of nodes of the kind of `top` in the tree below it, takes it from the others.
  void shift(int top, double change) {
    const double of_rows = is_row(top) ? change : -change;
    int v = top;
    for (int left = node(top).size; left > 0; --left, v = node(v).next) {
      double& here = potential(v);
      const double before = here;
      here += is_row(v) ? of_rows : -of_rows;
      if (here > tolerance_ && before <= tolerance_) positive_.push_back(v);
    }
  }

  void refresh() {
    std::vector<double> net(nodes_.size(), 0.0);  // supply minus demand below a node
    for (int v = node(root_).last; v != root_; v = node(v).previous) {
      const double own = supply_[static_cast<std::size_t>(v)];
      const double below = net[static_cast<std::size_t>(v)] + (is_row(v) ? own : -own);
      net[static_cast<std::size_t>(node(v).parent)] += below;
      node(v).flow = std::max(0.0, is_row(v) ? below : -below);
    }
    for (int v = node(root_).next; v != root_; v = node(v).next) {
      const int p = node(v).parent;
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
      const int p = node(v).parent;
      if (p == root_ || node(v).flow <= 1e-14 * total || weight(v, p) >= 0) continue;
      found.flows.push_back({is_row(v) ? v : p, (is_row(v) ? p : v) - rows_, node(v).flow});
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
      if (node(v).parent != root_) primal += weight(v, node(v).parent) * node(v).flow;
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
  std::vector<double> supply_;     // masses of rows, then of columns
  std::vector<Node> nodes_;        // rows, columns, root
  std::vector<double> potential_;  // rows, padded columns
  std::vector<int> positive_;      // nodes whose potential was seen above 0
  std::int64_t pivots_ = 0;
};

}  // namespace

Solution network_simplex(const Pairs& pairs, double lambda, std::span<const double> row_masses,
                         std::span<const double> column_masses, std::int64_t most_pivots) {
  return Simplex(pairs, lambda, row_masses, column_masses).solve(most_pivots);
}

}  // namespace unbend::transport
