// Small convex quadratic programs over second-order cones, by a primal-dual interior-point method.
#pragma once

#include <Eigen/Core>
#include <vector>

namespace unbend::control {

/// minimise x' diag(p) x / 2 + q' x  subject to  h - G x in K, K the product of second-order cones of these sizes
/// ({(t, v): t >= |v|}; size 1: t >= 0).
struct ConeProgram {
  Eigen::VectorXd p, q;  ///< [n], p >= 0
  Eigen::MatrixXd g;     ///< [rows, n]
  Eigen::VectorXd h;     ///< [rows]
  std::vector<int> sizes;
};

struct ConeSolution {
  enum class Status { Solved, Infeasible, Failed } status = Status::Failed;
  Eigen::VectorXd x;  ///< [n]
  Eigen::VectorXd z;  ///< [rows], multipliers; of Infeasible: z in K with G' z = 0 and h' z < 0, which proves it
  int iterations = 0;
};

/// Homogeneous self-dual embedding with Nesterov-Todd scaling and Mehrotra's corrector, as in Clarabel (Goulart and
/// Chen, arXiv 2405.12762). Residuals and gap to `tolerance` relative to the data, which should be of order one.
ConeSolution solve(const ConeProgram& program, double tolerance = 1e-9);

}  // namespace unbend::control
