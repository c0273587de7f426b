// Decoder and mixers on a small random model in float64.
#include "unbend/lm/decoder.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include "unbend/base/error.h"
#include "unbend/lm/recipe.h"

namespace unbend::lm {
namespace {

DecoderConfig small_config() {
  DecoderConfig c;
  c.layers = 2, c.hidden = 24, c.heads = 4, c.kv_heads = 2, c.head_dim = 8, c.ffn = 40, c.vocab = 50, c.context = 512;
  c.tied = false;
  return c;
}

Decoder small_decoder(std::uint64_t seed = 1) {
  Random random(seed);
  return random_decoder(small_config(), 1, .5, random).to(at::kCPU, at::kDouble);
}

at::Tensor random_ids(std::int64_t batch, std::int64_t tokens, std::uint64_t seed = 3) {
  Random random(seed);
  auto ids = at::empty({batch, tokens}, at::kLong);
  auto* data = ids.mutable_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < ids.numel(); ++i) data[i] = static_cast<std::int64_t>(random.below(50));
  return ids;
}

double difference(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<double>(); }

/// Mixers whose parameters have moved away from their start, so that every path matters.
Student moved_student(const Decoder& teacher, const std::string& name, const Json& changes) {
  const auto& recipe = find_recipe(name);
  auto student = convert(teacher, recipe, recipe_options(recipe, changes), 5);
  Random random(11);
  for (const auto& p : adapter(student.decoder))
    p.tensor->add_(random_normal(p.tensor->sizes(), .2, random).to(at::kDouble));
  return student;
}

struct Case {
  std::string name;
  Json options;
};

class EveryMixer : public testing::TestWithParam<Case> {};

TEST_P(EveryMixer, StreamingEqualsWholeSequences) {
  const auto teacher = small_decoder();
  const auto student = moved_student(teacher, GetParam().name, GetParam().options);
  const auto ids = random_ids(2, 61);
  const auto whole = student.decoder.hidden(ids);
  // Chunk borders before, at and after the window's edge; single tokens across ring and chunk borders.
  for (const std::vector<std::int64_t>& chunks : {std::vector<std::int64_t>{61},
                                                  {1, 6, 1, 1, 7, 20, 1, 24},
                                                  {5, 56},
                                                  {30, 1, 30},
                                                  std::vector<std::int64_t>(61, 1)}) {
    auto state = student.decoder.start(2);
    std::int64_t at = 0;
    for (const auto count : chunks) {
      const auto part = student.decoder.extend(ids.slice(1, at, at + count), state);
      EXPECT_LT(difference(part, whole.slice(1, at, at + count)), 1e-10) << "tokens " << at << " to " << at + count;
      at += count;
    }
  }
}

TEST_P(EveryMixer, FormsAgree) {
  const auto student = moved_student(small_decoder(), GetParam().name, GetParam().options);
  const auto ids = random_ids(1, 45);
  const auto chunked = student.decoder.hidden(ids, Form::Chunked);
  EXPECT_LT(difference(chunked, student.decoder.hidden(ids, Form::Parallel)), 1e-10);
  EXPECT_LT(difference(chunked, student.decoder.hidden(ids, Form::Recurrent)), 1e-10);
}

TEST_P(EveryMixer, IsCausal) {
  const auto student = moved_student(small_decoder(), GetParam().name, GetParam().options);
  auto ids = random_ids(1, 40);
  const auto before = student.decoder.hidden(ids);
  ids.slice(1, 30).add_(1).remainder_(50);
  const auto after = student.decoder.hidden(ids);
  EXPECT_EQ(difference(before.slice(1, 0, 30), after.slice(1, 0, 30)), 0);
  EXPECT_GT(difference(before.slice(1, 30), after.slice(1, 30)), 1e-3);
}

TEST_P(EveryMixer, GradientsMatchDifferences) {
  auto student = moved_student(small_decoder(), GetParam().name, GetParam().options);
  const auto ids = random_ids(1, 24);
  const auto target = random_ids(1, 24, 9).reshape({-1});
  const auto loss = [&] {
    const auto logits = student.decoder.logits(student.decoder.hidden(ids)).reshape({-1, 50});
    return at::cross_entropy_loss(logits, target);
  };
  const auto parameters = adapter(student.decoder);
  for (const auto& p : parameters) *p.tensor = p.tensor->detach().requires_grad_(true);
  loss().backward();
  std::vector<at::Tensor> gradients;
  for (const auto& p : parameters) {
    gradients.push_back(p.tensor->grad().defined() ? p.tensor->grad().clone() : at::zeros_like(*p.tensor));
    *p.tensor = p.tensor->detach();
  }
  const at::NoGradGuard no_grad;
  Random random(2);
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const auto direction = random_normal(parameters[i].tensor->sizes(), 1, random).to(at::kDouble);
    const double h = 3e-7;  // norms of small heads curve strongly
    parameters[i].tensor->add_(direction, h);
    const double up = loss().item<double>();
    parameters[i].tensor->sub_(direction, 2 * h);
    const double down = loss().item<double>();
    parameters[i].tensor->add_(direction, h);
    EXPECT_NEAR((gradients[i] * direction).sum().item<double>(), (up - down) / (2 * h), 1e-6) << parameters[i].name;
  }
}

const Json kSmallWindow{{"window", 7}, {"sinks", 3}};

Json with(Json options, const Json& more) {
  options.update(more);
  return options;
}

INSTANTIATE_TEST_SUITE_P(
    Recipes, EveryMixer,
    testing::Values(
        Case{"softmax", Json::object()}, Case{"window", kSmallWindow}, Case{"window", {{"window", 1}, {"sinks", 0}}},
        Case{"hybrid", kSmallWindow}, Case{"hybrid", with(kSmallWindow, {{"state_heads", "query"}})},
        Case{"hybrid", with(kSmallWindow, {{"gate", false}})}, Case{"hybrid", {{"window", 1}, {"sinks", 0}}},
        Case{"liger", kSmallWindow}, Case{"liger", with(kSmallWindow, {{"variant", "hgrn2"}})},
        Case{"liger", with(kSmallWindow, {{"variant", "gsa"}, {"slots", 5}})},
        Case{"liger", with(kSmallWindow, {{"variant", "mamba2"}})},
        Case{"liger", with(kSmallWindow, {{"variant", "mlstm"}})},
        Case{"liger", with(kSmallWindow, {{"variant", "rwkv6"}})},
        Case{"liger", with(kSmallWindow, {{"variant", "gated_deltanet"}})},
        Case{"liger", with(kSmallWindow, {{"gate_source", "q"}})},
        Case{"liger", with(kSmallWindow, {{"gate_source", "projection"}, {"feature_map", "learned"}})},
        Case{"liger", with(kSmallWindow, {{"mix_window", 0.0}, {"mix_linear", 1.0}})},
        Case{"liger", with(kSmallWindow, {{"keep_every", 2}})}, Case{"lolcats", kSmallWindow},
        Case{"lolcats", {{"window", 7}, {"linear", false}}}, Case{"lolcats", with(kSmallWindow, {{"terraced", true}})},
        Case{"lolcats", {{"window", 1}, {"terraced", true}}},
        Case{"lolcats", {{"window", 5}, {"terraced", true}, {"linear", false}}}, Case{"lawcat", Json::object()},
        Case{"lawcat", {{"conv", false}, {"gate_rank", 0}, {"tie_qk", false}, {"feature_dim", 5}}},
        Case{"lawcat", {{"conv_act", "silu"}, {"conv_v", true}, {"share_qk_conv", true}}},
        Case{"lawcat", {{"rope_student", true}, {"repeat_before_conv", false}, {"conv_size", 1}}},
        Case{"lawcat", {{"gate", false}, {"normalise", false}}}, Case{"lawcat", kSmallWindow},
        Case{"lawcat", with(kSmallWindow, {{"affine", true}})}, Case{"supra", Json::object()},
        Case{"supra", {{"decay", "none"}, {"kernel_init", "identity"}, {"qk_norm", true}}},
        Case{"supra", {{"decay", "none"}, {"rope", "before"}, {"normalise", true}}},
        Case{"supra", {{"decay", "retnet"}, {"rope", "none"}, {"lora_rank", 2}}},
        Case{"supra", {{"slopes", {.7, .7, 0., 0.}}}}, Case{"regla", Json::object()},
        Case{"regla", {{"gate_axis", "key"}, {"norm", "layer"}, {"gate_rank", 3}}},
        Case{"regla", {{"norm", "none"}, {"gate", "sigmoid"}, {"rope", false}}},
        Case{"regla", {{"denominator", true}, {"norm", "none"}, {"shift", "none"}}},
        Case{"regla", {{"feature", "elu1"}, {"gate", "scalar"}, {"denominator", true}, {"norm", "none"}}},
        Case{"regla", {{"feature", "none"}, {"gate", "fast_decay"}}}, Case{"regla", {{"feature", "hedgehog"}}},
        Case{"regla", {{"gate", "delta"}}}, Case{"liger", with(kSmallWindow, {{"softmax_layers", {0}}})},
        Case{"regla", {{"feature", "relu"}, {"gate", "none"}}}, Case{"lizard", kSmallWindow},
        Case{"lizard", {{"window", 7}, {"preset", "recommended"}, {"map_heads", "kv"}}},
        Case{"lizard", {{"window", 7}, {"features", "exp"}, {"map_heads", "layer"}}},
        Case{"lizard", {{"window", 7}, {"features", "exp"}, {"gate", "gla"}, {"gate_per_head", true}}},
        Case{"lizard", {{"window", 7}, {"gate", "mamba2"}, {"gla_norm", "joint"}, {"gate_per_head", true}}},
        Case{"lizard", {{"window", 7}, {"gate", "pooling"}, {"feature_dim", 3}, {"map_start", "random"}}},
        Case{"lizard", {{"window", 7}, {"gate", "none"}, {"gla_norm", "none"}, {"meta", 0}}},
        Case{"lizard", {{"window", 7}, {"features", "exp"}, {"gate", "none"}, {"branches", "gate"}}},
        Case{"lizard", with(kSmallWindow, {{"branches", "anchor"}, {"alpha_per_head", true}})}),
    [](const auto& info) { return info.param.name + std::to_string(info.index); });

TEST(Student, EqualsTheTeacherInsideTheWindowBeforeTraining) {
  const auto teacher = small_decoder();
  const auto ids = random_ids(1, 40);
  const auto exact = teacher.hidden(ids);
  for (const std::string name : {"window", "hybrid", "lolcats"}) {
    const auto& recipe = find_recipe(name);
    const auto student = convert(teacher, recipe, recipe_options(recipe, kSmallWindow), 1);
    const auto mine = student.decoder.hidden(ids);
    EXPECT_LT(difference(mine.slice(1, 0, 7), exact.slice(1, 0, 7)), 1e-12) << name;
    EXPECT_GT(difference(mine.slice(1, 11), exact.slice(1, 11)), 1e-6) << name;
  }
}

TEST(Student, LigerWithAFullWindowAndNoLinearPartIsTheTeacher) {
  const auto teacher = small_decoder();
  const auto ids = random_ids(1, 40);
  const auto& recipe = find_recipe("liger");
  const auto student =
      convert(teacher, recipe, recipe_options(recipe, {{"window", 40}, {"mix_window", 1.0}, {"mix_linear", 0.0}}), 1);
  EXPECT_LT(difference(student.decoder.hidden(ids), teacher.hidden(ids)), 1e-12);
}

TEST(Student, HasTheAdapterSizeOfTheBrief) {
  DecoderConfig c;
  c.layers = 1, c.hidden = 576, c.heads = 9, c.kv_heads = 3, c.head_dim = 64, c.ffn = 32, c.vocab = 10, c.context = 100;
  Random random(1);
  const auto& recipe = find_recipe("liger");
  auto student = convert(random_decoder(c, 1, 1, random), recipe, recipe_options(recipe, Json::object()), 1);
  std::int64_t values = 0;
  for (const auto& p : adapter(student.decoder)) values += p.tensor->numel();
  EXPECT_EQ(values, 21504);
}

TEST(Recipes, RefuseWrongOptions) {
  const auto teacher = small_decoder();
  const auto attempt = [&](const std::string& name, const Json& changes) {
    const auto& recipe = find_recipe(name);
    return convert(teacher, recipe, recipe_options(recipe, changes), 1);
  };
  EXPECT_THROW(attempt("no such", Json::object()), Error);
  EXPECT_THROW(attempt("window", {{"windw", 5}}), Error);
  EXPECT_THROW(attempt("window", {{"window", "five"}}), Error);
  EXPECT_THROW(attempt("window", {{"window", 0}}), Error);
  EXPECT_THROW(attempt("window", {{"sinks", -1}}), Error);
  EXPECT_THROW(attempt("window", {{"lora_rank", 1000}}), Error);
  EXPECT_THROW(attempt("window", {{"lora_targets", {"z"}}}), Error);
  EXPECT_THROW(attempt("hybrid", {{"state_heads", "none"}}), Error);
  EXPECT_THROW(attempt("liger", {{"variant", "other"}}), Error);
  EXPECT_THROW(attempt("liger", {{"pool_size", 3}}), Error);
  EXPECT_THROW(attempt("liger", {{"gate_logit_normalizer", 0.0}}), Error);
}

TEST(Decoder, RefusesWrongIds) {
  const auto decoder = small_decoder();
  EXPECT_THROW(decoder.hidden(at::zeros({3}, at::kLong)), Error);
  EXPECT_THROW(decoder.hidden(at::zeros({1, 3}, at::kFloat)), Error);
  EXPECT_THROW(decoder.hidden(at::full({1, 3}, 50, at::kLong)), Error);
}

}  // namespace
}  // namespace unbend::lm
