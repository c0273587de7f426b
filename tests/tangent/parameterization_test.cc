// The rules of Table 1 by arithmetic, roles by names, and what is refused.
#include "unbend/nets/parameterization.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <map>

#include "tests/error_message.h"
#include "unbend/base/error.h"
#include "unbend/tangent/scaling.h"

namespace unbend {
namespace {

using ::testing::HasSubstr;

const std::vector<NamedShape> kOneOfEach{{"embedding.tokens", {90, 8}},   {"blocks.0.attention_norm.weight", {8}},
                                         {"blocks.0.up.weight", {32, 8}}, {"blocks.0.up.bias", {32}},
                                         {"final_norm.weight", {8}},      {"unembedding.weight", {90, 8}}};

std::map<Role, TensorRule> by_role(const ScaledRules& rules) {
  std::map<Role, TensorRule> all;
  for (const auto& t : rules.tensors) all.emplace(t.role, t);
  EXPECT_EQ(all.size(), 6);
  return all;
}

// Width times 4, depth times 16, from eta = 2^-8, lambda = .1, eps = 1e-12, sigma = .02.
ScaledRules example(const Parameterization& p, const RuleOptions& options = {}) {
  return parameterize(kOneOfEach, {1024, 32}, {256, 2}, {}, p, options);
}

TEST(Parameterization, CompletePIsTheTable) {
  const auto rules = example(find_parameterization("completep"));
  const auto r = by_role(rules);
  EXPECT_DOUBLE_EQ(r.at(Role::BlockWeight).init_std, .01);
  EXPECT_EQ(r.at(Role::BlockWeight).lr, 0x1p-10);
  EXPECT_DOUBLE_EQ(r.at(Role::BlockWeight).weight_decay, .4);
  for (const auto role : {Role::BlockNorm, Role::BlockBias, Role::FinalNorm, Role::Embedding, Role::Unembedding})
    EXPECT_EQ(r.at(role).lr, 0x1p-8) << to_string(role);
  for (const auto role : {Role::BlockNorm, Role::BlockBias, Role::BlockWeight})
    EXPECT_DOUBLE_EQ(r.at(role).eps, 1.5625e-14) << to_string(role);
  for (const auto role : {Role::Embedding, Role::FinalNorm, Role::Unembedding})
    EXPECT_DOUBLE_EQ(r.at(role).eps, 2.5e-13) << to_string(role);
  for (const auto role : {Role::BlockNorm, Role::BlockBias, Role::FinalNorm}) {
    EXPECT_EQ(r.at(role).weight_decay, 0) << to_string(role);
    EXPECT_EQ(r.at(role).init_std, 0) << to_string(role);
  }
  for (const auto role : {Role::Embedding, Role::Unembedding}) {
    EXPECT_EQ(r.at(role).init_std, .02) << to_string(role);
    EXPECT_EQ(r.at(role).weight_decay, .1) << to_string(role);
  }
  EXPECT_EQ(rules.multipliers.residual, .0625);
  EXPECT_EQ(rules.multipliers.logits, .25);
  EXPECT_EQ(rules.multipliers.generation_logits, .25);
  EXPECT_EQ(rules.multipliers.input, 1);
}

TEST(Parameterization, DepthMuPIsTheTable) {
  const auto rules = example(find_parameterization("depth-mup"));
  const auto r = by_role(rules);
  EXPECT_EQ(r.at(Role::BlockWeight).lr, 0x1p-12);
  EXPECT_EQ(r.at(Role::BlockNorm).lr, 0x1p-10);
  EXPECT_EQ(r.at(Role::BlockBias).lr, 0x1p-10);
  for (const auto role : {Role::FinalNorm, Role::Embedding, Role::Unembedding})
    EXPECT_EQ(r.at(role).lr, 0x1p-8) << to_string(role);
  EXPECT_EQ(rules.multipliers.residual, .25);
  EXPECT_DOUBLE_EQ(r.at(Role::BlockWeight).eps, 6.25e-14);
  EXPECT_DOUBLE_EQ(r.at(Role::FinalNorm).eps, 2.5e-13);
  EXPECT_DOUBLE_EQ(r.at(Role::BlockWeight).weight_decay, .4);
}

TEST(Parameterization, MuPKnowsWidthOnly) {
  const auto rules = example(find_parameterization("mup"));
  const auto r = by_role(rules);
  EXPECT_DOUBLE_EQ(r.at(Role::BlockWeight).init_std, .01);
  EXPECT_EQ(r.at(Role::BlockWeight).lr, 0x1p-10);
  EXPECT_EQ(r.at(Role::BlockNorm).lr, 0x1p-8);
  EXPECT_DOUBLE_EQ(r.at(Role::BlockWeight).weight_decay, .4);
  for (const auto& [role, rule] : r) EXPECT_DOUBLE_EQ(rule.eps, 2.5e-13) << to_string(role);
  EXPECT_EQ(rules.multipliers.residual, 1);
  EXPECT_EQ(rules.multipliers.logits, .25);
}

TEST(Parameterization, StandardKnowsNothing) {
  const auto rules = example(find_parameterization("sp"));
  for (const auto& [role, rule] : by_role(rules)) {
    EXPECT_EQ(rule.lr, 0x1p-8) << to_string(role);
    EXPECT_EQ(rule.eps, 1e-12) << to_string(role);
  }
  EXPECT_EQ(by_role(rules).at(Role::BlockWeight).init_std, .02);
  EXPECT_EQ(by_role(rules).at(Role::BlockWeight).weight_decay, .1);
  EXPECT_EQ(rules.multipliers.residual, 1);
  EXPECT_EQ(rules.multipliers.logits, 1);
}

TEST(Parameterization, DecayOfHiddenWeightsIsFreeOfWidth) {
  for (const auto& name : {"mup", "depth-mup", "completep"}) {
    std::vector<double> products;
    for (const int64_t width : {64, 256, 1024, 8192}) {
      const auto rules = parameterize(kOneOfEach, {width, 8}, {256, 2}, {}, find_parameterization(name));
      const auto r = by_role(rules);
      products.push_back(r.at(Role::BlockWeight).lr * r.at(Role::BlockWeight).weight_decay);
    }
    for (const double p : products) EXPECT_DOUBLE_EQ(p, products[0]) << name;
  }
  RuleOptions options;
  options.decay = WeightDecay::Independent;
  EXPECT_EQ(by_role(example(find_parameterization("completep"), options)).at(Role::BlockWeight).weight_decay, .1);
}

TEST(Parameterization, NanoGptCanBeReproduced) {
  RuleOptions options;
  options.source = RuleSource::NanoGpt;
  const auto complete = example(find_parameterization("completep"), options);
  for (const auto& [role, rule] : by_role(complete)) EXPECT_DOUBLE_EQ(rule.eps, 1.5625e-14) << to_string(role);
  EXPECT_DOUBLE_EQ(by_role(complete).at(Role::BlockWeight).weight_decay, .4);
  EXPECT_EQ(complete.multipliers.logits, .25);
  EXPECT_EQ(complete.multipliers.generation_logits, 1);
  const auto mup = example(find_parameterization("mup"), options);
  for (const auto& [role, rule] : by_role(mup)) {
    EXPECT_EQ(rule.eps, 1e-12) << to_string(role);
    EXPECT_LE(rule.weight_decay, .1) << to_string(role);
  }
}

TEST(Parameterization, RolesFollowFromNames) {
  const std::vector<std::tuple<std::string, int64_t, std::optional<Role>>> cases{
      {"transformer.wte.weight", 2, Role::Embedding},  // GPT-2
      {"transformer.wpe.weight", 2, Role::Embedding},
      {"transformer.h.11.ln_1.weight", 1, Role::BlockNorm},
      {"transformer.h.11.ln_2.bias", 1, Role::BlockNorm},
      {"transformer.h.0.attn.c_attn.weight", 2, Role::BlockWeight},
      {"transformer.h.0.mlp.c_fc.bias", 1, Role::BlockBias},
      {"transformer.ln_f.bias", 1, Role::FinalNorm},
      {"lm_head.weight", 2, Role::Unembedding},
      {"model.embed_tokens.weight", 2, Role::Embedding},  // Llama
      {"model.layers.3.input_layernorm.weight", 1, Role::BlockNorm},
      {"model.layers.3.self_attn.q_proj.weight", 2, Role::BlockWeight},
      {"model.layers.3.self_attn.q_norm.weight", 1, Role::BlockNorm},
      {"model.layers.3.mlp.gate_proj.weight", 2, Role::BlockWeight},
      {"model.norm.weight", 1, Role::FinalNorm},
      {"token_embd.weight", 2, Role::Embedding},  // GGUF
      {"blk.7.attn_norm.weight", 1, Role::BlockNorm},
      {"blk.7.ffn_up.weight", 2, Role::BlockWeight},
      {"output_norm.weight", 1, Role::FinalNorm},
      {"output.weight", 2, Role::Unembedding},
      {"tok_emb", 2, Role::Embedding},
      {"readin.bias", 1, Role::Embedding},
      {"unembedding.bias", 1, Role::Unembedding},
      {"h.0.attn.bias", 4, std::nullopt},  // GPT-2's mask
      {"model.layers.3.scale", 1, std::nullopt},
      {"model.layers.3.mlp.experts.0.up.weight", 2, std::nullopt},
      {"word_embeddings_layernorm.weight", 1, std::nullopt},
      {"0.weight", 2, std::nullopt},
      {"net.2.weight", 2, std::nullopt},
      {"cls_token", 3, std::nullopt}};
  for (const auto& [name, dims, role] : cases) EXPECT_EQ(role_of(name, dims), role) << name;
  for (const auto role :
       {Role::Embedding, Role::BlockNorm, Role::BlockWeight, Role::BlockBias, Role::FinalNorm, Role::Unembedding})
    EXPECT_EQ(find_role(to_string(role)), role);
}

TEST(Parameterization, TensorsWithoutRoleAreNamed) {
  auto tensors = kOneOfEach;
  tensors.push_back({"blocks.0.temperature", {1}});
  tensors.push_back({"blocks.0.mask", {1, 1, 4, 4}});
  const auto p = find_parameterization("completep");
  EXPECT_THAT(error_message([&] {
                parameterize(tensors, {8, 2}, {8, 2}, {}, p);
              }),
              HasSubstr("2 tensors have no role: blocks.0.temperature, blocks.0.mask"));
  RuleOptions options;
  options.roles = {{"temperature", Role::BlockNorm}, {"mask", std::nullopt}};
  const auto rules = parameterize(tensors, {8, 2}, {8, 2}, {}, p, options);
  EXPECT_EQ(rules.tensors.size(), 7);
  EXPECT_EQ(rules.tensors.back().role, Role::BlockNorm);
}

TEST(Parameterization, RefusesWhatTheRulesAreNotFor) {
  const auto p = find_parameterization("completep");
  const auto refused = [&](const NetworkSize& size, const NetworkSize& base, const BaseSettings& s = {},
                           const RuleOptions& o = {},
                           const Parameterization& with = find_parameterization("completep")) {
    return error_message([&] { parameterize(kOneOfEach, size, base, s, with, o); });
  };
  RuleOptions force, post, tied;
  force.force = true, post.post_norm = true, tied.tied = true;
  for (const double alpha : {.49, 1.01, 0., -1.}) {
    EXPECT_THAT(refused({8, 4}, {8, 2}, {}, {}, {"x", true, alpha}), HasSubstr("outside of [1/2, 1]")) << alpha;
    EXPECT_EQ(refused({8, 4}, {8, 2}, {}, force, {"x", true, alpha}), "no error") << alpha;
  }
  EXPECT_THAT(refused({8, 4}, {8, 2}, {}, force, {"x", true, NAN}), HasSubstr("alpha"));
  EXPECT_THAT(refused({0, 4}, {8, 2}), HasSubstr("above 0"));
  EXPECT_THAT(refused({8, 4}, {8, 0}), HasSubstr("above 0"));
  EXPECT_THAT(refused({128, 4, 48}, {64, 2}), HasSubstr("heads of 48 do not divide a width of 128"));
  EXPECT_THAT(refused({128, 4, 32}, {64, 2, 64}), HasSubstr("heads of 32 where the base has 64"));
  EXPECT_THAT(refused({8, 4}, {8, 2}, {}, post), HasSubstr("norms after the residual sums"));
  BaseSettings two;
  two.unembedding_lr = .5;
  EXPECT_THAT(refused({8, 4}, {8, 2}, two, tied), HasSubstr("two learning rates"));
  EXPECT_EQ(refused({8, 4}, {8, 2}, two), "no error");
  BaseSettings bad;
  bad.lr = 0;
  EXPECT_THAT(refused({8, 4}, {8, 2}, bad), HasSubstr("learning rates"));
  EXPECT_THROW(parameterize({}, {8, 2}, {8, 2}, {}, p), Error);
  EXPECT_THROW(find_parameterization("ntk"), Error);
  EXPECT_THROW(find_role("head"), Error);
  const std::vector<NamedShape> bert{{"embeddings.word.weight", {9, 8}},
                                     {"encoder.layer.0.attention.output.LayerNorm.weight", {8}}};
  EXPECT_THAT(error_message([&] {
                parameterize(bert, {8, 1}, {8, 1}, {}, p);
              }),
              HasSubstr("norms after the residual sums"));
  const std::vector<NamedShape> open{{"blocks.0.norm.weight", {8}}, {"blocks.0.up.weight", {8, 8}}};
  EXPECT_THAT(error_message([&] { parameterize(open, {8, 1}, {8, 1}, {}, p); }), HasSubstr("none after the last one"));
  EXPECT_EQ(error_message([&] { parameterize(open, {8, 1}, {8, 1}, {}, p, force); }), "no error");
}

TEST(Parameterization, WarnsOfWhatIsRarelyMeant) {
  const auto p = find_parameterization("completep");
  const auto warnings = [&](const NetworkSize& size, const BaseSettings& s) {
    std::string all;
    for (const auto& w : parameterize(kOneOfEach, size, {8, 2}, s, p).warnings) all += w + "\n";
    return all;
  };
  BaseSettings settings;
  EXPECT_EQ(parameterize(kOneOfEach, {8, 1}, {8, 1}, settings, p).warnings.size(), 0);
  EXPECT_THAT(warnings({8, 2}, settings), HasSubstr("twice the 1 blocks"));
  EXPECT_THAT(warnings({8, 7}, settings), HasSubstr("depth 7 where the names have 1 blocks"));
  EXPECT_THAT(warnings({8, 1}, settings), HasSubstr("below the base's 2"));
  settings.eps = 1e-29;
  EXPECT_THAT(warnings({800, 1}, settings), HasSubstr("below 1e-30"));
  settings = {};
  settings.lr = .02;
  EXPECT_EQ(warnings({8, 1}, settings).find("warm-up"), std::string::npos);
  settings.warmup = false;
  EXPECT_THAT(warnings({8, 1}, settings), HasSubstr("without warm-up"));
}

TransformerConfig small() { return {.vocabulary = 30, .context = 12, .width = 16, .depth = 2, .heads = 2}; }

TEST(Parameterization, StartsByItsDeviationsFromTheSameNumbers) {
  auto net = make_transformer({.vocabulary = 200, .context = 64, .width = 128, .depth = 1, .heads = 2});
  const auto all = parameters(net);
  std::map<std::string, std::map<std::string, at::Tensor>> drawn;
  for (const auto& name : kParameterizations) {
    const auto rules = parameterize(shapes(all), {128, 1, 64}, {64, 1, 64}, {}, find_parameterization(name));
    Random random(3);
    initialize(rules, all, random);
    for (std::size_t i = 0; i < all.size(); ++i) {
      const auto& t = *all[i].tensor;
      const auto& rule = rules.tensors[i];
      if (t.dim() == 2) {
        EXPECT_NEAR(t.std().item<double>() / rule.init_std, 1, .03) << name << " " << all[i].name;
        EXPECT_NEAR(t.mean().item<double>() / rule.init_std, 0, .05) << name << " " << all[i].name;
        drawn[name][all[i].name] = t / rule.init_std;
      } else {
        const bool gain = all[i].name.find("norm.weight") != std::string::npos;
        EXPECT_TRUE(t.eq(gain ? 1 : 0).all().item<bool>()) << name << " " << all[i].name;
      }
    }
  }
  for (const auto& [tensor, numbers] : drawn["sp"])
    EXPECT_TRUE(at::allclose(numbers, drawn["completep"][tensor], 1e-6, 1e-6)) << tensor;
}

TEST(Parameterization, GroupsCoverEveryTensorOnceBySettings) {
  auto net = make_transformer(small());
  const auto all = parameters(net);
  const auto rules = parameterize(shapes(all), {16, 2, 8}, {8, 1, 8}, {}, find_parameterization("completep"));
  const auto groups = parameter_groups(rules, all);
  std::map<const void*, const ParameterGroup*> group_of;
  for (const auto& g : groups)
    for (const auto& p : g.parameters) EXPECT_TRUE(group_of.emplace(p.unsafeGetTensorImpl(), &g).second);
  ASSERT_EQ(group_of.size(), all.size());
  for (std::size_t i = 0; i < all.size(); ++i) {
    const auto* g = group_of.at(all[i].tensor->unsafeGetTensorImpl());
    EXPECT_EQ(g->lr, rules.tensors[i].lr) << all[i].name;
    EXPECT_EQ(g->weight_decay, rules.tensors[i].weight_decay) << all[i].name;
    EXPECT_EQ(g->eps, rules.tensors[i].eps) << all[i].name;
    EXPECT_EQ(g->beta2, .95);
    EXPECT_TRUE(all[i].tensor->requires_grad());
  }
  // Embedding and unembedding; their norm; hidden weights; norms and biases in blocks.
  EXPECT_EQ(groups.size(), 4);
  auto other = all;
  std::swap(other[0], other[1]);
  EXPECT_THROW(parameter_groups(rules, other), Error);
  other.erase(other.begin());
  EXPECT_THROW(parameter_groups(rules, other), Error);
}

// The same at the base size: settings, numbers at the start, and five steps, bit for bit.
TEST(Parameterization, AllAreEqualAtTheBaseSize) {
  const TransformerConfig config = small();
  Random random(5);
  const auto text = character_text([&] {
    std::string s;
    for (int i = 0; i < 400; ++i) s += static_cast<char>('a' + random.below(30));
    return s;
  }());
  const Family decoder = transformer_family(config, config.size()), perceptron = residual_mlp_family(7, 3, {16, 2});
  const auto x = at::randn({20, 7}, at::make_generator<at::CPUGeneratorImpl>(1)), y = at::arange(20) % 3;
  const auto run = [&](const Family& family, const ExampleSource& source, const std::string& name) {
    BaseSettings settings;
    settings.init_std = .1;
    const auto net = family(name.empty() ? NetworkSize{32, 4, 8} : NetworkSize{16, 2, 8}, settings,
                            find_parameterization(name.empty() ? "completep" : name), 9);
    std::vector<double> all;
    for (const auto& g : parameter_groups(net.rules, net.parameters))
      all.insert(all.end(), {g.lr, g.weight_decay, g.eps, static_cast<double>(g.parameters.size())});
    for (const auto& p : net.parameters) all.push_back(p.tensor->detach().to(at::kDouble).sum().item<double>());
    train_scaled(net, source, {.steps = 5}, [&](double loss) { all.push_back(loss); });
    return all;
  };
  for (const auto& [family, source] :
       {std::pair{decoder, ExampleSource([&](int64_t step) { return character_windows(text, 12, 4, 100 + step)(0); })},
        {perceptron, ExampleSource([&](int64_t) {
           return Examples{x, y};
         })}}) {
    const auto expected = run(family, source, "sp");
    EXPECT_NE(expected.back(), expected[expected.size() - 5]);  // it moves
    for (const auto& name : {"mup", "depth-mup", "completep"}) EXPECT_EQ(run(family, source, name), expected) << name;
    EXPECT_NE(run(family, source, ""), expected);  // another size
  }
}

}  // namespace
}  // namespace unbend
