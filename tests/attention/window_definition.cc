// The definition of window attention against a loop written from its sentence.
#include <gtest/gtest.h>

#include <cmath>

#include "unbend/attention/window.h"
#include "unbend/base/error.h"

namespace unbend {
namespace {

at::Tensor random(at::IntArrayRef sizes, uint64_t seed) {
  return at::randn(sizes, at::make_generator<at::CPUGeneratorImpl>(seed), at::TensorOptions().dtype(at::kDouble));
}

TEST(WindowDefinition, EqualsTheLoop) {
  const int64_t heads = 4, kv_heads = 2, tokens = 7, keys = 9, d = 3, dv = 2;
  const auto q = random({1, heads, tokens, d}, 1), k = random({1, kv_heads, keys, d}, 2),
             v = random({1, kv_heads, keys, dv}, 3);
  // A ring of four slots out of order, one of them empty, between the sinks and the new tokens.
  const auto key_positions = at::tensor({0, 1, 12, 9, -1, 11, 13, 14, 15}, at::kLong);
  const auto query_positions = at::tensor({10, 11, 12, 13, 14, 15, 16}, at::kLong);
  const WindowOptions options{.window = 3, .sinks = 2, .scale = 0.7};
  const auto result = window_attention_at(q, k, v, query_positions, key_positions, options);
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t i = 0; i < tokens; ++i) {
      const int64_t t = query_positions[i].item<int64_t>();
      double sum = 0, max = -INFINITY;
      auto weighted = at::zeros({dv}, q.options());
      for (int64_t j = 0; j < keys; ++j) {
        const int64_t u = key_positions[j].item<int64_t>();
        if (u < 0 || u > t || (u <= t - 3 && u >= 2)) continue;
        const double score = 0.7 * q[0][h][i].dot(k[0][h / 2][j]).item<double>();
        sum += std::exp(score);
        max = std::max(max, score);
        weighted += std::exp(score) * v[0][h / 2][j];
      }
      EXPECT_NEAR(result.max[0][h][i].item<double>(), max, 1e-12);
      EXPECT_NEAR(result.lse[0][h][i].item<double>(), std::log(sum), 1e-12);
      EXPECT_TRUE(at::allclose(result.out[0][h][i], weighted / sum, 1e-12, 1e-12));
    }
  }
}

TEST(WindowDefinition, ATerracedWindowIsTheOwnBlockAndTheOneBefore) {
  constexpr int64_t kBlock = 4, kTokens = 19;
  const auto q = random({1, 1, kTokens, 3}, 1), k = random({1, 1, kTokens, 3}, 2), v = random({1, 1, kTokens, 2}, 3);
  auto blocks = at::full({kTokens, kTokens}, -INFINITY, q.options());
  for (int64_t t = 0; t < kTokens; ++t) {
    for (int64_t j = 0; j <= t; ++j)
      if (j / kBlock >= t / kBlock - 1 || j < 2) blocks[t][j] = 0;
  }
  const auto expected = at::matmul(at::softmax(at::matmul(q, k.transpose(-1, -2)) * .7 + blocks, -1), v);
  const auto positions = at::arange(kTokens, at::kLong);
  const WindowOptions options{.window = kBlock + 1, .sinks = 2, .scale = .7, .step = kBlock};
  EXPECT_TRUE(at::allclose(window_attention_at(q, k, v, positions, positions, options).out, expected, 1e-12, 1e-12));
  EXPECT_EQ(options.span(), 2 * kBlock);
  EXPECT_EQ(options.first(-1), -2 * kBlock);
  EXPECT_EQ(options.first(11), 4);
  EXPECT_EQ(options.first(12), 8);
}

TEST(WindowDefinition, RowsThatSeeNothingAreEmptyAndHarmless) {
  auto q = random({1, 1, 2, 3}, 1).requires_grad_(), k = random({1, 1, 2, 3}, 2).requires_grad_(),
       v = random({1, 1, 2, 3}, 3).requires_grad_();
  const auto result =
      window_attention_at(q, k, v, at::tensor({4, 9}, at::kLong), at::tensor({8, 9}, at::kLong), {.window = 2});
  EXPECT_EQ(result.lse[0][0][0].item<double>(), -INFINITY);
  EXPECT_EQ(result.max[0][0][0].item<double>(), -INFINITY);
  EXPECT_EQ(result.out[0][0][0].abs().sum().item<double>(), 0);
  (result.out.sum() + result.lse.exp().sum() + result.max.select(2, 1).sum()).backward();
  for (const auto& x : {q, k, v}) EXPECT_TRUE(at::isfinite(x.grad()).all().item<bool>());
}

TEST(WindowDefinition, RefusesWhatDoesNotFit) {
  const auto q = random({1, 4, 5, 3}, 1), k = random({1, 2, 5, 3}, 2), v = random({1, 2, 5, 6}, 3);
  const WindowOptions options{.window = 2};
  EXPECT_THROW(window_attention(q.select(0, 0), k, v, options), Error);
  EXPECT_THROW(window_attention(q, random({1, 3, 5, 3}, 2), random({1, 3, 5, 3}, 2), options), Error);
  EXPECT_THROW(window_attention(q, random({1, 2, 5, 4}, 2), v, options), Error);
  EXPECT_THROW(window_attention(q, random({1, 2, 6, 3}, 2), random({1, 2, 6, 3}, 2), options), Error);
  EXPECT_THROW(window_attention(q, k, random({1, 2, 4, 6}, 3), options), Error);
  EXPECT_THROW(window_attention(q, k.to(at::kFloat), v, options), Error);
  EXPECT_THROW(window_attention(q.to(at::kHalf), k.to(at::kHalf), v.to(at::kHalf), options), Error);
  EXPECT_THROW(window_attention(q, k, v, {.window = 0}), Error);
  EXPECT_THROW(window_attention(q, k, v, {.window = 1, .sinks = -1}), Error);
  EXPECT_THROW(window_attention(q, k, v, {.window = 1, .step = 0}), Error);
  EXPECT_THROW(window_attention(q, k, v, {.window = 1, .scale = NAN}), Error);
  EXPECT_THROW(window_attention_at(q, k, v, at::arange(4), at::arange(5), options), Error);
  EXPECT_THROW(window_attention_at(q, k, v, at::arange(5), at::arange(5).to(at::kInt), options), Error);
  try {
    window_attention(q, random({1, 2, 5, 4}, 2), v, options);
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("[1, 2, 5, 4]"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace unbend
