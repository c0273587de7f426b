// ReGLA's mixer and gate against the worked example and the limits of its brief.
#include "unbend/lm/regla.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>
#include <map>
#include <numbers>

#include "tests/error_message.h"
#include "tests/lm/one_mixer.h"
#include "unbend/lm/distill.h"

namespace unbend::lm {
namespace {

/// Gates can be the layer's input.
DecoderConfig wide_config(std::int64_t heads, std::int64_t kv_heads, std::int64_t width) {
  auto c = config_of(heads, kv_heads, width);
  c.hidden = 2 * heads * width;
  return c;
}

std::unique_ptr<Mixer> mixer_of(const DecoderConfig& c, Json changes, at::ScalarType type = at::kDouble) {
  if (!changes.contains("rope")) changes["rope"] = false;
  auto mixer = one_mixer("regla", c, changes, type);
  for (const auto& p : mixer->parameters())
    if (p.name == "gate_weight" && p.tensor->size(0) == c.hidden) p.tensor->copy_(at::eye(c.hidden));
  return mixer;
}

/// Heads [H, T, d] of the mixer for q [T, H d], k and v [T, Hkv d], gate logits z [T, 2 H d] (those of g first).
at::Tensor heads_of(const Mixer& mixer, const DecoderConfig& c, const at::Tensor& q, const at::Tensor& k,
                    const at::Tensor& v, const at::Tensor& z, Form form = Form::Chunked) {
  const auto rope = rope_table(c, 0, q.size(0), q.options());
  const MixerInput in{c, rope, z.unsqueeze(0), at::cat({q, k, v}, 1).unsqueeze(0), 0};
  return mixer.forward(in, form)[0];
}

struct Example {
  DecoderConfig c = wide_config(1, 1, 2);
  at::Tensor q = rows({0, 1, 2, 0, 1, 1}, 2), k = rows({0, 0, 1, 3, 0, 2}, 2), v = rows({1, 0, 0, 1, 1, 1}, 2),
             z = rows({0, 2, 0, 0, 1, -1, 2, 2, 2, 0, -2, 1}, 4);
  at::Tensor of(const Json& changes, Form form = Form::Chunked) const {
    return heads_of(*mixer_of(c, changes), c, q, k, v, z, form)[0];
  }
};

/// Random inputs of more heads.
struct Draw {
  DecoderConfig c = wide_config(4, 2, 8);
  std::int64_t tokens = 70;
  at::Tensor q = draw(32, 1), k = draw(16, 2), v = draw(16, 3), z = draw(64, 4) + 1;
  at::Tensor draw(std::int64_t width, std::uint64_t seed) const {
    Random random(seed);
    return random_normal({tokens, width}, 1, random).to(at::kDouble);
  }
  at::Tensor of(const Json& changes, Form form = Form::Chunked) const {
    return heads_of(*mixer_of(c, changes), c, q, k, v, z, form);
  }
};

TEST(Regla, WorkedExample) {
  const Example x;
  EXPECT_LT(difference(refined_log_gate(x.z.slice(1, 0, 2), x.z.slice(1, 2)).exp(),
                       rows({.5, .880797, .880797, .418680, .800835, .615529}, 2)),
            1e-6);
  for (const auto form : {Form::Chunked, Form::Recurrent, Form::Parallel}) {
    EXPECT_LT(difference(x.of({{"norm", "none"}, {"shift", "global"}}, form),
                         rows({.007009, 0, .005124, .027856, .050212, .114903}, 2)),
              1e-6);
    for (const char* shift : {"running", "global", "none"})
      EXPECT_LT(
          difference(x.of({{"shift", shift}}, form), rows({1.414214, 0, .255838, 1.390880, .566293, 1.295883}, 2)),
          1e-6);
    EXPECT_LT(difference(x.of({{"norm", "none"}}, form)[0], rows({.140773, 0}, 2)[0]), 1e-6);
    EXPECT_LT(
        difference(x.of({{"gate_axis", "key"}}, form).slice(0, 1), rows({.240315, 1.393646, .534098, 1.309480}, 2)),
        1e-6);
  }
}

TEST(Regla, GateTable) {
  const auto logit = [](double p) { return at::tensor(std::log(p) - std::log1p(-p), at::kDouble); };
  const auto f = [&](double g, double r) { return refined_log_gate(logit(g), logit(r)).exp().item<double>(); };
  EXPECT_NEAR(f(.9, 1 - 1e-12), .99, 1e-9);
  EXPECT_NEAR(f(.9, 1e-12), .81, 1e-9);
  EXPECT_NEAR(f(.9, .5), .9, 1e-12);
  EXPECT_NEAR(f(.01, 1 - 1e-12), .0199, 1e-9);
  EXPECT_NEAR(f(.5, .5), .5, 1e-12);
  const auto z = at::linspace(-30, 30, 241, at::kDouble), zero = at::zeros_like(z);
  EXPECT_LT(difference(refined_log_gate(z, zero), at::log_sigmoid(z)), 1e-12);  // r = 1/2
}

TEST(Regla, GateFormulaAndItsDerivatives) {
  const auto z = at::linspace(-30, 30, 121, at::kDouble);
  const auto g = z.unsqueeze(1).expand({121, 121}).contiguous(), r = z.unsqueeze(0).expand({121, 121}).contiguous();
  const auto a = g.sigmoid(), b = r.sigmoid(), one_less = (-g).sigmoid();
  const auto direct = a * (a + 2 * b * one_less), mine = refined_log_gate(g, r);
  EXPECT_LT(((mine.exp() - direct) / direct).abs().max().item<double>(), 1e-6);
  EXPECT_TRUE(at::isfinite(mine).all().item<bool>());
  EXPECT_LE(mine.max().item<double>(), 0);
  EXPECT_TRUE(at::isfinite(refined_log_gate(g.to(at::kFloat), r.to(at::kFloat))).all().item<bool>());
  // By the logits: df/dg g (1 - g) and df/dr r (1 - r), over f.
  const auto zg = (g / 5).requires_grad_(true), zr = (r / 5).requires_grad_(true);
  refined_log_gate(zg, zr).exp().sum().backward();
  const auto p = zg.detach().sigmoid(), s = zr.detach().sigmoid();
  EXPECT_LT(difference(zg.grad(), p * (1 - p) * (2 * (1 - s) * p + 2 * s * (1 - p))), 1e-8);
  EXPECT_LT(difference(zr.grad(), s * (1 - s) * 2 * p * (1 - p)), 1e-8);
}

TEST(Regla, ScaleIsADeviation) {
  EXPECT_NEAR(feature_scale(32), .0257284, 1e-7);
  EXPECT_NEAR(feature_scale(64), .0181927, 1e-7);
  EXPECT_NEAR(feature_scale(128), .0128642, 1e-7);
  const auto generator = at::detail::createCPUGenerator(3);
  const auto sums =
      (at::randn({1000000, 4}, generator, at::kDouble) + at::randn({1000000, 4}, generator, at::kDouble)).exp().sum(1);
  EXPECT_NEAR(sums.var().item<double>() * std::pow(feature_scale(4), 2), 1, .1);
}

TEST(Regla, NormForgetsWhatIsCommon) {
  Draw x;
  const auto y = x.of(Json::object());
  EXPECT_LT(difference(y, x.of({{"shift", "global"}})), 1e-10);
  EXPECT_LT(difference(y, x.of({{"scale_s", false}})), 1e-10);
  x.k = x.k + 7;
  x.q[5] += 3;
  x.v = x.v * 1e-3;
  EXPECT_LT(difference(y, x.of(Json::object())), 1e-10);
  EXPECT_LT((y.square().mean(-1) - 1).abs().max().item<double>(), 1e-12);
  EXPECT_LT(x.of({{"norm", "layer"}}).mean(-1).abs().max().item<double>(), 1e-12);
}

TEST(Regla, OpenAndClosedGates) {
  Draw x;
  const auto split = [&](const at::Tensor& t, std::int64_t heads) {
    return t.view({x.tokens, heads, 8}).transpose(0, 1).repeat_interleave(4 / heads, 0);
  };
  const auto phi_q = (x.q.view({x.tokens, 4, 8}) - x.q.view({x.tokens, 4, 8}).amax(-1, true)).exp().transpose(0, 1);
  const auto phi_k = split(x.k.exp(), 2), v = split(x.v, 2);
  const auto weights = at::matmul(phi_q, phi_k.transpose(1, 2)).tril() * feature_scale(8);
  const Json plain{{"norm", "none"}, {"shift", "none"}};
  const auto with = [&](const char* gate) {
    auto options = plain;
    options["gate"] = gate;
    return options;
  };
  EXPECT_LT(difference(x.of(with("none")), at::matmul(weights, v)), 1e-10);
  x.z.slice(1, 0, 32).fill_(40);
  EXPECT_LT(difference(x.of(plain), at::matmul(weights, v)), 1e-10);
  x.z.slice(1, 0, 32).fill_(-900);
  EXPECT_LT(difference(x.of(plain), weights.diagonal(0, 1, 2).unsqueeze(-1) * v), 1e-10);
}

TEST(Regla, DenominatorsSumTheSameWeights) {
  // All values 1: each output is its own denominator.
  Draw x;
  x.v.fill_(1);
  for (const char* gate : {"refined", "sigmoid", "scalar", "fast_decay", "none"})
    for (const char* axis : {"value", "key"})
      EXPECT_LT(difference(x.of({{"norm", "none"}, {"denominator", true}, {"gate", gate}, {"gate_axis", axis}}),
                           at::ones({4, x.tokens, 8}, at::kDouble)),
                1e-9)
          << gate << " " << axis;
}

TEST(Regla, LookingAheadChangesNothing) {
  for (const auto type : {at::kDouble, at::kFloat}) {
    const Draw x;
    const auto mixer = mixer_of(x.c, Json::object(), type);
    const auto of = [&](const at::Tensor& k) {
      return heads_of(*mixer, x.c, x.q.to(type), k.to(type), x.v.to(type), x.z.to(type));
    };
    auto later = x.k.clone();
    later.slice(0, 50) += 40;
    const auto before = of(x.k), after = of(later);
    EXPECT_TRUE(at::equal(before.slice(1, 0, 50), after.slice(1, 0, 50)));
    EXPECT_GT(difference(before.slice(1, 50), after.slice(1, 50)), 1e-2);
    EXPECT_TRUE(at::isfinite(after).all().item<bool>());
  }
}

TEST(Regla, ZeroValuesGiveZeroAndNoGradient) {
  Draw x;
  x.v.zero_().requires_grad_(true);
  for (const char* norm : {"rms", "layer"}) {
    const auto y = x.of({{"norm", norm}});
    EXPECT_EQ(y.abs().max().item<double>(), 0);
    y.sum().backward();
    EXPECT_EQ(x.v.grad().abs().max().item<double>(), 0);
  }
}

TEST(Regla, HasTheSizesOfTheBrief) {
  auto c = wide_config(9, 3, 64);
  c.hidden = 576;
  const auto count = [&](const Json& changes) {
    std::int64_t values = 0;
    for (const auto& p : mixer_of(c, changes)->parameters()) values += p.tensor->numel();
    return values;
  };
  EXPECT_EQ(count(Json::object()), 2 * (576 * 576 + 576) + 576);
  EXPECT_EQ(count({{"gate_rank", 8}}), 8 * 576 + 2 * (576 * 8 + 576) + 576);
  EXPECT_EQ(count({{"gate", "scalar"}, {"norm", "none"}}), 9 * 577);
  EXPECT_EQ(mixer_of(c, Json::object())->start(c, 2, at::kFloat)->bytes(), 2 * 4 * (9 * 64 * 64 + 3));
}

TEST(Regla, WarnsOfKeysTooFarApart) {
  const Draw x;
  const auto rope = rope_table(x.c, 0, x.tokens, at::kDouble);
  const auto span = [&](double lowest) {
    auto k = x.k.clone();
    k.slice(0, 0, 5).sub_(lowest);  // early tokens, all channels
    const MixerInput in{x.c, rope, x.z.unsqueeze(0), at::cat({x.q, k, x.v}, 1).unsqueeze(0), 0};
    return mixer_of(x.c, Json::object())->gauges(in).at(0);
  };
  EXPECT_LT(span(0).value, 10);
  EXPECT_EQ(span(0).warning, "");
  EXPECT_NEAR(span(100).value, 100, 10);
  EXPECT_NE(span(100).warning.find("forgotten"), std::string::npos);
}

Decoder small_teacher() {
  auto c = wide_config(4, 2, 8);
  c.layers = 2, c.hidden = 32, c.ffn = 48, c.vocab = 40;
  Random random(1);
  return random_decoder(c, 1, .5, random);
}

/// Random sequences.
struct Draws : BatchSource {
  Random random;
  std::int64_t rows;
  explicit Draws(std::uint64_t seed = 4, std::int64_t rows = 2) : random(seed), rows(rows) {}
  Batch next() override {
    auto ids = at::empty({rows, 33}, at::kLong);
    for (std::int64_t i = 0; i < ids.numel(); ++i)
      ids.mutable_data_ptr<std::int64_t>()[i] = static_cast<std::int64_t>(random.below(40));
    return {ids.slice(1, 0, 32).contiguous(), ids.slice(1, 1).contiguous()};
  }
  Json state() const override { return {}; }
  void restore(const Json&) override {}
};

std::map<std::string, at::Tensor> weights_of(Decoder& decoder) {
  std::map<std::string, at::Tensor> all;
  for (const auto& p : weights(decoder)) all[p.name] = p.tensor->clone();
  return all;
}

TEST(Regla, RandomProjectionsAreTheStudentsOwn) {
  auto teacher = small_teacher();
  const auto before = weights_of(teacher);
  const auto recipe = regla_recipe();
  const Json options =
      recipe_options(recipe, {{"init", "random"}, {"warm_start", "none"}, {"keep_every", 2}});  // the second is kept
  auto student = convert(teacher, recipe, options, 1), other = convert(teacher, recipe, options, 2);
  EXPECT_EQ(student.own, (std::vector<std::string>{"layers.0.qkv.weight", "layers.0.output.weight"}));
  for (const auto& [name, tensor] : weights_of(teacher)) EXPECT_TRUE(at::equal(tensor, before.at(name))) << name;
  const auto others = weights_of(other.decoder);
  for (const auto& [name, tensor] : weights_of(student.decoder)) {
    const bool anew = name.starts_with("layers.0.qkv") || name.starts_with("layers.0.output");
    EXPECT_EQ(at::equal(tensor, before.at(name)), !anew) << name;
    EXPECT_EQ(at::equal(tensor, others.at(name)), !anew) << name;
    if (anew) {
      EXPECT_NEAR(tensor.std().item<double>(), 1 / std::sqrt(32.), .02) << name;
    }
  }
  EXPECT_TRUE(convert(teacher, recipe, recipe.defaults, 1).own.empty());
}

/// Mean squared error of what the attention of layer 0 gives, on the teacher's inputs.
double output_error(const Decoder& teacher, const Decoder& student) {
  const at::NoGradGuard no_grad;
  double error = 0;
  teacher.hidden(
      Draws(9, 32).next().ids, Form::Chunked, [&](std::int64_t i, const MixerInput& in, const at::Tensor& heads) {
        const auto& layer = student.layers[static_cast<std::size_t>(i)];
        const MixerInput mine{in.config, in.rope, in.x, layer.qkv(in.x), in.position};
        const auto joined = [](const at::Tensor& x) { return x.transpose(1, 2).flatten(2); };
        const auto expected = teacher.layers[static_cast<std::size_t>(i)].output(joined(heads));
        error += at::mse_loss(layer.output(joined(layer.mixer->forward(mine, Form::Chunked))), expected).item<double>();
      });
  return error;
}

void train_quietly(const Decoder& teacher, Student& student, const Stage& stage) {
  Draws source;
  TrainOptions quiet;
  quiet.quiet = true;
  train(teacher, student, {stage}, source, quiet);
}

TEST(Regla, WarmStartFitsProjectionsToTheOutputsOfAttention) {
  auto teacher = small_teacher();
  const auto before = weights_of(teacher);
  const auto recipe = regla_recipe();
  std::map<std::string, double> errors;
  for (const char* warm_start : {"gates", "projections"}) {
    const Json options = recipe_options(recipe, {{"warm_start", warm_start}});
    auto student = convert(teacher, recipe, options, 1);
    const double untrained = output_error(teacher, student.decoder);
    auto stage = recipe.stages(options)[0];
    stage.steps = 400;
    train_quietly(teacher, student, stage);
    errors[warm_start] = output_error(teacher, student.decoder);
    EXPECT_LT(errors[warm_start], untrained);
    const bool all = warm_start == std::string("projections");
    EXPECT_EQ(student.own.size(), all ? 4U : 0U);
    for (const auto& [name, tensor] : weights_of(student.decoder)) {
      const bool output = name.ends_with(".output.weight"), inputs = name.ends_with(".qkv.weight");
      if (inputs) {  // 32 rows of q, 16 of k and 16 of v, which stays
        EXPECT_EQ(at::equal(tensor.slice(0, 0, 48), before.at(name).slice(0, 0, 48)), !all) << name;
        EXPECT_TRUE(at::equal(tensor.slice(0, 48), before.at(name).slice(0, 48))) << name;
      } else {
        EXPECT_EQ(at::equal(tensor, before.at(name)), !(all && output)) << name;
      }
    }
  }
  EXPECT_LT(errors["projections"], .95 * errors["gates"]);
  for (const auto& [name, tensor] : weights_of(teacher)) EXPECT_TRUE(at::equal(tensor, before.at(name))) << name;
}

TEST(Regla, WarmStartFitsProjectionsOfMixersWithoutParameters) {
  const auto teacher = small_teacher();
  const auto recipe = regla_recipe();
  const Json options = recipe_options(recipe, {{"feature", "elu1"},
                                               {"gate", "none"},
                                               {"norm", "none"},
                                               {"denominator", true},
                                               {"warm_start", "projections"},
                                               {"keep_every", 2}});  // the second is kept
  auto student = convert(teacher, recipe, options, 1);
  const auto before = weights_of(student.decoder);
  const double untrained = output_error(teacher, student.decoder);
  auto stage = recipe.stages(options)[0];
  stage.steps = 100;
  train_quietly(teacher, student, stage);
  EXPECT_LT(output_error(teacher, student.decoder), untrained);
  for (const auto& [name, tensor] : weights_of(student.decoder)) {
    const bool trained = name == "layers.0.qkv.weight" || name == "layers.0.output.weight";
    EXPECT_EQ(at::equal(tensor, before.at(name)), !trained) << name;
  }
}

TEST(Regla, Stages) {
  const auto recipe = regla_recipe();
  const auto stages = [&](const Json& changes) { return recipe.stages(recipe_options(recipe, changes)); };
  EXPECT_EQ(stages(Json::object()).size(), 2);
  EXPECT_TRUE(stages(Json::object())[0].projections.empty());
  EXPECT_EQ(stages({{"warm_start", "none"}}).size(), 1);
  EXPECT_EQ(stages({{"warm_start", "projections"}, {"init", "random"}})[0].projections.size(), 4);
}

TEST(Regla, RefusesWhatCannotBe) {
  const auto c = wide_config(4, 2, 4);
  const auto refused = [&](const Json& changes) { return error_message([&] { mixer_of(c, changes); }); };
  for (const char* option : {"feature", "shift", "gate", "gate_axis", "norm"})
    EXPECT_NE(refused({{option, "other"}}).find(option), std::string::npos);
  EXPECT_NE(refused({{"gate_rank", -1}}).find("gate_rank"), std::string::npos);
  EXPECT_NE(refused({{"init", "random"}}).find("warm_start"), std::string::npos);
  EXPECT_NE(refused({{"init", "zero"}}).find("init"), std::string::npos);
  EXPECT_NE(refused({{"feature", "none"}, {"denominator", true}}).find("denominator"), std::string::npos);
  EXPECT_NE(refused({{"window", 8}}).find("window"), std::string::npos);
  const auto ahead = mixer_of(c, {{"shift", "global"}});
  EXPECT_NE(error_message([&] { ahead->start(c, 1, at::kDouble); }).find("global"), std::string::npos);

  // A key that is not finite would stay in the maximum.
  const auto mixer = mixer_of(c, Json::object());
  const auto state = mixer->start(c, 1, at::kDouble);
  auto qkv = at::ones({1, 3, 32}, at::kDouble);
  qkv[0][1][17] = std::nan("");
  const auto rope = rope_table(c, 0, 3, at::kDouble);
  const MixerInput in{c, rope, at::ones({1, 3, c.hidden}, at::kDouble), qkv, 0};
  EXPECT_NE(error_message([&] { mixer->extend(in, *state); }, ErrorKind::Computation).find("key"), std::string::npos);
}

}  // namespace
}  // namespace unbend::lm
