#include "unbend/transport/pca.h"

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>

#include "unbend/base/error.h"

namespace unbend::transport {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Rows = Eigen::Map<const Matrix>;

std::vector<double> flat(const Matrix& m) { return {m.data(), m.data() + m.size()}; }

}  // namespace

Pca fit_pca(std::span<const double> rows, std::int64_t count, std::int64_t components) {
  require(count >= 2, "principal components of {} rows, expected at least 2", count);
  const auto features = static_cast<std::int64_t>(rows.size()) / count;
  require(features > 0 && features * count == static_cast<std::int64_t>(rows.size()),
          "principal components of {} numbers in {} rows", rows.size(), count);
  for (const double x : rows) require(std::isfinite(x), "principal components: a feature is {}", x);
  const Rows given(rows.data(), count, features);
  const Eigen::RowVectorXd mean = given.colwise().mean();
  const Matrix centred = given.rowwise() - mean;
  const bool gram = features > count;
  const auto scale = 1.0 / static_cast<double>(count - 1);
  const Matrix square =
      gram ? Matrix(scale * centred * centred.transpose()) : Matrix(scale * centred.transpose() * centred);
  const Eigen::SelfAdjointEigenSolver<Matrix> solver(square);
  if (solver.info() != Eigen::Success) fail_computation("principal components: the eigenvalues do not converge");
  Pca pca;
  pca.features = features;
  pca.mean.assign(mean.data(), mean.data() + features);
  pca.total_variance = square.trace();
  const std::int64_t most = std::min({components, count - 1, features});
  for (std::int64_t k = 0; k < most; ++k) {
    const std::int64_t place = square.rows() - 1 - k;
    const double variance = solver.eigenvalues()[place];
    if (variance <= 1e-14 * pca.total_variance) break;
    Eigen::VectorXd axis = solver.eigenvectors().col(place);
    if (gram) axis = (centred.transpose() * axis).normalized();
    Eigen::Index largest;
    axis.cwiseAbs().maxCoeff(&largest);
    if (axis[largest] < 0) axis = -axis;
    pca.components.insert(pca.components.end(), axis.data(), axis.data() + features);
    pca.variances.push_back(variance);
  }
  return pca;
}

std::vector<double> scores(const Pca& pca, std::span<const double> rows) {
  const auto count = static_cast<std::int64_t>(rows.size()) / std::max<std::int64_t>(1, pca.features);
  require(count * pca.features == static_cast<std::int64_t>(rows.size()), "{} numbers in rows of {} features",
          rows.size(), pca.features);
  const Rows given(rows.data(), count, pca.features), axes(pca.components.data(), pca.size(), pca.features);
  const Eigen::Map<const Eigen::RowVectorXd> mean(pca.mean.data(), pca.features);
  return flat((given.rowwise() - mean) * axes.transpose());
}

Places classical_scaling(std::span<const double> squared_distances, std::int64_t count, std::int64_t dim) {
  require(count >= 1 && count * count == static_cast<std::int64_t>(squared_distances.size()),
          "scaling: {} distances of {} points", squared_distances.size(), count);
  const Rows given(squared_distances.data(), count, count);
  const Eigen::RowVectorXd mean = given.colwise().mean();
  const Eigen::VectorXd row_mean = given.rowwise().mean();
  Matrix square = given.rowwise() - mean;
  square.colwise() -= row_mean;
  square.array() += given.mean();
  square *= -.5;
  const Eigen::SelfAdjointEigenSolver<Matrix> solver(square);
  if (solver.info() != Eigen::Success) fail_computation("scaling: the eigenvalues do not converge");
  Places places;
  const Eigen::VectorXd values = solver.eigenvalues().reverse();
  places.eigenvalues.assign(values.data(), values.data() + count);
  Matrix points = Matrix::Zero(count, dim);
  for (std::int64_t k = 0; k < std::min(dim, count); ++k)
    points.col(k) = std::sqrt(std::max(0.0, values[k])) * solver.eigenvectors().col(count - 1 - k);
  places.points = flat(points);
  return places;
}

}  // namespace unbend::transport
