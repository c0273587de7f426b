// Softmax-free attention, its Gaussian kernels and its landmarks (methods/soft.md, test oracles).
#include "unbend/attention/soft_attention.h"

#include <gmock/gmock.h>
#include <torch/types.h>

#include <cmath>
#include <functional>
#include <limits>

#include "tests/error_message.h"
#include "unbend/attention/gaussian.h"
#include "unbend/attention/landmarks.h"

namespace unbend {
namespace {

using testing::HasSubstr;
using Tensors = std::vector<at::Tensor>;
using Function = std::function<at::Tensor(const Tensors&)>;

at::Tensor random(at::IntArrayRef sizes, uint64_t seed, at::ScalarType type = at::kDouble) {
  return at::randn(sizes, at::make_generator<at::CPUGeneratorImpl>(seed), at::TensorOptions().dtype(at::kDouble))
      .to(type);
}

// Largest difference as a fraction of the largest magnitude.
double difference(const at::Tensor& x, const at::Tensor& y) {
  EXPECT_EQ(x.sizes(), y.sizes());
  return ((x.to(at::kDouble) - y.to(at::kDouble)).abs().max() / y.to(at::kDouble).abs().max().clamp_min(1))
      .item<double>();
}

// First derivatives of `f` along random directions and its push by double backward, both against central differences.
void expect_derivatives(const Function& f, const Tensors& inputs, double bound = 1e-6) {
  Tensors leaves, directions;
  for (size_t i = 0; i < inputs.size(); ++i) {
    leaves.push_back(inputs[i].detach().clone().requires_grad_());
    directions.push_back(random(inputs[i].sizes(), 90 + i));
  }
  const auto y = f(leaves);
  const double h = 1e-5;
  const auto moved = [&](double step) {
    Tensors at_step;
    for (size_t i = 0; i < inputs.size(); ++i) at_step.push_back(inputs[i].detach() + step * directions[i]);
    return f(at_step);
  };
  const auto measured = (moved(h) - moved(-h)) / (2 * h);
  const auto cotangent = random(y.sizes(), 80).requires_grad_();
  const auto pulled = torch::autograd::grad({y}, leaves, {cotangent}, true, true);
  double along = 0;
  for (size_t i = 0; i < inputs.size(); ++i) along += (pulled[i] * directions[i]).sum().item<double>();
  const double expected = (measured * cotangent).sum().item<double>();
  EXPECT_NEAR(along, expected, bound * std::max(1., std::abs(expected)));
  const auto pushed = torch::autograd::grad(pulled, {cotangent}, directions)[0];
  EXPECT_LT(difference(pushed, measured), bound);
}

// ---- Gaussian kernels

TEST(Gaussian, EqualsItsDefinition) {
  for (const auto& [n, m, d] : {std::array<int64_t, 3>{1, 1, 1}, {13, 5, 3}, {50, 49, 32}, {7, 64, 17}}) {
    const auto x = random({2, 3, n, d}, 1), y = random({2, 3, m, d}, 2);
    EXPECT_LT(difference(gaussian_kernel(x, y), gaussian_kernel_naive(x, y)), 1e-14);
    EXPECT_LT(difference(gaussian_gram(y), gaussian_kernel_naive(y, y)), 1e-14);
    const auto single = gaussian_kernel(x.to(at::kFloat), y.to(at::kFloat));
    EXPECT_EQ(single.scalar_type(), at::kFloat);
    EXPECT_LT(difference(single, gaussian_kernel_naive(x, y)), 2e-6);
    const auto halves = gaussian_kernel(x.to(at::kBFloat16), y.to(at::kBFloat16));
    EXPECT_EQ(halves.scalar_type(), at::kFloat);
    EXPECT_LT(difference(halves, gaussian_kernel_naive(x.to(at::kBFloat16), y.to(at::kBFloat16))), 2e-6);
  }
  EXPECT_EQ(gaussian_kernel(at::zeros({4, 3}), at::zeros({2, 3})).sizes(), (std::vector<int64_t>{4, 2}));
}

TEST(Gaussian, DerivativesEqualCentralDifferences) {
  const auto x = random({2, 9, 4}, 1), y = random({2, 5, 4}, 2);
  expect_derivatives([](const Tensors& in) { return gaussian_kernel(in[0], in[1]); }, {x, y});
  expect_derivatives([](const Tensors& in) { return gaussian_gram(in[0]); }, {y});
}

TEST(Gaussian, RoundingNeverMakesASimilarityAboveOne) {
  // Far from the origin the expanded distance of equal points is rounding alone.
  const auto x = (random({1, 40, 8}, 3) * .01 + 300).to(at::kFloat);
  EXPECT_LE(gaussian_kernel(x, x).max().item<float>(), 1.f);
  const auto gram = gaussian_gram(x);
  EXPECT_LE(gram.max().item<float>(), 1.f);
  EXPECT_TRUE((gram.diagonal(0, 1, 2) == 1).all().item<bool>());
}

TEST(Gaussian, SaysWhatIsWrong) {
  const auto message = [](const at::Tensor& x, const at::Tensor& y) {
    return error_message([&] { gaussian_kernel(x, y); });
  };
  EXPECT_THAT(message(at::zeros({2, 3, 4}), at::zeros({2, 3, 5})), HasSubstr("[2, 3, 5]"));
  EXPECT_THAT(message(at::zeros({2, 3, 4}), at::zeros({1, 3, 4})), HasSubstr("[1, 3, 4]"));
  EXPECT_THAT(message(at::zeros({3, 4}, at::kLong), at::zeros({3, 4}, at::kLong)), HasSubstr("gaussian_kernel"));
  auto x = at::zeros({3, 4});
  x[1][2] = std::numeric_limits<float>::infinity();
  EXPECT_THAT(message(x, at::zeros({3, 4})), HasSubstr("tokens"));
  EXPECT_THAT(message(at::zeros({3, 4}), x), HasSubstr("landmarks"));
  x[1][2] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(message(x, at::zeros({3, 4})), HasSubstr("tokens"));
  x[1][2] = 1e30f;
  EXPECT_THAT(message(x, at::zeros({3, 4})), HasSubstr("overflows"));
}

// ---- Landmarks

TEST(Landmarks, ConvolutionEqualsItsDefinition) {
  const Grid grid{4, 6};
  const int64_t d = 5, r = 2;
  const auto tokens = random({2, 3, 24, d}, 1);
  const LandmarkConvolution convolution{random({d, d, r, r}, 2), random({d}, 3), random({d}, 4)};
  const auto landmarks = convolved_landmarks(tokens, grid, convolution);
  ASSERT_EQ(landmarks.sizes(), (std::vector<int64_t>{2, 3, 6, d}));
  for (int64_t cell = 0; cell < 6; ++cell) {
    auto sum = at::zeros({2, 3, d}, at::kDouble);
    for (int64_t i = 0; i < r; ++i) {
      for (int64_t j = 0; j < r; ++j) {
        const int64_t token = (cell / 3 * r + i) * grid.width + cell % 3 * r + j;
        sum = sum + at::matmul(tokens.select(2, token), convolution.filter.select(3, j).select(2, i).t());
      }
    }
    const auto centred = sum - sum.mean(-1, true);
    const auto normed =
        centred / (centred.square().mean(-1, true) + 1e-5).sqrt() * convolution.norm_weight + convolution.norm_bias;
    const auto expected = .5 * normed * (1 + (normed / std::sqrt(2.)).erf());
    EXPECT_LT(difference(landmarks.select(2, cell), expected), 1e-12) << cell;
  }
}

TEST(Landmarks, MeansDoNotSeeTheOrderWithinACell) {
  const Grid grid{6, 4};
  const auto tokens = random({1, 2, 24, 3}, 1);
  auto order = at::arange(24, at::kLong);  // swaps two tokens of the first cell of 2 x 2
  order[0] = 5, order[5] = 0;
  const auto means = mean_landmarks(tokens, grid, 2);
  EXPECT_LT(difference(mean_landmarks(tokens.index_select(2, order), grid, 2), means), 1e-15);
  EXPECT_LT(difference(means.select(2, 1), tokens.index_select(2, at::tensor({2, 3, 6, 7}, at::kLong)).mean(2)), 1e-15);
  EXPECT_TRUE(at::equal(mean_landmarks(tokens, grid, 1), tokens));
}

TEST(Landmarks, RandomOnesAreDistinctTokens) {
  const auto tokens = at::arange(30, at::kDouble).view({1, 1, 30, 1}).expand({2, 3, 30, 1});
  const auto drawn = random_landmarks(tokens, 12, Random(7));
  EXPECT_TRUE(at::equal(drawn, random_landmarks(tokens, 12, Random(7))));
  EXPECT_FALSE(at::equal(drawn, random_landmarks(tokens, 12, Random(8))));
  EXPECT_TRUE(at::equal(drawn[0][0], drawn[1][2]));
  EXPECT_EQ(std::get<0>(at::_unique(drawn[0][0])).numel(), 12);
  EXPECT_TRUE(at::equal(std::get<0>(random_landmarks(tokens, 30, Random(1))[0][0].sort(0)), tokens[0][0]));
}

TEST(Landmarks, SayWhatIsWrong) {
  const auto tokens = at::zeros({1, 2, 24, 3});
  const auto convolved = [&](int64_t r, Grid grid, int64_t d = 3) {
    return error_message([&] {
      convolved_landmarks(tokens, grid, {at::zeros({d, d, r, r}), at::ones({d}), at::zeros({d})});
    });
  };
  EXPECT_THAT(convolved(2, {4, 5}), HasSubstr("4 x 5 = 20"));
  EXPECT_THAT(convolved(4, {4, 6}), HasSubstr("does not divide the grid of 4 x 6"));
  EXPECT_THAT(convolved(1, {4, 6}), HasSubstr("at least 2"));
  EXPECT_THAT(convolved(2, {4, 6}, 4), HasSubstr("filter"));
  EXPECT_THAT(error_message([&] { mean_landmarks(tokens, {4, 6}, 3); }), HasSubstr("does not divide"));
  EXPECT_THAT(error_message([&] { mean_landmarks(tokens, {4, 6}, 0); }), HasSubstr("at least 1"));
  EXPECT_THAT(error_message([&] { random_landmarks(tokens, 25, Random(1)); }), HasSubstr("25 of 24"));
}

// ---- Attention

struct Case {
  int64_t batch, heads, n, m, d, dv;
  bool normalize;
};
std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << "B" << c.batch << " H" << c.heads << " n" << c.n << " m" << c.m << " d" << c.d << "/" << c.dv
             << (c.normalize ? " normalised" : "");
}

struct Inputs {
  at::Tensor q, l, v;
};
Inputs inputs_of(const Case& c, at::ScalarType type = at::kDouble) {
  return {random({c.batch, c.heads, c.n, c.d}, 1, type), random({c.batch, c.heads, c.m, c.d}, 2, type),
          random({c.batch, c.heads, c.n, c.dv}, 3, type)};
}

class Soft : public testing::TestWithParam<Case> {};

TEST_P(Soft, EqualsItsDefinition) {
  const auto c = GetParam();
  SoftOptions options;
  options.normalize = c.normalize;
  options.inverse.tolerance = 0;
  for (const auto solver : {InverseSolver::Newton, InverseSolver::Cholesky}) {
    options.inverse.solver = solver;
    const auto in = inputs_of(c);
    const auto expected = at::matmul(soft_matrix_naive(in.q, in.l, options), in.v);
    const auto result = soft_attention(in.q, in.l, in.v, options);
    EXPECT_LT(difference(result.out, expected), 1e-9);
    EXPECT_EQ(result.residual.sizes(), (std::vector<int64_t>{c.batch, c.heads}));
    const auto single = inputs_of(c, at::kFloat);
    EXPECT_LT(difference(soft_attention(single.q, single.l, single.v, options).out, expected), 1e-3);
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, Soft,
                         testing::Values(Case{1, 1, 1, 1, 1, 1, false}, Case{2, 2, 36, 9, 8, 5, false},
                                         Case{2, 2, 36, 9, 8, 5, true}, Case{1, 3, 49, 49, 32, 32, false},
                                         Case{3, 1, 131, 17, 7, 9, true}, Case{1, 2, 196, 49, 32, 32, true}));

TEST(SoftAttention, DerivativesEqualCentralDifferences) {
  const auto in = inputs_of({2, 2, 11, 4, 3, 5, false});
  for (const bool normalize : {false, true}) {
    SoftOptions options;
    options.normalize = normalize;
    options.inverse.ridge = .05;
    options.inverse.tolerance = 0;
    const Function f = [&](const Tensors& x) { return soft_attention(x[0], x[1], x[2], options).out; };
    expect_derivatives(f, {in.q, in.l, in.v});
  }
}

// The gradient of the definition with the inverse in closed form; the second derivatives of a loss too.
TEST(SoftAttention, GradientsEqualThoseOfTheDefinition) {
  const auto in = inputs_of({1, 2, 10, 4, 3, 2, false});
  SoftOptions options;
  options.inverse.solver = InverseSolver::Cholesky;
  std::vector<Tensors> all;
  for (const bool naive : {false, true}) {
    const Tensors x{in.q.clone().requires_grad_(), in.l.clone().requires_grad_(), in.v.clone().requires_grad_()};
    at::Tensor out;
    if (naive) {
      const auto c = gaussian_kernel_naive(x[0], x[1]);
      const auto a = gaussian_kernel_naive(x[1], x[1]) + .01 * at::eye(4, at::kDouble);
      out = at::matmul(at::matmul(at::matmul(c, at::linalg_inv(a)), c.transpose(2, 3)), x[2]);
    } else {
      out = soft_attention(x[0], x[1], x[2], options).out;
    }
    auto gradients = torch::autograd::grad({out.pow(3).sum()}, x, {}, true, true);
    at::Tensor square = at::zeros({}, at::kDouble);
    for (const auto& g : gradients) square = square + g.square().sum();
    const auto second = torch::autograd::grad({square}, x);
    gradients.insert(gradients.end(), second.begin(), second.end());
    all.push_back(gradients);
  }
  for (size_t i = 0; i < 6; ++i)
    EXPECT_LT(difference(all[0][i] / all[1][i].abs().max(), all[1][i] / all[1][i].abs().max()), 1e-9) << i;
}

TEST(SoftAttention, LandmarksThatAreTheTokensGiveTheFullKernel) {
  const auto in = inputs_of({1, 2, 9, 1, 4, 3, false});
  SoftOptions options;
  options.inverse.ridge = 0;
  options.inverse.iterations = 40;
  options.inverse.tolerance = 1e-13;
  const auto exact = gaussian_attention_naive(in.q, in.v);
  EXPECT_LT(difference(soft_attention(in.q, in.q, in.v, options).out, exact), 1e-8);
  // A subset of the tokens: exact in their rows and columns.
  const auto some = in.q.narrow(2, 0, 4);
  const auto s = soft_matrix_naive(in.q, some, options), full = gaussian_kernel_naive(in.q, in.q);
  EXPECT_LT(difference(s.narrow(2, 0, 4), full.narrow(2, 0, 4)), 1e-8);
  EXPECT_LT(difference(s.narrow(3, 0, 4), full.narrow(3, 0, 4)), 1e-8);
  EXPECT_LT(difference(soft_attention(in.q, some, in.v, options).out.narrow(2, 0, 4), exact.narrow(2, 0, 4)), 1e-8);
}

// The rows of the matrix that the fast path stands for, from unit values.
TEST(SoftAttention, ItsMatrixIsSymmetricAndPositive) {
  const int64_t n = 30;
  const auto q = random({1, 1, n, 6}, 1) * .7, l = random({1, 1, 8, 6}, 2) * .7;
  const auto units = at::eye(n, at::kDouble).view({1, 1, n, n});
  for (const bool normalize : {false, true}) {
    SoftOptions options;
    options.normalize = normalize;
    const auto s = soft_attention(q, l, units, options).out[0][0];
    EXPECT_LT(difference(s, s.t()), 1e-12);
    const auto values = at::linalg_eigvalsh(s);
    EXPECT_GE(values.min().item<double>(), -1e-6 * values.max().item<double>());
    if (!normalize) EXPECT_LE(s.diagonal().max().item<double>(), 1 + 1e-6);
  }
  EXPECT_EQ(soft_attention(q, l, at::zeros({1, 1, n, 3}, at::kDouble)).out.abs().max().item<double>(), 0);
}

TEST(SoftAttention, ConstantRowSumsMakeNormalisationADivision) {
  const auto angle = at::arange(8, at::kDouble) * (M_PI / 4);
  const auto circle = (2 * at::stack({angle.cos(), angle.sin()}, 1)).view({1, 1, 8, 2});
  const auto q = random({1, 1, 20, 2}, 1), v = random({1, 1, 20, 3}, 2);
  SoftOptions plain, normalized;
  normalized.normalize = true;
  const double sum = gaussian_gram(circle)[0][0].sum(0)[0].item<double>();  // before the ridge
  EXPECT_LT(difference(soft_attention(q, circle, v, normalized).out, soft_attention(q, circle, v, plain).out / sum),
            1e-12);
}

TEST(SoftAttention, EqualTokensStayFinite) {
  for (const double ridge : {0., .01}) {
    SoftOptions options;
    options.inverse.ridge = ridge;
    const auto q = at::ones({1, 2, 16, 4}).requires_grad_(), l = at::ones({1, 2, 4, 4}).requires_grad_();
    const auto result = soft_attention(q, l, random({1, 2, 16, 3}, 1, at::kFloat), options);
    result.out.square().sum().backward();
    for (const auto& x : {result.out, q.grad(), l.grad()}) EXPECT_TRUE(at::isfinite(x).all().item<bool>());
  }
}

TEST(SoftAttention, AnImageDoesNotDependOnItsBatch) {
  const auto in = inputs_of({3, 2, 25, 6, 4, 4, true}, at::kFloat);
  const auto together = soft_attention(in.q * .3, in.l, in.v).out;
  const auto alone = soft_attention(in.q.narrow(0, 1, 1) * .3, in.l.narrow(0, 1, 1), in.v.narrow(0, 1, 1)).out;
  EXPECT_LT(difference(together.narrow(0, 1, 1), alone), 1e-6);
}

TEST(SoftAttention, StridedAndHalfInputs) {
  const auto in = inputs_of({2, 3, 20, 5, 4, 4, false});
  const auto strided = [](const at::Tensor& x) { return x.transpose(1, 2).contiguous().transpose(1, 2); };
  EXPECT_TRUE(at::allclose(soft_attention(strided(in.q), strided(in.l), strided(in.v)).out,
                           soft_attention(in.q, in.l, in.v).out));
  const auto half = inputs_of({2, 3, 20, 5, 4, 4, false}, at::kBFloat16);
  const auto out = soft_attention(half.q, half.l, half.v).out;
  EXPECT_EQ(out.scalar_type(), at::kBFloat16);
  const auto to = [](const at::Tensor& x) { return x.to(at::kFloat); };
  EXPECT_TRUE(at::equal(out, soft_attention(to(half.q), to(half.l), to(half.v)).out.to(at::kBFloat16)));
}

TEST(SoftAttention, SaysWhatIsWrong) {
  const auto in = inputs_of({1, 2, 6, 3, 4, 5, false});
  EXPECT_THAT(error_message([&] { soft_attention(in.q, in.l.narrow(1, 0, 1), in.v); }), HasSubstr("[1, 1, 3, 4]"));
  EXPECT_THAT(error_message([&] { soft_attention(in.q, in.l, in.v.narrow(2, 0, 5)); }), HasSubstr("[1, 2, 5, 5]"));
  EXPECT_THAT(error_message([&] { soft_attention(in.q, in.l.to(at::kFloat), in.v); }), HasSubstr("landmarks"));
  EXPECT_THAT(error_message([&] { soft_attention(in.q * NAN, in.l, in.v); }), HasSubstr("tokens"));
  SoftOptions options;
  options.inverse.ridge = -1;
  EXPECT_THAT(error_message([&] { soft_attention(in.q, in.l, in.v, options); }), HasSubstr("ridge"));
}

}  // namespace
}  // namespace unbend
