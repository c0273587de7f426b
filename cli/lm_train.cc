// `unbend lm convert|distill|tokens|merge`.
#include <fmt/format.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>

#include "cli/lm_common.h"
#include "cli/verbs.h"
#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/base/interrupt.h"
#include "unbend/lm/batch_source.h"
#include "unbend/lm/distill.h"
#include "unbend/lm/evaluate.h"

namespace unbend::cli {
namespace {

void set_stage_field(lm::Stage& stage, const std::string& field, double value) {
  constexpr double kMost = 1e15;  // counts are exact
  const bool count = field == "tokens" || field == "top_k";
  if (!(value >= 0 && value < kMost) || (count && value != std::floor(value)) || (field == "top_k" && value < 1))
    fail_usage("--stage: {} cannot be {}", field, value);
  if (field == "tokens")
    stage.tokens = static_cast<std::int64_t>(value);
  else if (field == "learning_rate")
    stage.learning_rate = value;
  else if (field == "mixer_learning_rate")
    stage.mixer_learning_rate = value;
  else if (field == "weight_decay")
    stage.weight_decay = value;
  else if (field == "warmup")
    stage.warmup = value;
  else if (field == "floor")
    stage.floor = value;
  else if (field == "clip")
    stage.clip = value;
  else if (field == "kl")
    stage.kl = value;
  else if (field == "cross_entropy")
    stage.cross_entropy = value;
  else if (field == "z_loss")
    stage.z_loss = value;
  else if (field == "top_k")
    stage.top_k = static_cast<std::int64_t>(value);
  else
    fail_usage(
        "--stage: no field '{}' (tokens, learning_rate, mixer_learning_rate, weight_decay, warmup, floor, clip, kl, "
        "cross_entropy, z_loss, top_k, schedule)",
        field);
}

/// Applies "NAME.FIELD=VALUE".
void change_stages(std::vector<lm::Stage>& stages, const std::vector<std::string>& changes) {
  for (const auto& change : changes) {
    const auto dot = change.find('.'), equals = change.find('=');
    if (dot == std::string::npos || equals == std::string::npos || dot > equals)
      fail_usage("--stage: '{}' is not NAME.FIELD=VALUE", change);
    const auto named = change.substr(0, dot), field = change.substr(dot + 1, equals - dot - 1),
               text = change.substr(equals + 1);
    const auto stage = std::ranges::find(stages, named, &lm::Stage::name);
    if (stage == stages.end()) fail_usage("--stage: the recipe has no stage '{}'", named);
    if (field == "schedule") {
      if (text != "cosine" && text != "plateau") fail_usage("--stage: schedule is cosine or plateau, not '{}'", text);
      stage->schedule = text == "cosine" ? lm::Stage::Schedule::Cosine : lm::Stage::Schedule::Plateau;
      continue;
    }
    double value = 0;
    try {
      std::size_t used = 0;
      value = std::stod(text, &used);
      if (used != text.size()) throw std::invalid_argument("trailing");
    } catch (const std::exception&) {
      fail_usage("--stage: '{}' is not a number", text);
    }
    if (stage->schedule == lm::Stage::Schedule::Plateau && (field == "warmup" || field == "floor"))
      fail_usage(
          "--stage: stage {} has no {}: its rate falls where the loss on --validation does not (schedule=cosine before "
          "it changes that)",
          named, field);
    set_stage_field(*stage, field, value);
  }
  std::erase_if(stages, [](const lm::Stage& stage) { return stage.tokens == 0; });
  if (stages.empty()) fail_usage("nothing to train: every stage has a budget of 0 tokens");
}

struct ConvertArguments {
  ModelOptions model;
  RecipeOptions recipe;
  std::string out;
  std::uint64_t seed = 0;
  bool options = false, json = false;
};

/// Published forms of some recipes have none.
void warn_without_sinks(const Json& options) {
  if (options.at("window") > 0 && options.at("sinks") == 0)
    fmt::print(stderr,
               "unbend: a window without sinks loses what most pretrained models need: their first tokens; try --set "
               "sinks=4\n");
}

void convert(const ConvertArguments& a) {
  const auto& recipe = lm::find_recipe(a.recipe.recipe);
  const auto options = a.recipe.options();
  if (a.options) return print_json(options);
  if (a.out.empty()) fail_usage("convert: --out is needed");
  check_output(a.out, a.model.files());
  const auto model = open_model(a.model);
  warn_without_sinks(options);
  const auto student = lm::convert(model.teacher, recipe, options, a.seed);
  lm::save_delta(a.out, student,
                 {recipe.name,
                  options,
                  model.file.text("general.name", ""),
                  model.file.content_hash(),
                  {{"tokens", 0}, {"seed", a.seed}}});
  if (a.json)
    print_json({{"out", a.out}, {"recipe", recipe.name}, {"options", options}});
  else
    fmt::print("{}: untrained student by recipe {} ({}); train it with `unbend lm distill --adapter`\n", a.out,
               recipe.name, recipe.title);
}

/// How gates and branches stand after training; what is wrong with them is said as well.
void add_gauges(Json& json, const std::vector<std::vector<lm::Gauge>>& layers) {
  for (std::size_t i = 0; i < layers.size(); ++i)
    for (const auto& gauge : layers[i]) {
      json["gauges"][gauge.name].push_back(gauge.value);
      if (!gauge.warning.empty())
        fmt::print(stderr, "warning: layer {}: {} is {:.4f}: {}\n", i, gauge.name, gauge.value, gauge.warning);
    }
}

struct DistillArguments {
  ModelOptions model;
  RecipeOptions recipe;
  TextOptions text;
  RunOptions run;
  std::string out, validation, targets;
  std::vector<std::string> stages;
  std::int64_t length = 0, shortest = 0;
  std::uint64_t seed = 0;
  bool half = false, json = false;
};

void distill(const DistillArguments& a) {
  check_output(a.out, {a.model.model, a.text.tokens, a.validation, a.run.log});  // an adapter may be trained on
  for (const auto& folder : {a.run.checkpoints, a.targets}) check_folder(folder);
  a.recipe.refuse_beside(a.model.adapter);
  if (a.run.validate_every > 0 && a.validation.empty())
    fail_usage("--validate-every needs text to validate on: --validation");
  auto train = a.run.train_options();
  auto model = open_model(a.model);
  Json options;
  std::string name;
  if (model.student) {
    name = model.student->recipe;
    options = model.student->options;
  } else {
    name = a.recipe.recipe;
    options = a.recipe.options();
    if (!a.run.quiet && !a.json) warn_without_sinks(options);
    model.student = lm::convert(model.teacher, lm::find_recipe(name), options, a.seed);
  }
  const auto& recipe = lm::find_recipe(name);
  auto stages = recipe.stages(options);
  change_stages(stages, a.stages);

  const auto tokens = a.text.open(model.file, model.tokenizer, a.run.quiet || a.json);
  lm::BatchOptions batch;
  const auto window = options.at("window").get<std::int64_t>();
  batch.length = a.length > 0 ? a.length : std::max<std::int64_t>(512, 4 * window);
  warn_beyond_context(batch.length, model.teacher.config);
  batch.rows = a.run.rows;
  // What is not longer than a window teaches nothing about what lies beyond it.
  batch.least = a.shortest > 0 ? a.shortest : std::min(batch.length - 1, window > 0 ? 2 * window : batch.length / 8);
  batch.seed = a.seed + 1;
  if (model.tokenizer.adds_bos()) batch.bos = model.tokenizer.bos();
  auto source = lm::batch_source(tokens, batch);

  train.targets = a.targets;
  if (!a.validation.empty()) {
    const auto held_out = lm::load_tokens(a.validation, lm::tokenizer_hash(model.file));
    const auto windows =
        lm::behind_bos(lm::spread_windows(held_out, batch.length, a.run.validation_windows), model.tokenizer);
    train.validate_every = a.run.validate_every > 0 ? a.run.validate_every : 20;
    train.validate = [windows](const lm::Decoder& student) { return lm::mean_nats(student, windows); };
  }
  Json sources = Json::array();
  for (const auto& s : tokens->sources) sources.push_back(s.sha256);
  Json settings{{"recipe", name},         {"options", options},
                {"length", batch.length}, {"shortest", batch.least},
                {"rows", batch.rows},     {"accumulate", a.run.accumulate},
                {"seed", a.seed},         {"type", a.model.weight_type()},
                {"stages", Json::array()}};
  for (const auto& s : stages)
    settings["stages"].push_back({{"name", s.name},
                                  {"tokens", s.tokens},
                                  {"learning_rate", s.learning_rate},
                                  {"mixer_learning_rate", s.mixer_learning_rate},
                                  {"weight_decay", s.weight_decay},
                                  {"schedule", s.schedule == lm::Stage::Schedule::Cosine ? "cosine" : "plateau"},
                                  {"warmup", s.warmup},
                                  {"floor", s.floor},
                                  {"clip", s.clip},
                                  {"kl", s.kl},
                                  {"cross_entropy", s.cross_entropy},
                                  {"z_loss", s.z_loss},
                                  {"top_k", s.top_k}});
  if (!a.validation.empty())  // decides over the rate of some recipes
    settings["validation"] = {
        {"sha256", sha256_file(a.validation)}, {"every", train.validate_every}, {"windows", a.run.validation_windows}};
  const std::string identity_text = settings.dump() + sources.dump() + model.file.content_hash() +
                                    (a.model.adapter.empty() ? "" : sha256_file(a.model.adapter));
  train.identity = sha256(std::as_bytes(std::span(identity_text)));

  catch_interrupts();
  const auto report = lm::train(model.teacher, *model.student, stages, *source, train);
  Json training = settings;
  training.update(to_json(report));
  training["corpus_tokens"] = tokens->ids.size();
  if (!report.interrupted) add_gauges(training, lm::gauges(model.student->decoder, source->next().ids));
  lm::save_delta(a.out, *model.student,
                 {name, options, model.file.text("general.name", ""), model.file.content_hash(), training}, a.half);
  if (a.json)
    print_json(training);
  else
    fmt::print("{}: {}\n", a.out, summary(report, a.run));
  if (report.interrupted) throw CLI::RuntimeError(static_cast<int>(ErrorKind::Computation));
}

struct TokensArguments {
  std::string model, out;
  std::vector<std::string> texts;
  bool json = false;
};

void tokens(const TokensArguments& a) {
  check_output(a.out, {a.model});
  const auto file = lm::make_token_file({a.texts.begin(), a.texts.end()}, a.model, a.out, a.json);
  if (a.json)
    print_json(
        {{"out", a.out}, {"documents", file.documents()}, {"tokens", file.ids.size()}, {"tokenizer", file.tokenizer}});
  else
    fmt::print("{}: {} documents, {} tokens\n", a.out, file.documents(), file.ids.size());
}

}  // namespace

void add_lm_training_verbs(CLI::App& lm) {
  {
    auto* verb = lm.add_subcommand("tokens", "turn texts into a token file");
    auto a = std::make_shared<TokensArguments>();
    verb->add_option("model", a->model, "GGUF file whose tokenizer is used")->required();
    verb->add_option("texts", a->texts, "text, Markdown or HTML files, or folders of them")->required();
    verb->add_option("--out", a->out, "token file to write (.safetensors)")->required();
    verb->add_flag("--json", a->json, "print JSON");
    verb->footer("Example:\n  unbend lm tokens model.gguf docs/ notes.md --out train.safetensors");
    verb->callback([a] { tokens(*a); });
  }
  {
    auto* verb = lm.add_subcommand("convert", "make an untrained student of a model by a recipe");
    auto a = std::make_shared<ConvertArguments>();
    a->model.add_to(*verb, false);
    a->recipe.add_to(*verb);
    verb->add_option("--out", a->out, "delta to write (.safetensors)");
    verb->add_option("--seed", a->seed, "of random starts")->capture_default_str();
    verb->add_flag("--options", a->options, "print the recipe's options with their values and stop");
    verb->add_flag("--json", a->json, "print JSON");
    verb->footer(
        "Examples:\n  unbend lm convert model.gguf --recipe hybrid --set window=256 --out student.safetensors\n"
        "  unbend lm convert model.gguf --recipe liger --set variant=hgrn2 --out liger.safetensors\n"
        "  unbend lm convert model.gguf --recipe liger --options");
    verb->callback([a] { convert(*a); });
  }
  {
    auto* verb = lm.add_subcommand("distill", "train a student on text, from the model's own predictions");
    auto a = std::make_shared<DistillArguments>();
    a->model.add_to(*verb);
    a->recipe.add_to(*verb);
    a->text.add_to(*verb);
    verb->add_option("--out", a->out, "delta to write (.safetensors)")->required();
    verb->add_option("--stage", a->stages,
                     "change a stage: NAME.FIELD=VALUE, for example lora.tokens=200000 (repeatable)");
    verb->add_option("--length", a->length, "tokens per sequence; 0 = 4 windows, at least 512")->capture_default_str();
    verb->add_option("--shortest", a->shortest,
                     "shorter pieces of text are left out; 0 = 2 windows, or 1/8 of --length without one")
        ->capture_default_str();
    a->run.add_to(*verb);
    verb->add_option("--validation", a->validation, "token file of held-out text");
    verb->add_option("--targets", a->targets,
                     "folder that keeps the model's predictions for other runs on the same texts");
    verb->add_option("--seed", a->seed, "of starts and of the order of texts")->capture_default_str();
    verb->add_flag("--half", a->half, "store the delta in float16");
    verb->add_flag("--json", a->json, "print JSON");
    verb->footer(
        "Examples:\n  unbend lm distill model.gguf --text docs/ --out student.safetensors --checkpoints run1/\n"
        "  unbend lm distill model.gguf --recipe liger --tokens-file train.safetensors --stage lora.tokens=1000000 "
        "--out liger.safetensors\n"
        "  unbend lm distill model.gguf --adapter student.safetensors --text more/ --seconds 3600 --out "
        "student2.safetensors");
    verb->callback([a] { distill(*a); });
  }
}

}  // namespace unbend::cli
