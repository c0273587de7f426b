// One map of every kind, on random spaces: what the tests of maps, solvers and spectra run over.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "unbend/calculus/algebra.h"
#include "unbend/calculus/dense.h"
#include "unbend/calculus/linearize.h"

namespace unbend::test {

struct Named {
  std::string name;
  LinearMap map;
};

/// Random sizes: two or three leaves of up to three dimensions, between 1 and 14 elements in all.
inline Space random_space(Random& random, at::ScalarType type) {
  Space space;
  for (uint64_t i = 0, count = 2 + random.below(2); i < count; ++i) {
    Leaf leaf{.dtype = type};
    for (uint64_t d = 0, dims = random.below(3); d < dims; ++d)
      leaf.shape.push_back(static_cast<int64_t>(1 + random.below(3)));
    space.leaves.push_back(leaf);
  }
  return space;
}

inline Space flat_space(int64_t n, at::ScalarType type = at::kDouble) {
  Space space;
  space.leaves.push_back({.shape = {n}, .dtype = type});
  return space;
}

inline at::Tensor random_matrix(int64_t m, int64_t n, Random& random, at::ScalarType type) {
  Space space;
  space.leaves.push_back({.shape = {m, n}, .dtype = type});
  return random_normals(space, random)[0];
}

inline LinearMap random_dense(const Space& domain, const Space& codomain, Random& random) {
  return dense_map(random_matrix(codomain.dim(), domain.dim(), random, domain.dtype()), domain, codomain);
}

/// The same map as a pair of functions, so that nothing is known of it.
inline LinearMap opaque(const LinearMap& a, Properties properties = {}) {
  return function_map(
      a.domain(), a.codomain(), [a](const Tensors& v) { return a.push(v); },
      [a](const Tensors& c) { return a.pull(c); }, properties);
}

/// Symmetric, with eigenvalues of the given signs between 1 and 2 in size.
inline LinearMap well_conditioned(const Space& space, Random& random, bool definite) {
  const int64_t n = space.dim();
  const auto type = space.dtype();
  const auto q = std::get<0>(at::linalg_qr(random_matrix(n, n, random, type)));
  auto values = 1 + at::arange(n, at::TensorOptions().dtype(type)) / static_cast<double>(n);
  if (!definite) values = values * (1 - 2 * at::arange(n, at::TensorOptions().dtype(type)).remainder(2));
  const Properties properties = definite ? Properties{Property::Psd} : Properties{Property::Symmetric};
  return opaque(dense_map(at::mm(q * values, q.t()), space, space), properties);
}

/// A smooth function that uses every leaf of both sides.
inline Function smooth(const Space& domain, const Space& codomain, Random& random) {
  const auto inner = random_matrix(9, domain.dim(), random, domain.dtype());
  const auto outer = random_matrix(codomain.dim(), 9, random, domain.dtype());
  return [=](const Tensors& x) {
    Tensors flat;
    for (const auto& t : x) flat.push_back(t.reshape({-1}));
    return unflatten(at::mv(outer, at::tanh(at::mv(inner, at::cat(flat)))), codomain);
  };
}

inline std::vector<Named> all_maps(uint64_t seed, at::ScalarType type) {
  Random random(seed);
  const Space x = random_space(random, type), y = random_space(random, type), z = random_space(random, type);
  const LinearMap a = random_dense(x, y, random), b = random_dense(x, y, random), c = random_dense(y, z, random);
  const auto u = random_matrix(y.dim(), 2, random, type), v = random_matrix(x.dim(), 2, random, type);
  return {
      {"identity", identity_map(x)},
      {"zero", zero_map(x, y)},
      {"square zero", zero_map(x, x)},
      {"diagonal", diagonal_map(random_normals(x, random))},
      {"dense", a},
      {"low rank", low_rank_map(u, v, x, y)},
      {"restriction", restriction(x, {1})},
      {"reordering", restriction(x, {1, 0})},
      {"adjoint", adjoint(a)},
      {"adjoint of functions", adjoint(opaque(a))},
      {"sum", opaque(a) + b + low_rank_map(u, v, x, y)},
      {"difference", a - b},
      {"scaled", -2.5 * opaque(a)},
      {"product", opaque(c) * a},
      {"product of three", adjoint(c) * opaque(c) * b},
      {"shift", shift(gram(a), .5)},
      {"gram", gram(opaque(a))},
      {"outer gram", outer_gram(a)},
      {"block row", block_row({a, adjoint(c), opaque(b)})},
      {"block column", block_column({a, b, zero_map(x, z)})},
      {"block diagonal", block_diagonal({a, identity_map(z), adjoint(opaque(c))})},
      {"restricted domain", restrict_domain(a, {0})},
      {"functions", opaque(a)},
      {"linearized", linearize(smooth(x, y, random), random_normals(x, random)).jacobian},
  };
}

inline double distance(const at::Tensor& a, const at::Tensor& b) {
  EXPECT_EQ(a.sizes(), b.sizes());
  if (a.numel() == 0 || a.sizes() != b.sizes()) return a.sizes() == b.sizes() ? 0 : INFINITY;
  const double error = (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
  const double scale = std::max(1., b.to(at::kDouble).abs().max().item<double>());
  return std::isnan(error) ? INFINITY : error / scale;
}

inline double distance(const Tensors& a, const Tensors& b) {
  EXPECT_EQ(a.size(), b.size());
  double most = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) most = std::max(most, distance(a[i], b[i]));
  return most;
}

inline double rounding(at::ScalarType type) { return type == at::kDouble ? 1e-11 : 2e-4; }

inline at::Tensor numbers(std::vector<double> values) { return at::tensor(values, at::kDouble); }

}  // namespace unbend::test
