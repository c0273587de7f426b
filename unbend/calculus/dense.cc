#include "unbend/calculus/dense.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "unbend/base/error.h"
#include "unbend/calculus/algebra.h"
#include "unbend/tensor/check.h"

namespace unbend {
namespace {

constexpr int64_t kAtOnce = 32;  // vectors of a push_many: each holds what a push holds

at::ScalarType type_of(const LinearMap& a) {
  return a.domain().dtype() == at::kDouble || a.codomain().dtype() == at::kDouble ? at::kDouble : at::kFloat;
}

at::TensorOptions options_of(const LinearMap& a) {
  return at::TensorOptions().dtype(type_of(a)).device(a.domain().device());
}

// Calls use(first, X [count, n]) for unit vectors, a few at a time.
template <class Use>
void for_unit_vectors(const Space& space, const Use& use) {
  const int64_t n = space.dim();
  const auto options = at::TensorOptions().dtype(space.dtype()).device(space.device());
  for (int64_t first = 0; first < n; first += kAtOnce) {
    const int64_t count = std::min(kAtOnce, n - first);
    auto units = at::zeros({count, n}, options);
    units.narrow(1, first, count).diagonal().fill_(1);
    use(first, units);
  }
}

at::Tensor by_products(const LinearMap& a) {
  auto matrix = at::empty({a.codomain().dim(), a.domain().dim()}, options_of(a));
  if (a.domain().dim() <= a.codomain().dim()) {
    for_unit_vectors(a.domain(), [&](int64_t first, const at::Tensor& units) {
      const auto columns = flatten_many(a.push_many(unflatten_many(units, a.domain())), a.codomain());
      matrix.narrow(1, first, units.size(0)).copy_(columns.t());
    });
  } else {
    for_unit_vectors(a.codomain(), [&](int64_t first, const at::Tensor& units) {
      matrix.narrow(0, first, units.size(0))
          .copy_(flatten_many(a.pull_many(unflatten_many(units, a.codomain())), a.domain()));
    });
  }
  return matrix;
}

// The matrix in A's dtype; may be a matrix that A holds.
at::Tensor matrix_of(const LinearMap& a) {
  const auto options = options_of(a);
  const auto eye = [&] { return at::eye(a.domain().dim(), options); };
  if (a.has(Property::Identity)) return eye();
  if (a.has(Property::Zero)) return at::zeros({a.codomain().dim(), a.domain().dim()}, options);
  if (const auto* k = a.as<DiagonalKind>()) return flatten(k->d, a.domain()).diag();
  if (const auto* k = a.as<DenseKind>()) return k->matrix.to(options.dtype());
  if (const auto* k = a.as<LowRankKind>()) return at::mm(k->u, k->v.t()).to(options.dtype());
  if (const auto* k = a.as<AdjointKind>()) return matrix_of(k->of).t();
  if (const auto* k = a.as<ScaledKind>()) return k->factor * matrix_of(k->of);
  if (const auto* k = a.as<SumKind>()) {
    auto total = matrix_of(k->terms[0]).clone();
    for (size_t i = 1; i < k->terms.size(); ++i) {
      if (k->terms[i].has(Property::Identity)) {
        total.diagonal().add_(1);
      } else {
        total.add_(matrix_of(k->terms[i]));
      }
    }
    return total;
  }
  if (const auto* k = a.as<BlockKind>()) {
    auto matrix = at::zeros({a.codomain().dim(), a.domain().dim()}, options);
    int64_t row = 0, column = 0;
    for (const LinearMap& block : k->maps) {
      const int64_t m = block.codomain().dim(), n = block.domain().dim();
      matrix.narrow(0, row, m).narrow(1, column, n).copy_(matrix_of(block));
      if (k->shape != BlockShape::Row) row += m;
      if (k->shape != BlockShape::Column) column += n;
    }
    return matrix;
  }
  return by_products(a);
}

void check_square(const LinearMap& a, const char* where) {
  require(a.square(), "{} needs a square map, not {} -> {}", where, to_string(a.domain()), to_string(a.codomain()));
}

at::Tensor flat_diagonal(const LinearMap& a) {
  const auto options = options_of(a);
  const int64_t n = a.domain().dim();
  if (a.has(Property::Identity)) return at::ones({n}, options);
  if (a.has(Property::Zero)) return at::zeros({n}, options);
  if (const auto* k = a.as<DiagonalKind>()) return flatten(k->d, a.domain());
  if (const auto* k = a.as<DenseKind>()) return k->matrix.diagonal().to(options.dtype());
  if (const auto* k = a.as<LowRankKind>()) return (k->u * k->v).sum(1).to(options.dtype());
  if (const auto* k = a.as<AdjointKind>()) return flat_diagonal(k->of);
  if (const auto* k = a.as<ScaledKind>()) return k->factor * flat_diagonal(k->of);
  if (const auto* k = a.as<SumKind>()) {
    auto total = flat_diagonal(k->terms[0]).clone();
    for (size_t i = 1; i < k->terms.size(); ++i) total.add_(flat_diagonal(k->terms[i]));
    return total;
  }
  if (a.has(Property::Diagonal)) {  // A 1
    Tensors ones;
    for (const at::Tensor& t : zeros(a.domain())) ones.push_back(at::ones_like(t));
    return flatten(a.push(ones), a.domain());
  }
  auto result = at::empty({n}, options);
  for_unit_vectors(a.domain(), [&](int64_t first, const at::Tensor& units) {
    const auto columns = flatten_many(a.push_many(unflatten_many(units, a.domain())), a.codomain());
    result.narrow(0, first, units.size(0)).copy_(columns.narrow(1, first, units.size(0)).diagonal());
  });
  return result;
}

}  // namespace

at::Tensor to_dense(const LinearMap& a, int64_t limit) {
  const int64_t m = a.codomain().dim(), n = a.domain().dim();
  require(n == 0 || m <= limit / n,
          "to_dense: the matrix of a map {} -> {} has {} x {} elements, more than the limit of {}",
          to_string(a.domain()), to_string(a.codomain()), m, n, limit);
  const at::NoGradGuard no_gradients;
  const auto matrix = matrix_of(a);
  return a.as<DenseKind>() || a.as<AdjointKind>() ? matrix.clone() : matrix;
}

LinearMap materialize(const LinearMap& a, int64_t limit) {
  if (a.has(Property::Identity) || a.has(Property::Zero) || a.as<DiagonalKind>() || a.as<DenseKind>()) return a;
  return dense_map(to_dense(a, limit), a.domain(), a.codomain(), a.properties());
}

Tensors diagonal(const LinearMap& a) {
  check_square(a, "diagonal");
  const at::NoGradGuard no_gradients;
  return unflatten(flat_diagonal(a), a.domain());
}

double trace(const LinearMap& a) {
  check_square(a, "trace");
  const at::NoGradGuard no_gradients;
  return flat_diagonal(a).sum().item<double>();
}

}  // namespace unbend
