#include "unbend/transport/partial_transport.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "unbend/base/error.h"
#include "unbend/transport/solvers.h"

namespace unbend::transport {
namespace {

/// The atoms that have mass, and which they were.
struct Massive {
  Measure measure;
  std::vector<std::int64_t> atoms;
};

Massive massive(const Measure& m, std::int64_t dim) {
  Massive kept{{dim, {}, {}}, {}};
  for (std::int64_t i = 0; i < m.size(); ++i) {
    const double mass = m.masses[static_cast<std::size_t>(i)];
    if (mass <= 0) continue;
    kept.measure.add(m.point(i), mass);
    kept.atoms.push_back(i);
  }
  return kept;
}

/// The mass that every atom has, if it is the same; otherwise 0.
double common_mass(const Measure& a, const Measure& b) {
  const double mass = a.masses.front();
  const auto same = [&](double other) { return other == mass; };
  return std::ranges::all_of(a.masses, same) && std::ranges::all_of(b.masses, same) ? mass : 0;
}

std::vector<std::int64_t> increasing(const Measure& m) {
  std::vector<std::int64_t> order(m.masses.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, {}, [&](std::int64_t i) { return m.points[static_cast<std::size_t>(i)]; });
  return order;
}

std::vector<double> in_order(const Measure& m, const std::vector<std::int64_t>& order) {
  std::vector<double> x;
  for (const std::int64_t i : order) x.push_back(m.points[static_cast<std::size_t>(i)]);
  return x;
}

}  // namespace

PartialPlan partial_transport(const Measure& mu, const Measure& nu, double lambda, Solver solver,
                              std::int64_t most_pivots) {
  check(mu, "first measure");
  check(nu, "second measure");
  require(std::isfinite(lambda) && lambda > 0,
          "lambda is {}, expected a positive number (in squared units of distance)", lambda);
  require(std::isfinite(2 * lambda * (1 + mu.total() + nu.total())),
          "lambda is {}: too large for measures of mass {} and {}", lambda, mu.total(), nu.total());
  require(mu.dim == nu.dim || mu.size() == 0 || nu.size() == 0,
          "points of {} dimensions in the first measure, of {} in the second", mu.dim, nu.dim);
  const Massive p = massive(mu, std::max<std::int64_t>(1, mu.dim)), q = massive(nu, std::max<std::int64_t>(1, nu.dim));
  PartialPlan plan;
  plan.source_potentials.assign(mu.masses.size(), 0.0);
  plan.target_potentials.assign(nu.masses.size(), 0.0);
  plan.solver = "none";
  double dual = 0;
  if (p.atoms.empty() || q.atoms.empty()) {
    plan.gap = 0;
  } else {
    const double unit = solver != Solver::NetworkSimplex ? common_mass(p.measure, q.measure) : 0;
    require(unit > 0 || solver != Solver::Assignment, "solver assignment: the masses are not all equal");
    const auto take = [&](std::int64_t source, std::int64_t target, double mass) {
      plan.entries.push_back(
          {p.atoms[static_cast<std::size_t>(source)], q.atoms[static_cast<std::size_t>(target)], mass});
    };
    const bool assign = solver == Solver::Assignment;
    if (unit > 0 && mu.dim == 1 && !assign) {
      const auto rows = increasing(p.measure), columns = increasing(q.measure);
      const auto solution = line_assignment(in_order(p.measure, rows), in_order(q.measure, columns), lambda);
      for (const auto& [i, j, mass] : solution.flows)
        take(rows[static_cast<std::size_t>(i)], columns[static_cast<std::size_t>(j)], unit);
      plan.solver = "line";
      plan.steps = solution.steps;
      plan.source_potentials.clear(), plan.target_potentials.clear();
    } else {
      const Pairs pairs(p.measure, q.measure, 2 * lambda);
      if (most_pivots <= 0) most_pivots = std::max<std::int64_t>(1000000, 1000 * (p.measure.size() + q.measure.size()));
      std::vector<double> columns;
      for (std::int64_t j = 0; j < pairs.columns(); ++j)
        columns.push_back(q.measure.masses[static_cast<std::size_t>(pairs.original(j))]);
      const auto solution =
          assign ? assignment(pairs, lambda) : network_simplex(pairs, lambda, p.measure.masses, columns, most_pivots);
      for (const auto& [i, j, mass] : solution.flows) take(i, pairs.original(j), assign ? unit : mass);
      for (std::size_t i = 0; i < p.atoms.size(); ++i) {
        plan.source_potentials[static_cast<std::size_t>(p.atoms[i])] = solution.row_potentials[i];
        dual += p.measure.masses[i] * solution.row_potentials[i];
      }
      for (std::int64_t j = 0; j < pairs.columns(); ++j) {
        const auto atom = static_cast<std::size_t>(q.atoms[static_cast<std::size_t>(pairs.original(j))]);
        const double v = solution.column_potentials[static_cast<std::size_t>(j)];
        plan.target_potentials[atom] = v;
        dual += nu.masses[atom] * v;
      }
      plan.solver = assign ? "assignment" : "network simplex";
      plan.steps = solution.steps;
    }
  }
  std::ranges::sort(plan.entries, {}, [](const PlanEntry& e) { return std::pair(e.source, e.target); });
  double gained = 0;
  for (const auto& [source, target, mass] : plan.entries) {
    const double distance = squared_distance(mu.point(source), nu.point(target));
    plan.transported += mass;
    plan.cost += distance * mass;
    gained += (distance - 2 * lambda) * mass;
  }
  plan.value = lambda * (mu.total() + nu.total()) + gained;
  if (plan.solver != "line") plan.gap = gained - dual;
  return plan;
}

PartialPlan balanced_transport(const Measure& mu, const Measure& nu) {
  check(mu, "first measure");
  check(nu, "second measure");
  require(mu.dim == nu.dim, "points of {} dimensions in the first measure, of {} in the second", mu.dim, nu.dim);
  const double a = mu.total(), b = nu.total();
  require(a > 0 && b > 0, "balanced transport: the measures' masses are {} and {}, expected positive ones", a, b);
  require(std::abs(a - b) <= 1e-9 * std::max(a, b), "balanced transport: the measures' masses are {} and {}: unequal",
          a, b);
  double reach = 0;  // of the diagonal of a box around all
  for (std::int64_t k = 0; k < mu.dim; ++k) {
    double low = INFINITY, high = -INFINITY;
    for (const Measure* m : {&mu, &nu}) {
      for (std::int64_t i = 0; i < m->size(); ++i) {
        const double x = m->point(i)[static_cast<std::size_t>(k)];
        low = std::min(low, x), high = std::max(high, x);
      }
    }
    reach += (high - low) * (high - low);
  }
  require(std::isfinite(reach), "balanced transport: the points lie too far apart, their squared distances overflow");
  PartialPlan plan = partial_transport(mu, nu, reach > 0 ? reach : 1);
  plan.value = plan.cost;
  return plan;
}

}  // namespace unbend::transport
