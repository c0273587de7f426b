// The fused window attention against its definition: values, gradients, directional derivatives.
#include <gtest/gtest.h>

#include <cmath>

#include "unbend/attention/window.h"
#include "unbend/base/error.h"

namespace unbend {
namespace {

at::Tensor random(at::IntArrayRef sizes, uint64_t seed, at::ScalarType dtype = at::kDouble) {
  return at::randn(sizes, at::make_generator<at::CPUGeneratorImpl>(seed), at::TensorOptions().dtype(at::kDouble))
      .to(dtype);
}

struct Case {
  int64_t batch, heads, kv_heads, tokens, d, dv, window, sinks, step = 1;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << "B" << c.batch << " H" << c.heads << "/" << c.kv_heads << " T" << c.tokens << " d" << c.d << "/" << c.dv
             << " w" << c.window << " s" << c.sinks << " step" << c.step;
}

struct Inputs {
  at::Tensor q, k, v;
  WindowOptions options;
};

Inputs inputs_of(const Case& c, at::ScalarType dtype, double spread = 1.0) {
  return {(random({c.batch, c.heads, c.tokens, c.d}, 1) * spread).to(dtype),
          random({c.batch, c.kv_heads, c.tokens, c.d}, 2, dtype),
          random({c.batch, c.kv_heads, c.tokens, c.dv}, 3, dtype),
          {.window = c.window, .sinks = c.sinks, .scale = 1 / std::sqrt(static_cast<double>(c.d)), .step = c.step}};
}

Partial definition(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const WindowOptions& options) {
  const auto positions = at::arange(q.size(2), at::kLong);
  return window_attention_at(q, k, v, positions, positions, options);
}

using Attention = Partial (*)(const at::Tensor&, const at::Tensor&, const at::Tensor&, const WindowOptions&);

// Results and gradients for fixed random cotangents: out, max, lse, dq, dk, dv.
std::vector<at::Tensor> run(Attention attention, const Inputs& in, at::ScalarType compute) {
  std::vector<at::Tensor> leaves;
  for (const auto& x : {in.q, in.k, in.v}) leaves.push_back(x.detach().to(compute).requires_grad_());
  const auto partial = attention(leaves[0], leaves[1], leaves[2], in.options);
  const auto cotangent = [&](const at::Tensor& x, uint64_t seed) {
    return random(x.sizes(), seed).to(x.scalar_type());
  };
  const auto loss = (partial.out * cotangent(partial.out, 4)).sum() + (partial.max * cotangent(partial.max, 5)).sum() +
                    (partial.lse * cotangent(partial.lse, 6)).sum();
  const auto gradients = torch::autograd::grad({loss}, leaves);
  std::vector<at::Tensor> all{partial.out, partial.max, partial.lse};
  all.insert(all.end(), gradients.begin(), gradients.end());
  return all;
}

class WindowFused : public testing::TestWithParam<Case> {};

const char* const kNames[] = {"out", "max", "lse", "dq", "dk", "dv"};

// Largest difference as a fraction of the largest magnitude.
double difference(const at::Tensor& x, const at::Tensor& y) {
  if (y.numel() == 0) return 0;
  return ((x.to(at::kDouble) - y.to(at::kDouble)).abs().max() / y.to(at::kDouble).abs().max().clamp_min(1))
      .item<double>();
}

TEST_P(WindowFused, EqualsTheDefinitionInFloat64) {
  const auto in = inputs_of(GetParam(), at::kDouble);
  const auto fused = run(window_attention, in, at::kDouble), naive = run(definition, in, at::kDouble);
  for (int i = 0; i < 6; ++i) {
    EXPECT_EQ(fused[i].sizes(), naive[i].sizes());
    EXPECT_LT(difference(fused[i], naive[i]), 1e-12) << kNames[i];
  }
}

TEST_P(WindowFused, EqualsTheDefinitionInFloat32) {
  const auto in = inputs_of(GetParam(), at::kFloat);
  const auto fused = run(window_attention, in, at::kFloat), naive = run(definition, in, at::kDouble);
  for (int i = 0; i < 6; ++i) {
    EXPECT_EQ(fused[i].scalar_type(), at::kFloat);
    EXPECT_LT(difference(fused[i], naive[i]), 1e-5) << kNames[i];
  }
}

// bfloat16 keeps 8 bits: inputs are rounded beforehand, so what remains is the rounding of weights (2^-9 each, of
// independent sign) in the results, and of score gradients and cotangents in the gradients.
TEST_P(WindowFused, EqualsTheDefinitionInBFloat16) {
  const auto in = inputs_of(GetParam(), at::kBFloat16);
  const auto fused = run(window_attention, in, at::kBFloat16), naive = run(definition, in, at::kDouble);
  for (int i = 0; i < 6; ++i) {
    EXPECT_EQ(fused[i].scalar_type(), i < 3 ? at::kFloat : at::kBFloat16);
    EXPECT_LT(difference(fused[i], naive[i]), i == 0 ? 4e-3 : i < 3 ? 1e-5 : 1.5e-2) << kNames[i];
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, WindowFused,
                         testing::Values(Case{1, 1, 1, 1, 4, 4, 1, 0}, Case{2, 4, 2, 17, 8, 6, 1, 0},
                                         Case{1, 2, 2, 37, 8, 8, 1, 3}, Case{2, 2, 2, 64, 32, 32, 16, 0},
                                         Case{1, 9, 3, 131, 64, 64, 64, 4}, Case{1, 3, 1, 97, 16, 10, 33, 5},
                                         Case{1, 6, 2, 200, 16, 16, 100, 1}, Case{1, 2, 1, 80, 8, 8, 500, 0},
                                         Case{1, 2, 1, 75, 8, 8, 10, 90}, Case{1, 3, 1, 700, 8, 8, 1000, 4},
                                         Case{1, 2, 1, 650, 8, 4, 600, 7}, Case{1, 2, 1, 45, 7, 5, 8, 2},
                                         Case{1, 9, 3, 131, 16, 16, 17, 0, 16}, Case{2, 2, 1, 75, 8, 8, 9, 3, 8},
                                         Case{1, 4, 2, 203, 8, 6, 71, 5, 70}, Case{1, 2, 2, 30, 8, 8, 3, 1, 7},
                                         Case{1, 2, 1, 40, 8, 8, 101, 0, 100}, Case{1, 2, 1, 650, 8, 4, 257, 7, 256}));

TEST(WindowFusedValues, ManySinksAreCutIntoPieces) {
  const Case c{1, 1, 1, 900, 4, 4, 64, 700};
  const auto in = inputs_of(c, at::kDouble);
  const auto fused = run(window_attention, in, at::kDouble), naive = run(definition, in, at::kDouble);
  for (int i = 0; i < 6; ++i) EXPECT_LT(difference(fused[i], naive[i]), 1e-12) << kNames[i];
}

TEST(WindowFusedValues, StridedInputsEqualContiguousOnes) {
  const int64_t B = 2, T = 50, H = 4, d = 8;
  for (const auto dtype : {at::kDouble, at::kBFloat16}) {
    const auto q = random({B, T, H, d}, 1, dtype), kv = random({B, T, 2, 2 * d}, 2, dtype);
    const auto k = kv.narrow(3, 0, d).transpose(1, 2), v = random({B, H / 2, d, T}, 3, dtype).transpose(2, 3);
    const WindowOptions options{.window = 9, .sinks = 2, .scale = 0.3};
    const Inputs strided{q.transpose(1, 2), k, v, options};
    const Inputs plain{q.transpose(1, 2).contiguous(), k.contiguous(), v.contiguous(), options};
    const auto x = run(window_attention, strided, dtype), y = run(window_attention, plain, dtype);
    for (int i = 0; i < 6; ++i) EXPECT_TRUE(at::equal(x[i], y[i])) << kNames[i];
  }
}

TEST(WindowFusedValues, LargeScoresStayFinite) {
  const Case c{1, 2, 1, 70, 16, 16, 20, 2};
  const auto in = inputs_of(c, at::kFloat, 1000);
  const auto fused = run(window_attention, in, at::kFloat), naive = run(definition, in, at::kDouble);
  for (int i = 0; i < 3; ++i) EXPECT_LT(difference(fused[i], naive[i]), 1e-3) << kNames[i];
  for (const auto& x : fused) EXPECT_TRUE(at::isfinite(x).all().item<bool>());
}

TEST(WindowFusedValues, TheFirstOfEqualScoresTakesTheGradientOfMax) {
  const auto q = at::ones({1, 1, 40, 4}, at::kDouble);
  auto k = at::ones({1, 1, 40, 4}, at::kDouble).requires_grad_();
  const auto partial = window_attention(q, k, at::ones({1, 1, 40, 2}, at::kDouble), {.window = 5, .sinks = 0});
  const auto gradient = torch::autograd::grad({partial.max.select(2, 20).sum()}, {k})[0].select(3, 0).flatten();
  EXPECT_EQ(gradient.argmax().item<int64_t>(), 16);
  EXPECT_EQ(gradient.abs().sum().item<double>(), 1);
}

TEST(WindowFusedValues, StreamingWithARingEqualsTheWholeSequence) {
  const Case c{1, 4, 2, 60, 8, 8, 11, 3};
  const auto in = inputs_of(c, at::kDouble);
  const auto whole = window_attention(in.q, in.k, in.v, in.options);
  auto ring_k = at::zeros({1, 2, c.sinks + c.window, 8}, at::kDouble), ring_v = ring_k.clone();
  auto positions = at::full({c.sinks + c.window}, -1, at::kLong);
  for (int64_t t = 0; t < c.tokens; ++t) {
    const int64_t slot = t < c.sinks ? t : c.sinks + (t - c.sinks) % c.window;
    ring_k.select(2, slot).copy_(in.k.select(2, t));
    ring_v.select(2, slot).copy_(in.v.select(2, t));
    positions[slot] = t;
    const auto step =
        window_attention_at(in.q.narrow(2, t, 1), ring_k, ring_v, at::tensor({t}, at::kLong), positions, in.options);
    EXPECT_LT(difference(step.out, whole.out.narrow(2, t, 1)), 1e-12);
    EXPECT_LT(difference(step.lse, whole.lse.narrow(2, t, 1)), 1e-12);
    EXPECT_LT(difference(step.max, whole.max.narrow(2, t, 1)), 1e-12);
  }
}

TEST(WindowFusedValues, NoTokensGiveEmptyResults) {
  const auto x = at::zeros({1, 2, 0, 4}, at::kFloat).requires_grad_();
  const auto partial = window_attention(x, x, x, {.window = 3});
  EXPECT_EQ(partial.out.sizes(), (std::vector<int64_t>{1, 2, 0, 4}));
  partial.out.sum().backward();
  EXPECT_EQ(x.grad().sizes(), x.sizes());
  const auto cotangent = at::zeros_like(x).requires_grad_();
  const auto again = window_attention(x, x, x, {.window = 3});
  const auto pulled = torch::autograd::grad({again.out}, {x}, {cotangent}, true, true);
  EXPECT_EQ(torch::autograd::grad(pulled, {cotangent}, {at::zeros_like(x)})[0].sizes(), x.sizes());
  EXPECT_THROW(
      window_attention(at::zeros({1, 2, 3, 4}), at::zeros({1, 2, 3, 4}), at::zeros({1, 2, 3, 0}), {.window = 3}),
      Error);
}

// A scalar of all three outputs whose gradient is compared with central differences.
at::Tensor scalar(const std::vector<at::Tensor>& x, const WindowOptions& options) {
  const auto p = window_attention(x[0], x[1], x[2], options);
  return (p.out * random(p.out.sizes(), 7)).sum() + (p.max * random(p.max.sizes(), 8)).sum() +
         (p.lse.sin() * random(p.lse.sizes(), 9)).sum();
}

TEST(WindowFusedGradients, EqualCentralDifferences) {
  const Case c{1, 4, 2, 21, 4, 3, 6, 2};
  const auto in = inputs_of(c, at::kDouble);
  const std::vector<at::Tensor> at_point{in.q, in.k, in.v};
  std::vector<at::Tensor> leaves;
  for (const auto& x : at_point) leaves.push_back(x.clone().requires_grad_());
  const auto gradients = torch::autograd::grad({scalar(leaves, in.options)}, leaves);
  for (size_t i = 0; i < 3; ++i) {
    const auto direction = random(at_point[i].sizes(), 11 + i);
    const double h = 1e-5;
    auto plus = at_point, minus = at_point;
    plus[i] = plus[i] + h * direction, minus[i] = minus[i] - h * direction;
    const double measured = (scalar(plus, in.options) - scalar(minus, in.options)).item<double>() / (2 * h);
    EXPECT_NEAR((gradients[i] * direction).sum().item<double>(), measured, 1e-7 * std::max(1.0, std::abs(measured)));
  }
}

class WindowPush : public testing::TestWithParam<Case> {};

TEST_P(WindowPush, IsTheDoubleBackward) {
  const Case c = GetParam();
  const auto in = inputs_of(c, at::kDouble);
  const std::vector<at::Tensor> at_point{in.q, in.k, in.v};
  std::vector<at::Tensor> leaves, directions;
  for (size_t i = 0; i < 3; ++i) {
    leaves.push_back(at_point[i].clone().requires_grad_());
    directions.push_back(random(at_point[i].sizes(), 11 + i));
  }
  const auto p = window_attention(leaves[0], leaves[1], leaves[2], in.options);
  const std::vector<at::Tensor> results{p.out, p.max, p.lse};
  std::vector<at::Tensor> cotangents;
  for (const auto& x : results) cotangents.push_back(at::zeros_like(x).requires_grad_());
  const auto pulled = torch::autograd::grad(results, leaves, cotangents, true, true);
  const auto pushed = torch::autograd::grad(pulled, cotangents, directions);
  const double h = 1e-5;
  const auto moved = [&](double step) {
    const auto y = window_attention(in.q + step * directions[0], in.k + step * directions[1],
                                    in.v + step * directions[2], in.options);
    return std::vector<at::Tensor>{y.out, y.max, y.lse};
  };
  const auto plus = moved(h), minus = moved(-h);
  for (int i = 0; i < 3; ++i) EXPECT_LT(difference(pushed[i], (plus[i] - minus[i]) / (2 * h)), 1e-7) << kNames[i];
}

INSTANTIATE_TEST_SUITE_P(Windows, WindowPush,
                         testing::Values(Case{1, 4, 2, 300, 4, 3, 40, 2}, Case{1, 4, 2, 300, 4, 3, 41, 2, 40}));

TEST(WindowFusedGradients, SecondDerivativesInTheInputsEqualThoseOfTheDefinition) {
  const Case c{1, 2, 1, 9, 3, 2, 4, 1, 3};
  const auto in = inputs_of(c, at::kDouble);
  std::vector<std::vector<at::Tensor>> second;
  for (const Attention attention : {Attention(window_attention), Attention(definition)}) {
    std::vector<at::Tensor> leaves;
    for (const auto& x : {in.q, in.k, in.v}) leaves.push_back(x.clone().requires_grad_());
    const auto p = attention(leaves[0], leaves[1], leaves[2], in.options);
    const auto loss = (p.out.pow(2)).sum() + (p.max * p.lse).sum();
    const auto first = torch::autograd::grad({loss}, leaves, {}, true, true);
    auto along = at::zeros({}, at::kDouble);
    for (size_t i = 0; i < 3; ++i) along = along + (first[i] * random(first[i].sizes(), 20 + i)).sum();
    second.push_back(torch::autograd::grad({along}, leaves));
  }
  for (int i = 0; i < 3; ++i) EXPECT_LT(difference(second[0][i], second[1][i]), 1e-11) << kNames[i + 3];
}

}  // namespace
}  // namespace unbend
