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

void check_symmetric(const char* where, const LinearMap& a) {
  require(a.square() && a.has(Property::Symmetric),
          "{} needs a map declared symmetric, not {} -> {} with properties {}", where, to_string(a.domain()),
          to_string(a.codomain()), to_string(a.properties()));
}

// The values' places in the order asked for.
std::vector<int64_t> order(const at::Tensor& values, Which which) {
  const double* const v = values.const_data_ptr<double>();
  std::vector<int64_t> places(values.numel());
  for (size_t i = 0; i < places.size(); ++i) places[i] = static_cast<int64_t>(i);
  const auto key = [&](int64_t i) {
    return which == Which::Largest ? v[i] : which == Which::Smallest ? -v[i] : std::abs(v[i]);
  };
  std::ranges::stable_sort(places, [&](int64_t i, int64_t j) { return key(i) > key(j); });
  return places;
}

at::Tensor indices(const std::vector<int64_t>& places, int64_t count) {
  return at::tensor(std::vector<int64_t>(places.begin(), places.begin() + count), at::kLong);
}

}  // namespace

Eigenpairs lanczos(const LinearMap& a, int64_t k, Which which, const SpectrumOptions& options) {
  check_symmetric("lanczos", a);
  const int64_t n = a.domain().dim();
  require(k >= 1 && k <= n, "lanczos: {} eigenpairs of a map of dimension {}", k, n);
  require(options.basis == 0 || options.basis >= k, "lanczos: a basis of {} for {} eigenpairs", options.basis, k);
  const at::NoGradGuard no_gradients;
  const FlatMap map(a, krylov::work_type(a));
  const double eps = krylov::epsilon(krylov::work_type(a));
  const double tolerance = options.tolerance > 0 ? options.tolerance : eps < 1e-10 ? 1e-10 : 1e-5;
  const int64_t size = std::min(n, options.basis > 0 ? options.basis : std::max<int64_t>(2 * k + 10, 30));
  Random random(options.seed);
  Basis basis(size + 1, n, map.vector(n).options());
  if (options.start) check_vector(*options.start, a.domain(), "lanczos: the start");
  basis.next().copy_(flatten(options.start.value_or(random_normals(a.domain(), random)), a.domain()));
  bool extended = true;
  basis.extend_normalised(0, random, extended);

  Eigenpairs result{.outcome = Outcome::MaxIterations, .products = 0};
  at::Tensor t = at::zeros({size, size}, at::kDouble);
  double largest = 0;  // norm of an image: A's size
  for (int64_t restart = 0;; ++restart) {
    double beta = 0;
    while (true) {  // the last row's image, until the basis is full
      const int64_t j = basis.count() - 1;
      map.push(basis.row(j), basis.next());
      ++result.products;
      const double before = krylov::flat_norm(basis.next());
      if (!std::isfinite(before)) {
        result.values = result.errors = at::zeros({0}, at::kDouble);
        result.outcome = Outcome::NonfiniteResult;
        result.message = "lanczos: A gave values that are not finite";
        return result;
      }
      const auto h = basis.orthogonalise();
      t.select(1, j).narrow(0, 0, j + 1).copy_(h);
      t.select(0, j).narrow(0, 0, j + 1).copy_(h);
      largest = std::max(largest, before);
      if (j + 1 == size) {
        beta = krylov::flat_norm(basis.next());
        if (beta <= 10 * eps * largest || basis.count() == n) beta = 0;
        break;
      }
      basis.extend_normalised(10 * eps * largest, random, extended);
    }
    const auto [values, vectors] = at::linalg_eigh(t);
    const auto places = order(values, which);
    const auto errors = (vectors.select(0, size - 1) * beta).abs();
    const auto wanted = indices(places, k);
    const double scale = values.abs().max().item<double>();
    const bool done = errors.index_select(0, wanted).max().item<double>() <= tolerance * scale;
    if (done) result.outcome = Outcome::Converged;
    if (done || restart >= options.restarts) {
      result.values = values.index_select(0, wanted);
      result.errors = errors.index_select(0, wanted);
      const auto chosen = vectors.index_select(1, wanted);
      result.vectors =
          unflatten_many(at::mm(chosen.t().to(basis.row(0).options()), basis.used().narrow(0, 0, size)), a.domain());
      break;
    }
    // Thick restart: the wanted Ritz vectors and half of the others, then the vector that came last.
    const int64_t kept = std::min(size - 1, k + (size - k) / 2);
    const auto keep = indices(places, kept);
    at::Tensor last = basis.next().clone();
    const bool random_last = beta == 0;
    if (!random_last) last.mul_(1 / beta);
    basis.rotate(vectors.index_select(1, keep), last);
    t.zero_();
    t.diagonal().narrow(0, 0, kept).copy_(values.index_select(0, keep));
    if (random_last) basis.next().zero_();
    basis.orthogonalise();
    basis.extend_normalised(.5, random, extended);  // of norm 1 already, up to rounding
  }
  result.message = fmt::format("lanczos: {} after {} products, largest error {:.2g}", name(result.outcome),
                               result.products, result.errors.max().item<double>());
  return result;
}

SpectralQuadrature spectral_quadrature(const LinearMap& a, const QuadratureOptions& options) {
  check_symmetric("spectral_quadrature", a);
  require(options.samples >= 1 && options.steps >= 1, "spectral_quadrature: samples {} and steps {} must be at least 1",
          options.samples, options.steps);
  const at::NoGradGuard no_gradients;
  const FlatMap map(a, krylov::work_type(a));
  const double eps = krylov::epsilon(krylov::work_type(a));
  const int64_t n = a.domain().dim(), steps = std::min(options.steps, n);
  Random random(options.seed);
  SpectralQuadrature result;
  for (int64_t s = 0; s < options.samples; ++s) {
    Basis basis(steps + 1, n, map.vector(n).options());
    basis.next().copy_(flatten(random_signs(a.domain(), random), a.domain()));
    basis.next().mul_(1 / std::sqrt(static_cast<double>(n)));
    basis.extend();
    std::vector<double> alpha, beta;
    double largest = 0;
    for (int64_t j = 0; j < steps; ++j) {
      map.push(basis.row(j), basis.next());
      const double before = krylov::flat_norm(basis.next());
      if (!std::isfinite(before)) return {{}, {}, Outcome::NonfiniteResult};
      largest = std::max(largest, before);
      alpha.push_back(basis.orthogonalise()[j].item<double>());
      const double size = krylov::flat_norm(basis.next());
      if (j + 1 == steps || size <= 10 * eps * largest) break;  // exhausted: the quadrature is exact
      beta.push_back(size);
      basis.next().mul_(1 / size);
      basis.extend();
    }
    auto t = at::diag(at::tensor(alpha, at::kDouble));
    if (!beta.empty()) {
      const auto off = at::tensor(beta, at::kDouble);
      t = t + at::diag(off, 1) + at::diag(off, -1);
    }
    const auto [nodes, vectors] = at::linalg_eigh(t);
    result.nodes.emplace_back();
    result.weights.emplace_back();
    for (int64_t i = 0; i < nodes.numel(); ++i) {
      result.nodes.back().push_back(nodes[i].item<double>());
      result.weights.back().push_back(std::pow(vectors[0][i].item<double>(), 2) * static_cast<double>(n));
    }
  }
  return result;
}

Estimate trace_of_function(const LinearMap& a, const std::function<double(double)>& f,
                           const QuadratureOptions& options) {
  const SpectralQuadrature quadrature = spectral_quadrature(a, options);
  if (quadrature.outcome != Outcome::Converged) return {0, 0, quadrature.outcome, "A gave values that are not finite"};
  std::vector<double> samples;
  for (size_t s = 0; s < quadrature.nodes.size(); ++s) {
    double sum = 0;
    for (size_t i = 0; i < quadrature.nodes[s].size(); ++i) {
      const double node = quadrature.nodes[s][i], value = f(node);
      if (!std::isfinite(value)) {
        return {
            0, 0, Outcome::Indefinite,
            fmt::format("the function is not finite at the node {:.6g}: A has eigenvalues outside its domain", node)};
      }
      sum += quadrature.weights[s][i] * value;
    }
    samples.push_back(sum);
  }
  return mean_of(samples);
}

Estimate log_determinant(const LinearMap& a, const QuadratureOptions& options) {
  return trace_of_function(
      a, [](double x) { return x > 0 ? std::log(x) : NAN; }, options);
}

}  // namespace unbend
