// Cholesky factors of matrices of a few rows, as plain loops: quicker to run and to compile than blocked ones.
#pragma once

#include <Eigen/Core>
#include <cmath>

namespace unbend::control {

/// Replaces the lower triangle of a symmetric matrix by its factor. False if it is not positive definite.
template <class M>
bool cholesky(M& a) {
  const auto n = a.rows();
  for (Eigen::Index j = 0; j < n; ++j) {
    double pivot = a(j, j);
    for (Eigen::Index k = 0; k < j; ++k) pivot -= a(j, k) * a(j, k);
    if (!(pivot > 0) || !std::isfinite(pivot)) return false;
    a(j, j) = std::sqrt(pivot);
    for (Eigen::Index i = j + 1; i < n; ++i) {
      double sum = a(i, j);
      for (Eigen::Index k = 0; k < j; ++k) sum -= a(i, k) * a(j, k);
      a(i, j) = sum / a(j, j);
    }
  }
  return true;
}

/// Replaces the vector b by the solution of L L' x = b.
template <class M, class V>
void cholesky_solve(const M& l, V&& b) {
  const auto n = l.rows();
  for (Eigen::Index i = 0; i < n; ++i) {
    for (Eigen::Index k = 0; k < i; ++k) b[i] -= l(i, k) * b[k];
    b[i] /= l(i, i);
  }
  for (Eigen::Index i = n - 1; i >= 0; --i) {
    for (Eigen::Index k = i + 1; k < n; ++k) b[i] -= l(k, i) * b[k];
    b[i] /= l(i, i);
  }
}

}  // namespace unbend::control
