#include "studies/recall.h"

#include <torch/types.h>

#include <algorithm>
#include <numeric>

#include "studies/training.h"
#include "unbend/lm/tasks.h"

namespace unbend {
namespace {

constexpr std::uint64_t kTestSeed = 1'000'003;  // no training seed comes near it

at::Tensor ids_of(const lm::RecallBatch& batch) {
  return at::tensor(std::vector<std::int64_t>(batch.tokens.begin(), batch.tokens.end()))
      .view({batch.batch, batch.length});
}

at::Tensor answers_of(const lm::RecallBatch& batch) {
  return at::tensor(std::vector<std::int64_t>(batch.answers.begin(), batch.answers.end()))
      .view({batch.batch, batch.pairs});
}

/// Batches whose task depends on the step; the only targets are the answers.
class RecallSource : public lm::BatchSource {
 public:
  RecallSource(std::uint64_t seed, std::function<lm::RecallOptions(std::int64_t step)> task)
      : random_(seed), task_(std::move(task)) {}

  lm::Batch next() override {
    const auto batch = lm::recall_batch(random_, task_(step_++));
    auto targets = at::full({batch.batch, batch.length}, -1, at::kLong);
    targets.index_copy_(1, at::tensor(batch.query_positions), answers_of(batch));
    return {ids_of(batch), targets};
  }
  Json state() const override { return {{"random", random_.state()}, {"step", step_}}; }
  void restore(const Json& state) override {
    random_ = Random(state.at("random").get<Random::State>());
    step_ = state.at("step").get<std::int64_t>();
  }

 private:
  Random random_;
  std::function<lm::RecallOptions(std::int64_t)> task_;
  std::int64_t step_ = 0;
};

lm::RecallOptions task(std::int64_t pairs, std::int64_t fillers, std::int64_t batch = 64) {
  lm::RecallOptions options;
  options.pairs = pairs, options.fillers = fillers, options.batch = batch;
  return options;
}

/// Logits at the queries, [batch, pairs, vocabulary].
at::Tensor query_logits(const lm::Decoder& decoder, const lm::RecallBatch& batch) {
  const at::NoGradGuard no_grad;
  return decoder.logits(decoder.hidden(ids_of(batch)).index_select(1, at::tensor(batch.query_positions)));
}

}  // namespace

lm::Decoder recall_teacher(std::uint64_t seed, const StudyOptions& study) {
  lm::DecoderConfig config;
  config.layers = 2, config.hidden = 64, config.heads = config.kv_heads = 2, config.head_dim = 32, config.ffn = 128;
  config.vocab = lm::RecallOptions{}.vocabulary(), config.context = 256, config.tied = false;
  Random random(seed);
  auto teacher = lm::random_decoder(config, 1, .5, random);
  lm::Stage stage;
  stage.name = "recall teacher";
  stage.steps = 600;
  stage.learning_rate = 3e-3;
  stage.weight_decay = .1;
  stage.warmup = 50. / 600;
  RecallSource source(seed, [](std::int64_t step) { return step < 300 ? task(4, 0) : task(8, 32); });
  train_in_study(teacher, teacher, stage, source, {""}, study);
  return teacher;
}

lm::Student recall_student(const lm::Decoder& teacher, const std::string& recipe, Json options, RecallTraining training,
                           std::uint64_t seed, const StudyOptions& study) {
  const bool lora = training == RecallTraining::Lora;
  const auto& found = lm::find_recipe(recipe);
  if (!options.contains("window") && found.defaults.at("window") > 0) options["window"] = kRecallWindow;
  options.update({{"lora_rank", lora ? 16 : 0}, {"lora_alpha", 16.}});
  auto student = lm::convert(teacher, found, lm::recipe_options(found, options), seed);
  lm::Stage stage;
  stage.name = "recall student";
  stage.steps = 400;
  stage.learning_rate = 3e-3;
  const auto fillers = [](std::int64_t step) {
    return task(8, std::lround(32 * std::min(1., static_cast<double>(2 * step) / 400)));
  };
  RecallSource source(seed + 100, fillers);
  train_in_study(teacher, student.decoder, stage, source, {lora ? "output.weight" : ""}, study);
  return student;
}

double RecallAccuracy::mean() const {
  return std::accumulate(at_query.begin(), at_query.end(), 0.) / static_cast<double>(at_query.size());
}
double RecallAccuracy::lowest() const { return *std::min_element(at_query.begin(), at_query.end()); }

RecallAccuracy recall_accuracy(const lm::Decoder& decoder, std::int64_t fillers) {
  Random random(kTestSeed);
  constexpr std::int64_t kBatches = 8;
  auto right = at::zeros({8}, at::kDouble);
  for (std::int64_t i = 0; i < kBatches; ++i) {
    const auto batch = lm::recall_batch(random, task(8, fillers, 256));
    right += (query_logits(decoder, batch).argmax(-1) == answers_of(batch)).to(at::kDouble).mean(0) * (100. / kBatches);
  }
  return {{right.const_data_ptr<double>(), right.const_data_ptr<double>() + right.numel()}};
}

double stored_value_effect(const lm::Decoder& decoder) {
  Random random(kTestSeed);
  const auto options = task(8, 32);
  const auto batch = lm::recall_batch(random, options);
  const auto changed = lm::change_stored_values(batch, random, options);
  return (query_logits(decoder, batch) - query_logits(decoder, changed)).abs().max().item<double>();
}

double streaming_error(const lm::Decoder& decoder) {
  const at::NoGradGuard no_grad;
  Random random(kTestSeed);
  const auto ids = ids_of(lm::recall_batch(random, task(8, 64, 16)));
  const auto expected = decoder.logits(decoder.hidden(ids));
  const auto recurrent = decoder.logits(decoder.hidden(ids, Form::Recurrent));
  auto state = decoder.start(ids.size(0));
  std::vector<at::Tensor> pieces;
  for (std::int64_t at = 0, i = 0; at < ids.size(1); ++i) {
    const std::int64_t count = i == 0 ? 61 : i == 1 ? 7 : 1;
    pieces.push_back(decoder.extend(ids.narrow(1, at, count), state));
    at += count;
  }
  const auto streamed = decoder.logits(at::cat(pieces, 1));
  return std::max((recurrent - expected).abs().max().item<double>(), (streamed - expected).abs().max().item<double>());
}

}  // namespace unbend
