#include "studies/passkey.h"

#include <torch/types.h>

#include <algorithm>

#include "studies/training.h"
#include "unbend/base/error.h"
#include "unbend/lm/id_tasks.h"

namespace unbend {
namespace {

constexpr std::uint64_t kTestSeed = 1'000'003;  // no training seed comes near it
constexpr std::int64_t kAnswer = 2;             // the answer is the last token, logits before it predict it

at::Tensor passkey_ids(Random& random, std::int64_t batch, std::int64_t length) {
  lm::PasskeyOptions options;
  options.batch = batch, options.length = length;
  const auto made = lm::passkey_batch(random, options);
  return at::tensor(std::vector<std::int64_t>(made.tokens.begin(), made.tokens.end())).view({batch, length});
}

/// Sequences whose only target is the answer.
class PasskeySource : public lm::BatchSource {
 public:
  PasskeySource(std::uint64_t seed, std::int64_t rows) : random_(seed), rows_(rows) {}

  lm::Batch next() override {
    const auto ids = passkey_ids(random_, rows_, kPasskeyLength);
    auto targets = at::full_like(ids, -1);
    targets.select(1, kPasskeyLength - kAnswer).copy_(ids.select(1, kPasskeyLength - 1));
    return {ids, targets};
  }
  Json state() const override { return {{"random", random_.state()}}; }
  void restore(const Json& state) override { random_ = Random(state.at("random").get<Random::State>()); }

 private:
  Random random_;
  std::int64_t rows_;
};

/// Mean squared error of the student's heads to the teacher's on the teacher's inputs, mean over layers.
double transfer_error(const lm::Decoder& teacher, const lm::Decoder& student) {
  const at::NoGradGuard no_grad;
  Random random(kTestSeed);
  double sum = 0;
  teacher.hidden(passkey_ids(random, 128, kPasskeyLength), Form::Chunked,
                 [&](std::int64_t layer, const lm::MixerInput& input, const at::Tensor& heads) {
                   const auto mine =
                       student.layers[static_cast<std::size_t>(layer)].mixer->forward(input, Form::Chunked);
                   sum += (mine - heads).square().mean().item<double>();
                 });
  return sum / static_cast<double>(teacher.layers.size());
}

}  // namespace

lm::Decoder passkey_teacher(std::uint64_t seed, bool quiet) {
  lm::DecoderConfig config;
  config.layers = 2, config.hidden = 64, config.heads = config.kv_heads = 2, config.head_dim = 32, config.ffn = 128;
  config.vocab = lm::PasskeyOptions::kVocabulary, config.context = 2048, config.tied = false;
  Random random(seed);
  auto teacher = lm::random_decoder(config, 1, .5, random);
  lm::Stage stage;
  stage.name = "passkey teacher";
  stage.steps = 600;
  stage.learning_rate = 2e-3;
  stage.weight_decay = .01;
  PasskeySource source(seed, 64);
  train_in_study(teacher, teacher, stage, source, {""}, quiet);
  const double accuracy = passkey_accuracy(teacher, kPasskeyLength);
  if (accuracy < 99) fail_computation("the passkey teacher of seed {} reaches {:.1f} % only", seed, accuracy);
  return teacher;
}

PasskeyStudent passkey_student(const lm::Decoder& teacher, const std::string& recipe, const Json& options,
                               std::uint64_t seed, bool quiet) {
  const auto& found = lm::find_recipe(recipe);
  Json all = options;
  all.update({{"lora_rank", 8}, {"lora_alpha", 16.}, {"lora_targets", {"q", "k", "v", "o"}}});
  auto student = lm::convert(teacher, found, lm::recipe_options(found, all), seed);
  PasskeyStudent result;
  result.error_before = transfer_error(teacher, student.decoder);
  PasskeySource source(seed + 100, 32);
  lm::Stage transfer;
  transfer.kind = lm::Stage::Kind::Transfer;
  transfer.name = "passkey transfer";
  transfer.steps = 250;
  transfer.mixer_learning_rate = 1e-2;
  transfer.beta2 = .999;
  transfer.clip = 0;
  transfer.warmup = 0;
  train_in_study(teacher, student.decoder, transfer, source, {}, quiet);
  result.error_after = transfer_error(teacher, student.decoder);
  result.transferred = student.decoder.fork();
  lm::Stage lora;
  lora.name = "passkey LoRA";
  lora.steps = 250;
  lora.learning_rate = 2e-3;
  lora.mixer_learning_rate = 0;
  lora.beta2 = .999;
  lora.warmup = 0;
  train_in_study(teacher, student.decoder, lora, source, {}, quiet);
  result.tuned = std::move(student.decoder);
  return result;
}

double passkey_accuracy(const lm::Decoder& decoder, std::int64_t length) {
  const at::NoGradGuard no_grad;
  Random random(kTestSeed);
  constexpr std::int64_t kSequences = 512;
  const std::int64_t batch = std::clamp<std::int64_t>(16384 / length, 1, kSequences);
  double right = 0;
  for (std::int64_t done = 0; done < kSequences; done += batch) {
    const auto ids = passkey_ids(random, batch, length);
    const auto logits = decoder.logits(decoder.hidden(ids).select(1, length - kAnswer));
    right += (logits.argmax(-1) == ids.select(1, length - 1)).sum().item<double>();
  }
  return 100 * right / static_cast<double>(kSequences);
}

}  // namespace unbend
