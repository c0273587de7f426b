// The networks that scale against plain definitions, and the diagnostics against closed forms.
#include "unbend/tangent/scaling.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "tests/error_message.h"
#include "unbend/base/error.h"
#include "unbend/base/files.h"

namespace unbend {
namespace {

using ::testing::HasSubstr;

at::Tensor normal(at::IntArrayRef sizes, uint64_t seed) {
  return at::randn(sizes, at::make_generator<at::CPUGeneratorImpl>(seed), at::kDouble);
}

at::Tensor some_ids(at::IntArrayRef sizes, int64_t bound, uint64_t seed) {
  return at::randint(bound, sizes, at::make_generator<at::CPUGeneratorImpl>(seed));
}

// A transformer with random weights, norms and biases too, in float64.
Transformer random_transformer(const TransformerConfig& config) {
  auto net = make_transformer(config);
  uint64_t seed = 1;
  for (const auto& p : parameters(net)) *p.tensor = .5 * normal(p.tensor->sizes(), ++seed);
  net.multipliers = {1.3, .7, .4, .4};
  return net;
}

// Nothing of ours but the weights.
at::Tensor transformer_definition(const Transformer& net, const at::Tensor& ids) {
  const auto& c = net.config;
  const auto norm = [](const LayerNorm& n, const at::Tensor& x) {
    const auto centred = x - x.mean(-1, true);
    return centred / (centred.square().mean(-1, true) + n.eps).sqrt() * n.weight + n.bias;
  };
  const auto apply = [](const Linear& l, const at::Tensor& x) { return at::matmul(x, l.weight.t()) + l.bias; };
  const int64_t length = ids.size(1), d = c.width / c.heads;
  auto x = (net.tokens.index({ids}) + net.positions.slice(0, 0, length)) * net.multipliers.input;
  const auto hidden = at::ones({length, length}, at::kBool).triu(1);
  const double scale = c.attention_scale == AttentionScale::InverseWidth ? 1. / d : 1 / std::sqrt(d);
  for (const auto& b : net.blocks) {
    const auto packed = apply(b.qkv, norm(b.attention_norm, x));
    std::vector<at::Tensor> heads;
    for (int64_t h = 0; h < c.heads; ++h) {
      const auto part = [&](int64_t which) { return packed.narrow(-1, which * c.width + h * d, d); };
      const auto scores = at::matmul(part(0), part(1).transpose(1, 2)) * scale;
      heads.push_back(at::matmul(at::softmax(scores.masked_fill(hidden, -INFINITY), -1), part(2)));
    }
    x = x + net.multipliers.residual * apply(b.output, at::cat(heads, -1));
    const auto u = apply(b.up, norm(b.perceptron_norm, x));
    x = x + net.multipliers.residual * apply(b.down, u * .5 * (1 + at::erf(u / std::sqrt(2.))));
  }
  const auto& out = c.tied ? net.tokens : net.unembedding;
  return at::matmul(norm(net.final_norm, x), out.t()) * net.multipliers.logits;
}

const TransformerConfig kSmall{.vocabulary = 11, .context = 10, .width = 12, .depth = 3, .heads = 3};

TEST(Transformer, EqualsItsDefinition) {
  const auto ids = some_ids({2, 9}, 11, 1);
  for (const bool tied : {false, true})
    for (const auto scale : {AttentionScale::InverseWidth, AttentionScale::InverseRoot}) {
      auto config = kSmall;
      config.tied = tied, config.attention_scale = scale;
      const auto net = random_transformer(config);
      Taps taps;
      const auto logits = net.logits(ids, &taps);
      EXPECT_LT((logits - transformer_definition(net, ids)).abs().max().item<double>(), 1e-11);
      ASSERT_EQ(taps.streams.size(), 3);
      EXPECT_TRUE(taps.stream.equal(taps.streams.back()));
      const auto last = taps.streams[1] + .7 * taps.attention[2] + .7 * taps.perceptron[2];
      EXPECT_LT((last - taps.stream).abs().max().item<double>(), 1e-12);
    }
}

TEST(Transformer, GradientsAreThoseOfTheDefinition) {
  auto net = random_transformer(kSmall);
  const auto all = parameters(net);
  std::vector<at::Tensor> leaves;
  for (const auto& p : all) leaves.push_back(p.tensor->requires_grad_());
  const auto ids = some_ids({2, 9}, 11, 2);
  const auto c = normal({2, 9, 11}, 3);
  const auto ours = torch::autograd::grad({net.logits(ids)}, leaves, {c});
  const auto expected = torch::autograd::grad({transformer_definition(net, ids)}, leaves, {c});
  for (std::size_t i = 0; i < all.size(); ++i)
    EXPECT_TRUE(at::allclose(ours[i], expected[i], 1e-9, 1e-9)) << all[i].name;
}

TEST(Transformer, GenerationGivesTheLogitsOfTraining) {
  const auto ids = some_ids({2, 10}, 11, 4);
  const auto net = random_transformer(kSmall);
  const auto whole = net.logits(ids);
  for (const std::vector<int64_t>& pieces : {std::vector<int64_t>(10, 1), {4, 1, 3, 2}, {10}}) {
    auto state = net.start(2);
    std::vector<at::Tensor> parts;
    int64_t at = 0;
    for (const int64_t count : pieces) parts.push_back(net.extend(ids.narrow(1, at, count), state)), at += count;
    EXPECT_LT((at::cat(parts, 1) - whole).abs().max().item<double>(), 1e-12);
    EXPECT_THROW(net.extend(ids.narrow(1, 0, 1), state), Error);  // the context is full
  }
}

TEST(Transformer, GenerationOfNanoGptLacksTheFactorOfWidth) {
  RuleOptions options;
  options.source = RuleSource::NanoGpt;
  auto net = make_transformer(kSmall);
  const auto all = parameters(net);
  const auto rules = parameterize(shapes(all), {12, 3, 4}, {4, 3, 4}, {}, find_parameterization("completep"), options);
  Random random(1);
  initialize(rules, all, random);
  net.multipliers = rules.multipliers;
  const auto ids = some_ids({1, 5}, 11, 5);
  auto state = net.start(1);
  EXPECT_TRUE(at::allclose(net.extend(ids, state), 3 * net.logits(ids), 1e-5, 1e-6));
}

TEST(Transformer, RefusesWhatDoesNotFit) {
  EXPECT_THAT(
      error_message([] { make_transformer({.vocabulary = 5, .context = 5, .width = 10, .depth = 1, .heads = 3}); }),
      HasSubstr("3 heads do not divide a width of 10"));
  EXPECT_THROW(make_transformer({.vocabulary = 5, .context = 5, .width = 10, .depth = 0, .heads = 2}), Error);
  const auto net = random_transformer(kSmall);
  EXPECT_THROW(net.logits(some_ids({2, 11}, 11, 1)), Error);
  EXPECT_THROW(net.logits(at::full({1, 2}, 11)), Error);
  auto state = net.start(1);
  EXPECT_THROW(net.extend(some_ids({2, 1}, 11, 1), state), Error);
}

TEST(ResidualMlp, EqualsItsDefinition) {
  auto net = make_residual_mlp({.inputs = 6, .classes = 4, .width = 8, .depth = 2});
  uint64_t seed = 1;
  for (const auto& p : parameters(net)) *p.tensor = normal(p.tensor->sizes(), ++seed);
  net.multipliers = {2, .3, .6, .6};
  const auto x = normal({5, 6}, 1);
  const auto norm = [](const LayerNorm& n, const at::Tensor& h) {
    return at::layer_norm(h, {8}, n.weight, n.bias, n.eps);
  };
  auto h = at::matmul(x, net.embedding.t()) * 2;
  for (const auto& b : net.blocks) {
    const auto u = at::relu(at::matmul(norm(b.norm, h), b.up.weight.t()) + b.up.bias);
    EXPECT_EQ(u.size(-1), 16);
    h = h + .3 * (at::matmul(u, b.down.weight.t()) + b.down.bias);
  }
  const auto expected = at::matmul(norm(net.final_norm, h), net.unembedding.t()) * .6;
  EXPECT_LT((net.logits(x) - expected).abs().max().item<double>(), 1e-11);
  EXPECT_THROW(net.logits(normal({5, 7}, 1)), Error);
}

// F(W1, W2) = W2 W1 h: the tangent gives dW2 W1 h + W2 dW1 h and misses dW2 dW1 h.
TEST(Laziness, OfATwoMatrixBlockIsItsFormula) {
  const auto w1 = normal({7, 5}, 1), w2 = normal({6, 7}, 2), d1 = .1 * normal({7, 5}, 3), d2 = .1 * normal({6, 7}, 4),
             h = normal({5, 9}, 5);
  const auto distance = tangent_distance(
      [&](const Tensors& w) -> Tensors { return {at::matmul(w[1], at::matmul(w[0], h))}; }, {w1, w2}, {d1, d2});
  const auto mm = [](const at::Tensor& a, const at::Tensor& b) { return at::matmul(a, b); };
  const double missed = mm(d2, mm(d1, h)).norm().item<double>();
  const double linear = (mm(d2, mm(w1, h)) + mm(w2, mm(d1, h))).norm().item<double>();
  EXPECT_NEAR(distance.relative(), missed / linear, 1e-12);
  EXPECT_NEAR(distance.linear, linear, 1e-12 * linear);
  EXPECT_NEAR(distance.change, (mm(w2 + d2, mm(w1 + d1, h)) - mm(w2, mm(w1, h))).norm().item<double>(), 1e-11);
}

TEST(Laziness, OfABlockIsOfFirstOrderInTheRateAndLeavesTheNetworkAsItWas) {
  const auto x = normal({30, 5}, 1), y = at::arange(30) % 3;
  const auto tokens = some_ids({3, 8}, 11, 1), next = some_ids({3, 8}, 11, 2);
  const Family perceptron = residual_mlp_family(5, 3, {8, 2}), decoder = transformer_family(kSmall, {12, 3, 4});
  for (const auto& [family, examples] :
       {std::pair{perceptron, Examples{x.to(at::kFloat), y}}, {decoder, Examples{tokens, next}}}) {
    std::vector<double> relative;
    for (const double rate : {2e-3, 1e-3, 5e-4}) {
      BaseSettings settings;
      settings.lr = rate, settings.init_std = .3;
      auto net = family({12, 3, 4}, settings, find_parameterization("completep"), 1);
      const double loss = net.loss(examples).item<double>();
      const auto distance = block_laziness(net, examples, 1);
      relative.push_back(distance.relative());
      EXPECT_NEAR(distance.change / distance.linear, 1, .2);
      Examples wide = examples;
      if (at::isFloatingType(wide.inputs.scalar_type())) wide.inputs = wide.inputs.to(at::kDouble);
      EXPECT_NEAR(net.loss(wide).item<double>(), loss, 1e-5);
      EXPECT_EQ(net.parameters[0].tensor->scalar_type(), at::kDouble);
      EXPECT_THROW(block_laziness(net, examples, 3), Error);
    }
    // Kinks of relu are of no order.
    EXPECT_NEAR(relative[0] / relative[1], 2, at::isFloatingType(examples.inputs.scalar_type()) ? 1 : .35);
    EXPECT_NEAR(relative[1] / relative[2], 2, at::isFloatingType(examples.inputs.scalar_type()) ? 1 : .35);
  }
}

// Adam's eps scales like the gradients that it stands beside: entries of block weights' gradients are of size
// 1 / (m_N m_L^alpha).
TEST(Scaling, GradientsOfBlocksFollowTheEpsRows) {
  const auto x = normal({128, 64}, 1).to(at::kFloat), y = at::arange(128) % 5;
  const auto median = [&](const NetworkSize& size, const Parameterization& p) {
    std::vector<double> all;
    for (uint64_t seed = 1; seed <= 5; ++seed) {
      BaseSettings settings;
      settings.init_std = .1;
      const auto net = residual_mlp_family(64, 5, {32, 2})(size, settings, p, seed);
      all.push_back(gradient_rms(net, {x, y}, Role::BlockWeight));
    }
    std::ranges::sort(all);
    return all[2];
  };
  for (const auto& name : {"depth-mup", "completep"}) {
    const auto p = find_parameterization(name);
    const double base = median({32, 2}, p);
    for (const auto& [size, factor] : {std::pair{NetworkSize{128, 2}, 4 * std::pow(1, *p.alpha)},
                                       {NetworkSize{32, 32}, std::pow(16, *p.alpha)},
                                       {NetworkSize{64, 16}, 2 * std::pow(8, *p.alpha)}})
      EXPECT_NEAR(median(size, p) * factor / base, 1, .2) << name << " " << size.width << " " << size.depth;
  }
}

TEST(CoordinateCheck, MeasuresTheFirstBatchBeforeAndAfterSteps) {
  const auto x = normal({16, 5}, 1).to(at::kFloat), y = at::arange(16) % 3;
  const Family family = residual_mlp_family(5, 3, {8, 2});
  const auto source = [&](uint64_t) { return ExampleSource([&](int64_t) { return Examples{x, y}; }); };
  const auto p = find_parameterization("completep");
  const auto check = coordinate_check(family, {{8, 2}, {8, 4}, {8, 8}}, {}, p, source, 2, 2, true);
  EXPECT_EQ(check.sizes, (std::vector<double>{2, 4, 8}));
  EXPECT_EQ(check.quantities, (std::vector<std::string>{"stream", "perceptron", "logits"}));
  EXPECT_EQ(check.size.sizes(), (at::IntArrayRef{3, 3, 2, 3}));
  EXPECT_TRUE(check.change.select(3, 0).eq(0).all().item<bool>());
  EXPECT_TRUE(check.change.select(3, 1).gt(0).all().item<bool>());
  // By hand: depth 4, seed 2, after one step.
  const auto net = family({8, 4}, {}, p, 2);
  const auto logits = [&] { return net.logits(x, nullptr).detach(); };
  const auto before = logits();
  EXPECT_NEAR(check.size[2][1][1][0].item<double>(), before.abs().mean().item<double>(), 1e-7);
  train_scaled(net, source(2), {.steps = 1});
  EXPECT_NEAR(check.size[2][1][1][1].item<double>(), logits().abs().mean().item<double>(), 1e-7);
  EXPECT_NEAR(check.change[2][1][1][1].item<double>(), (logits() - before).abs().mean().item<double>(), 1e-7);
  // Without factors of depth the stream grows with depth.
  const auto sp =
      coordinate_check(family, {{8, 2}, {8, 4}, {8, 8}}, {}, find_parameterization("sp"), source, 2, 2, true);
  EXPECT_GT(sp.change_slope("stream", 2), check.change_slope("stream", 2) + .3);
  EXPECT_THROW(check.size_slope("attention", 1), Error);
  EXPECT_THROW(coordinate_check(family, {{8, 2}}, {}, p, source, 2, 1, true), Error);
  EXPECT_THROW(coordinate_check(family, {{8, 2}, {16, 4}}, {}, p, source, 2, 1, true), Error);
  EXPECT_THROW(coordinate_check(family, {{8, 2}, {8, 2}}, {}, p, source, 2, 1, true), Error);
}

TEST(Transfer, FindsTheBestRateOfEachSize) {
  const double inf = std::numeric_limits<double>::quiet_NaN();
  const TransferSweep sweep{"x",
                            {{8, 2}, {8, 4}},
                            {.4, .2, .1},
                            at::tensor({3., 5., 1., 2., 6., 6., inf, 2., 1., 3., 1., 1.}).view({2, 3, 2})};
  EXPECT_EQ(sweep.means(0), (std::vector<double>{4, 1.5, 6}));
  EXPECT_EQ(sweep.best(0), 1);
  EXPECT_EQ(sweep.best(1), 2);
  EXPECT_TRUE(std::isnan(sweep.means(1)[0]));
  EXPECT_DOUBLE_EQ(sweep.transferred(1, 0), 2);
  EXPECT_DOUBLE_EQ(sweep.transferred(1, 1), 1);
  const TransferSweep lost{"x", {{8, 2}}, {.4}, at::full({1, 1, 1}, inf, at::kDouble)};
  EXPECT_THROW(lost.best(0), Error);
}

TEST(Transfer, TrainsEverySizeAtEveryRate) {
  const auto x = normal({24, 5}, 1).to(at::kFloat), y = at::arange(24) % 3;
  const Family family = residual_mlp_family(5, 3, {8, 2});
  const auto source = [&](uint64_t) { return ExampleSource([&](int64_t) { return Examples{x, y}; }); };
  const auto p = find_parameterization("completep");
  const TrainingPlan plan{.steps = 12, .tail = 3};
  const auto sweep = transfer_sweep(family, {{8, 2}, {8, 4}}, {1e-2, 1e-4, 1e30}, {}, p, source, plan, 2, true);
  BaseSettings settings;
  settings.lr = 1e-2;
  std::vector<double> losses;
  const double expected =
      train_scaled(family({8, 4}, settings, p, 2), source(2), plan, [&](double loss) { losses.push_back(loss); });
  EXPECT_EQ(sweep.loss[1][0][1].item<double>(), expected);
  EXPECT_NEAR(expected, (losses[9] + losses[10] + losses[11]) / 3, 1e-12);
  EXPECT_LT(sweep.means(0)[0], sweep.means(0)[1]);  // the lower rate has hardly begun
  EXPECT_TRUE(std::isnan(sweep.means(0)[2]));
  EXPECT_EQ(sweep.best(0), 0);
}

TEST(TransferSweep, GoesOnFromTheTrainingsThatAreKept) {
  const auto family = residual_mlp_family(4, 3, {8, 2});
  const at::Tensor x = at::randn({16, 4}, at::kFloat), y = at::arange(16).remainder(3);
  const auto p = find_parameterization("completep");
  const TemporaryFolder folder;
  int64_t batches = 0;
  const auto sweep = [&] {
    return transfer_sweep(
        family, {{8, 2}}, {1e-2, 1e30}, {}, p,
        [&](uint64_t) { return ExampleSource([&](int64_t) {
                          return ++batches, Examples{x, y};
                        }); },
        {.steps = 12, .tail = 3}, 2, true, folder.path());
  };
  const auto first = sweep().loss;
  EXPECT_GT(std::exchange(batches, 0), 0);
  EXPECT_TRUE(at::allclose(sweep().loss, first, 0, 0, /*equal_nan=*/true));
  EXPECT_EQ(batches, 0);
  std::filesystem::remove(folder.path() / "0-0-2.json");
  EXPECT_TRUE(at::allclose(sweep().loss, first, 0, 0, /*equal_nan=*/true));
  EXPECT_EQ(batches, 12);
}

TEST(CharacterText, NumbersItsOwnBytes) {
  const std::string words =
      "\xff"
      "banana\n";
  const auto text = character_text(words);
  EXPECT_EQ(text.alphabet, std::string("\nabn\xff"));
  for (std::size_t i = 0; i < words.size(); ++i)
    EXPECT_EQ(text.alphabet[text.ids[static_cast<int64_t>(i)].item<uint8_t>()], words[i]);
  EXPECT_THROW(character_text("aaaa"), Error);
  EXPECT_THROW(character_text(""), Error);
}

TEST(CharacterText, WindowsAreFollowedByTheirNextCharacters) {
  std::string letters;
  for (char c = 'a'; c <= 'z'; ++c) letters += c;
  const auto text = character_text(letters);
  const auto source = character_windows(text, 4, 3, 1);
  std::set<int64_t> starts;
  for (int step = 0; step < 60; ++step) {
    const auto batch = source(step);
    ASSERT_EQ(batch.inputs.sizes(), (at::IntArrayRef{3, 4}));
    EXPECT_TRUE(batch.targets.equal(batch.inputs + 1));
    EXPECT_TRUE((batch.inputs - batch.inputs.select(1, 0).unsqueeze(1)).equal(at::arange(4).expand({3, 4})));
    for (int64_t i = 0; i < 3; ++i) starts.insert(batch.inputs[i][0].item<int64_t>());
  }
  EXPECT_EQ(starts.size(), 22);  // every place that has a next character
  EXPECT_TRUE(character_windows(text, 4, 3, 1)(0).inputs.equal(character_windows(text, 4, 3, 1)(0).inputs));
  EXPECT_THROW(character_windows(text, 26, 1, 1), Error);
}

}  // namespace
}  // namespace unbend
