// The tables of tools/setup.sh tables as matrices, for the studies of optimize/.
#pragma once

#include <Eigen/Core>
#include <vector>

namespace unbend {

struct SmallTable {
  Eigen::MatrixXd inputs;  ///< [rows, columns + 1]: standardised (digits: 0 to 1), and a column of ones
  Eigen::VectorXd target;  ///< classes 0, 1, ..; diabetes: standardised
  std::vector<int> labels() const { return {target.begin(), target.end()}; }
};

/// breast_cancer, wine, diabetes, or digits8. Input error with the command that fetches them if they are missing.
SmallTable small_table(const char* name);

/// Labels -1 and 1: whether the class is at least `from`.
Eigen::VectorXd signs(const SmallTable& table, double from = 1);

}  // namespace unbend
