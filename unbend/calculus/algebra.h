// Linear maps from linear maps, all lazy: nothing is computed until a push or a pull. What can be simplified is at
// once: identities, zeros, double adjoints, factors of factors, sums of sums. Spaces that do not fit throw Error
// (Input) that shows both.
#pragma once

#include <vector>

#include "unbend/calculus/linear_map.h"

namespace unbend {

LinearMap identity_map(const Space& space);
LinearMap zero_map(const Space& domain, const Space& codomain);
/// Element-wise product with d, a vector of the space that the map is on; psd or nsd as its signs are.
LinearMap diagonal_map(Tensors d);
/// matrix [m, n], flat vectors of the codomain by flat vectors of the domain; without spaces one leaf [n] and [m] of
/// the matrix's dtype.
LinearMap dense_map(at::Tensor matrix);
LinearMap dense_map(at::Tensor matrix, const Space& domain, const Space& codomain, Properties properties = {});
/// U V^T with U [m, r] and V [n, r], likewise.
LinearMap low_rank_map(at::Tensor u, at::Tensor v);
LinearMap low_rank_map(at::Tensor u, at::Tensor v, const Space& domain, const Space& codomain);
/// The chosen leaves of a space, in that order, without repetition. Its adjoint puts zeros at the others.
LinearMap restriction(const Space& space, const std::vector<size_t>& leaves);

/// A^T. The adjoint of an adjoint is the first map itself, and so is that of a symmetric map.
LinearMap adjoint(const LinearMap& a);
LinearMap operator+(const LinearMap& a, const LinearMap& b);
LinearMap operator-(const LinearMap& a, const LinearMap& b);
LinearMap operator-(const LinearMap& a);
LinearMap operator*(double factor, const LinearMap& a);
/// A after B.
LinearMap operator*(const LinearMap& a, const LinearMap& b);
/// A + lambda I.
LinearMap shift(const LinearMap& a, double lambda);
/// A^T A and A A^T, psd by construction.
LinearMap gram(const LinearMap& a);
LinearMap outer_gram(const LinearMap& a);

/// [A B ..]: x -> A x_1 + B x_2 + .. on the leaves of all domains.
LinearMap block_row(const std::vector<LinearMap>& maps);
/// [A; B; ..]: x -> (A x, B x, ..).
LinearMap block_column(const std::vector<LinearMap>& maps);
/// (x_1, x_2, ..) -> (A x_1, B x_2, ..).
LinearMap block_diagonal(const std::vector<LinearMap>& maps);
/// A on vectors that are zero but for the chosen leaves: A times the restriction's adjoint.
LinearMap restrict_domain(const LinearMap& a, const std::vector<size_t>& leaves);

// The kinds, for operations that depend on the structure (dense.h and solve.h do).

struct DiagonalKind : Kind {
  Tensors d;
  explicit DiagonalKind(Tensors entries) : Kind(space_of(entries), space_of(entries)), d(std::move(entries)) {}
  Tensors push(const Tensors& v) const override;
  Tensors pull(const Tensors& c) const override { return push(c); }
  Tensors push_many(const Tensors& v) const override;
  Tensors pull_many(const Tensors& c) const override { return push_many(c); }
};

struct DenseKind : Kind {
  at::Tensor matrix;  ///< [m, n]
  DenseKind(at::Tensor m, const Space& domain, const Space& codomain) : Kind(domain, codomain), matrix(std::move(m)) {}
  Tensors push(const Tensors& v) const override;
  Tensors pull(const Tensors& c) const override;
  Tensors push_many(const Tensors& v) const override;
  Tensors pull_many(const Tensors& c) const override;
};

struct LowRankKind : Kind {
  at::Tensor u, v;  ///< [m, r], [n, r]
  LowRankKind(at::Tensor u_, at::Tensor v_, const Space& domain, const Space& codomain)
      : Kind(domain, codomain), u(std::move(u_)), v(std::move(v_)) {}
  Tensors push(const Tensors& x) const override;
  Tensors pull(const Tensors& c) const override;
  Tensors push_many(const Tensors& x) const override;
  Tensors pull_many(const Tensors& c) const override;
};

struct AdjointKind : Kind {
  LinearMap of;
  explicit AdjointKind(const LinearMap& a) : Kind(a.codomain(), a.domain()), of(a) {}
  Tensors push(const Tensors& v) const override { return of.kind().pull(v); }
  Tensors pull(const Tensors& c) const override { return of.kind().push(c); }
  Tensors push_many(const Tensors& v) const override { return of.kind().pull_many(v); }
  Tensors pull_many(const Tensors& c) const override { return of.kind().push_many(c); }
};

struct ScaledKind : Kind {
  double factor;
  LinearMap of;
  ScaledKind(double f, const LinearMap& a) : Kind(a.domain(), a.codomain()), factor(f), of(a) {}
  Tensors push(const Tensors& v) const override;
  Tensors pull(const Tensors& c) const override;
  Tensors push_many(const Tensors& v) const override;
  Tensors pull_many(const Tensors& c) const override;
};

struct SumKind : Kind {
  std::vector<LinearMap> terms;  ///< at least two
  explicit SumKind(std::vector<LinearMap> t) : Kind(t[0].domain(), t[0].codomain()), terms(std::move(t)) {}
  Tensors push(const Tensors& v) const override;
  Tensors pull(const Tensors& c) const override;
  Tensors push_many(const Tensors& v) const override;
  Tensors pull_many(const Tensors& c) const override;
};

struct ProductKind : Kind {
  std::vector<LinearMap> factors;  ///< at least two; the last one acts first
  explicit ProductKind(std::vector<LinearMap> f)
      : Kind(f.back().domain(), f.front().codomain()), factors(std::move(f)) {}
  Tensors push(const Tensors& v) const override;
  Tensors pull(const Tensors& c) const override;
  Tensors push_many(const Tensors& v) const override;
  Tensors pull_many(const Tensors& c) const override;
};

/// Where `maps` stand: at (i, j) = (i, i), (0, i) or (i, 0).
enum class BlockShape { Diagonal, Row, Column };

struct BlockKind : Kind {
  BlockShape shape;
  std::vector<LinearMap> maps;
  BlockKind(BlockShape s, std::vector<LinearMap> m, const Space& domain, const Space& codomain)
      : Kind(domain, codomain), shape(s), maps(std::move(m)) {}
  Tensors push(const Tensors& v) const override;
  Tensors pull(const Tensors& c) const override;
  Tensors push_many(const Tensors& v) const override;
  Tensors pull_many(const Tensors& c) const override;
};

}  // namespace unbend
