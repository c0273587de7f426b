#include "studies/needles.h"

#include <torch/types.h>

#include "studies/bytes.h"
#include "studies/training.h"
#include "unbend/engine/byte_vocabulary.h"
#include "unbend/lm/task_source.h"

namespace unbend {
namespace {

constexpr std::uint64_t kTestSeed = 1'000'003;  // no training seed comes near it
constexpr std::uint64_t kStopSeed = 2'000'003;  // of texts that say when a teacher has learnt enough
constexpr std::uint64_t kMostParts = 5;         // of a teacher's training at one length
// Texts a step. With 16, two seeds of three find 38 and 0 % after five times the steps.
constexpr std::int64_t kTeacherRows = 64;

lm::TaskOptions of_length(std::int64_t length, std::uint64_t seed) {
  lm::TaskOptions options;
  options.size = length, options.seed = seed, options.digits = kNeedleDigits;
  return options;
}

double answered(const lm::Decoder& decoder, const lm::Task& task, const lm::TaskText& text,
                const lm::TaskOptions& options) {
  return 100 * lm::ask(decoder, lm::make_probes(task, text, options)).exact;
}

}  // namespace

NeedleTask needle_task(const std::string& name) {
  const auto& task = lm::find_task(name);
  const auto tokenizer = engine::byte_tokenizer();
  const auto text = king_james_bytes();
  const auto with = [&](const at::Tensor& bytes) { return lm::task_text(tokenizer, bytes.to(at::kLong).unsqueeze(0)); };
  return {&task, with(text.training), with(text.held_out)};
}

lm::Decoder needle_teacher(const NeedleTask& task, std::uint64_t seed, const StudyOptions& study) {
  lm::DecoderConfig config;
  config.layers = 4, config.hidden = 128, config.heads = config.kv_heads = 4, config.head_dim = 32, config.ffn = 384;
  config.vocab = task.training.tokenizer.size(), config.context = 4096, config.tied = false;
  Random random(seed);
  auto teacher = lm::random_decoder(config, 1, .5, random);
  lm::Stage stage;
  stage.name = "needle teacher";
  stage.learning_rate = 3e-3;
  stage.weight_decay = .1;
  stage.warmup = .1, stage.floor = .1;
  const auto train_until = [&](std::int64_t length, std::uint64_t first_seed) {
    double accuracy = 0;
    for (std::uint64_t part = 1; part <= kMostParts && accuracy < 90; ++part) {
      const auto source =
          lm::task_source(*task.task, task.training, of_length(length, first_seed + 1000 * part), kTeacherRows);
      train_in_study(teacher, teacher, stage, *source, {""}, study);
      auto validation = of_length(length, kStopSeed);
      validation.count = 64;
      accuracy = answered(teacher, *task.task, task.training, validation);
    }
  };
  // Texts of half the length first: from whole ones the same network learns nothing in as many tokens.
  stage.steps = 300;
  train_until(kNeedleLength / 2, seed);
  stage.learning_rate = 1e-3;
  stage.steps = 100;
  train_until(kNeedleLength, seed + 500);
  return teacher;
}

lm::Decoder needle_student(const lm::Decoder& teacher, const NeedleTask& task, const std::string& recipe,
                           std::uint64_t seed, const StudyOptions& study) {
  const auto& found = lm::find_recipe(recipe);
  const Json options{{"lora_rank", 8}, {"lora_alpha", 16.}, {"lora_targets", {"q", "k", "v", "o"}}};
  auto student = lm::convert(teacher, found, lm::recipe_options(found, options), seed);
  const auto source = lm::task_source(*task.task, task.training, of_length(kNeedleLength, seed + 100), 8);
  lm::Stage transfer;
  transfer.kind = lm::Stage::Kind::Transfer;
  transfer.name = "needle transfer";
  transfer.steps = 600;
  transfer.mixer_learning_rate = 1e-2;
  transfer.beta2 = .999;
  transfer.clip = 0;
  transfer.warmup = 0;
  train_in_study(teacher, student.decoder, transfer, *source, {}, study);
  lm::Stage lora;
  lora.name = "needle LoRA";
  lora.steps = 600;
  lora.learning_rate = 2e-3;
  lora.mixer_learning_rate = 0;
  lora.beta2 = .999;
  lora.warmup = 0;
  train_in_study(teacher, student.decoder, lora, *source, {}, study);
  return std::move(student.decoder);
}

double needle_accuracy(const lm::Decoder& decoder, const NeedleTask& task, std::int64_t length, std::int64_t count,
                       double depth) {
  auto options = of_length(length, kTestSeed);
  options.count = count, options.depth = depth;
  return answered(decoder, *task.task, task.test, options);
}

}  // namespace unbend
