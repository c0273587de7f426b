// Students on other devices beside the same on the CPU: conversion, training, evaluation, decoding.
#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>

#include "tests/other_device.h"
#include "unbend/lm/distill.h"
#include "unbend/lm/evaluate.h"

namespace unbend::lm {
namespace {

constexpr std::int64_t kVocabulary = 40;

Decoder small_teacher() {
  DecoderConfig c;
  c.layers = 2, c.hidden = 32, c.heads = 4, c.kv_heads = 2, c.head_dim = 8, c.ffn = 48, c.vocab = kVocabulary,
  c.context = 256;
  Random random(1);
  return random_decoder(c, 1, .5, random);
}

at::Tensor random_ids(std::int64_t rows, std::int64_t length, Random& random) {
  auto ids = at::empty({rows, length}, at::kLong);
  for (std::int64_t i = 0; i < ids.numel(); ++i)
    ids.mutable_data_ptr<std::int64_t>()[i] = static_cast<std::int64_t>(random.below(kVocabulary));
  return ids;
}

class RandomSource : public BatchSource {
 public:
  Batch next() override {
    const auto ids = random_ids(2, 151, random_);
    return {ids.slice(1, 0, 150).contiguous(), ids.slice(1, 1).contiguous()};
  }
  Json state() const override { return {{"random", random_.state()}}; }
  void restore(const Json& state) override { random_ = Random(state.at("random").get<Random::State>()); }

 private:
  Random random_{4};
};

struct Outcome {
  std::vector<double> losses;  // by stage
  double nats, kl;
  at::Tensor decoded;  // hidden states of a text read in pieces and token by token
};

Outcome outcome(const std::string& name, at::Device device) {
  const auto& recipe = find_recipe(name);
  const auto options = recipe_options(recipe, {});
  const auto teacher = small_teacher().to(device, at::kFloat);
  auto student = convert(teacher, recipe, options, 3);
  auto stages = recipe.stages(options);
  for (auto& stage : stages) stage.steps = 3;
  RandomSource source;
  TrainOptions training;
  training.quiet = true;
  std::vector<double> losses;
  for (const auto& stage : stages) losses.push_back(train(teacher, student, {stage}, source, training).loss);

  Random random(9);
  const auto windows = random_ids(3, 200, random);
  const auto scores = evaluate({&teacher, &student.decoder}, windows);
  const at::NoGradGuard no_grad;
  auto state = student.decoder.start(1);
  std::vector<at::Tensor> hidden;
  const auto text = windows.slice(0, 0, 1);
  for (const auto& [first, last] : {std::pair{0, 70}, {70, 140}, {140, 141}, {141, 142}, {142, 143}})
    hidden.push_back(student.decoder.extend(text.slice(1, first, last), state));
  return {losses, scores[1].nats.mean().item<double>(), scores[1].kl.mean().item<double>(),
          at::cat(hidden, 1).to(at::kCPU)};
}

TEST(Device, EveryRecipeTrainsAndRunsElsewhereAsOnTheCpu) {
  for (const auto& recipe : recipes()) {
    const auto cpu = outcome(recipe.name, at::kCPU);
    for (const auto device : test::other_devices()) try {
        const auto where = fmt::format("{} on {}", recipe.name, device.str());
        const auto other = outcome(recipe.name, device);
        for (std::size_t i = 0; i < cpu.losses.size(); ++i)
          EXPECT_NEAR(other.losses[i], cpu.losses[i], 1e-3 * std::abs(cpu.losses[i]) + 1e-7) << where << " stage " << i;
        EXPECT_NEAR(other.nats, cpu.nats, 1e-3 * cpu.nats) << where;
        EXPECT_NEAR(other.kl, cpu.kl, 1e-2 * cpu.kl + 1e-5) << where;
        EXPECT_LT((other.decoded - cpu.decoded).abs().max().item<double>(), 1e-2) << where;
      } catch (const std::exception& error) {
        ADD_FAILURE() << recipe.name << " on " << device.str() << ": " << error.what();
      }
  }
}

}  // namespace
}  // namespace unbend::lm
