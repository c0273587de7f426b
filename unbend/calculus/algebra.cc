#include "unbend/calculus/algebra.h"

#include <algorithm>
#include <cmath>

#include "unbend/base/error.h"
#include "unbend/tensor/check.h"

namespace unbend {
namespace {

Tensors leading_zeros(const Space& space, const Tensors& like) {  // K zero vectors for K vectors `like`
  const int64_t many = like.empty() ? 0 : like[0].size(0);
  return unflatten_many(at::zeros({many, space.dim()}, at::TensorOptions().dtype(space.dtype()).device(space.device())),
                        space);
}

struct IdentityKind : Kind {
  explicit IdentityKind(const Space& space) : Kind(space, space) {}
  Tensors push(const Tensors& v) const override { return v; }
  Tensors pull(const Tensors& c) const override { return c; }
  Tensors push_many(const Tensors& v) const override { return v; }
  Tensors pull_many(const Tensors& c) const override { return c; }
};

struct ZeroKind : Kind {
  using Kind::Kind;
  Tensors push(const Tensors&) const override { return zeros(codomain); }
  Tensors pull(const Tensors&) const override { return zeros(domain); }
  Tensors push_many(const Tensors& v) const override { return leading_zeros(codomain, v); }
  Tensors pull_many(const Tensors& c) const override { return leading_zeros(domain, c); }
};

struct RestrictionKind : Kind {
  std::vector<size_t> chosen;
  RestrictionKind(const Space& domain, const Space& codomain, std::vector<size_t> leaves)
      : Kind(domain, codomain), chosen(std::move(leaves)) {}
  Tensors push(const Tensors& v) const override {
    Tensors x;
    for (const size_t i : chosen) x.push_back(v[i]);
    return x;
  }
  Tensors pull(const Tensors& c) const override { return spread(zeros(domain), c); }
  Tensors push_many(const Tensors& v) const override { return push(v); }
  Tensors pull_many(const Tensors& c) const override { return spread(leading_zeros(domain, c), c); }
  Tensors spread(Tensors into, const Tensors& c) const {
    for (size_t j = 0; j < chosen.size(); ++j) into[chosen[j]] = c[j];
    return into;
  }
};

Tensors scaled(Tensors x, double factor) {
  for (at::Tensor& t : x) t = t * factor;
  return x;
}

Tensors product(const Tensors& x, const Tensors& y) {  // y broadcasts
  Tensors xy;
  for (size_t i = 0; i < x.size(); ++i) xy.push_back(x[i] * y[i]);
  return xy;
}

// The sum of `one` of all maps.
template <class One>
Tensors sum(const std::vector<LinearMap>& maps, const One& one) {
  Tensors total = one(0);
  bool own = false;  // the first result may be anyone's memory
  for (size_t k = 1; k < maps.size(); ++k) {
    const Tensors term = one(k);
    for (size_t i = 0; i < total.size(); ++i) {
      if (own) {
        total[i].add_(term[i]);
      } else {
        total[i] = total[i] + term[i];
      }
    }
    own = true;
  }
  return total;
}

// Blocks: `in` cut into the spaces of the maps' inputs or given to all; results joined or added.
template <class SpaceOf, class One>
Tensors blocks(const std::vector<LinearMap>& maps, const Tensors& in, bool cut, bool join, const SpaceOf& space_in,
               const One& one) {
  std::vector<Tensors> parts;
  auto next = in.begin();
  for (const LinearMap& map : maps) {
    const auto count = static_cast<std::ptrdiff_t>(space_in(map).leaves.size());
    parts.push_back(cut ? Tensors(next, next + count) : in);
    if (cut) next += count;
  }
  if (!join) return sum(maps, [&](size_t k) { return one(maps[k], parts[k]); });
  Tensors out;
  for (size_t k = 0; k < maps.size(); ++k) {
    for (at::Tensor& t : one(maps[k], parts[k])) out.push_back(std::move(t));
  }
  return out;
}

const Space& domain_of(const LinearMap& a) { return a.domain(); }
const Space& codomain_of(const LinearMap& a) { return a.codomain(); }

// `matrix` has the space's size along its dimension.
void check_matrix(const at::Tensor& matrix, int64_t dimension, const Space& space, const char* name) {
  check_dims(matrix, 2, name);
  require(matrix.scalar_type() == at::kFloat || matrix.scalar_type() == at::kDouble, "{} is {}, not float32 or float64",
          name, at::toString(matrix.scalar_type()));
  require(matrix.size(dimension) == space.dim(), "{} {} does not fit the space {} of dimension {}", name,
          shape_string(matrix.sizes()), to_string(space), space.dim());
}

Space flat_space(int64_t n, const at::Tensor& like) { return {{{{n}, like.scalar_type(), like.device()}}}; }

LinearMap make(std::shared_ptr<const Kind> kind, Properties properties = {}) {
  return LinearMap(std::move(kind), properties);
}

// Those properties that a multiple of a map has.
Properties scaled_properties(Properties of, double factor) {
  Properties kept = of & Properties{Property::Diagonal, Property::Symmetric, Property::Zero};
  const bool psd = of.has(Property::Psd), nsd = of.has(Property::Nsd);
  if (factor > 0 ? psd : nsd) kept = kept | Properties{Property::Psd};
  if (factor > 0 ? nsd : psd) kept = kept | Properties{Property::Nsd};
  if (std::abs(factor) == 1) kept = kept | (of & Properties{Property::Orthogonal});
  return kept;
}

}  // namespace

Tensors DiagonalKind::push(const Tensors& v) const { return product(v, d); }
Tensors DiagonalKind::push_many(const Tensors& v) const { return product(v, d); }

namespace {

at::Tensor times(const at::Tensor& matrix, const at::Tensor& x) { return at::mv(matrix, x.to(matrix.scalar_type())); }
// X [K, n] -> X M.
at::Tensor rows_times(const at::Tensor& x, const at::Tensor& m) { return at::mm(x.to(m.scalar_type()), m); }

}  // namespace

Tensors DenseKind::push(const Tensors& v) const { return unflatten(times(matrix, flatten(v, domain)), codomain); }
Tensors DenseKind::pull(const Tensors& c) const { return unflatten(times(matrix.t(), flatten(c, codomain)), domain); }
Tensors DenseKind::push_many(const Tensors& v) const {
  return unflatten_many(rows_times(flatten_many(v, domain), matrix.t()), codomain);
}
Tensors DenseKind::pull_many(const Tensors& c) const {
  return unflatten_many(rows_times(flatten_many(c, codomain), matrix), domain);
}

Tensors LowRankKind::push(const Tensors& x) const {
  return unflatten(times(u, times(v.t(), flatten(x, domain))), codomain);
}
Tensors LowRankKind::pull(const Tensors& c) const {
  return unflatten(times(v, times(u.t(), flatten(c, codomain))), domain);
}
Tensors LowRankKind::push_many(const Tensors& x) const {
  return unflatten_many(rows_times(rows_times(flatten_many(x, domain), v), u.t()), codomain);
}
Tensors LowRankKind::pull_many(const Tensors& c) const {
  return unflatten_many(rows_times(rows_times(flatten_many(c, codomain), u), v.t()), domain);
}

Tensors ScaledKind::push(const Tensors& v) const { return scaled(of.kind().push(v), factor); }
Tensors ScaledKind::pull(const Tensors& c) const { return scaled(of.kind().pull(c), factor); }
Tensors ScaledKind::push_many(const Tensors& v) const { return scaled(of.kind().push_many(v), factor); }
Tensors ScaledKind::pull_many(const Tensors& c) const { return scaled(of.kind().pull_many(c), factor); }

Tensors SumKind::push(const Tensors& v) const {
  return sum(terms, [&](size_t k) { return terms[k].kind().push(v); });
}
Tensors SumKind::pull(const Tensors& c) const {
  return sum(terms, [&](size_t k) { return terms[k].kind().pull(c); });
}
Tensors SumKind::push_many(const Tensors& v) const {
  return sum(terms, [&](size_t k) { return terms[k].kind().push_many(v); });
}
Tensors SumKind::pull_many(const Tensors& c) const {
  return sum(terms, [&](size_t k) { return terms[k].kind().pull_many(c); });
}

Tensors ProductKind::push(const Tensors& v) const {
  Tensors x = v;
  for (auto f = factors.rbegin(); f != factors.rend(); ++f) x = f->kind().push(x);
  return x;
}
Tensors ProductKind::pull(const Tensors& c) const {
  Tensors x = c;
  for (const LinearMap& f : factors) x = f.kind().pull(x);
  return x;
}
Tensors ProductKind::push_many(const Tensors& v) const {
  Tensors x = v;
  for (auto f = factors.rbegin(); f != factors.rend(); ++f) x = f->kind().push_many(x);
  return x;
}
Tensors ProductKind::pull_many(const Tensors& c) const {
  Tensors x = c;
  for (const LinearMap& f : factors) x = f.kind().pull_many(x);
  return x;
}

Tensors BlockKind::push(const Tensors& v) const {
  return blocks(maps, v, shape != BlockShape::Column, shape != BlockShape::Row, domain_of,
                [](const LinearMap& a, const Tensors& x) { return a.kind().push(x); });
}
Tensors BlockKind::pull(const Tensors& c) const {
  return blocks(maps, c, shape != BlockShape::Row, shape != BlockShape::Column, codomain_of,
                [](const LinearMap& a, const Tensors& x) { return a.kind().pull(x); });
}
Tensors BlockKind::push_many(const Tensors& v) const {
  return blocks(maps, v, shape != BlockShape::Column, shape != BlockShape::Row, domain_of,
                [](const LinearMap& a, const Tensors& x) { return a.kind().push_many(x); });
}
Tensors BlockKind::pull_many(const Tensors& c) const {
  return blocks(maps, c, shape != BlockShape::Row, shape != BlockShape::Column, codomain_of,
                [](const LinearMap& a, const Tensors& x) { return a.kind().pull_many(x); });
}

LinearMap identity_map(const Space& space) { return make(std::make_shared<IdentityKind>(space), {Property::Identity}); }

LinearMap zero_map(const Space& domain, const Space& codomain) {
  const Properties square{Property::Zero, Property::Psd, Property::Nsd, Property::Diagonal};
  return make(std::make_shared<ZeroKind>(domain, codomain), domain == codomain ? square : Properties{Property::Zero});
}

LinearMap diagonal_map(Tensors d) {
  bool psd = true, nsd = true;
  for (at::Tensor& t : d) {
    check_finite(t, "diagonal_map: the diagonal");
    t = t.detach().clone();
    psd = psd && t.ge(0).all().item<bool>();
    nsd = nsd && t.le(0).all().item<bool>();
  }
  Properties properties{Property::Diagonal};
  if (psd) properties = properties | Properties{Property::Psd};
  if (nsd) properties = properties | Properties{Property::Nsd};
  return make(std::make_shared<DiagonalKind>(std::move(d)), properties);
}

LinearMap dense_map(at::Tensor matrix) {
  check_dims(matrix, 2, "dense_map: the matrix");
  const Space domain = flat_space(matrix.size(1), matrix), codomain = flat_space(matrix.size(0), matrix);
  return dense_map(std::move(matrix), domain, codomain);
}

LinearMap dense_map(at::Tensor matrix, const Space& domain, const Space& codomain, Properties properties) {
  check_matrix(matrix, 1, domain, "dense_map: the matrix");
  check_matrix(matrix, 0, codomain, "dense_map: the matrix");
  return make(std::make_shared<DenseKind>(matrix.detach(), domain, codomain), properties);
}

LinearMap low_rank_map(at::Tensor u, at::Tensor v) {
  check_dims(u, 2, "low_rank_map: U");
  check_dims(v, 2, "low_rank_map: V");
  const Space domain = flat_space(v.size(0), v), codomain = flat_space(u.size(0), u);
  return low_rank_map(std::move(u), std::move(v), domain, codomain);
}

LinearMap low_rank_map(at::Tensor u, at::Tensor v, const Space& domain, const Space& codomain) {
  check_matrix(u, 0, codomain, "low_rank_map: U");
  check_matrix(v, 0, domain, "low_rank_map: V");
  check_same_type(u, "low_rank_map: U", v, "V");
  require(u.size(1) == v.size(1), "low_rank_map: U {} and V {} must have equally many columns", shape_string(u.sizes()),
          shape_string(v.sizes()));
  return make(std::make_shared<LowRankKind>(u.detach(), v.detach(), domain, codomain));
}

LinearMap restriction(const Space& space, const std::vector<size_t>& leaves) {
  Space chosen;
  std::vector<bool> seen(space.leaves.size());
  for (const size_t i : leaves) {
    require(i < space.leaves.size() && !seen[i], "restriction: leaf {} is {} {}", i,
            i < space.leaves.size() ? "named twice among the leaves of" : "not among the leaves of", to_string(space));
    seen[i] = true;
    chosen.leaves.push_back(space.leaves[i]);
  }
  if (chosen == space && std::ranges::is_sorted(leaves)) return identity_map(space);
  return make(std::make_shared<RestrictionKind>(space, chosen, leaves));
}

LinearMap adjoint(const LinearMap& a) {
  if (a.has(Property::Symmetric)) return a;
  if (const auto* twice = a.as<AdjointKind>()) return twice->of;
  if (a.has(Property::Zero)) return zero_map(a.codomain(), a.domain());
  return make(std::make_shared<AdjointKind>(a), a.properties());
}

LinearMap operator+(const LinearMap& a, const LinearMap& b) {
  require(a.domain() == b.domain() && a.codomain() == b.codomain(), "a sum of maps {} -> {} and {} -> {}",
          to_string(a.domain()), to_string(a.codomain()), to_string(b.domain()), to_string(b.codomain()));
  if (a.has(Property::Zero)) return b;
  if (b.has(Property::Zero)) return a;
  const Properties both = a.properties() & b.properties() &
                          Properties{Property::Symmetric, Property::Psd, Property::Nsd, Property::Diagonal};
  const auto *da = a.as<DiagonalKind>(), *db = b.as<DiagonalKind>();
  if (da && db) {
    Tensors d;
    for (size_t i = 0; i < da->d.size(); ++i) d.push_back(da->d[i] + db->d[i]);
    return diagonal_map(std::move(d));
  }
  std::vector<LinearMap> terms;
  for (const LinearMap* x : {&a, &b}) {
    if (const auto* inner_sum = x->as<SumKind>()) {
      terms.insert(terms.end(), inner_sum->terms.begin(), inner_sum->terms.end());
    } else {
      terms.push_back(*x);
    }
  }
  return make(std::make_shared<SumKind>(std::move(terms)), both);
}

LinearMap operator*(double factor, const LinearMap& a) {
  require(std::isfinite(factor), "a map cannot be multiplied by {}", factor);
  if (factor == 1 || a.has(Property::Zero)) return a;
  if (factor == 0) return zero_map(a.domain(), a.codomain());
  if (const auto* s = a.as<ScaledKind>()) return (factor * s->factor) * s->of;
  if (const auto* d = a.as<DiagonalKind>()) return diagonal_map(scaled(d->d, factor));
  return make(std::make_shared<ScaledKind>(factor, a), scaled_properties(a.properties(), factor));
}

LinearMap operator-(const LinearMap& a) { return -1 * a; }
LinearMap operator-(const LinearMap& a, const LinearMap& b) { return a + (-1 * b); }

LinearMap operator*(const LinearMap& a, const LinearMap& b) {
  require(a.domain() == b.codomain(), "a product of a map {} -> {} after one {} -> {}", to_string(a.domain()),
          to_string(a.codomain()), to_string(b.domain()), to_string(b.codomain()));
  if (a.has(Property::Identity)) return b;
  if (b.has(Property::Identity)) return a;
  if (a.has(Property::Zero) || b.has(Property::Zero)) return zero_map(b.domain(), a.codomain());
  const auto *da = a.as<DiagonalKind>(), *db = b.as<DiagonalKind>();
  if (da && db) return diagonal_map(product(da->d, db->d));
  Properties properties = a.properties() & b.properties() & Properties{Property::Orthogonal};
  if (a.has(Property::Diagonal) && b.has(Property::Diagonal)) {
    properties = properties | Properties{Property::Diagonal};
    if (a.has(Property::Psd) && b.has(Property::Psd)) properties = properties | Properties{Property::Psd};
  }
  std::vector<LinearMap> factors;
  for (const LinearMap* x : {&a, &b}) {
    if (const auto* inner_product = x->as<ProductKind>()) {
      factors.insert(factors.end(), inner_product->factors.begin(), inner_product->factors.end());
    } else {
      factors.push_back(*x);
    }
  }
  return make(std::make_shared<ProductKind>(std::move(factors)), properties);
}

LinearMap shift(const LinearMap& a, double lambda) {
  require(a.square(), "shift: A + lambda I needs a square map, not {} -> {}", to_string(a.domain()),
          to_string(a.codomain()));
  return a + lambda * identity_map(a.domain());
}

LinearMap gram(const LinearMap& a) {
  if (a.has(Property::Orthogonal)) return identity_map(a.domain());
  const LinearMap square = adjoint(a) * a;
  return square.has(Property::Psd) ? square : declare(square, {Property::Psd});
}

LinearMap outer_gram(const LinearMap& a) { return gram(adjoint(a)); }

LinearMap block_row(const std::vector<LinearMap>& maps) {
  require(!maps.empty(), "block_row: no maps");
  std::vector<Space> domains;
  for (const LinearMap& a : maps) {
    require(a.codomain() == maps[0].codomain(), "block_row: codomains {} and {}", to_string(maps[0].codomain()),
            to_string(a.codomain()));
    domains.push_back(a.domain());
  }
  return make(std::make_shared<BlockKind>(BlockShape::Row, maps, concatenate(domains), maps[0].codomain()));
}

LinearMap block_column(const std::vector<LinearMap>& maps) {
  require(!maps.empty(), "block_column: no maps");
  std::vector<Space> codomains;
  for (const LinearMap& a : maps) {
    require(a.domain() == maps[0].domain(), "block_column: domains {} and {}", to_string(maps[0].domain()),
            to_string(a.domain()));
    codomains.push_back(a.codomain());
  }
  return make(std::make_shared<BlockKind>(BlockShape::Column, maps, maps[0].domain(), concatenate(codomains)));
}

LinearMap block_diagonal(const std::vector<LinearMap>& maps) {
  require(!maps.empty(), "block_diagonal: no maps");
  std::vector<Space> domains, codomains;
  Properties all = maps[0].properties();
  for (const LinearMap& a : maps) {
    domains.push_back(a.domain());
    codomains.push_back(a.codomain());
    all = all & a.properties();
  }
  return make(std::make_shared<BlockKind>(BlockShape::Diagonal, maps, concatenate(domains), concatenate(codomains)),
              all);
}

LinearMap restrict_domain(const LinearMap& a, const std::vector<size_t>& leaves) {
  return a * adjoint(restriction(a.domain(), leaves));
}

}  // namespace unbend
