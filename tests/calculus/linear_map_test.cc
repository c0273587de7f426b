// The algebra of linear maps against matrices.
#include <gmock/gmock.h>

#include "tests/calculus/maps.h"
#include "tests/error_message.h"
#include "unbend/calculus/check.h"
#include "unbend/calculus/estimates.h"

namespace unbend::test {
namespace {

using testing::HasSubstr;

class Maps : public testing::TestWithParam<std::tuple<uint64_t, at::ScalarType>> {
 protected:
  uint64_t seed() const { return std::get<0>(GetParam()); }
  at::ScalarType type() const { return std::get<1>(GetParam()); }
  double bound() const { return rounding(type()); }
};

// The matrix from single pushes, with nothing known of the structure.
at::Tensor columns(const LinearMap& a) {
  Tensors list;
  const auto eye = at::eye(a.domain().dim(), at::TensorOptions().dtype(a.domain().dtype()));
  for (int64_t i = 0; i < eye.size(0); ++i)
    list.push_back(flatten(a.push(unflatten(eye[i], a.domain())), a.codomain()));
  return at::stack(list, 1);
}

TEST_P(Maps, PassTheDotTestAndKeepTheirDeclaredProperties) {
  for (const auto& [name, a] : all_maps(seed(), type())) {
    const CheckResult result = dot_test(a, seed());
    EXPECT_TRUE(result) << name << ": " << result.message;
    EXPECT_EQ(check_properties(a, seed()), "") << name;
    EXPECT_TRUE(dot_test(adjoint(a), seed())) << name;
  }
}

TEST_P(Maps, EqualTheirMatrices) {
  for (const auto& [name, a] : all_maps(seed(), type())) {
    const auto matrix = columns(a);
    EXPECT_LT(distance(to_dense(a), matrix), bound()) << name;
    EXPECT_LT(distance(to_dense(adjoint(a)), matrix.t()), bound()) << name;
    EXPECT_LT(distance(to_dense(opaque(a)), matrix), bound()) << name;
    const LinearMap dense = materialize(a);
    EXPECT_LT(distance(to_dense(dense), matrix), bound()) << name;
    EXPECT_EQ(dense.properties(), a.properties()) << name;
    if (!a.square()) continue;
    EXPECT_LT(distance(flatten(diagonal(a), a.domain()), matrix.diagonal()), bound()) << name;
    EXPECT_NEAR(trace(a), matrix.trace().item<double>(), bound() * (1 + std::abs(trace(a)))) << name;
  }
}

TEST_P(Maps, ManyAtOnceAreOneByOne) {
  Random random(seed() + 100);
  for (const auto& [name, a] : all_maps(seed(), type())) {
    const Tensors v = random_normals(a.domain(), random, 5), c = random_normals(a.codomain(), random, 5);
    const Tensors pushed = a.push_many(v), pulled = a.pull_many(c);
    for (int64_t k = 0; k < 5; ++k) {
      EXPECT_LT(distance(select(pushed, k), a.push(select(v, k))), bound()) << name;
      EXPECT_LT(distance(select(pulled, k), a.pull(select(c, k))), bound()) << name;
    }
    const Tensors none = random_normals(a.domain(), random, 1);
    Tensors empty;
    for (const auto& t : none) empty.push_back(t.narrow(0, 0, 0));
    EXPECT_EQ(a.push_many(empty)[0].size(0), 0) << name;
  }
}

TEST_P(Maps, AlgebraIsThatOfMatrices) {
  Random random(seed());
  const Space x = random_space(random, type()), y = random_space(random, type()), z = random_space(random, type());
  const LinearMap a = opaque(random_dense(x, y, random)), b = opaque(random_dense(x, y, random)),
                  c = opaque(random_dense(y, z, random));
  const auto m = [](const LinearMap& map) { return to_dense(map); };
  EXPECT_LT(distance(m(a + b), m(a) + m(b)), bound());
  EXPECT_LT(distance(m(a - 3 * b), m(a) - 3 * m(b)), bound());
  EXPECT_LT(distance(m(c * a), at::mm(m(c), m(a))), bound());
  EXPECT_LT(distance(m(adjoint(c * a)), m(adjoint(a) * adjoint(c))), bound());
  EXPECT_LT(distance(m(adjoint(a + b)), m(adjoint(a) + adjoint(b))), bound());
  EXPECT_LT(distance(m(gram(a)), at::mm(m(a).t(), m(a))), bound());
  EXPECT_LT(distance(m(outer_gram(a)), at::mm(m(a), m(a).t())), bound());
  EXPECT_LT(distance(m(block_row({a, b})), at::cat({m(a), m(b)}, 1)), bound());
  EXPECT_LT(distance(m(block_column({a, b})), at::cat({m(a), m(b)}, 0)), bound());
  EXPECT_LT(distance(m(block_diagonal({a, c})), at::block_diag({m(a), m(c)})), bound());
  const auto eye = at::eye(x.dim(), at::TensorOptions().dtype(type()));
  EXPECT_LT(distance(m(shift(gram(a), .5)), at::mm(m(a).t(), m(a)) + .5 * eye), bound());
}

// A map inside a function that is differentiated: its derivative is the map.
TEST_P(Maps, AreDifferentiableOperations) {
  for (const auto& [name, a] : all_maps(seed(), type())) {
    Random random(3);
    const Function f = [map = a](const Tensors& x) { return map.push(x); };
    const Function g = [map = a](const Tensors& c) { return map.pull(c); };
    const Linearization push = linearize(f, random_normals(a.domain(), random), {.allow_constant = true});
    const Linearization pull = linearize(g, random_normals(a.codomain(), random), {.allow_constant = true});
    EXPECT_LT(distance(to_dense(push.jacobian), to_dense(a)), bound()) << name;
    EXPECT_LT(distance(to_dense(pull.jacobian), to_dense(adjoint(a))), bound()) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Random, Maps,
                         testing::Combine(testing::Range<uint64_t>(1, 9), testing::Values(at::kDouble, at::kFloat)));

TEST(LinearMap, SimplifiesAtOnce) {
  Random random(1);
  const Space x = random_space(random, at::kDouble), y = random_space(random, at::kDouble);
  const LinearMap a = opaque(random_dense(x, y, random)), id = identity_map(x), zero = zero_map(x, y);
  EXPECT_TRUE(adjoint(adjoint(a)).same_object(a));
  EXPECT_TRUE((a * id).same_object(a));
  EXPECT_TRUE((identity_map(y) * a).same_object(a));
  EXPECT_TRUE((a + zero).same_object(a));
  EXPECT_TRUE((1 * a).same_object(a));
  EXPECT_TRUE((0 * a).has(Property::Zero));
  EXPECT_TRUE((a * zero_map(y, x)).has(Property::Zero));
  EXPECT_TRUE((.5 * (2 * a)).same_object(a));
  EXPECT_EQ((a + a + a + a).as<SumKind>()->terms.size(), 4u);
  EXPECT_EQ((a * adjoint(a) * a).as<ProductKind>()->factors.size(), 3u);
  const LinearMap d = diagonal_map(random_normals(x, random));
  EXPECT_TRUE((d * d).as<DiagonalKind>() && (d + d).as<DiagonalKind>() && (3 * d).as<DiagonalKind>());
  EXPECT_TRUE(adjoint(d).same_object(d));
  EXPECT_TRUE(gram(declare(opaque(id), {Property::Orthogonal})).has(Property::Identity));
}

TEST(LinearMap, PropagatesProperties) {
  Random random(1);
  const Space x = random_space(random, at::kDouble);
  const LinearMap psd = gram(random_dense(x, x, random)), symmetric = well_conditioned(x, random, false),
                  plain = random_dense(x, x, random);
  EXPECT_TRUE(psd.has(Property::Psd) && psd.has(Property::Symmetric));
  EXPECT_TRUE((psd + psd).has(Property::Psd));
  EXPECT_TRUE((psd + symmetric).has(Property::Symmetric) && !(psd + symmetric).has(Property::Psd));
  EXPECT_TRUE((-psd).has(Property::Nsd) && !(-psd).has(Property::Psd));
  EXPECT_TRUE((-1 * (-3 * psd)).has(Property::Psd));
  EXPECT_TRUE((psd * psd).properties().empty());
  EXPECT_TRUE((psd + plain).properties().empty());
  EXPECT_TRUE(shift(psd, 1).has(Property::Psd) && !shift(psd, -1).has(Property::Psd));
  EXPECT_TRUE(block_diagonal({psd, identity_map(x)}).has(Property::Psd));
  EXPECT_TRUE(diagonal_map({numbers({1, 2})}).has(Property::Psd) &&
              diagonal_map({numbers({-1, -2})}).has(Property::Nsd));
  EXPECT_TRUE(identity_map(x).has(Property::Orthogonal));
  EXPECT_EQ(to_string(Properties{Property::Psd}), "psd, symmetric");
}

TEST(LinearMap, FindsWrongProperties) {
  Random random(1);
  const Space x = random_space(random, at::kDouble);
  const LinearMap a = random_dense(x, x, random), negative = -1 * gram(a);
  // Through a kind of its own, since `declare` tests claims itself where NDEBUG is not defined.
  const auto claimed = [&](const LinearMap& of, Property p) { return check_properties(opaque(of, {p}), 1); };
  EXPECT_THAT(claimed(a, Property::Symmetric), HasSubstr("symmetric"));
  EXPECT_THAT(claimed(negative, Property::Psd), HasSubstr("psd"));
  EXPECT_THAT(claimed(gram(a), Property::Nsd), HasSubstr("nsd"));
  EXPECT_THAT(claimed(gram(a), Property::Diagonal), HasSubstr("diagonal"));
  EXPECT_THAT(claimed(a, Property::Orthogonal), HasSubstr("orthogonal"));
  EXPECT_THAT(claimed(a, Property::Identity), HasSubstr("identity"));
  EXPECT_THAT(claimed(a, Property::Zero), HasSubstr("zero"));
  EXPECT_EQ(claimed(gram(a), Property::Psd), "");
}

TEST(LinearMap, DotTestFindsWrongAdjoints) {
  Random random(1);
  const Space x = random_space(random, at::kDouble), y = random_space(random, at::kDouble);
  const LinearMap a = random_dense(x, y, random), b = random_dense(x, y, random);
  const LinearMap wrong = function_map(
      x, y, [a](const Tensors& v) { return a.push(v); }, [b](const Tensors& c) { return b.pull(c); });
  EXPECT_FALSE(dot_test(wrong));
}

TEST(LinearMap, RefusesWhatDoesNotFit) {
  const LinearMap a = dense_map(at::ones({2, 3}, at::kDouble)), b = dense_map(at::ones({3, 3}, at::kDouble));
  EXPECT_THAT(error_message([&] { a + b; }), HasSubstr("{Double [3]} -> {Double [2]}"));
  EXPECT_THAT(error_message([&] { a* a; }), HasSubstr("{Double [3]} -> {Double [2]}"));
  EXPECT_THAT(error_message([&] { shift(a, 1); }), HasSubstr("square"));
  EXPECT_THAT(error_message([&] { a.push({at::ones({2}, at::kDouble)}); }), HasSubstr("[2]"));
  EXPECT_THAT(error_message([&] { a.push({at::ones({3}, at::kFloat)}); }), HasSubstr("Float"));
  EXPECT_THAT(error_message([&] { a.push({}); }), HasSubstr("0 tensors, expected 1"));
  EXPECT_THAT(error_message([&] { a.push_many({at::ones({3}, at::kDouble)}); }), HasSubstr("[]"));
  EXPECT_THAT(error_message([&] { declare(a, {Property::Psd}); }), HasSubstr("cannot be"));
  EXPECT_THAT(error_message([&] { block_row({a, b}); }), HasSubstr("codomains"));
  EXPECT_THAT(error_message([&] { restriction(a.domain(), {1}); }), HasSubstr("leaf 1"));
  EXPECT_THAT(error_message([&] { restriction(concatenate({a.domain(), b.domain()}), {1, 1}); }), HasSubstr("twice"));
  EXPECT_THAT(error_message([&] { NAN* a; }), HasSubstr("nan"));
  EXPECT_THAT(error_message([&] { to_dense(b, 8); }), HasSubstr("3 x 3 elements, more than the limit of 8"));
  EXPECT_THAT(error_message([&] { diagonal(a); }), HasSubstr("square"));
  const LinearMap short_answer = function_map(
      a.domain(), a.codomain(), [](const Tensors& v) { return v; }, [](const Tensors& c) { return c; });
  EXPECT_THAT(error_message([&] { short_answer.push({at::ones({3}, at::kDouble)}); }),
              HasSubstr("what the push gives"));
}

TEST(LinearMap, MixedDtypes) {
  const Space x = concatenate({flat_space(4, at::kFloat), flat_space(3)}), y = flat_space(4, at::kFloat);
  Random random(2);
  const LinearMap a = dense_map(random_matrix(4, 7, random, at::kDouble), x, y);
  EXPECT_TRUE(dot_test(a));
  EXPECT_EQ(a.push(random_normals(x, random))[0].scalar_type(), at::kFloat);
  EXPECT_EQ(to_dense(a).scalar_type(), at::kDouble);
  EXPECT_LT(distance(to_dense(opaque(a)), to_dense(a)), 1e-5);
}

TEST(Estimates, AreWithinTheirErrors) {
  Random random(5);
  const LinearMap a = well_conditioned(flat_space(40), random, true);
  const double exact = trace(a);
  const Estimate few = estimate_trace(a, 50, random), many = estimate_trace(a, 5000, random);
  EXPECT_LT(std::abs(few.value - exact), 5 * few.standard_error);
  EXPECT_LT(std::abs(many.value - exact), 5 * many.standard_error);
  EXPECT_LT(many.standard_error, few.standard_error / 5);
  const auto exact_diagonal = flatten(diagonal(a), a.domain());
  const DiagonalEstimate d = estimate_diagonal(a, 4000, random);
  const double error =
      ((flatten(d.diagonal, a.domain()) - exact_diagonal).norm() / exact_diagonal.norm()).item<double>();
  EXPECT_LT(error, 2 * d.relative_spread);
  EXPECT_GT(error, d.relative_spread / 2);
  // Exact for diagonals from one vector on, whose spread nobody knows.
  const LinearMap diagonal = opaque(diagonal_map({numbers({1, -2, 3})}));
  EXPECT_NEAR(estimate_trace(diagonal, 1, random).value, 2, 1e-14);
  EXPECT_TRUE(std::isinf(estimate_trace(diagonal, 1, random).standard_error));
  EXPECT_EQ(estimate_diagonal(diagonal, 3, random).relative_spread, 0);
  EXPECT_THROW(estimate_trace(diagonal, 0, random), Error);
}

}  // namespace
}  // namespace unbend::test
