// SUPRA's mixer against the worked example, the slopes and the limits of its brief.
#include "unbend/lm/supra.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>

#include "tests/error_message.h"
#include "tests/lm/one_mixer.h"

namespace unbend::lm {
namespace {

std::unique_ptr<Mixer> mixer_of(const DecoderConfig& c, const Json& changes) { return one_mixer("supra", c, changes); }

void set(Mixer& mixer, const std::string& name, const at::Tensor& value) {
  for (const auto& p : mixer.parameters())
    if (p.name == name) *p.tensor = value.to(at::kDouble);
}

/// Heads [H, T, d] of the mixer for q [T, H d], k and v [T, Hkv d].
at::Tensor heads_of(const Mixer& mixer, const DecoderConfig& c, const at::Tensor& q, const at::Tensor& k,
                    const at::Tensor& v, Form form = Form::Chunked) {
  const auto rope = rope_table(c, 0, q.size(0), at::kDouble);
  const MixerInput in{c, rope, at::zeros({1, q.size(0), c.hidden}, at::kDouble), at::cat({q, k, v}, 1).unsqueeze(0), 0};
  return mixer.forward(in, form)[0];
}

at::Tensor normal(at::IntArrayRef shape, std::uint64_t seed) {
  Random random(seed);
  return random_normal(shape, 1, random).to(at::kDouble);
}

/// u itself: with tiny features every sum of weights is below the floor of the denominator, 1e-7.
constexpr double kTiny = 1e-5;
at::Tensor raw(const at::Tensor& heads) { return heads * 1e-7 / (kTiny * kTiny); }

TEST(Supra, WorkedExample) {
  const auto c = config_of(1, 1, 2);
  const auto kernel = rows({1, -1, .5, 1}, 2), bias = rows({0, .5}, 2)[0];
  const auto q = rows({1, 0, 0, 1, 1, 1}, 2), k = rows({0, 1, 1, 0, 2, 1}, 2), v = rows({1, 0, 0, 1, 1, 2}, 2);
  auto mixer = mixer_of(c, {{"slopes", {.5}}});
  set(*mixer, "query_kernel", kernel), set(*mixer, "query_bias", bias);
  for (const auto form : {Form::Chunked, Form::Recurrent, Form::Parallel})
    EXPECT_LT(difference(heads_of(*mixer, c, q, k, v, form)[0],
                         rows({.9999822, -.9999822, -.9999312, .9999312, -.9999985, .9999985}, 2)),
              1e-7);
  auto plain = mixer_of(c, {{"slopes", {.5}}, {"normalise", true}});
  set(*plain, "query_kernel", kernel * kTiny), set(*plain, "query_bias", bias * kTiny);
  EXPECT_LT(difference(raw(heads_of(*plain, c, q, k, v)[0]),
                       rows({1.0606601718, 0, .5213832806, 1.0606601718, 3.2107770168, 6.8127361958}, 2)),
            1e-9);
}

TEST(Supra, Slopes) {
  const auto expect = [](const std::vector<double>& slopes, const std::vector<double>& expected, double tolerance) {
    ASSERT_EQ(slopes.size(), expected.size());
    for (std::size_t h = 0; h < slopes.size(); ++h) EXPECT_NEAR(slopes[h], expected[h], tolerance) << h;
  };
  const std::vector<double> eight{.5, .25, .125, .0625, .03125, .015625, .0078125, .00390625};
  auto nine = eight;
  nine.push_back(.70710678);
  expect(decay_slopes("lightning", 8), eight, 0);
  expect(decay_slopes("lightning", 9), nine, 1e-8);
  const auto many = decay_slopes("lightning", 32);
  EXPECT_NEAR(many.front(), .840896, 1e-6);
  EXPECT_EQ(many.back(), .00390625);
  EXPECT_NEAR(std::exp(-2048 * many.back()), 3.3546e-4, 1e-8);
  EXPECT_NEAR(decay_slopes("lightning", 12)[11], std::exp2(-.5 * 7), 1e-12);  // 16 heads' slopes 1, 3, 5, 7
  const auto started = decay_slopes("lightning", 8, .1);
  EXPECT_DOUBLE_EQ(started[0], .1);
  EXPECT_DOUBLE_EQ(started[7], .1 / 128);
  const auto retnet = decay_slopes("retnet", 40);
  EXPECT_NEAR(std::exp(-retnet[0]), 1 - 1. / 32, 1e-12);
  EXPECT_NEAR(retnet[39], std::exp2(-44), 1e-20);  // gamma is not 1
  expect(decay_slopes("none", 2), {0, 0}, 0);
}

TEST(Supra, LimitsOfTheDecay) {
  const auto c = config_of(4, 2, 4);
  const auto q = normal({40, 16}, 1), k = normal({40, 8}, 2), v = normal({40, 8}, 3);
  const auto of = [&](const Json& slopes) {
    auto mixer = mixer_of(c, {{"slopes", slopes}, {"rope", "none"}, {"normalise", true}, {"kernel_init", "identity"}});
    set(*mixer, "query_kernel", at::eye(16, at::kDouble) * kTiny);
    set(*mixer, "key_kernel", at::eye(8, at::kDouble) * kTiny);
    return raw(heads_of(*mixer, c, q, k, v));
  };
  const auto split = [](const at::Tensor& x, std::int64_t heads) {
    return x.view({40, heads, 4}).transpose(0, 1).repeat_interleave(4 / heads, 0);
  };
  const auto phi_q = split(q.relu(), 4), phi_k = split(k.relu(), 2) / 2, values = split(v, 2);
  const auto outer = phi_k.unsqueeze(-1) * values.unsqueeze(-2);
  const auto sums = at::matmul(phi_q.unsqueeze(-2), outer.cumsum(1)).squeeze(-2);
  const auto alone = at::matmul(phi_q.unsqueeze(-2), outer).squeeze(-2);
  EXPECT_LT(difference(of({0, 0, 0, 0}), sums), 1e-10);       // one state per key head
  EXPECT_LT(difference(of({0, 1e-300, 0, 0}), sums), 1e-10);  // per query head
  EXPECT_LT(difference(of({1e3, 1e3, 1e3, 1e3}), alone), 1e-10);
}

TEST(Supra, RotatesByTheBaseThatIsAskedFor) {
  const auto c = config_of(2, 1, 8);
  auto other = c;
  other.rope_base = 1e6;
  const auto q = normal({30, 16}, 1), k = normal({30, 8}, 2), v = normal({30, 8}, 3);
  for (const auto* rope : {"after", "before"}) {
    const auto own = mixer_of(c, {{"rope", rope}}), changed = mixer_of(c, {{"rope", rope}, {"rope_base", 1e6}});
    EXPECT_TRUE(at::equal(heads_of(*changed, c, q, k, v), heads_of(*own, other, q, k, v))) << rope;
    EXPECT_GT(difference(heads_of(*changed, c, q, k, v), heads_of(*own, c, q, k, v)), 1e-3) << rope;
  }
  for (const Json& wrong :
       {Json{{"rope_base", 1}}, Json{{"rope_base", -1e4}}, Json{{"rope_base", 1e6}, {"rope", "none"}}})
    EXPECT_NE(error_message([&] { mixer_of(c, wrong); }).find("rope_base"), std::string::npos) << wrong;
}

TEST(Supra, GroupNormForgetsTheScaleOfAHead) {
  const auto c = config_of(2, 2, 8);
  const auto mixer = mixer_of(c, Json::object());
  const auto q = normal({30, 16}, 1) * 3, k = normal({30, 16}, 2) * 3, v = normal({30, 16}, 3) * 30;
  auto scaled = v.clone();
  scaled.slice(1, 8) *= 5;
  const auto y = heads_of(*mixer, c, q, k, v);
  EXPECT_LT(difference(y, heads_of(*mixer, c, q, k, scaled)), 1e-4);
  EXPECT_LT(y.mean(-1).abs().max().item<double>(), 1e-12);  // per token and head
}

TEST(Supra, T2RDividesByTheSumOfItsWeights) {
  const auto c = config_of(2, 1, 4);
  const auto mixer = mixer_of(c, {{"decay", "none"}, {"rope", "none"}, {"normalise", true}});
  const auto q = normal({20, 8}, 1), k = normal({20, 4}, 2), v = normal({20, 4}, 3);
  const auto y = heads_of(*mixer, c, q, k, v);
  std::map<std::string, at::Tensor> p;
  for (const auto& parameter : mixer->parameters()) p[parameter.name] = *parameter.tensor;
  const auto phi_q = at::linear(q, p["query_kernel"], p["query_bias"]).relu().view({20, 2, 4}).transpose(0, 1);
  const auto phi_k = at::linear(k, p["key_kernel"], p["key_bias"]).relu();
  const auto weights = (at::matmul(phi_q, phi_k.t()) / 2).tril();
  EXPECT_LT(difference(y, at::matmul(weights, v) / weights.sum(-1, true).clamp_min(1e-7)), 1e-10);
}

TEST(Supra, FormsGiveTheSameNumbersWhereLittleIsLeftOfASum) {
  const at::NoGradGuard no_grad;
  const auto c = config_of(4, 2, 8);
  const auto mixer = mixer_of(c, Json::object());
  for (const auto& p : mixer->parameters()) *p.tensor = p.tensor->to(at::kFloat);
  const auto qkv = normal({16, 200, 64}, 1).to(at::kFloat);
  const auto rope = rope_table(c, 0, 200, at::kFloat);
  const MixerInput in{c, rope, at::zeros({16, 200, c.hidden}), qkv, 0};
  const auto heads = mixer->forward(in, Form::Chunked);
  EXPECT_EQ(heads.scalar_type(), at::kFloat);
  EXPECT_LT(difference(heads, mixer->forward(in, Form::Recurrent)), 3e-7);  // float32's steps between 2 and 4
  const auto state = mixer->start(c, 16, at::kFloat);
  mixer->extend(in, *state);
  EXPECT_EQ(state->bytes(), 16 * 4 * 8 * 8 * 4);  // what is remembered stays float32
}

TEST(Supra, HasTheSizesOfTheBrief) {
  const auto c = config_of(9, 3, 64);
  const auto count = [](Mixer& mixer) {
    std::int64_t values = 0;
    for (const auto& p : mixer.parameters()) values += p.tensor->numel();
    return values;
  };
  const auto mixer = mixer_of(c, Json::object());
  EXPECT_EQ(count(*mixer), 369408);
  EXPECT_EQ(mixer->start(c, 1, at::kFloat)->bytes(), 9 * 64 * 64 * 4);
  EXPECT_EQ(mixer_of(c, {{"decay", "none"}})->start(c, 1, at::kFloat)->bytes(), 3 * 64 * 64 * 4);
  EXPECT_EQ(count(*mixer_of(config_of(4, 4, 8), Json::object())), 32 * 32 + 32);  // one kernel for both
}

TEST(Supra, WarnsOfDeadFeatures) {
  const auto c = config_of(4, 2, 8);
  const auto rope = rope_table(c, 0, 400, at::kDouble);
  const MixerInput in{c, rope, at::zeros({1, 400, c.hidden}, at::kDouble), normal({1, 400, 64}, 1), 0};
  const auto mixer = mixer_of(c, {{"qk_norm", true}});  // a norm does not hide them
  const auto warnings = [&] {
    std::string all;
    for (const auto& gauge : mixer->gauges(in)) all += gauge.warning;
    return all;
  };
  EXPECT_EQ(warnings(), "");
  // All features of two heads of queries, half of those of the third.
  auto bias = at::zeros({32});
  bias.slice(0, 0, 20).fill_(-1e3);
  set(*mixer, "query_bias", bias);
  const auto gauges = mixer->gauges(in);
  EXPECT_EQ(gauges[0].value, 20. / 32);
  EXPECT_NE(gauges[0].warning.find("kernel_init"), std::string::npos);
  EXPECT_EQ(gauges[1].value, 0);
  EXPECT_GE(gauges[2].value, .5);
  EXPECT_NE(gauges[2].warning.find("316"), std::string::npos);
  set(*mixer, "query_bias", at::zeros({32})), set(*mixer, "key_bias", at::full({16}, -1e3));
  EXPECT_EQ(mixer->gauges(in)[1].value, 1);
  EXPECT_NE(warnings(), "");
}

TEST(Supra, WithNoLayerConvertedIsTheTeacher) {
  auto c = config_of(4, 2, 8);
  c.layers = 2;
  Random random(1);
  const auto teacher = random_decoder(c, 1, .5, random);
  const auto recipe = supra_recipe();
  const auto student = convert(teacher, recipe, recipe_options(recipe, {{"keep_every", 1}}), 1);
  const auto ids = at::arange(10).view({1, 10});
  EXPECT_TRUE(at::equal(student.decoder.logits(student.decoder.hidden(ids)), teacher.logits(teacher.hidden(ids))));
}

TEST(Supra, Stages) {
  const auto recipe = supra_recipe();
  const auto names = [&](const Json& changes) {
    std::vector<std::string> all;
    for (const auto& stage : recipe.stages(recipe_options(recipe, changes))) all.push_back(stage.name);
    return all;
  };
  EXPECT_EQ(names(Json::object()), (std::vector<std::string>{"all"}));
  EXPECT_EQ(names({{"two_step", true}, {"transfer", true}}), (std::vector<std::string>{"transfer", "kernel", "all"}));
}

TEST(Supra, RefusesWhatCannotBe) {
  const auto c = config_of(4, 2, 4);
  const auto refused = [&](const Json& changes) { return error_message([&] { mixer_of(c, changes); }); };
  const std::pair<Json, const char*> cases[] = {{{{"slopes", {.5, .5}}}, "2 slopes for 4 heads"},
                                                {{{"slopes", {.5, -.1, .5, .5}}}, "-0.1"},
                                                {{{"slopes", {"a"}}}, "slopes"},
                                                {{{"decay", "fast"}}, "decay"},
                                                {{{"decay_start", -1.}}, "decay_start"},
                                                {{{"kernel_init", "zero"}}, "kernel_init"},
                                                {{{"rope", "twice"}}, "rope"},
                                                {{{"window", 8}}, "window"},
                                                {{{"sinks", 4}}, "sinks"}};
  for (const auto& [changes, word] : cases)
    EXPECT_NE(refused(changes).find(word), std::string::npos) << changes << ": " << refused(changes);
}

}  // namespace
}  // namespace unbend::lm
