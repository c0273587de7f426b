// The safety filter: the input nearest to a desired one that satisfies robust linear constraints, a small second-order
// cone program
//   minimise |u - desired|^2   subject to   a_i' u + b_i >= |M_i [1; u]|,   |u_k| <= limit_k.
#pragma once

#include <vector>

#include "unbend/control/robot.h"

namespace unbend::control {

/// One constraint a' u + b >= |M [1; u]|, with M of any number of rows up to n + 1; none: a linear constraint.
struct Cone {
  using Rows = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, 0, kMostJoints + 1, kMostJoints + 1>;
  Vector a;  ///< [n]
  double b = 0;
  Rows m;  ///< [k, 1 + n]

  /// a' u + b - |M [1; u]|: nonnegative where the constraint holds.
  double margin(const Vector& u) const;
};

struct FilterProblem {
  Vector desired;  ///< [n]
  std::vector<Cone> cones;
  Vector limit;  ///< [n], or empty for no limits
};

enum class FilterStatus {
  Unchanged,   ///< the desired input is allowed: u is that very input
  Solved,      ///< u is the nearest allowed input
  Infeasible,  ///< none is allowed (proved by a certificate): u violates the constraints least, within the limits
};
enum class FilterPath { None, OneCone, InteriorPoint, Scs };
const char* name(FilterStatus status);
const char* name(FilterPath path);

struct FilterResult {
  Vector u;
  FilterStatus status = FilterStatus::Unchanged;
  FilterPath path = FilterPath::None;
  double distance = 0;              ///< |u - desired|
  std::vector<double> margins;      ///< of each cone at u
  std::vector<double> multipliers;  ///< of OneCone: lambda of the constraint that acts, in units of |u|^2 / margin
  int iterations = 0;
};

/// Solves the problem: nothing is done where nothing is violated; one acting constraint by Newton and bisection on its
/// multiplier; several by an interior-point method on those that act, which proves infeasibility; SCS where neither
/// ends. Input error for sizes that do not fit and values that are not finite.
FilterResult solve_filter(const FilterProblem& problem);

/// The same by one method alone: for comparison. SCS: to `tolerance`.
FilterResult solve_filter_interior(const FilterProblem& problem);
FilterResult solve_filter_scs(const FilterProblem& problem, double tolerance = 1e-9);

}  // namespace unbend::control
