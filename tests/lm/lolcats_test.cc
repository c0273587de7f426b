// LoLCATs' terraced window against its masks.
#include "unbend/lm/lolcats.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>
#include <map>

#include "unbend/attention/feature_map.h"

namespace unbend::lm {
namespace {

DecoderConfig small_config() {
  DecoderConfig c;
  c.layers = 1, c.hidden = 24, c.heads = 4, c.kv_heads = 2, c.head_dim = 8, c.ffn = 40, c.vocab = 50, c.context = 512;
  return c;
}

Student terraced(std::int64_t window, std::int64_t sinks) {
  Random random(1);
  const auto teacher = random_decoder(small_config(), 1, .5, random).to(at::kCPU, at::kDouble);
  const auto recipe = lolcats_recipe();
  const Json options = recipe_options(recipe, {{"window", window}, {"sinks", sinks}, {"terraced", true}});
  auto student = convert(teacher, recipe, options, 5);
  Random moves(11);
  for (const auto& p : adapter(student.decoder))
    p.tensor->add_(random_normal(p.tensor->sizes(), .5, moves).to(at::kDouble));
  return student;
}

/// 1 where a token at row t has the token at column j in its window, or sees it as a sink.
at::Tensor window_mask(std::int64_t tokens, std::int64_t block, std::int64_t sinks) {
  auto mask = at::zeros({tokens, tokens}, at::kDouble);
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t j = 0; j <= t; ++j)
      if (t / block - j / block <= 1 || j < sinks) mask[t][j] = 1;
  return mask;
}

void equals_its_masks(std::int64_t block, std::int64_t sinks) {
  const auto student = terraced(block, sinks);
  std::map<std::string, at::Tensor> p;
  for (const auto& parameter : student.decoder.layers[0].mixer->parameters()) p[parameter.name] = *parameter.tensor;
  constexpr std::int64_t kTokens = 30;
  student.decoder.hidden(at::arange(2 * kTokens).remainder(50).view({2, kTokens}), Form::Chunked,
                         [&](std::int64_t, const MixerInput& in, const at::Tensor& heads) {
                           const auto h = in.heads();
                           const auto k = h.k.repeat_interleave(2, 1), v = h.v.repeat_interleave(2, 1);
                           const auto near = window_mask(kTokens, block, sinks);
                           const auto far = at::ones({kTokens, kTokens}, at::kDouble).tril() - near;
                           auto scores = at::matmul(h.q, k.transpose(-1, -2)) / std::sqrt(8.);
                           scores = scores.masked_fill(near == 0, -INFINITY);
                           const auto factor = at::sigmoid(p["window_factor"]).view({1, -1, 1, 1});
                           const auto soft = factor * (scores - scores.amax(-1, true)).exp();
                           const auto linear = at::matmul(softmax_pair_map(h.q, p["query_map"]),
                                                          softmax_pair_map(k, p["key_map"]).transpose(-1, -2)) *
                                               far;
                           const auto weights = soft + linear;
                           const auto expected = at::matmul(weights, v) / weights.sum(-1, true);
                           EXPECT_LT((heads - expected).abs().max().item<double>(), 1e-12);
                           EXPECT_GT((linear.sum() / weights.sum()).item<double>(), .01);
                         });
}

TEST(TerracedWindow, EqualsItsMasks) {
  equals_its_masks(4, 0);
  equals_its_masks(7, 0);
  equals_its_masks(5, 2);
  equals_its_masks(3, 8);  // more sinks than two blocks
}

TEST(TerracedWindow, StateIsConstant) {
  const auto student = terraced(4, 0);
  auto state = student.decoder.start();
  student.decoder.extend(at::zeros({1, 1}, at::kLong), state);
  const auto bytes = state.bytes();
  student.decoder.extend(at::zeros({1, 63}, at::kLong), state);
  EXPECT_EQ(state.bytes(), bytes);
  EXPECT_EQ(bytes, 8 * (2 * 2 * 8 * 8 + 4 * 8 * 9));  // keys and values of two blocks, S and its sum per query head
}

}  // namespace
}  // namespace unbend::lm
