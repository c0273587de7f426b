// Spectra against factorised matrices and the oracles of methods/autofd.md.
#include <gmock/gmock.h>

#include <numbers>

#include "tests/calculus/maps.h"
#include "tests/error_message.h"
#include "unbend/calculus/spectra.h"

namespace unbend::test {
namespace {

using testing::HasSubstr;

// Rows are orthonormal.
double defect(const Tensors& vectors, const Space& space) {
  const auto rows = flatten_many(vectors, space).to(at::kDouble);
  return (at::mm(rows, rows.t()) - at::eye(rows.size(0), at::kDouble)).abs().max().item<double>();
}

class Spectra : public testing::TestWithParam<std::tuple<uint64_t, at::ScalarType>> {
 protected:
  uint64_t seed() const { return std::get<0>(GetParam()); }
  at::ScalarType type() const { return std::get<1>(GetParam()); }
  double bound() const { return type() == at::kDouble ? 1e-9 : 1e-4; }
};

TEST_P(Spectra, SingularValuesOfEveryKindOfMap) {
  for (const auto& [name, a] : all_maps(seed(), type())) {
    const auto exact = at::linalg_svdvals(to_dense(a).to(at::kDouble));
    const double scale = std::max(1., exact[0].item<double>());
    const int64_t least = exact.numel(), k = std::min<int64_t>(3, least);
    for (const int64_t count : {k, least}) {
      const SingularTriplets t = golub_kahan(a, count);
      EXPECT_LT((t.values - exact.narrow(0, 0, count)).abs().max().item<double>(), bound() * scale)
          << name << t.message;
      EXPECT_LT(defect(t.right, a.domain()), bound()) << name;
      const auto images = flatten_many(a.push_many(t.right), a.codomain()).to(at::kDouble);
      const auto left = flatten_many(t.left, a.codomain()).to(at::kDouble);
      EXPECT_LT((images - t.values.unsqueeze(1) * left).abs().max().item<double>(), bound() * scale) << name;
    }
    const SingularTriplets r = randomized_svd(a, k);
    const double found = r.errors.max().item<double>();
    EXPECT_LT((r.values - exact.narrow(0, 0, k)).abs().max().item<double>(), found + bound() * scale) << name;
    EXPECT_LT(defect(r.left, a.codomain()), bound()) << name;
    EXPECT_LT(found, least <= k + 10 ? bound() * scale : .02 * scale) << name << r.message;
  }
}

TEST_P(Spectra, EigenvaluesOfSymmetricMaps) {
  for (const auto& [name, map] : all_maps(seed(), type())) {
    const LinearMap a = map.has(Property::Symmetric) ? map : gram(map);
    const auto exact = at::linalg_eigvalsh(to_dense(a).to(at::kDouble));  // ascending
    const double scale = std::max(1., exact.abs().max().item<double>());
    const int64_t n = exact.numel(), k = std::min<int64_t>(2, n);
    const Eigenpairs largest = lanczos(a, k, Which::Largest), smallest = lanczos(a, k, Which::Smallest),
                     all = lanczos(a, n, Which::Largest);
    EXPECT_LT(distance(largest.values / scale, exact.flip(0).narrow(0, 0, k) / scale), bound()) << name;
    EXPECT_LT(distance(smallest.values / scale, exact.narrow(0, 0, k) / scale), bound()) << name;
    EXPECT_LT(distance(all.values / scale, exact.flip(0) / scale), bound()) << name;
    EXPECT_LT(defect(all.vectors, a.domain()), bound()) << name;
    const auto images = flatten_many(a.push_many(all.vectors), a.domain()).to(at::kDouble);
    const auto vectors = flatten_many(all.vectors, a.domain()).to(at::kDouble);
    EXPECT_LT((images - all.values.unsqueeze(1) * vectors).abs().max().item<double>(), bound() * scale) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Random, Spectra,
                         testing::Combine(testing::Range<uint64_t>(1, 7), testing::Values(at::kDouble, at::kFloat)));

TEST(GolubKahan, WorkedExample) {
  const Function f = [](const Tensors& x) -> Tensors {
    const auto a = x[0][0], b = x[0][1];
    return {at::stack({a * a, a * b, b.sin()})};
  };
  const SingularTriplets t = golub_kahan(linearize(f, {numbers({1, 2})}).jacobian, 2);
  EXPECT_LT(distance(t.values, numbers({2.922801881901, .793981957431})), 1e-11);
}

// (V f)(x) = integral of f from 0 to x, on the values at Gauss nodes, exact for polynomials.
struct Volterra {
  at::Tensor matrix, weights;
};

Volterra volterra(int64_t n) {
  const auto k = at::arange(1, n, at::kDouble);
  const auto off = k / (4 * k * k - 1).sqrt();
  const auto [t, vectors] = at::linalg_eigh(at::diag(off, 1) + at::diag(off, -1));
  Tensors p{at::ones_like(t), t}, integrals{(t + 1) / 2};
  for (int64_t i = 1; i <= n; ++i) p.push_back(((2 * i + 1) * t * p[i] - i * p[i - 1]) / (i + 1));
  for (int64_t i = 1; i < n; ++i) integrals.push_back((p[i + 1] - p[i - 1]) / (2 * (2 * i + 1)));
  p.resize(n);
  return {at::mm(at::stack(integrals, 1), at::linalg_inv(at::stack(p, 1))), vectors[0].square()};
}

TEST(GolubKahan, VolterraOperator) {
  const Volterra v = volterra(40);
  const auto root = v.weights.sqrt();
  const LinearMap a = opaque(dense_map(root.unsqueeze(1) * v.matrix / root));
  const auto exact = 2 / ((2 * at::arange(1, 4, at::kDouble) - 1) * std::numbers::pi);
  EXPECT_NEAR(exact[2].item<double>(), .1273239545, 1e-10);
  SpectrumOptions options;
  options.restarts = 0;
  options.start = Tensors{root};  // the constant function
  for (const auto& [steps, third] : {std::pair<int64_t, double>{6, 1e-4}, {8, 1e-8}, {12, 1e-14}}) {
    options.basis = steps;
    const SingularTriplets t = golub_kahan(a, 3, options);
    EXPECT_NEAR(t.values[0].item<double>(), exact[0].item<double>(), 1e-14) << steps;
    EXPECT_NEAR(t.values[2].item<double>(), exact[2].item<double>(), third) << steps;
    EXPECT_EQ(t.products, 2 * steps);
    // The error that it reports is an upper bound, up to rounding.
    EXPECT_LE(std::abs(t.values[2].item<double>() - exact[2].item<double>()), t.errors[2].item<double>() + 1e-14)
        << steps;
  }
  // Without the weights the number is another one.
  EXPECT_NEAR(golub_kahan(opaque(dense_map(v.matrix)), 1).values[0].item<double>(), .717, 2e-3);
}

TEST(GolubKahan, RestartsOnALargeMap) {
  Random random(1);
  const int64_t m = 300, n = 200;
  const auto u = std::get<0>(at::linalg_qr(random_matrix(m, n, random, at::kDouble)));
  const auto v = std::get<0>(at::linalg_qr(random_matrix(n, n, random, at::kDouble)));
  const auto s = 1 / at::arange(1, n + 1, at::kDouble);
  for (const LinearMap& a : {opaque(dense_map(at::mm(u * s, v.t()))), opaque(dense_map(at::mm(v * s, u.t())))}) {
    SpectrumOptions options;
    options.basis = 20;
    const SingularTriplets t = golub_kahan(a, 6, options);
    EXPECT_EQ(t.outcome, Outcome::Converged) << t.message;
    EXPECT_LT(distance(t.values, s.narrow(0, 0, 6)), 1e-10);
    EXPECT_LT(t.products, 200);
    const Eigenpairs e = lanczos(gram(a), 6, Which::Largest, options);
    EXPECT_EQ(e.outcome, Outcome::Converged) << e.message;
    EXPECT_LT(distance(e.values, s.narrow(0, 0, 6).square()), 1e-10);
    options.restarts = 0, options.basis = 7;
    const SingularTriplets rough = golub_kahan(a, 6, options);
    EXPECT_EQ(rough.outcome, Outcome::MaxIterations);
    EXPECT_GT(rough.errors.max().item<double>(), 1e-6);
    const SingularTriplets r = randomized_svd(a, 6, {.oversample = 20, .power = 6});
    EXPECT_LT(distance(r.values, s.narrow(0, 0, 6)), 1e-6);
  }
}

TEST(Lanczos, FindsCopiesAndZeros) {
  const LinearMap identity = opaque(identity_map(flat_space(50)), {Property::Symmetric});
  const Eigenpairs ones = lanczos(identity, 5);
  EXPECT_LT(distance(ones.values, at::ones({5}, at::kDouble)), 1e-12);
  EXPECT_LT(defect(ones.vectors, flat_space(50)), 1e-12);
  const Eigenpairs none = lanczos(opaque(zero_map(flat_space(9), flat_space(9)), {Property::Symmetric}), 9);
  EXPECT_EQ(none.values.abs().max().item<double>(), 0);
  EXPECT_EQ(none.outcome, Outcome::Converged);
  const Eigenpairs both = lanczos(opaque(diagonal_map({numbers({-5, 1, 2, 4})}), {Property::Symmetric}), 2);
  EXPECT_LT(distance(both.values, numbers({-5, 4})), 1e-12);  // by magnitude
}

TEST(StochasticLanczos, LogDeterminantAndTraces) {
  Random random(1);
  const LinearMap a = well_conditioned(flat_space(200), random, true);
  const double exact = std::get<1>(at::linalg_slogdet(to_dense(a))).item<double>();
  const Estimate e = log_determinant(a, {.samples = 100});
  EXPECT_EQ(e.outcome, Outcome::Converged);
  EXPECT_LT(std::abs(e.value - exact), 4 * e.standard_error);
  EXPECT_LT(e.standard_error, .01 * exact);
  // One vector of signs is exact for multiples of the identity, any vector where f is constant.
  const LinearMap three = 3 * opaque(identity_map(flat_space(20)), {Property::Psd});
  EXPECT_NEAR(log_determinant(three, {.samples = 1}).value, 20 * std::log(3), 1e-11);
  EXPECT_NEAR(trace_of_function(a, [](double) { return 2.; }).value, 400, 1e-9);
  EXPECT_EQ(log_determinant(-1 * three).outcome, Outcome::Indefinite);
  EXPECT_THAT(log_determinant(-1 * three).message, HasSubstr("-3"));
}

TEST(StochasticLanczos, QuadraturesAreHistograms) {
  Random random(4);
  const LinearMap a = well_conditioned(flat_space(60), random, true);
  const auto exact = at::linalg_eigvalsh(to_dense(a));
  const SpectralQuadrature q = spectral_quadrature(a, {.samples = 200, .steps = 60});
  ASSERT_EQ(q.nodes.size(), 200U);
  const double middle = exact[30].item<double>();
  double below = 0;
  for (size_t s = 0; s < q.nodes.size(); ++s) {
    double sum = 0;
    for (size_t i = 0; i < q.nodes[s].size(); ++i) {
      sum += q.weights[s][i];
      if (q.nodes[s][i] < middle * (1 - 1e-9)) below += q.weights[s][i] / 200;
      EXPECT_GT(q.nodes[s][i], exact[0].item<double>() - 1e-9);
      EXPECT_LT(q.nodes[s][i], exact[59].item<double>() + 1e-9);
    }
    EXPECT_NEAR(sum, 60, 1e-9);
  }
  EXPECT_NEAR(below, 30, 1.5);
}

TEST(SpectraEdges, CausesAndMistakes) {
  Random random(1);
  const Space space = flat_space(5);
  const LinearMap bad = function_map(
      space, space, [](const Tensors& v) -> Tensors { return {v[0] * NAN}; },
      [](const Tensors& v) -> Tensors { return {v[0] * NAN}; }, {Property::Psd});
  EXPECT_EQ(lanczos(bad, 1).outcome, Outcome::NonfiniteResult);
  EXPECT_EQ(golub_kahan(bad, 1).outcome, Outcome::NonfiniteResult);
  EXPECT_EQ(randomized_svd(bad, 1).outcome, Outcome::NonfiniteResult);
  EXPECT_EQ(log_determinant(bad).outcome, Outcome::NonfiniteResult);
  EXPECT_EQ(spectral_quadrature(bad).outcome, Outcome::NonfiniteResult);
  const LinearMap plain = random_dense(space, space, random);
  EXPECT_THAT(error_message([&] { lanczos(plain, 1); }), HasSubstr("declared symmetric"));
  EXPECT_THAT(error_message([&] { golub_kahan(plain, 6); }), HasSubstr("6 singular values"));
  EXPECT_THAT(error_message([&] { randomized_range(plain, 0); }), HasSubstr("rank 0"));
  EXPECT_THAT(error_message([&] { golub_kahan(plain, 3, {.basis = 2}); }), HasSubstr("a basis of 2"));
}

}  // namespace
}  // namespace unbend::test
