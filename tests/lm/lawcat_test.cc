// LAWCAT's mixer against the worked example and the limits of its brief.
#include "unbend/lm/lawcat.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>

#include "tests/error_message.h"
#include "tests/lm/one_mixer.h"
#include "unbend/lm/lolcats.h"
#include "unbend/lm/projection.h"

namespace unbend::lm {
namespace {

std::unique_ptr<Mixer> mixer_of(const DecoderConfig& c, const Json& changes) { return one_mixer("lawcat", c, changes); }

/// Heads of the mixer for q [T, H d], k and v [T, Hkv d], and the layer's input x [T, hidden] (0: gates stay where they
/// start).
at::Tensor heads_of(const Mixer& mixer, const DecoderConfig& c, const at::Tensor& q, const at::Tensor& k,
                    const at::Tensor& v, at::Tensor x = {}) {
  const auto rope = rope_table(c, 0, q.size(0), at::kDouble);
  if (!x.defined()) x = at::zeros({q.size(0), c.hidden}, at::kDouble);
  const MixerInput in{c, rope, x.unsqueeze(0), at::cat({q, k, v}, 1).unsqueeze(0), 0};
  return mixer.forward(in, Form::Chunked)[0];
}

at::Tensor* parameter(Mixer& mixer, const std::string& name) {
  for (const auto& p : mixer.parameters())
    if (p.name == name) return p.tensor;
  return nullptr;
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
  for (const int i : {2, 3, 4}) EXPECT_EQ(mixer->gauges(in)[i].value, 1) << i;
  parameter(*mixer, "gate_bias")->fill_(7);
  EXPECT_EQ(mixer->gauges(in)[3].value, 1);  // 12,168 tokens
  EXPECT_EQ(mixer->gauges(in)[4].value, 0);
  EXPECT_TRUE(mixer_of(c, {{"gate", false}, {"normalise", false}})->gauges(in).empty());
}

TEST(Lawcat, SaysWhereQueriesMatchNoKey) {
  const auto c = config_of(1, 1, 2);
  const auto mixer = mixer_of(c, {{"feature_dim", 2}, {"gate", false}});
  const auto rope = rope_table(c, 0, 3, at::kDouble);
  const auto gauge = [&](const at::Tensor& q) {
    const auto k = rows({-50, 50, -50, 50, -50, 50}, 2);
    const MixerInput in{c, rope, at::zeros({1, 3, c.hidden}, at::kDouble), at::cat({q, k, k}, 1).unsqueeze(0), 0};
    return mixer->gauges(in).at(0);
  };
  EXPECT_EQ(gauge(rows({-50, 50, -50, 50, -50, 50}, 2)).value, 0);
  EXPECT_EQ(gauge(rows({-50, 50, -50, 50, -50, 50}, 2)).warning, "");
  const auto some = gauge(rows({-50, 50, -50, 50, 500, -500}, 2));  // the last one's features are the keys' others
  EXPECT_NEAR(some.value, 1. / 3, 1e-12);
  EXPECT_NE(some.warning.find("match no key"), std::string::npos);
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

TEST(Lawcat, WithoutForgettingAndBlendingIsLolcatsLinearPart) {
  const auto c = config_of(4, 2, 8);
  Random random(3);
  const auto draw = [&](at::IntArrayRef shape) { return random_normal(shape, 1, random).to(at::kDouble); };
  const auto q = draw({30, 32}), k = draw({30, 16}), v = draw({30, 16}), map = .3 * draw({4, 8, 4});
  auto mixer = mixer_of(c, {{"conv_init", 0.}});
  parameter(*mixer, "query_map")->copy_(map);
  parameter(*mixer, "gate_bias")->fill_(60);  // alpha is 1 - 5e-28
  const auto y = heads_of(*mixer, c, q, k, v);

  // LoLCATs' state holds what lies before its window, here one token that weighs nothing: a query moved on by one row
  // sees all keys up to its own. Angles of 0 rotate nothing.
  const auto recipe = lolcats_recipe();
  const auto lolcats = recipe.mixer(c, recipe_options(recipe, {{"window", 1}, {"window_factor", -60.}}), 0, random);
  for (const auto& p : lolcats->parameters())
    *p.tensor = p.name == "window_factor" ? p.tensor->to(at::kDouble) : map.clone();
  const auto later = [](const at::Tensor& x) { return at::constant_pad_nd(x, {0, 0, 1, 0}); };
  const auto padded = [](const at::Tensor& x) { return at::constant_pad_nd(x, {0, 0, 0, 1}); };
  const RopeTable still{at::ones({31, 4}, at::kDouble), at::zeros({31, 4}, at::kDouble)};
  const MixerInput in{c, still, at::zeros({1, 31, c.hidden}, at::kDouble),
                      at::cat({later(q), padded(k), padded(v)}, 1).unsqueeze(0), 0};
  const auto expected = lolcats->forward(in, Form::Chunked)[0].slice(1, 1);
  EXPECT_LT((y - expected).abs().max().item<double>(), 1e-8);  // 1e-10 in the denominator
}

TEST(Lawcat, RepeatsKeyHeadsForTheirQueryHeads) {
  const auto shared = config_of(4, 2, 8), own = config_of(4, 4, 8);
  Random random(3);
  const auto draw = [&](at::IntArrayRef shape) { return random_normal(shape, 1, random).to(at::kDouble); };
  const auto q = draw({40, 32}), k = draw({40, 16}), v = draw({40, 16}), x = draw({40, 6});
  const auto repeated = [](const at::Tensor& rows) {  // of kv heads, [T, 2 d] -> [T, 4 d]
    return rows.view({rows.size(0), 2, -1}).repeat_interleave(2, 1).flatten(1);
  };
  auto few = mixer_of(shared, Json::object()), many = mixer_of(own, Json::object());
  for (const auto& p : few->parameters()) {
    p.tensor->add_(draw(p.tensor->sizes()) * .5);
    const bool of_gates = p.name == "gate_up" || p.name == "gate_bias";
    *parameter(*many, p.name) =
        of_gates ? p.tensor->unflatten(0, {2, 8}).repeat_interleave(2, 0).flatten(0, 1) : p.tensor->clone();
  }
  const auto y = heads_of(*few, shared, q, k, v, x);
  EXPECT_LT((y - heads_of(*many, own, q, repeated(k), repeated(v), x)).abs().max().item<double>(), 1e-12);
  EXPECT_GT((y - heads_of(*few, shared, q, k, v)).abs().max().item<double>(), 1e-3);  // gates do matter
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
