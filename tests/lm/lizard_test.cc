// Lizard's mixer against the oracles of its brief: the definition token by token, its forms with the gate in a table
// and in the exponents, a worked example, limits and signs of life.
#include "unbend/lm/lizard.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>

#include "tests/error_message.h"
#include "tests/lm/one_mixer.h"
#include "unbend/attention/window.h"
#include "unbend/lm/delta.h"
#include "unbend/lm/distill.h"
#include "unbend/lm/evaluate.h"
#include "unbend/lm/projection.h"

namespace unbend::lm {
namespace {

std::unique_ptr<Mixer> mixer_of(const DecoderConfig& c, const Json& changes, at::ScalarType type = at::kDouble) {
  return one_mixer("lizard", c, changes, type);
}

at::Tensor& parameter(Mixer& mixer, const std::string& name) {
  for (const auto& p : mixer.parameters())
    if (p.name == name) return *p.tensor;
  throw std::runtime_error("no parameter " + name);
}

struct Rows {
  at::Tensor q, k, v;  // [T, H d], [T, Hkv d], [T, Hkv d]
};

Rows random_rows(const DecoderConfig& c, std::int64_t tokens, double size = 1) {
  Random random(3);
  const auto draw = [&](std::int64_t heads) {
    return random_normal({tokens, heads * c.head_dim}, size, random).to(at::kDouble);
  };
  auto q = draw(c.heads), k = draw(c.kv_heads), v = draw(c.kv_heads);
  return {q, k, v};
}

/// Heads [H, T, d] for rows and the layer's input x [T, hidden] (0: gates stay where they start).
at::Tensor heads_of(const Mixer& mixer, const DecoderConfig& c, const Rows& rows, at::Tensor x = {},
                    at::ScalarType type = at::kDouble, Form form = Form::Chunked) {
  const auto tokens = rows.q.size(0);
  const auto rope = rope_table(c, 0, tokens, type);
  if (!x.defined()) x = at::zeros({tokens, c.hidden}, at::kDouble);
  const MixerInput in{c, rope, x.unsqueeze(0).to(type), at::cat({rows.q, rows.k, rows.v}, 1).unsqueeze(0).to(type), 0};
  return mixer.forward(in, form)[0];
}

at::Tensor rows_of(const std::vector<double>& values, std::int64_t width) {
  return at::tensor(values, at::kDouble).view({-1, width});
}

// ---- The gated branch in the brief's three forms, of one head: log-features lq, lk [T, F], v [T, d], log gamma [T]

at::Tensor gated_by_loop(const at::Tensor& lq, const at::Tensor& lk, const at::Tensor& v, const at::Tensor& g) {
  auto sum = at::zeros({lk.size(1), v.size(1)}, at::kDouble), weight = at::zeros({lk.size(1)}, at::kDouble);
  std::vector<at::Tensor> rows;
  for (std::int64_t t = 0; t < v.size(0); ++t) {
    sum = g[t].exp() * sum + at::outer(lk[t].exp(), v[t]);
    weight = g[t].exp() * weight + lk[t].exp();
    const auto q = lq[t].exp();
    rows.push_back(at::mv(sum.t(), q) / at::dot(weight, q));
  }
  return at::stack(rows);
}

at::Tensor gated_by_table(const at::Tensor& lq, const at::Tensor& lk, const at::Tensor& v, const at::Tensor& g) {
  const auto c = g.cumsum(0);
  const auto decay = (c.unsqueeze(1) - c.unsqueeze(0)).clamp_max(0).exp().tril();
  const auto weights = at::matmul(lq.exp(), lk.exp().t()) * decay;
  return at::matmul(weights, v) / weights.sum(1, true);
}

/// The paper's: the gate within the exponents of the features, chunk by chunk around the chunk's middle.
at::Tensor gated_by_exponents(const at::Tensor& lq, const at::Tensor& lk, const at::Tensor& v, const at::Tensor& g,
                              std::int64_t chunk) {
  const auto ones = at::constant_pad_nd(v, {0, 1}, 1);
  auto state = at::zeros({lk.size(1), ones.size(1)}, at::kDouble);
  std::vector<at::Tensor> parts;
  std::vector<std::pair<std::int64_t, std::int64_t>> pieces;
  const std::function<void(std::int64_t, std::int64_t)> cut = [&](std::int64_t first, std::int64_t last) {
    const auto reach = g.slice(0, first + 1, last).sum().abs().item<double>() / 2;
    if (reach > 40 && last - first > 1) {
      cut(first, (first + last) / 2);
      cut((first + last) / 2, last);
    } else {
      pieces.emplace_back(first, last);
    }
  };
  for (std::int64_t at = 0; at < v.size(0); at += chunk) cut(at, std::min(at + chunk, v.size(0)));
  for (const auto& [first, last] : pieces) {
    const auto part = [&, first = first, last = last](const at::Tensor& x) { return x.slice(0, first, last); };
    const auto b = part(g).cumsum(0).unsqueeze(1);
    const auto middle = (b[0] + b[-1]) / 2;
    const auto q = (part(lq) + b - middle).exp(), k = (part(lk) - b + middle).exp();
    const auto sums = at::matmul(at::matmul(q, k.t()).tril(), part(ones)) + at::matmul((part(lq) + b).exp(), state);
    parts.push_back(sums.narrow(1, 0, v.size(1)) / sums.narrow(1, v.size(1), 1));
    state = b[-1].exp() * state + at::matmul((part(lk) + b[-1] - b).exp().t(), part(ones));
  }
  return at::cat(parts);
}

class Gated : public testing::TestWithParam<std::string> {};

TEST_P(Gated, EqualsLoopTableAndExponents) {
  const auto c = config_of(2, 1, 4);
  const auto rows = random_rows(c, 200);
  Random random(8);
  const auto x = random_normal({200, c.hidden}, 1, random).to(at::kDouble);
  const bool soft = GetParam() == "softmax";
  for (const double bias : {std::log(1e-6 / (1 - 1e-6)), 0., 3., 40.}) {  // gamma from 1e-6 to 1
    auto mixer = mixer_of(c, {{"window", 5}, {"features", GetParam()}, {"branches", "gate"}, {"gate_bias", bias}});
    const bool varied = bias == 0 || bias == 3;
    if (varied) parameter(*mixer, "gate_weight").fill_(.5);
    for (const auto* name : {"query_map", "key_map"})
      parameter(*mixer, name).add_(random_normal({2, 4, 4}, .3, random).to(at::kDouble));
    const auto g =
        at::log_sigmoid((varied ? .5 * x.sum(1) : at::zeros({200}, at::kDouble)) + parameter(*mixer, "gate_bias"));
    const auto y = heads_of(*mixer, c, rows, x);
    const auto features = [&](const at::Tensor& z, const std::string& map, std::int64_t head) {
      const auto p = at::matmul(z, parameter(*mixer, map)[head]);
      return soft ? at::cat({at::log_softmax(p, 1), at::log_softmax(-p, 1)}, 1) : at::cat({p, -p}, 1);
    };
    for (std::int64_t h = 0; h < 2; ++h) {
      const auto lq = features(rows.q.narrow(1, 4 * h, 4), "query_map", h), lk = features(rows.k, "key_map", h);
      EXPECT_LT(difference(y[h], gated_by_loop(lq, lk, rows.v, g)), 1e-12) << bias;
      EXPECT_LT(difference(y[h], gated_by_table(lq, lk, rows.v, g)), 1e-12) << bias;
      for (const std::int64_t chunk : {1, 16, 64, 200})
        EXPECT_LT(difference(y[h], gated_by_exponents(lq, lk, rows.v, g, chunk)), 1e-11) << bias << " " << chunk;
    }
    auto single = mixer->clone();
    for (const auto& p : single->parameters()) *p.tensor = p.tensor->to(at::kFloat);
    EXPECT_LT(difference(heads_of(*single, c, rows, x, at::kFloat), y), 1e-4) << bias;
    EXPECT_EQ(difference(y[0], rows.v) < 1e-3, bias < -10);  // hardly anything but the last value
  }
}

TEST_P(Gated, IsAMeanOfValues) {
  const auto c = config_of(4, 2, 4);
  auto rows = random_rows(c, 60);
  rows.v.fill_(1);
  const auto y = heads_of(*mixer_of(c, {{"features", GetParam()}, {"branches", "gate"}}), c, rows);
  EXPECT_LT((y - 1).abs().max().item<double>(), 1e-12);
}

INSTANTIATE_TEST_SUITE_P(Features, Gated, testing::Values("softmax", "exp"), [](const auto& i) { return i.param; });

TEST(Lizard, ExponentialFeaturesOfAnySizeStayFinite) {
  const auto c = config_of(2, 2, 4);
  const auto rows = random_rows(c, 90, 200);  // exp overflows from 88.7 on in float32
  auto mixer = mixer_of(c, {{"window", 8}, {"features", "exp"}, {"gate_bias", -2.}}, at::kFloat);
  const auto y = heads_of(*mixer, c, rows, {}, at::kFloat);
  EXPECT_TRUE(at::isfinite(y).all().item<bool>());
  EXPECT_LT(y.abs().max().item<double>(), 2.01 * rows.v.abs().max().item<double>());
}

TEST(Lizard, WorkedExample) {
  const auto c = config_of(1, 1, 2);
  const Rows rows{rows_of({1, 0, 0, 1, 1, 1}, 2), rows_of({0, 1, 1, 0, 2, 1}, 2), rows_of({1, 0, 0, 1, 1, 2}, 2)};
  // The layer's input is the gate's logit: gamma = .9, .5, .8.
  auto x = at::zeros({3, c.hidden}, at::kDouble);
  x.select(1, 0).copy_(at::tensor({.9, .5, .8}, at::kDouble).logit());
  const auto y = [&](const std::string& branches) {
    auto mixer = mixer_of(c, {{"window", 2}, {"meta", 1}, {"branches", branches}});
    parameter(*mixer, "gate_weight")[0][0] = 1;
    return heads_of(*mixer, c, rows, x)[0];
  };
  EXPECT_LT(difference(y("gate"), rows_of({1, 0, .4355194798, .5644805202, .6363636364, 1.2727272727}, 2)), 1e-9);
  EXPECT_LT(difference(y("anchor"), rows_of({.5, 0, .5034898435, .2482550783, .7336811065, 1.6457323677}, 2)), 1e-9);
  EXPECT_LT(difference(y("both"), rows_of({1.5, 0, .9390093232, .8127355985, 1.3700447429, 2.9184596404}, 2)), 1e-9);
}

TEST(Lizard, SinksTakeTheirShareAndNoMore) {
  const auto c = config_of(2, 1, 4);
  auto rows = random_rows(c, 40);
  const auto anchored = [&](const Json& changes, const Rows& of) {
    Json options{{"window", 6}, {"branches", "anchor"}};
    options.update(changes);
    return heads_of(*mixer_of(c, options), c, of);
  };
  EXPECT_LT(difference(anchored({{"meta", 4}, {"meta_start", .3}}, rows),
                       anchored({{"meta", 1}, {"meta_start", .3 + std::log(4.)}}, rows)),
            1e-6);
  const auto plain = anchored({{"meta", 0}}, rows);
  EXPECT_LT(difference(anchored({{"meta_start", -80.}}, rows), plain), 1e-12);
  const auto heads = [](const at::Tensor& x) { return x.view({x.size(0), -1, 4}).transpose(0, 1).unsqueeze(0); };
  const auto softmax = window_attention(heads(rows.q), heads(rows.k), heads(rows.v), {6, 0, c.scale()});
  EXPECT_LT(difference(plain, softmax.out[0]), 1e-12);
  auto ones = rows;
  ones.v = at::ones_like(rows.v);
  const auto share = 1 - 4 / (4 + softmax.lse[0].exp());
  EXPECT_LT(difference(anchored(Json::object(), ones), share.unsqueeze(2).expand({-1, -1, 4})), 1e-12);
  for (auto* x : {&rows.q, &rows.k}) x->mul_(200);  // scores far beyond what exp can take
  EXPECT_TRUE(at::isfinite(anchored(Json::object(), rows)).all().item<bool>());
}

TEST(Lizard, CombinesItsBranchesAsTold) {
  const auto c = config_of(2, 2, 4);
  const auto rows = random_rows(c, 40);
  const auto y = [&](const Json& changes) {
    Json options{{"window", 6}};
    options.update(changes);
    return heads_of(*mixer_of(c, options), c, rows);
  };
  const auto gate = y({{"branches", "gate"}}), anchor = y({{"branches", "anchor"}});
  EXPECT_LT(difference(y({{"alpha", .75}}), gate + .75 * anchor), 1e-12);
  EXPECT_LT(difference(y({{"alpha", -.5}, {"convex", true}}), (gate + .5 * anchor) / 1.5), 1e-12);
  EXPECT_GT(difference(y({{"window_rope", true}, {"branches", "anchor"}}), anchor), 1e-3);
  // One denominator: all weights together are the sinks' complement, so that without sinks values of 1 stay 1.
  auto ones = rows;
  ones.v = at::ones_like(rows.v);
  const auto joint = heads_of(*mixer_of(c, {{"window", 6}, {"gla_norm", "joint"}, {"meta", 0}}), c, ones);
  EXPECT_LT((joint - 1).abs().max().item<double>(), 1e-12);
  EXPECT_GT(difference(y({{"gla_norm", "joint"}}), (gate + anchor) / 2), 1e-3);
}

TEST(Lizard, GatesChangeTheOutput) {
  const auto c = config_of(4, 2, 4);
  const auto rows = random_rows(c, 40);
  Random random(8);
  const auto x = random_normal({40, c.hidden}, 1, random).to(at::kDouble);
  for (const std::string features : {"softmax", "exp"})
    for (const std::string gate : {"sigmoid", "mamba2", "gla"}) {
      auto mixer = mixer_of(c, {{"features", features}, {"gate", gate}, {"gate_per_head", true}});
      const auto before = heads_of(*mixer, c, rows, x);
      parameter(*mixer, "gate_weight").add_(.5);
      EXPECT_GT(difference(before, heads_of(*mixer, c, rows, x)), 1e-2) << features << " " << gate;
    }
  // Mamba2's rate is a power of gamma; pooled keys of the head's width are the keys themselves.
  auto mamba2 = mixer_of(c, {{"gate", "mamba2"}, {"branches", "gate"}});
  parameter(*mamba2, "gate_rate").fill_(std::log(2.));
  const double quarter = std::log(.25 / .75);
  const auto sigmoid = mixer_of(c, {{"branches", "gate"}});
  parameter(*sigmoid, "gate_bias").fill_(quarter);
  EXPECT_LT(difference(heads_of(*mamba2, c, rows), heads_of(*sigmoid, c, rows)), 1e-12);
  auto still = rows;
  still.k = at::full_like(rows.k, quarter);
  const auto pooled = mixer_of(c, {{"gate", "pooling"}, {"gate_per_head", true}, {"branches", "gate"}});
  EXPECT_LT(difference(heads_of(*pooled, c, still), heads_of(*sigmoid, c, still)), 1e-12);
}

// ---- In a decoder

Decoder small_teacher() {
  auto c = config_of(4, 2, 8);
  c.hidden = 24, c.ffn = 40, c.vocab = 50;
  Random random(1);
  return random_decoder(c, 1, .5, random);
}

Student student_of(const Decoder& teacher, const Json& changes) {
  const auto recipe = lizard_recipe();
  Json options{{"window", 6}, {"lora_rank", 2}};
  options.update(changes);
  return convert(teacher, recipe, recipe_options(recipe, options), 3);
}

TEST(Lizard, HasNoPositions) {
  const auto teacher = small_teacher();
  const auto ids = at::arange(30).remainder(50).view({1, 30});
  for (const bool rope : {false, true}) {
    const auto student = student_of(teacher, {{"window_rope", rope}});
    auto early = student.decoder.start(), late = student.decoder.start();
    late.position = 300;
    const auto a = student.decoder.extend(ids, early), b = student.decoder.extend(ids, late);
    EXPECT_LT(difference(a, b), 1e-4) << rope;
    EXPECT_EQ(at::equal(a, b), !rope);
  }
}

class Counting : public BatchSource {
 public:
  Batch next() override {
    auto ids = (at::arange(66) * 7 + count_++ * 5).remainder(50).view({2, 33});
    return {ids.slice(1, 0, 32).contiguous(), ids.slice(1, 1).contiguous()};
  }
  Json state() const override { return count_; }
  void restore(const Json& state) override { count_ = state.get<std::int64_t>(); }

 private:
  std::int64_t count_ = 0;
};

TrainReport train_quietly(const Decoder& teacher, Decoder& student, Stage stage) {
  TrainOptions options;
  options.quiet = true;
  Counting source;
  return train(teacher, student, {std::move(stage)}, source, options);
}

TEST(Lizard, TransferLeavesTheTeacherAndOtherLayersAlone) {
  auto teacher = small_teacher();
  const auto ids = at::arange(40).remainder(50).view({1, 40});
  const auto logits = teacher.logits(teacher.hidden(ids));
  auto stage = lizard_recipe().stages(lizard_recipe().defaults)[0];
  stage.tokens = 20 * 64;
  stage.clip = 0;  // one clip for all layers would tie them
  auto one = student_of(teacher, Json::object()), other = student_of(teacher, Json::object());
  for (const auto& p : adapter(other.decoder))
    if (p.name.starts_with("layers.1.mixer.")) p.tensor->add_(.3);
  train_quietly(teacher, one.decoder, stage);
  train_quietly(teacher, other.decoder, stage);
  EXPECT_TRUE(at::equal(teacher.logits(teacher.hidden(ids)), logits));
  const auto fresh = student_of(teacher, Json::object());
  auto start = fresh.decoder;
  const auto a = adapter(one.decoder), b = adapter(other.decoder), before = adapter(start);
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i].name.find(".mixer.") == std::string::npos) continue;
    EXPECT_FALSE(at::equal(*a[i].tensor, *before[i].tensor)) << a[i].name;
    EXPECT_EQ(at::equal(*a[i].tensor, *b[i].tensor), a[i].name.starts_with("layers.0.")) << a[i].name;
  }
}

TEST(Lizard, FreezesItsModulesInTheSecondStageIfTold) {
  const auto teacher = small_teacher();
  for (const bool freeze : {false, true}) {
    auto student = student_of(teacher, {{"freeze_mixer", freeze}});
    auto stage = lizard_recipe().stages(student.options)[1];
    stage.tokens = 5 * 64;
    const auto before = parameter(*student.decoder.layers[0].mixer, "alpha").clone();
    train_quietly(teacher, student.decoder, stage);
    EXPECT_EQ(at::equal(parameter(*student.decoder.layers[0].mixer, "alpha"), before), freeze);
  }
}

TEST(Lizard, PresetsDifferAndGiveWayToOptions) {
  const auto recipe = lizard_recipe();
  const auto paper = recipe_options(recipe, Json::object());
  const auto recommended = recipe_options(recipe, {{"preset", "recommended"}, {"gate_bias", 1.0}});
  EXPECT_EQ(paper, recipe_options(recipe, {{"preset", "paper"}}));
  EXPECT_FALSE(paper["window_rope"].get<bool>());
  EXPECT_TRUE(recommended["window_rope"].get<bool>());
  EXPECT_EQ(recommended["gate_bias"].get<double>(), 1);
  EXPECT_EQ(recommended, recipe_options(recipe, recommended));
  EXPECT_NE(error_message(
                [&] {
                  recipe_options(recipe, {{"preset", "best"}});
                },
                ErrorKind::Usage)
                .find("recommended"),
            std::string::npos);
  EXPECT_LT(recipe.stages(paper)[0].mixer_learning_rate, recipe.stages(recommended)[0].mixer_learning_rate);
}

TEST(Lizard, WarnsOfGatesAndBranchesThatDoNothing) {
  const auto c = config_of(2, 1, 4);
  const auto rows = random_rows(c, 40);
  const auto rope = rope_table(c, 0, 40, at::kDouble);
  const MixerInput in{c, rope, at::zeros({1, 40, c.hidden}, at::kDouble),
                      at::cat({rows.q, rows.k, rows.v}, 1).unsqueeze(0), 0};
  const auto warnings = [&](const Json& changes) {
    std::string all;
    for (const auto& gauge : mixer_of(c, changes)->gauges(in)) all += gauge.warning;
    return all;
  };
  EXPECT_EQ(warnings(Json::object()), "");
  EXPECT_NE(warnings({{"gate_bias", 9.}}).find("hardly"), std::string::npos);
  EXPECT_NE(warnings({{"gate_bias", -9.}}).find("everything"), std::string::npos);
  EXPECT_NE(warnings({{"alpha", -.1}}).find("switched off"), std::string::npos);
  auto uneven = mixer_of(c, {{"alpha_per_head", true}});
  parameter(*uneven, "alpha")[1] = -.1;
  EXPECT_GT(uneven->gauges(in)[1].value, 0);
  EXPECT_NE(uneven->gauges(in)[1].warning.find("switched off"), std::string::npos);
  EXPECT_EQ(mixer_of(c, {{"branches", "anchor"}})->gauges(in)[2].value, 0);
}

TEST(Lizard, RefusesWhatCannotBe) {
  const auto c = config_of(4, 2, 4);
  const auto refused = [&](const Json& changes) { return error_message([&] { mixer_of(c, changes); }); };
  EXPECT_NE(refused({{"meta", -1}}).find("meta"), std::string::npos);
  EXPECT_NE(refused({{"feature_dim", -1}}).find("feature_dim"), std::string::npos);
  EXPECT_NE(refused({{"feature_dim", 3}}).find("identity"), std::string::npos);
  EXPECT_NE(refused({{"gla_norm", "column"}}).find("gla_norm"), std::string::npos);
  EXPECT_NE(refused({{"features", "relu"}}).find("features"), std::string::npos);
  EXPECT_NE(refused({{"gate", "lstm"}}).find("gate"), std::string::npos);
  EXPECT_NE(refused({{"features", "exp"}, {"gla_norm", "joint"}}).find("row"), std::string::npos);
  EXPECT_NE(refused({{"convex", true}, {"gla_norm", "joint"}}).find("convex"), std::string::npos);
  EXPECT_NE(refused({{"gate_tau", 0.}}).find("gate_tau"), std::string::npos);
  EXPECT_NE(error_message([&] { student_of(small_teacher(), {{"window", 0}}); }).find("window"), std::string::npos);
}

TEST(Train, RefusesWhatTeachesNothing) {
  struct Useless : Counting {
    bool short_rows;
    explicit Useless(bool s) : short_rows(s) {}
    Batch next() override {
      auto batch = Counting::next();
      if (short_rows) return {batch.ids.slice(1, 0, 1).contiguous(), batch.targets.slice(1, 0, 1).contiguous()};
      return {batch.ids, at::full_like(batch.targets, -1)};
    }
  };
  const auto teacher = small_teacher();
  auto student = student_of(teacher, Json::object());
  const auto stages = lizard_recipe().stages(student.options);
  TrainOptions options;
  options.quiet = true;
  Useless tokens(true), targets(false);
  EXPECT_NE(error_message([&] { train(teacher, student.decoder, {stages[0]}, tokens, options); }).find("at least 2"),
            std::string::npos);
  EXPECT_NE(error_message([&] { train(teacher, student.decoder, {stages[1]}, targets, options); }).find("target"),
            std::string::npos);
}

}  // namespace
}  // namespace unbend::lm
