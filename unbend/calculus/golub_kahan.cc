#include <algorithm>
#include <cmath>

#include "unbend/base/error.h"
#include "unbend/calculus/algebra.h"
#include "unbend/calculus/basis.h"
#include "unbend/calculus/spectra.h"

namespace unbend {
namespace {

using krylov::Basis;
using krylov::FlatMap;

at::TensorOptions options_of(const LinearMap& a) {
  return at::TensorOptions().dtype(krylov::work_type(a)).device(a.domain().device());
}

}  // namespace

SingularTriplets golub_kahan(const LinearMap& a, int64_t k, const SpectrumOptions& options) {
  const int64_t m = a.codomain().dim(), n = a.domain().dim(), least = std::min(m, n);
  require(k >= 1 && k <= least, "golub_kahan: {} singular values of a map {} -> {} of dimensions {} and {}", k,
          to_string(a.domain()), to_string(a.codomain()), n, m);
  require(options.basis == 0 || options.basis >= k, "golub_kahan: a basis of {} for {} values", options.basis, k);
  const at::NoGradGuard no_gradients;
  const FlatMap map(a, krylov::work_type(a));
  const double eps = krylov::epsilon(krylov::work_type(a));
  const double tolerance = options.tolerance > 0 ? options.tolerance : eps < 1e-10 ? 1e-10 : 1e-5;
  const int64_t size = std::min(least, options.basis > 0 ? options.basis : std::max<int64_t>(2 * k + 10, 30));
  if (m < n && size == m) {  // then only the side of the rows can be used up
    SpectrumOptions turned = options;
    if (options.start) turned.start = a.push(*options.start);
    SingularTriplets of_adjoint = golub_kahan(adjoint(a), k, turned);
    std::swap(of_adjoint.left, of_adjoint.right);
    return of_adjoint;
  }
  Random random(options.seed);
  // A V = U B and A^T U = V B^T + beta v_last e_last^T.
  Basis u(size + 1, m, options_of(a)), v(size + 1, n, options_of(a));
  if (options.start) check_vector(*options.start, a.domain(), "golub_kahan: the start");
  v.next().copy_(flatten(options.start.value_or(random_normals(a.domain(), random)), a.domain()));
  bool extended = true;
  v.extend_normalised(0, random, extended);

  SingularTriplets result{.outcome = Outcome::MaxIterations, .products = 0};
  at::Tensor b = at::zeros({size, size}, at::kDouble);
  double largest = 0;  // norm of an image: A's size
  for (int64_t restart = 0;; ++restart) {
    double beta = 0;
    while (true) {
      const int64_t j = u.count();  // v has j + 1 vectors
      map.push(v.row(j), u.next());
      ++result.products;
      const double before = krylov::flat_norm(u.next());
      largest = std::max(largest, before);
      if (std::isfinite(before)) {
        const auto h = u.orthogonalise();
        b.select(1, j).narrow(0, 0, j).copy_(h);
        b[j][j] = u.extend_normalised(10 * eps * largest, random, extended);
        map.pull(u.row(j), v.next());
        ++result.products;
      }
      const double after = krylov::flat_norm(v.next());
      if (!std::isfinite(before) || !std::isfinite(after)) {
        result.values = result.errors = at::zeros({0}, at::kDouble);
        result.outcome = Outcome::NonfiniteResult;
        result.message = "golub_kahan: A gave values that are not finite";
        return result;
      }
      largest = std::max(largest, after);
      v.orthogonalise();
      if (j + 1 == size) {
        beta = krylov::flat_norm(v.next());
        if (beta <= 10 * eps * largest || v.count() == n) beta = 0;
        break;
      }
      v.extend_normalised(10 * eps * largest, random, extended);
    }
    const auto [p, s, qt] = at::linalg_svd(b);
    const auto errors = (p.select(0, size - 1) * beta).abs();
    const double scale = std::max(s[0].item<double>(), 1e-300);
    const bool done = errors.narrow(0, 0, k).max().item<double>() <= tolerance * scale;
    if (done) result.outcome = Outcome::Converged;
    if (done || restart >= options.restarts) {
      const auto rows = [&](const at::Tensor& c, const Basis& basis) {
        return at::mm(c.narrow(1, 0, k).t().to(basis.row(0).options()), basis.used().narrow(0, 0, size));
      };
      result.values = s.narrow(0, 0, k).clone();
      result.errors = errors.narrow(0, 0, k).clone();
      result.left = unflatten_many(rows(p, u), a.codomain());
      result.right = unflatten_many(rows(qt.t(), v), a.domain());
      break;
    }
    const int64_t kept = std::min(size - 1, k + (size - k) / 2);
    at::Tensor last = v.next().clone();
    if (beta > 0) {
      last.mul_(1 / beta);
    } else {
      last.zero_();
    }
    u.rotate(p.narrow(1, 0, kept), last.new_zeros({m}));
    v.rotate(qt.t().narrow(1, 0, kept), last);
    b.zero_();
    b.diagonal().narrow(0, 0, kept).copy_(s.narrow(0, 0, kept));
    v.orthogonalise();
    v.extend_normalised(.5, random, extended);
  }
  result.message = fmt::format("golub_kahan: {} after {} products, largest error {:.2g}", name(result.outcome),
                               result.products, result.errors.max().item<double>());
  return result;
}

namespace {

// Orthonormal rows that span the given ones [r, n].
at::Tensor orthonormal_rows(const at::Tensor& rows) { return std::get<0>(at::linalg_qr(rows.t())).t().contiguous(); }

// [r, m]: the range, flat.
at::Tensor flat_range(const LinearMap& a, int64_t rank, const RangeOptions& options) {
  const int64_t least = std::min(a.domain().dim(), a.codomain().dim());
  require(rank >= 1 && rank <= least, "randomized_range: rank {} of a map of dimensions {} and {}", rank,
          a.domain().dim(), a.codomain().dim());
  require(options.oversample >= 0 && options.power >= 0,
          "randomized_range: oversample {} and power {} must not be negative", options.oversample, options.power);
  Random random(options.seed);
  const auto type = krylov::work_type(a);
  const auto push = [&](const at::Tensor& x) {
    return flatten_many(a.push_many(unflatten_many(x, a.domain())), a.codomain()).to(type);
  };
  const auto pull = [&](const at::Tensor& y) {
    return flatten_many(a.pull_many(unflatten_many(y, a.codomain())), a.domain()).to(type);
  };
  const int64_t count = std::min(rank + options.oversample, least);
  auto q = orthonormal_rows(push(flatten_many(random_normals(a.domain(), random, count), a.domain())));
  for (int64_t i = 0; i < options.power; ++i) q = orthonormal_rows(push(orthonormal_rows(pull(q))));
  return q;
}

}  // namespace

Tensors randomized_range(const LinearMap& a, int64_t rank, const RangeOptions& options) {
  const at::NoGradGuard no_gradients;
  return unflatten_many(flat_range(a, rank, options), a.codomain());
}

SingularTriplets randomized_svd(const LinearMap& a, int64_t rank, const RangeOptions& options) {
  const at::NoGradGuard no_gradients;
  const auto q = flat_range(a, rank, options);  // [r, m]
  SingularTriplets result{.outcome = Outcome::Converged, .products = q.size(0) * (2 * options.power + 2)};
  const auto projected = flatten_many(a.pull_many(unflatten_many(q, a.codomain())), a.domain()).to(q.scalar_type());
  if (!at::isfinite(projected).all().item<bool>()) {
    result.values = result.errors = at::zeros({0}, at::kDouble);
    result.outcome = Outcome::NonfiniteResult;
    result.message = "randomized_svd: A gave values that are not finite";
    return result;
  }
  const auto [p, s, qt] = at::linalg_svd(projected, /*full_matrices=*/false);  // Q A = P S V^T
  const auto left = at::mm(p.narrow(1, 0, rank).t(), q), right = qt.narrow(0, 0, rank);
  // A^T u = s v exactly here; what the range misses shows in A v - s u.
  const auto images = flatten_many(a.push_many(unflatten_many(right, a.domain())), a.codomain()).to(q.scalar_type());
  result.products += rank;
  result.errors = (images - s.narrow(0, 0, rank).unsqueeze(1) * left).norm(2, {1}).to(at::kCPU, at::kDouble);
  result.values = s.narrow(0, 0, rank).to(at::kCPU, at::kDouble);
  result.left = unflatten_many(left.contiguous(), a.codomain());
  result.right = unflatten_many(right.contiguous(), a.domain());
  result.message = fmt::format("randomized_svd: {} products, largest error {:.2g}", result.products,
                               result.errors.max().item<double>());
  return result;
}

}  // namespace unbend
