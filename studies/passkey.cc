#include "studies/passkey.h"

#include <torch/types.h>

#include <algorithm>

#include "studies/training.h"
#include "unbend/base/error.h"
#include "unbend/lm/id_tasks.h"

namespace unbend {
namespace {

constexpr std::uint64_t kTestSeed = 1'000'003;  // no training seed comes near it
constexpr std::uint64_t kStopSeed = 2'000'003;  // of sequences that say when a teacher has learnt enough

struct Asked {
  at::Tensor ids;      ///< [batch, length]
  at::Tensor places;   ///< [needles]: where logits predict the answers
  at::Tensor answers;  ///< [batch, needles]
};

Asked passkeys(Random& random, std::int64_t batch, std::int64_t length, std::int64_t needles) {
  lm::PasskeyOptions options;
  options.batch = batch, options.length = length, options.needles = needles;
  const auto made = lm::passkey_batch(random, options);
  const auto ids = at::tensor(std::vector<std::int64_t>(made.tokens.begin(), made.tokens.end())).view({batch, length});
  const auto places =
      at::arange(length - 3 * needles + 1, length, 3);  // the last tokens are `QUERY k v` for each needle
  return {ids, places, ids.index_select(1, places + 1)};
}

/// Sequences whose only targets are the answers.
class PasskeySource : public lm::BatchSource {
 public:
  PasskeySource(std::uint64_t seed, std::int64_t rows, std::int64_t needles)
      : random_(seed), rows_(rows), needles_(needles) {}

  lm::Batch next() override {
    const auto [ids, places, answers] = passkeys(random_, rows_, kPasskeyLength, needles_);
    auto targets = at::full_like(ids, -1);
    targets.index_copy_(1, places, answers);
    return {ids, targets};
  }
  Json state() const override { return {{"random", random_.state()}}; }
  void restore(const Json& state) override { random_ = Random(state.at("random").get<Random::State>()); }

 private:
  Random random_;
  std::int64_t rows_, needles_;
};

/// Share of right answers on 512 sequences, in percent.
double answered(const lm::Decoder& decoder, std::int64_t length, std::int64_t needles, std::uint64_t seed) {
  const at::NoGradGuard no_grad;
  Random random(seed);
  constexpr std::int64_t kSequences = 512;
  const std::int64_t batch = std::clamp<std::int64_t>(16384 / length, 1, kSequences);
  double right = 0;
  for (std::int64_t done = 0; done < kSequences; done += batch) {
    const auto [ids, places, answers] = passkeys(random, batch, length, needles);
    const auto logits = decoder.logits(decoder.hidden(ids).index_select(1, places));
    right += (logits.argmax(-1) == answers).to(at::kDouble).mean(1).sum().item<double>();
  }
  return 100 * right / static_cast<double>(kSequences);
}

/// Mean squared error of the student's heads to the teacher's on the teacher's inputs, mean over layers.
double transfer_error(const lm::Decoder& teacher, const lm::Decoder& student, std::int64_t needles) {
  const at::NoGradGuard no_grad;
  Random random(kTestSeed);
  double sum = 0;
  teacher.hidden(passkeys(random, 128, kPasskeyLength, needles).ids, Form::Chunked,
                 [&](std::int64_t layer, const lm::MixerInput& input, const at::Tensor& heads) {
                   const auto mine =
                       student.layers[static_cast<std::size_t>(layer)].mixer->forward(input, Form::Chunked);
                   sum += (mine - heads).square().mean().item<double>();
                 });
  return sum / static_cast<double>(teacher.layers.size());
}

}  // namespace

lm::Decoder passkey_teacher(std::uint64_t seed, const StudyOptions& study, std::int64_t needles) {
  lm::DecoderConfig config;
  config.layers = 2, config.hidden = 64, config.heads = config.kv_heads = 2, config.head_dim = 32, config.ffn = 128;
  config.vocab = lm::PasskeyOptions::kVocabulary, config.context = 2048, config.tied = false;
  Random random(seed);
  auto teacher = lm::random_decoder(config, 1, .5, random);
  lm::Stage stage;
  stage.name = "passkey teacher";
  stage.learning_rate = 2e-3;
  stage.weight_decay = .01;
  double accuracy = 0;
  const auto train = [&](std::int64_t steps, std::int64_t rows, std::int64_t shown, std::uint64_t part) {
    stage.steps = steps;
    PasskeySource source(seed + 1000 * part, rows, shown);
    train_in_study(teacher, teacher, stage, source, {""}, study);
    accuracy = answered(teacher, kPasskeyLength, needles, kStopSeed);
  };
  if (needles == 1) {
    train(600, 64, 1, 0);
  } else {
    stage.warmup = .02, stage.floor = .5;
    train(300, 128, 1, 0);
    train(1000, 128, 2, 1);
    for (std::uint64_t part = 2; part < 10 && accuracy < 99.5; ++part) train(1000, 128, needles, part);
  }
  if (accuracy < 99) fail_computation("the passkey teacher of seed {} reaches {:.1f} % only", seed, accuracy);
  return teacher;
}

PasskeyStudent passkey_student(const lm::Decoder& teacher, const std::string& recipe, const Json& options,
                               std::uint64_t seed, const StudyOptions& study, std::int64_t needles) {
  const auto& found = lm::find_recipe(recipe);
  Json all = options;
  all.update({{"lora_rank", 8}, {"lora_alpha", 16.}, {"lora_targets", {"q", "k", "v", "o"}}});
  auto student = lm::convert(teacher, found, lm::recipe_options(found, all), seed);
  PasskeyStudent result;
  result.error_before = transfer_error(teacher, student.decoder, needles);
  const std::int64_t steps = needles == 1 ? 250 : 600;
  PasskeySource source(seed + 100, 32, needles);
  lm::Stage transfer;
  transfer.kind = lm::Stage::Kind::Transfer;
  transfer.name = "passkey transfer";
  transfer.steps = steps;
  transfer.mixer_learning_rate = 1e-2;
  transfer.beta2 = .999;
  transfer.clip = 0;
  transfer.warmup = 0;
  train_in_study(teacher, student.decoder, transfer, source, {}, study);
  result.error_after = transfer_error(teacher, student.decoder, needles);
  result.transferred = student.decoder.fork();
  lm::Stage lora;
  lora.name = "passkey LoRA";
  lora.steps = steps;
  lora.learning_rate = 2e-3;
  lora.mixer_learning_rate = 0;
  lora.beta2 = .999;
  lora.warmup = 0;
  train_in_study(teacher, student.decoder, lora, source, {}, study);
  result.tuned = std::move(student.decoder);
  return result;
}

at::Tensor passkey_sequences(std::int64_t length, std::int64_t needles) {
  Random random(kTestSeed);
  return passkeys(random, 32, length, needles).ids;
}

double passkey_accuracy(const lm::Decoder& decoder, std::int64_t length, std::int64_t needles) {
  return answered(decoder, length, needles, kTestSeed);
}

}  // namespace unbend
