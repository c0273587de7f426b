// The few dense operations of the minimisers, in one place: Eigen's templates for them take seconds in each file.
#pragma once

#include <Eigen/Core>

namespace unbend::optimize {

using Vector = Eigen::VectorXd;
using Matrix = Eigen::MatrixXd;

Vector times(const Matrix& a, const Vector& x);                          ///< A x
Vector transposed_times(const Matrix& a, const Vector& x);               ///< A' x
Matrix product(const Matrix& a, Eigen::Ref<const Matrix> b);             ///< A B
Matrix transposed_product(const Matrix& a, Eigen::Ref<const Matrix> b);  ///< A' B

// Only the lower triangle of h is read and written.
void add_gram(const Matrix& a, double scale, Eigen::Ref<Matrix> h);                        ///< h += scale A'A
void add_symmetric(const Matrix& a, const Matrix& b, double scale, Eigen::Ref<Matrix> h);  ///< h += scale A'B
void add_outer(const Vector& v, double scale, Eigen::Ref<Matrix> h);                       ///< h += scale v v'

/// h becomes its Cholesky factor L (lower triangle); false where h is not positive definite.
bool factorise(Matrix& h);
/// x <- (L L')^-1 x, L^-1 x, L'^-1 x.
void solve_factorised(const Matrix& l, Eigen::Ref<Matrix> x);
void solve_lower(const Matrix& l, Eigen::Ref<Matrix> x);
void solve_upper(const Matrix& l, Eigen::Ref<Matrix> x);

/// U = Q R with Q [n, r], r <= n; `rr` becomes R R'. For r > n, U is first replaced by an [n, n] one of the same U U'.
void thin_factor(Matrix& u, Matrix& q, Matrix& rr);
/// Of the symmetric matrix in the lower triangle; ascending.
void decompose(const Matrix& h, Vector& values, Matrix& vectors);

}  // namespace unbend::optimize
