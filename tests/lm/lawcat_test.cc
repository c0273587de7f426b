// LAWCAT's mixer against the worked example and the limits of its brief.
#include "unbend/lm/lawcat.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>

#include "tests/error_message.h"
#include "unbend/lm/projection.h"

namespace unbend::lm {
namespace {

DecoderConfig config_of(std::int64_t heads, std::int64_t kv_heads, std::int64_t width) {
  DecoderConfig c;
  c.layers = 1, c.hidden = 6, c.heads = heads, c.kv_heads = kv_heads, c.head_dim = width, c.ffn = 8, c.vocab = 10;
  c.context = 64;
  return c;
}

std::unique_ptr<Mixer> mixer_of(const DecoderConfig& c, const Json& changes) {
  const auto recipe = lawcat_recipe();
  Random random(4);
  auto mixer = recipe.mixer(c, recipe_options(recipe, changes), 0, random);
  for (const auto& p : mixer->parameters()) *p.tensor = p.tensor->to(at::kDouble);
  return mixer;
}

/// Heads of the mixer for q [T, H d], k and v [T, Hkv d]; the layer's input is 0, so gates stay where they start.
at::Tensor heads_of(const Mixer& mixer, const DecoderConfig& c, const at::Tensor& q, const at::Tensor& k,
                    const at::Tensor& v) {
  const auto rope = rope_table(c, 0, q.size(0), at::kDouble);
  const MixerInput in{c, rope, at::zeros({1, q.size(0), c.hidden}, at::kDouble), at::cat({q, k, v}, 1).unsqueeze(0), 0};
  return mixer.forward(in, Form::Chunked)[0];
}

at::Tensor* parameter(Mixer& mixer, const std::string& name) {
  for (const auto& p : mixer.parameters())
    if (p.name == name) return p.tensor;
  return nullptr;
}

at::Tensor rows(const std::vector<double>& values, std::int64_t width) {
  return at::tensor(values, at::kDouble).view({-1, width});
}

TEST(Lawcat, WorkedExample) {
  const auto c = config_of(1, 1, 2);
  const auto mixer = mixer_of(c, {{"feature_dim", 2}});
  const auto y =
      heads_of(*mixer, c, rows({1, 0, 0, 1, 1, 1}, 2), rows({0, 1, 1, 0, 1, -1}, 2), rows({1, -1, 2, -2, 4, -4}, 2))[0];
  const double expected[] = {1.000000, 1.403754, 2.376746};
  for (std::int64_t t = 0; t < 3; ++t) {
    EXPECT_NEAR(y[t][0].item<double>(), expected[t], 1e-6);
    EXPECT_NEAR(y[t][1].item<double>(), -expected[t], 1e-6);
  }
}

TEST(Lawcat, FourTaps) {
  // Constant features weigh all tokens alike, so the values' convolution shows in the running mean.
  const auto c = config_of(1, 1, 2);
  auto mixer = mixer_of(c, {{"conv_v", true}, {"gate", false}});
  parameter(*mixer, "query_map")->zero_();
  const auto v = rows({1, 0, 2, 0, 3, 0, 4, 0}, 2), zero = at::zeros_like(v);
  const auto y = heads_of(*mixer, c, zero, zero, v)[0].select(1, 0);
  const double convolved[] = {1, 2.001, 3.003, 4.006};
  double sum = 0;
  for (std::int64_t t = 0; t < 4; ++t) {
    sum += convolved[t];
    EXPECT_NEAR(y[t].item<double>(), sum / static_cast<double>(t + 1), 1e-9);
  }
}

TEST(Lawcat, GatesStartWithAHalfLifeOfSixteenTokens) {
  const auto c = config_of(1, 1, 2);
  auto mixer = mixer_of(c, Json::object());
  parameter(*mixer, "query_map")->zero_();
  auto v = at::zeros({17, 2}, at::kDouble);
  v[0][0] = 1;
  const auto zero = at::zeros_like(v);
  const auto y = heads_of(*mixer, c, zero, zero, v)[0].select(1, 0);
  const double alpha = std::exp2(-1. / 16);
  EXPECT_NEAR(y[16].item<double>(), .5 * (1 - alpha) / (1 - std::pow(alpha, 17)), 1e-9);
}

TEST(Lawcat, SaysHowLongItsGatesRemember) {
  const auto c = config_of(1, 1, 2);
  auto mixer = mixer_of(c, Json::object());
  const auto rope = rope_table(c, 0, 5, at::kDouble);
  const MixerInput in{c, rope, at::zeros({1, 5, c.hidden}, at::kDouble), at::zeros({1, 5, 6}, at::kDouble), 0};
  EXPECT_NEAR(mixer->gauges(in)[0].value, 16, 1e-9);
  EXPECT_EQ(mixer->gauges(in)[1].value, 0);
  parameter(*mixer, "gate_bias")->fill_(8);
  EXPECT_NEAR(mixer->gauges(in)[0].value, 33065, 1);
  EXPECT_EQ(mixer->gauges(in)[2].value, 1);
  EXPECT_TRUE(mixer_of(c, {{"gate", false}})->gauges(in).empty());
}

TEST(Lawcat, OutputsAreMeansOfValues) {
  const auto c = config_of(4, 2, 4);
  auto mixer = mixer_of(c, Json::object());
  Random random(3);
  const auto draw = [&](std::int64_t width) { return random_normal({40, width}, 2, random).to(at::kDouble); };
  const auto q = draw(16), k = draw(8), v = draw(8);
  const auto y = heads_of(*mixer, c, q, k, v);  // [H, T, d]
  const auto values = v.view({40, 2, 4}).transpose(0, 1).repeat_interleave(2, 0);
  EXPECT_LT((y.select(1, 0) - values.select(1, 0)).abs().max().item<double>(), 1e-8);
  EXPECT_TRUE((y <= std::get<0>(values.cummax(1)) + 1e-9).all().item<bool>());
  EXPECT_TRUE((y >= std::get<0>(values.cummin(1)) - 1e-9).all().item<bool>());
}

TEST(Lawcat, WithoutConvolutionGateAndMapsIsTheRunningMean) {
  const auto c = config_of(2, 1, 4);
  auto mixer = mixer_of(c, {{"conv", false}, {"gate", false}});
  parameter(*mixer, "query_map")->zero_();
  Random random(3);
  const auto draw = [&](std::int64_t width) { return random_normal({20, width}, 1, random).to(at::kDouble); };
  const auto v = draw(4);
  const auto y = heads_of(*mixer, c, draw(8), draw(4), v);
  const auto mean = v.cumsum(0) / at::arange(1, 21, at::kDouble).unsqueeze(1);
  EXPECT_LT((y - mean.unsqueeze(0)).abs().max().item<double>(), 1e-8);
}

TEST(Lawcat, HasTheSizeOfTheBrief) {
  auto c = config_of(9, 3, 64);
  c.hidden = 576;
  Random random(1);
  const auto recipe = lawcat_recipe();
  auto mixer = recipe.mixer(c, recipe.defaults, 0, random);
  std::int64_t values = 0;
  for (const auto& p : mixer->parameters()) values += p.tensor->numel();
  EXPECT_EQ(values, 35520);
}

TEST(Lawcat, RefusesWhatCannotBe) {
  const auto c = config_of(4, 2, 4);
  const auto refused = [&](const Json& changes) { return error_message([&] { mixer_of(c, changes); }); };
  EXPECT_NE(refused({{"conv_size", 0}}).find("conv_size"), std::string::npos);
  EXPECT_NE(refused({{"conv_act", "relu"}}).find("conv_act"), std::string::npos);
  EXPECT_NE(refused({{"feature_dim", 9}}).find("feature_dim"), std::string::npos);
  EXPECT_NE(refused({{"gate_tau", 0.0}}).find("gate_tau"), std::string::npos);
  EXPECT_NE(refused({{"share_qk_conv", true}, {"repeat_before_conv", false}}).find("share_qk_conv"), std::string::npos);
  EXPECT_NE(refused({{"sinks", 2}}).find("sinks"), std::string::npos);
}

}  // namespace
}  // namespace unbend::lm
