#include "unbend/control/filter.h"

#include <scs.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "unbend/base/error.h"
#include "unbend/control/cholesky.h"
#include "unbend/control/cone_program.h"

namespace unbend::control {
namespace {

constexpr double kSlackWeight = 1e3;

/// A cone in terms of v = u - desired, divided by the length of its normal: c + a' v >= |m0 + mu v|.
struct Row {
  Vector a;
  double c = 0;
  Eigen::Matrix<double, Eigen::Dynamic, 1, 0, kMostJoints + 1, 1> m0;
  Cone::Rows mu;

  double violation() const { return m0.norm() - c; }
};

Row row_of(const Cone& cone, const Vector& desired) {
  const auto n = desired.size();
  double size = cone.a.norm();
  if (size == 0 && cone.m.rows() > 0) size = cone.m.rightCols(n).norm();
  if (size == 0) size = 1;
  Row row{cone.a / size, (cone.a.dot(desired) + cone.b) / size, {}, {}};
  if (cone.m.rows() > 0) {
    row.mu = cone.m.rightCols(n) / size;
    row.m0 = cone.m.col(0) / size + row.mu * desired;
  }
  return row;
}

void check(const FilterProblem& p) {
  const auto n = p.desired.size();
  require(n >= 1, "safety filter: the desired input is empty");
  require(p.desired.allFinite(), "safety filter: the desired input is not finite");
  for (std::size_t i = 0; i < p.cones.size(); ++i) {
    const Cone& c = p.cones[i];
    require(c.a.size() == n && (c.m.rows() == 0 || c.m.cols() == n + 1),
            "safety filter: constraint {} is for {} inputs and its cone for {}, the desired input has {}", i + 1,
            c.a.size(), c.m.cols() - 1, n);
    // Squares that overflow would make a violation look like none.
    require(std::isfinite(c.a.squaredNorm() + c.b * c.b + c.m.squaredNorm()),
            "safety filter: constraint {} is not finite, or its numbers are beyond 1e150", i + 1);
  }
  require(p.limit.size() == 0 || (p.limit.size() == n && (p.limit.array() > 0).all()),
          "safety filter: limits must be positive, one for each of {} inputs", n);
}

bool within_limits(const FilterProblem& p, const Vector& u, double tolerance = 0) {
  return p.limit.size() == 0 || (u.cwiseAbs() - p.limit).maxCoeff() <= tolerance;
}

FilterResult finished(const FilterProblem& p, const Vector& u, FilterStatus status, FilterPath path, int iterations) {
  FilterResult out{u, status, path, (u - p.desired).norm(), {}, {}, iterations};
  for (const Cone& cone : p.cones) out.margins.push_back(cone.margin(u));
  return out;
}

/// One constraint that acts: v(lambda) minimises |v|^2 / 2 + lambda (|m0 + mu v| - c - a' v), and lambda is where that
/// constraint is met. Nothing if it cannot be, or if the norm has a kink on the way.
std::optional<std::pair<Vector, double>> one_cone(const Row& row, int* iterations) {
  const auto n = row.a.size();
  Vector v = Vector::Zero(n), slope(n);
  Matrix factor(n, n);
  double lambda = 0;
  /// The constraint at v, and its gradient.
  const auto constraint = [&](const Vector& at, Vector* gradient, double* norm) {
    if (row.mu.rows() == 0) {
      *norm = 0;
      if (gradient) *gradient = -row.a;
      return -row.c - row.a.dot(at);
    }
    const auto y = (row.m0 + row.mu * at).eval();
    *norm = y.norm();
    if (gradient) *gradient = row.mu.transpose() * y / *norm - row.a;
    return *norm - row.c - row.a.dot(at);
  };
  double norm = 0, g = constraint(v, &slope, &norm), low = 0, high = INFINITY;
  const double scale = std::abs(row.c) + norm + 1e-300, first = g / std::max(slope.squaredNorm(), 1e-300);
  lambda = first;
  for (int outer = 0; outer < 80; ++outer) {
    double last = INFINITY;
    for (int inner = 0; inner < 50; ++inner) {
      ++*iterations;
      g = constraint(v, &slope, &norm);
      if (row.mu.rows() > 0 && !(norm > 1e-12 * scale)) return std::nullopt;
      factor.setIdentity();
      if (row.mu.rows() > 0) {
        const Vector along = slope + row.a;  // gradient of the norm
        factor += lambda / norm * (row.mu.transpose() * row.mu - along * along.transpose());
      }
      if (!cholesky(factor)) return std::nullopt;
      const Vector gradient = v + lambda * slope;
      const double residual = gradient.norm(), size = v.norm() + lambda;
      if (residual <= 1e-15 * size || (residual <= 1e-9 * size && residual >= last / 2)) break;  // to rounding
      last = residual;
      Vector step = -gradient;
      cholesky_solve(factor, step);
      const double before = v.squaredNorm() / 2 + lambda * g, descent = gradient.dot(step);
      double length = 1;
      while (residual > 1e-6 * size && length > 1e-6) {
        const Vector next = v + length * step;
        double ignored;
        if (next.squaredNorm() / 2 + lambda * constraint(next, nullptr, &ignored) <= before + 1e-4 * length * descent)
          break;
        length /= 2;
      }
      v += length * step;
    }
    g = constraint(v, &slope, &norm);
    if (std::abs(g) <= 1e-14 * (scale + v.norm()) ||
        (std::isfinite(high) && high - low <= 1e-14 * high && std::abs(g) <= 1e-11 * scale))
      return std::pair{v, lambda};
    (g > 0 ? low : high) = lambda;
    Vector towards = slope;
    cholesky_solve(factor, towards);
    double next = lambda + g / slope.dot(towards);
    if (!(next > low && next < high)) next = std::isfinite(high) ? (low + high) / 2 : 10 * lambda;
    if (!(next < 1e9 * first)) return std::nullopt;
    lambda = next;
  }
  return std::nullopt;
}

/// The whole problem in units of `unit` for v; the soft one has a slack in its last variable.
ConeProgram program_of(const FilterProblem& p, const std::vector<Row>& rows, double unit, bool soft) {
  const auto n = p.desired.size(), variables = n + (soft ? 1 : 0);
  const bool limited = p.limit.size() > 0;
  ConeProgram program;
  program.p = Eigen::VectorXd::Ones(variables);
  program.q = Eigen::VectorXd::Zero(variables);
  if (soft) {
    program.p[n] = 0;
    program.q[n] = kSlackWeight;
  }
  Eigen::Index count = (limited ? 2 * n : 0) + (soft ? 1 : 0);
  for (const Row& row : rows) count += 1 + row.m0.size();
  program.g = Eigen::MatrixXd::Zero(count, variables);
  program.h = Eigen::VectorXd::Zero(count);
  Eigen::Index at = 0;
  for (Eigen::Index k = 0; limited && k < n; ++k) {
    for (const double sign : {1., -1.}) {  // sign (desired + v) <= limit
      program.g(at, k) = sign;
      program.h[at++] = (p.limit[k] - sign * p.desired[k]) / unit;
      program.sizes.push_back(1);
    }
  }
  if (soft) {
    program.g(at++, n) = -1;
    program.sizes.push_back(1);
  }
  for (const bool linear : {true, false}) {  // SCS wants linear rows first
    for (const Row& row : rows) {
      if ((row.m0.size() == 0) != linear) continue;
      program.g.block(at, 0, 1, n) = -row.a.transpose();
      if (soft) program.g(at, n) = -1;
      program.h[at++] = row.c / unit;
      if (!linear) {
        program.g.block(at, 0, row.mu.rows(), n) = -row.mu;
        program.h.segment(at, row.m0.size()) = row.m0 / unit;
        at += row.m0.size();
      }
      program.sizes.push_back(static_cast<int>(1 + row.m0.size()));
    }
  }
  return program;
}

ConeSolution solve_with_scs(const ConeProgram& program, double tolerance) {
  const auto n = static_cast<int>(program.q.size()), rows = static_cast<int>(program.h.size());
  Eigen::VectorXd values = Eigen::Map<const Eigen::VectorXd>(program.g.data(), program.g.size()), h = program.h,
                  q = program.q;
  std::vector<int> index(values.size()), start(n + 1), cones;
  for (int k = 0; k < n * rows; ++k) index[k] = k % rows;
  for (int j = 0; j <= n; ++j) start[j] = j * rows;
  ScsMatrix a{values.data(), index.data(), start.data(), rows, n};
  Eigen::VectorXd diagonal = program.p;
  std::vector<int> diagonal_index(n), diagonal_start(n + 1);
  for (int j = 0; j <= n; ++j) diagonal_start[j] = j;
  for (int j = 0; j < n; ++j) diagonal_index[j] = j;
  ScsMatrix p{diagonal.data(), diagonal_index.data(), diagonal_start.data(), n, n};
  ScsData data{rows, n, &a, &p, h.data(), q.data()};
  ScsCone cone{};
  for (const int size : program.sizes) {
    if (size == 1)
      ++cone.l;
    else
      cones.push_back(size);
  }
  cone.q = cones.data();
  cone.qsize = static_cast<int>(cones.size());
  ScsSettings settings{};
  scs_set_default_settings(&settings);
  settings.verbose = 0;
  settings.eps_abs = settings.eps_rel = tolerance;
  settings.eps_infeas = 1e-9;
  settings.max_iters = 100000;
  ConeSolution out;
  out.x.setZero(n);
  out.z.setZero(rows);
  Eigen::VectorXd s = Eigen::VectorXd::Zero(rows);
  ScsSolution solution{out.x.data(), out.z.data(), s.data()};
  ScsInfo info{};
  const int status = scs(&data, &cone, &settings, &solution, &info);
  out.iterations = info.iter;
  if (status == SCS_SOLVED) out.status = ConeSolution::Status::Solved;
  if (status == SCS_INFEASIBLE) out.status = ConeSolution::Status::Infeasible;
  return out;
}

template <class Solve>
FilterResult solve_all(const FilterProblem& p, FilterPath path, const Solve& solver) {
  std::vector<Row> rows;
  double unit = 0;
  for (const Cone& cone : p.cones) {
    rows.push_back(row_of(cone, p.desired));
    unit = std::max(unit, rows.back().violation());
  }
  if (p.limit.size()) unit = std::max(unit, (p.desired.cwiseAbs() - p.limit).maxCoeff());
  if (!(unit > 0)) return finished(p, p.desired, FilterStatus::Unchanged, FilterPath::None, 0);
  const auto n = p.desired.size();
  int iterations = 0;
  for (const bool soft : {false, true}) {
    const ConeSolution s = solver(program_of(p, rows, unit, soft));
    iterations += s.iterations;
    if (s.status == ConeSolution::Status::Solved)
      return finished(p, p.desired + unit * s.x.head(n), soft ? FilterStatus::Infeasible : FilterStatus::Solved, path,
                      iterations);
    if (s.status == ConeSolution::Status::Failed) break;
  }
  fail_computation("safety filter: no solution after {} iterations of {}", iterations, name(path));
}

}  // namespace

const char* name(FilterStatus status) {
  constexpr const char* names[] = {"unchanged", "solved", "infeasible"};
  return names[static_cast<int>(status)];
}

const char* name(FilterPath path) {
  constexpr const char* names[] = {"none", "one cone", "interior point", "SCS"};
  return names[static_cast<int>(path)];
}

double Cone::margin(const Vector& u) const {
  double norm = 0;
  if (m.rows() > 0) norm = (m.col(0) + m.rightCols(u.size()) * u).norm();
  return a.dot(u) + b - norm;
}

FilterResult solve_filter_interior(const FilterProblem& p) {
  check(p);
  return solve_all(p, FilterPath::InteriorPoint, [](const ConeProgram& program) { return solve(program); });
}

FilterResult solve_filter_scs(const FilterProblem& p, double tolerance) {
  check(p);
  return solve_all(p, FilterPath::Scs, [&](const ConeProgram& program) { return solve_with_scs(program, tolerance); });
}

FilterResult solve_filter(const FilterProblem& p) {
  check(p);
  const Cone* worst = nullptr;
  double most = 0;
  for (const Cone& cone : p.cones) {
    const double violation = -cone.margin(p.desired);
    if (violation <= 0) continue;
    const double size = cone.a.norm() > 0 ? cone.a.norm() : 1;
    if (violation / size > most) {
      most = violation / size;
      worst = &cone;
    }
  }
  const bool limited = !within_limits(p, p.desired);
  if (!worst && !limited) return finished(p, p.desired, FilterStatus::Unchanged, FilterPath::None, 0);
  int iterations = 0;
  if (worst && !limited) {
    if (const auto solution = one_cone(row_of(*worst, p.desired), &iterations)) {
      const Vector u = p.desired + solution->first;
      const bool allowed = within_limits(p, u, 1e-12) && std::ranges::all_of(p.cones, [&](const Cone& cone) {
                             return &cone == worst || cone.margin(u) >= -1e-10 * cone.a.norm();
                           });
      if (allowed) {
        auto out = finished(p, u, FilterStatus::Solved, FilterPath::OneCone, iterations);
        out.multipliers.assign(p.cones.size(), 0);
        out.multipliers[worst - p.cones.data()] = solution->second / (worst->a.norm() > 0 ? worst->a.norm() : 1);
        return out;
      }
    }
  }
  try {
    return solve_filter_interior(p);
  } catch (const Error&) {  // numbers too far apart
    return solve_filter_scs(p, 1e-8);
  }
}

}  // namespace unbend::control
