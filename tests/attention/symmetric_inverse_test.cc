// Newton's inverse (methods/soft.md, test oracles; figures of the worked example were made with numpy in float64).
#include "unbend/attention/symmetric_inverse.h"

#include <gmock/gmock.h>
#include <torch/types.h>

#include <cmath>
#include <limits>

#include "tests/error_message.h"
#include "unbend/attention/gaussian.h"

namespace unbend {
namespace {

using testing::HasSubstr;

at::Tensor matrix3(std::vector<double> values) { return at::tensor(values, at::kDouble).view({3, 3}); }

// Landmarks 0, 1, 3 on a line.
at::Tensor example() { return gaussian_gram(at::tensor({0., 1., 3.}, at::kDouble).view({3, 1})); }

at::Tensor landmarks(std::initializer_list<int64_t> shape, double spread, uint64_t seed,
                     at::ScalarType type = at::kDouble) {
  return (at::randn(shape, at::make_generator<at::CPUGeneratorImpl>(seed), at::TensorOptions().dtype(at::kDouble)) *
          spread)
      .to(type);
}

double distance(const at::Tensor& x, const at::Tensor& y) { return (x - y).abs().max().item<double>(); }

InverseOptions options_of(double ridge, int64_t iterations = 20, double tolerance = 0) {
  InverseOptions options;
  options.ridge = ridge, options.iterations = iterations, options.tolerance = tolerance;
  return options;
}

// (1 - (1 - alpha l^2)^(2^T)) / l in the eigenvectors.
at::Tensor closed_form(const at::Tensor& a, const at::Tensor& alpha, int64_t steps) {
  const auto [values, vectors] = at::linalg_eigh(a);
  const auto x = alpha.squeeze(-1) * values.square();  // |1 - x| to a large power: through log1p where x is small
  const auto logarithm = at::where(x < 1, (-x).log1p(), (x - 1).log());
  const auto error = (logarithm * std::pow(2., static_cast<double>(steps))).exp();
  return at::matmul(vectors * ((1 - error) / values).unsqueeze(-2), vectors.transpose(-1, -2));
}

TEST(SymmetricInverse, WorkedExample) {
  const auto a = example();
  EXPECT_LT(distance(a, matrix3({1, .606531, .011109, .606531, 1, .135335, .011109, .135335, 1})), 1e-6);
  const auto y = symmetric_inverse(a, options_of(0)).value;
  EXPECT_LT(
      distance(y, matrix3({1.594924, -.982977, .115313, -.982977, 1.624481, -.208930, .115313, -.208930, 1.026995})),
      1e-6);
  const auto third = symmetric_inverse(a, options_of(0, 3)).value;
  EXPECT_LT(distance(third,
                     matrix3({.980837, -.359987, -.011113, -.359987, .979835, -.080677, -.011113, -.080677, 1.000088})),
            1e-6);
  const std::vector<double> defects{5.778e-1, 4.007e-1, 2.494e-1, 1.190e-1, 2.819e-2, 1.584e-3, 5.002e-6, 4.987e-11};
  for (size_t k = 0; k < defects.size(); ++k) {
    const double residual = symmetric_inverse(a, options_of(0, static_cast<int64_t>(k) + 1)).residual.item<double>();
    EXPECT_NEAR(residual, defects[k], 1e-3 * defects[k]) << "step " << k + 1;
  }
}

TEST(SymmetricInverse, EqualsTheClosedFormAfterAnyNumberOfSteps) {
  const auto a = gaussian_gram(landmarks({2, 3, 9, 4}, .7, 1));
  for (const int64_t steps : {1, 2, 5, 11, 20}) {
    for (const auto start : {NewtonStart::Safe, NewtonStart::BeforeRidge, NewtonStart::Backtracking}) {
      auto options = options_of(.01, steps);
      options.start = start;
      const auto y = symmetric_inverse(a, options).value;
      const auto ridged = a + .01 * at::eye(9, at::kDouble);
      const auto expected = closed_form(ridged, newton_scale(a, options), steps);
      EXPECT_LT(distance(y, expected), 1e-12 * std::max(1., expected.abs().max().item<double>())) << steps;
      EXPECT_LT(distance(newton_inverse_naive(ridged, newton_scale(a, options), steps), expected), 1e-10) << steps;
    }
  }
}

TEST(SymmetricInverse, StartsAreAsPublished) {
  const auto a = example();
  const double norm = 1.741866;
  auto options = options_of(.01);
  EXPECT_NEAR(newton_scale(a, options).item<double>(), 1.8 / std::pow(norm + .01, 2), 1e-6);
  options.start = NewtonStart::BeforeRidge;
  EXPECT_NEAR(newton_scale(a, options).item<double>(), 1.8 / std::pow(norm, 2), 1e-6);
  // 2 / norm^2 leaves a column sum of |I - alpha A A| above 1.01: halved until it is below, for all matrices together.
  options = options_of(0);
  options.start = NewtonStart::Backtracking;
  const auto both = at::stack({a, at::eye(3, at::kDouble)});
  const auto alpha = newton_scale(both, options);
  EXPECT_EQ(alpha[0].item<double>(), alpha[1].item<double>());
  const double halvings = std::log2(2 / std::pow(norm, 2) / alpha[0].item<double>());
  EXPECT_NEAR(halvings, std::round(halvings), 1e-5);
  const auto column_sum = [&](double scale) {
    return (at::eye(3, at::kDouble) - scale * at::matmul(both, both)).abs().sum(-2).max().item<double>();
  };
  EXPECT_LE(column_sum(alpha[0].item<double>()), 1.01);
  EXPECT_GT(column_sum(2 * alpha[0].item<double>()), 1.01);
}

TEST(SymmetricInverse, ThePaperStartStallsWhereOursDoesNot) {
  const auto identity = at::eye(3, at::kDouble);
  for (const int64_t steps : {1, 2, 7}) {
    EXPECT_EQ(newton_inverse_naive(identity, at::full({1, 1}, 2., at::kDouble), steps).abs().max().item<double>(), 0);
  }
  auto paper = options_of(0);
  paper.start = NewtonStart::Backtracking;
  EXPECT_EQ(symmetric_inverse(identity, paper).residual.item<double>(), 1);
  EXPECT_LT(distance(symmetric_inverse(identity, options_of(0)).value, identity), 1e-6);

  // Eight points on a circle: constant row sums, so the norm is the largest eigenvalue.
  const auto angle = at::arange(8, at::kDouble) * (M_PI / 4);
  const auto circle = gaussian_gram(2 * at::stack({angle.cos(), angle.sin()}, 1));
  const double norm = circle.sum(0).max().item<double>();
  EXPECT_NEAR(norm, 1.658890, 1e-6);
  const auto stalled = newton_inverse_naive(circle, at::full({1, 1}, 2 / (norm * norm), at::kDouble), 20);
  EXPECT_NEAR(distance(at::matmul(stalled, circle), at::eye(8, at::kDouble)), .125, 1e-3);
  EXPECT_LT(symmetric_inverse(circle, options_of(0)).residual.item<double>(), 1e-12);
}

TEST(SymmetricInverse, AnalyticBackward) {
  const auto a = example().requires_grad_();
  const auto d = matrix3({.1, .2, .3, .4, .5, .6, .7, .8, .9});
  const auto expected =
      matrix3({.165971, -.021578, .008603, -.262173, -.227494, -.458058, -.400210, -.392437, -.775975});
  const auto gradient = torch::autograd::grad({symmetric_inverse(a, options_of(0)).value}, {a}, {d})[0];
  EXPECT_LT(distance(gradient, expected), 1e-6);
  // Through every step, which it saves.
  const auto unrolled =
      torch::autograd::grad({newton_inverse_naive(a, newton_scale(a, options_of(0)), 20)}, {a}, {d})[0];
  EXPECT_LT(distance(unrolled, expected), 1e-6);
  // Central differences.
  const auto moved = [&](const at::Tensor& step) { return symmetric_inverse(a.detach() + step, options_of(0)).value; };
  for (int64_t i = 0; i < 9; ++i) {
    const auto step = at::zeros({9}, at::kDouble).index_fill_(0, at::tensor({i}, at::kLong), 1e-6).view({3, 3});
    const double measured = ((moved(step) - moved(-step)) * d).sum().item<double>() / 2e-6;
    EXPECT_NEAR(gradient.flatten()[i].item<double>(), measured, 1e-6) << i;
  }
}

TEST(SymmetricInverse, DoubleBackwardGivesThePush) {
  const auto a = gaussian_gram(landmarks({2, 7, 3}, 1, 3)).requires_grad_();
  const auto direction = landmarks({2, 7, 7}, 1, 4);
  for (const auto solver : {InverseSolver::Newton, InverseSolver::Cholesky}) {
    auto options = options_of(.1);
    options.solver = solver;
    const auto y = symmetric_inverse(a, options).value;
    const auto cotangent = at::zeros_like(y).requires_grad_();
    const auto pulled = torch::autograd::grad({y}, {a}, {cotangent}, true, true)[0];
    const auto pushed = torch::autograd::grad({pulled}, {cotangent}, {direction})[0];
    const auto symmetric = .5 * (direction + direction.transpose(1, 2));
    const auto moved = [&](double h) { return symmetric_inverse(a.detach() + h * symmetric, options).value; };
    const auto both = .5 * (pushed + pushed.transpose(1, 2));  // a symmetric matrix has symmetric tangents
    EXPECT_LT(distance(both, (moved(1e-6) - moved(-1e-6)) / 2e-6), 1e-6);
  }
}

TEST(SymmetricInverse, SingularMatrices) {
  const int64_t m = 5;
  const auto ones = at::ones({m, m}, at::kDouble);
  const auto inverse = symmetric_inverse(ones, options_of(0));
  EXPECT_LT(distance(inverse.value, ones / (m * m)), 1e-9);
  EXPECT_NEAR(inverse.residual.item<double>(), 1 - 1. / m, 1e-9);  // what has no inverse says so
  const auto half = landmarks({2, 8, 3}, 1, 5);
  const auto a = at::bmm(half, half.transpose(1, 2));  // rank 3 of 8
  EXPECT_LT(distance(symmetric_inverse(a, options_of(0, 30)).value, at::linalg_pinv(a)), 1e-6);
}

TEST(SymmetricInverse, StopsEachMatrixWhenItIsDone) {
  const auto easy = at::eye(6, at::kDouble), hard = gaussian_gram(landmarks({6, 2}, .05, 6));
  const auto options = options_of(.01, 20, 1e-3);
  const auto together = symmetric_inverse(at::stack({easy, hard}), options);
  EXPECT_TRUE(at::equal(together.value[0], symmetric_inverse(easy, options).value));
  EXPECT_TRUE(at::equal(together.value[1], symmetric_inverse(hard, options).value));
  EXPECT_LE(together.residual[0].item<double>(), 1e-3);
  EXPECT_GT(together.residual[0].item<double>(), 1e-9);  // it did stop
}

TEST(SymmetricInverse, CholeskyAgreesWithNewtonThatHasConverged) {
  for (const auto type : {at::kFloat, at::kDouble}) {
    const auto a = gaussian_gram(landmarks({4, 49, 32}, 1, 7, type));
    auto options = options_of(.01);
    const auto newton = symmetric_inverse(a, options);
    options.solver = InverseSolver::Cholesky;
    const auto cholesky = symmetric_inverse(a, options);
    ASSERT_LT(newton.residual.max().item<double>(), 1e-5);
    EXPECT_LT(cholesky.residual.max().item<double>(), 1e-5);
    EXPECT_LT(distance(newton.value, cholesky.value), 1e-4);
    EXPECT_EQ(newton.value.scalar_type(), type);
  }
}

TEST(SymmetricInverse, ShapesOfEveryKind) {
  EXPECT_EQ(symmetric_inverse(at::eye(4)).residual.dim(), 0);
  EXPECT_EQ(symmetric_inverse(at::eye(1).expand({2, 3, 1, 1})).residual.sizes(), (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(symmetric_inverse(at::zeros({0, 3, 3})).value.sizes(), (std::vector<int64_t>{0, 3, 3}));
}

TEST(SymmetricInverse, SaysWhatIsWrong) {
  const auto message = [](const at::Tensor& a, const InverseOptions& options = {}) {
    return error_message([&] { symmetric_inverse(a, options); });
  };
  EXPECT_THAT(message(at::zeros({2, 3})), HasSubstr("[2, 3]"));
  EXPECT_THAT(message(at::eye(3, at::kLong)), HasSubstr("Long"));
  EXPECT_THAT(message(at::eye(3, at::kHalf)), HasSubstr("Half"));
  EXPECT_THAT(message(at::eye(3), options_of(-.1)), HasSubstr("-0.1"));
  EXPECT_THAT(message(at::eye(3), options_of(.1, 0)), HasSubstr("iterations"));
  EXPECT_THAT(message(at::eye(3), options_of(.1, 3, -1)), HasSubstr("tolerance"));
  EXPECT_THAT(message(at::eye(1025)), HasSubstr("Cholesky"));
  auto cholesky = options_of(0);
  cholesky.solver = InverseSolver::Cholesky;
  EXPECT_THAT(error_message(
                  [&] {
                    symmetric_inverse(at::ones({3, 3}) - 2 * at::eye(3), cholesky);
                  },
                  ErrorKind::Computation),
              HasSubstr("ridge"));
}

}  // namespace
}  // namespace unbend
