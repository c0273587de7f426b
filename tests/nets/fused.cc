// The fused element-wise operations against plain tensor operations.
#include "unbend/nets/fused.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "unbend/base/error.h"
#include "unbend/nets/fused_plain.h"

namespace unbend {
namespace {

using Tensors = std::vector<at::Tensor>;
using Function = std::function<Tensors(const Tensors&)>;

at::Tensor random(at::IntArrayRef sizes, uint64_t seed, at::ScalarType dtype = at::kDouble) {
  return at::randn(sizes, at::make_generator<at::CPUGeneratorImpl>(seed), at::TensorOptions().dtype(at::kDouble))
      .to(dtype);
}

double difference(const at::Tensor& x, const at::Tensor& y) {
  if (y.numel() == 0) return 0;
  return ((x.to(at::kDouble) - y.to(at::kDouble)).abs().max() / y.to(at::kDouble).abs().max().clamp_min(1))
      .item<double>();
}

// Results, gradients for random cotangents, and the gradients of those gradients along random directions: in the inputs
// and in the cotangents (the push).
Tensors all_of(const Function& f, const Tensors& inputs, bool second) {
  Tensors leaves, cotangents;
  for (const auto& x : inputs) leaves.push_back(x.detach().clone().requires_grad_());
  auto results = f(leaves);
  for (size_t i = 0; i < results.size(); ++i) {
    cotangents.push_back(random(results[i].sizes(), 50 + i).to(results[i].scalar_type()).requires_grad_());
  }
  const auto gradients = torch::autograd::grad(results, leaves, cotangents, second, second);
  auto all = results;
  all.insert(all.end(), gradients.begin(), gradients.end());
  if (second) {
    auto along = at::zeros({}, at::kDouble);
    for (size_t i = 0; i < gradients.size(); ++i)
      along = along + (gradients[i] * random(gradients[i].sizes(), 70 + i)).sum();
    auto wanted = leaves;
    wanted.insert(wanted.end(), cotangents.begin(), cotangents.end());
    const auto twice = torch::autograd::grad({along}, wanted, {}, std::nullopt, false, true);
    for (size_t i = 0; i < twice.size(); ++i) all.push_back(twice[i].defined() ? twice[i] : at::zeros_like(wanted[i]));
  }
  return all;
}

void expect_equal(const Function& fused, const Function& naive, const Tensors& inputs, bool second, double bound) {
  const auto x = all_of(fused, inputs, second), y = all_of(naive, inputs, second);
  ASSERT_EQ(x.size(), y.size());
  for (size_t i = 0; i < x.size(); ++i) {
    EXPECT_EQ(x[i].sizes(), y[i].sizes()) << i;
    EXPECT_EQ(x[i].scalar_type(), y[i].scalar_type()) << i;
    EXPECT_LT(difference(x[i], y[i]), bound) << "tensor " << i;
  }
}

// bfloat16 results round once in both; intermediate sums differ in float32 only, so a result may fall to the neighbour.
constexpr double kOneRounding = 8e-3;

Tensors plain_rms_norm(const Tensors& in, double eps, at::ScalarType out) {
  const auto wide = in[0].to(in[0].scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
  return {(wide / (wide.square().mean(-1, true) + eps).sqrt() * in[1].to(wide.scalar_type())).to(out)};
}

TEST(RmsNorm, EqualsThePlainOperations) {
  for (const int64_t width : {1, 5, 16, 67, 576}) {
    const auto check = [&](at::ScalarType in, at::ScalarType out, double bound) {
      expect_equal([&](const Tensors& x) { return Tensors{rms_norm(x[0], x[1], 1e-5, out)}; },
                   [&](const Tensors& x) { return plain_rms_norm(x, 1e-5, out); },
                   {random({3, 7, width}, 1, in), random({width}, 2, in)}, in == at::kDouble, bound);
    };
    check(at::kDouble, at::kDouble, 1e-12);
    check(at::kFloat, at::kFloat, 1e-5);
    check(at::kFloat, at::kBFloat16, kOneRounding);
    check(at::kBFloat16, at::kBFloat16, kOneRounding);
  }
}

TEST(RmsNorm, KnownValues) {
  const auto y = rms_norm(at::tensor({3.0, 4.0}), at::tensor({1.0, 2.0}), 0, at::kDouble);
  EXPECT_NEAR(y[0].item<double>(), 3 / std::sqrt(12.5), 1e-15);
  EXPECT_NEAR(y[1].item<double>(), 8 / std::sqrt(12.5), 1e-15);
}

TEST(RmsNorm, RefusesWhatDoesNotFit) {
  const auto x = at::zeros({2, 4}), w = at::ones({4});
  EXPECT_THROW(rms_norm(x, at::ones({3}), 1e-5, at::kFloat), Error);
  EXPECT_THROW(rms_norm(x, w, -1, at::kFloat), Error);
  EXPECT_THROW(rms_norm(x, w, 1e-5, at::kDouble), Error);
  EXPECT_THROW(rms_norm(x.to(at::kInt), w, 1e-5, at::kFloat), Error);
}

TEST(Swiglu, EqualsThePlainOperations) {
  for (const int64_t width : {1, 5, 16, 67}) {
    const auto check = [&](at::ScalarType dtype, double bound) {
      expect_equal([](const Tensors& x) { return Tensors{swiglu(x[0])}; },
                   [](const Tensors& x) {
                     const auto halves =
                         x[0].to(x[0].scalar_type() == at::kDouble ? at::kDouble : at::kFloat).chunk(2, -1);
                     return Tensors{(halves[0] * at::sigmoid(halves[0]) * halves[1]).to(x[0].scalar_type())};
                   },
                   {random({3, 4, 2 * width}, 1, dtype)}, dtype == at::kDouble, bound);
    };
    check(at::kDouble, 1e-12);
    check(at::kFloat, 1e-5);
    check(at::kBFloat16, kOneRounding);
  }
}

TEST(Swiglu, LargeGatesStayFinite) {
  const auto x = at::tensor({-1e4f, 1e4f, -100.f, 3.f, 3.f, 3.f}).requires_grad_();
  const auto y = swiglu(x);
  EXPECT_TRUE(at::allclose(y, at::tensor({0.f, 3e4f, 0.f})));
  y.sum().backward();
  EXPECT_TRUE(at::allclose(x.grad(), at::tensor({0.f, 3.f, 0.f, 0.f, 1e4f, 0.f})));
  EXPECT_THROW(swiglu(at::zeros({3, 5})), Error);
}

// Rotation through complex numbers.
at::Tensor plain_rotation(const at::Tensor& x, const at::Tensor& angles, RotaryPairs pairs) {
  const int64_t half = x.size(-1) / 2;
  const bool halves = pairs == RotaryPairs::Halves;
  const auto a = halves ? x.narrow(-1, 0, half) : x.unflatten(-1, {half, 2}).select(-1, 0);
  const auto b = halves ? x.narrow(-1, half, half) : x.unflatten(-1, {half, 2}).select(-1, 1);
  const auto turned = at::view_as_real(at::complex(a, b) * at::polar(at::ones_like(angles), angles));
  return halves ? at::cat({turned.select(-1, 0), turned.select(-1, 1)}, -1) : turned.flatten(-2);
}

TEST(SplitHeads, EqualsThePlainOperations) {
  const int64_t batch = 2, tokens = 5;
  const std::vector<std::vector<HeadRange>> plans = {
      {{0, 3, true}, {3, 1, true}, {4, 1, false}},  // the whole of a fused projection, once
      {{3, 1, true}, {3, 1, false}, {0, 2, true}},  // overlapping, and not all
      {{1, 2, false}}};
  for (const int64_t width : {2, 6, 64}) {
    const auto frequencies = at::pow(10000.0, -at::arange(width / 2, at::kDouble) * 2 / width);
    const auto positions = at::arange(100, 100 + tokens);
    for (const auto pairs : {RotaryPairs::Halves, RotaryPairs::Adjacent}) {
      const auto tables = rotary_tables(positions, frequencies, pairs, at::kDouble);
      const auto angles = at::outer(positions.to(at::kDouble), frequencies);
      for (const auto& ranges : plans) {
        const auto naive = [&](at::ScalarType compute, at::ScalarType out) {
          return [&, compute, out](const Tensors& x) {
            Tensors heads;
            for (const auto& r : ranges) {
              const auto cut = x[0].to(compute).unflatten(2, {5, width}).narrow(2, r.first, r.count).transpose(1, 2);
              heads.push_back((r.rotate ? plain_rotation(cut, angles.to(compute), pairs) : cut).to(out));
            }
            return heads;
          };
        };
        const auto fused = [&](at::ScalarType out) {
          return [&, out](const Tensors& x) { return split_heads(x[0], width, ranges, tables, out); };
        };
        const auto packed = random({batch, tokens, 5 * width}, 1);
        expect_equal(fused(at::kDouble), naive(at::kDouble, at::kDouble), {packed}, true, 1e-12);
        const auto elsewhere = [&](const Tensors& x) {  // as on devices without kernels
          return plain::split_heads(x[0], width, ranges, tables, at::kDouble);
        };
        expect_equal(elsewhere, naive(at::kDouble, at::kDouble), {packed}, false, 1e-12);
        expect_equal(fused(at::kFloat), naive(at::kFloat, at::kFloat), {packed.to(at::kFloat)}, false, 1e-5);
        expect_equal(fused(at::kFloat), naive(at::kFloat, at::kFloat), {packed.to(at::kBFloat16)}, false, kOneRounding);
        expect_equal(fused(at::kBFloat16), naive(at::kFloat, at::kBFloat16), {packed.to(at::kBFloat16)}, false,
                     kOneRounding);
      }
    }
  }
}

TEST(SplitHeads, ScoresDependOnDistanceOnly) {
  const int64_t width = 8;
  const auto frequencies = at::pow(10000.0, -at::arange(width / 2, at::kDouble) * 2 / width);
  const auto x = random({1, 1, width}, 1), y = random({1, 1, width}, 2);
  const auto turned = [&](const at::Tensor& v, int64_t position) {
    const auto tables = rotary_tables(at::tensor({position}, at::kLong), frequencies, RotaryPairs::Halves, at::kDouble);
    return split_heads(v, width, {{0, 1, true}}, tables, at::kDouble)[0];
  };
  const double near = (turned(x, 7) * turned(y, 3)).sum().item<double>();
  EXPECT_NEAR((turned(x, 30007) * turned(y, 30003)).sum().item<double>(), near, 1e-10);
  EXPECT_GT(std::abs((turned(x, 8) * turned(y, 3)).sum().item<double>() - near), 1e-3);
}

TEST(SplitHeads, RefusesWhatDoesNotFit) {
  const auto packed = at::zeros({1, 3, 20});
  const auto tables = rotary_tables(at::arange(3), at::ones({2}), RotaryPairs::Halves);
  EXPECT_EQ(split_heads(packed, 4, {{0, 5, true}}, tables, at::kFloat)[0].size(1), 5);
  EXPECT_THROW(split_heads(packed, 4, {{1, 5}}, std::nullopt, at::kFloat), Error);
  EXPECT_THROW(split_heads(packed, 4, {{-1, 2}}, std::nullopt, at::kFloat), Error);
  EXPECT_THROW(split_heads(packed, 3, {{0, 1}}, std::nullopt, at::kFloat), Error);
  EXPECT_THROW(split_heads(packed, 4, {{0, 1, true}}, std::nullopt, at::kFloat), Error);
  EXPECT_THROW(split_heads(packed, 5, {{0, 1, true}}, tables, at::kFloat), Error);
  EXPECT_THROW(split_heads(packed, 4, {{0, 1}}, std::nullopt, at::kDouble), Error);
  EXPECT_THROW(split_heads(packed.select(0, 0), 4, {{0, 1}}, std::nullopt, at::kFloat), Error);
}

}  // namespace
}  // namespace unbend
