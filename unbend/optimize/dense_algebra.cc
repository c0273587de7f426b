#include "unbend/optimize/dense_algebra.h"

#include <Eigen/Cholesky>
#include <Eigen/Eigenvalues>
#include <Eigen/QR>

namespace unbend::optimize {

Vector times(const Matrix& a, const Vector& x) { return a * x; }
Vector transposed_times(const Matrix& a, const Vector& x) { return a.transpose() * x; }
Matrix product(const Matrix& a, Eigen::Ref<const Matrix> b) { return a * b; }
Matrix transposed_product(const Matrix& a, Eigen::Ref<const Matrix> b) { return a.transpose() * b; }

void add_gram(const Matrix& a, double scale, Eigen::Ref<Matrix> h) {
  h.selfadjointView<Eigen::Lower>().rankUpdate(a.transpose(), scale);
}
void add_symmetric(const Matrix& a, const Matrix& b, double scale, Eigen::Ref<Matrix> h) {
  h.triangularView<Eigen::Lower>() += scale * (a.transpose() * b);
}
void add_outer(const Vector& v, double scale, Eigen::Ref<Matrix> h) {
  for (Eigen::Index j = 0; j < v.size(); ++j) h.col(j).tail(v.size() - j) += scale * v[j] * v.tail(v.size() - j);
}

bool factorise(Matrix& h) { return Eigen::LLT<Eigen::Ref<Matrix>, Eigen::Lower>(h).info() == Eigen::Success; }
void solve_lower(const Matrix& l, Eigen::Ref<Matrix> x) { l.triangularView<Eigen::Lower>().solveInPlace(x); }
void solve_upper(const Matrix& l, Eigen::Ref<Matrix> x) {
  l.triangularView<Eigen::Lower>().transpose().solveInPlace(x);
}
void solve_factorised(const Matrix& l, Eigen::Ref<Matrix> x) {
  solve_lower(l, x);
  solve_upper(l, x);
}

void thin_factor(Matrix& u, Matrix& q, Matrix& rr) {
  const Eigen::Index n = u.rows();
  if (u.cols() > n) {
    const Eigen::HouseholderQR<Matrix> qr(u.transpose());
    const Matrix square = qr.matrixQR().topRows(n).triangularView<Eigen::Upper>();
    u = square.transpose();
  }
  const Eigen::Index r = u.cols();
  const Eigen::HouseholderQR<Matrix> qr(u);
  q = qr.householderQ() * Matrix::Identity(n, r);
  const Matrix upper = qr.matrixQR().topRows(r).triangularView<Eigen::Upper>();
  rr = upper * upper.transpose();
}

void decompose(const Matrix& h, Vector& values, Matrix& vectors) {
  const Eigen::SelfAdjointEigenSolver<Matrix> eigen(h);
  values = eigen.eigenvalues();
  vectors = eigen.eigenvectors();
}

}  // namespace unbend::optimize
