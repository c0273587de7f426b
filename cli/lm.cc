// `unbend lm`: the group of verbs, and what they share.
#include <ATen/Parallel.h>
#include <ATen/cpu/Utils.h>
#include <fmt/format.h>

#include <cstdio>
#include <thread>

#include "cli/device.h"
#include "cli/lm_common.h"
#include "cli/verbs.h"
#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/lm/export.h"

namespace unbend::cli {

void ModelOptions::add_to(CLI::App& verb, bool with_adapter) {
  verb.add_option("model", model, "GGUF file of a Llama-family model")->required();
  if (with_adapter)
    verb.add_option("--adapter", adapter, "delta of a student, made by `unbend lm convert` or `distill`");
  add_device_option(verb, device);
  verb.add_option(
          "--type", type,
          "type of the weights, for training and --backend torch (the engine's are as in the file); without: bf16 on "
          "devices that multiply it faster, else f32")
      ->check(CLI::IsMember({"bf16", "f32", "f64"}));
  verb.add_option("--threads", threads, "0 = one per core")->capture_default_str();
}

std::string ModelOptions::weight_type() const {
  if (!type.empty()) return type;
  if (device != "cpu") return "bf16";
  // GFLOP/s of a thread in LibTorch's products, bf16 and f32: Sapphire Rapids without its tiles 105 and 200, Zen 5 485
  // and 255.
  const auto cpu = at::cpu::get_cpu_capabilities();
  const auto has = [&](const char* key) {
    const auto found = cpu.find(key);
    return found != cpu.end() && found->second.isBool() && found->second.toBool();
  };
  const auto name = cpu.find("cpu_name");
  const bool amd = name != cpu.end() && name->second.toStringRef().find("AMD") != std::string::npos;
  return has("amx_bf16") || (amd && has("avx512_bf16")) ? "bf16" : "f32";
}

at::ScalarType scalar_type(const std::string& name) {
  if (name == "bf16") return at::kBFloat16;
  if (name == "f32") return at::kFloat;
  if (name == "f64") return at::kDouble;
  fail_usage("--type: '{}' is not bf16, f32 or f64", name);
}

OpenModel open_model(const ModelOptions& o) {
  const auto type = scalar_type(o.weight_type());
  at::set_num_threads(thread_count(o));
  const auto device = device_named(o.device);
  auto file = engine::Gguf::open(o.model);
  auto tokenizer = engine::Tokenizer::load(o.model);
  auto teacher = lm::load_decoder(file, type);
  if (!device.is_cpu()) teacher = teacher.to(device, type);
  OpenModel model{std::move(file), std::move(tokenizer), std::move(teacher), {}};
  if (!o.adapter.empty()) model.student = lm::load_delta(o.adapter, model.teacher, model.file);
  return model;
}

void warn_beyond_context(std::int64_t tokens, const engine::DecoderConfig& config) {
  if (tokens > config.context)
    fmt::print(stderr, "unbend: warning: {} tokens are more than the {} that the model was made for\n", tokens,
               config.context);
}

int thread_count(const ModelOptions& o) {
  if (o.threads < 0) fail_usage("--threads must be 0 or more, not {}", o.threads);
  return o.threads > 0 ? o.threads : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

void BackendOption::add_to(CLI::App& verb) {
  verb.add_option("--backend", name, "engine (ggml; the default on the CPU) or torch")
      ->check(CLI::IsMember({"engine", "torch"}));
}

bool BackendOption::engine(const ModelOptions& o) const {
  if (name == "engine" && o.device != "cpu") fail_usage("--backend engine runs on the CPU, not on {}", o.device);
  return name != "torch" && o.device == "cpu";
}

void BackendOption::refuse_type(const ModelOptions& o) const {
  if (!o.type.empty() && engine(o))
    fail_usage("--type {} does nothing for the engine, whose weights are as in the file: give --backend torch too",
               o.type);
}

std::shared_ptr<const engine::Model> open_engine_model(const ModelOptions& o) {
  if (o.adapter.empty()) return engine::Model::open(o.model);
  auto options = o;
  options.type = "f32";
  const auto model = open_model(options);
  const TemporaryFolder folder;
  const auto path = folder.path() / "student.gguf";
  try {
    lm::export_student(model.file, *model.student, path);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::Input) throw;
    fail_input("{} (--backend torch runs it)", error.what());
  }
  return engine::Model::open(path);
}

void RecipeOptions::add_to(CLI::App& verb) {
  std::vector<std::string> names;
  for (const auto& r : lm::recipes()) names.push_back(r.name);
  named = verb.add_option("--recipe", recipe, fmt::format("{}", fmt::join(names, ", ")))->capture_default_str();
  verb.add_option("--set", sets,
                  "option of the recipe as KEY=VALUE (repeatable); `unbend lm convert --options` lists them");
}

Json RecipeOptions::options() const {
  Json changes = Json::object();
  for (const auto& set : sets) {
    const auto equals = set.find('=');
    if (equals == std::string::npos) fail_usage("--set: '{}' is not KEY=VALUE", set);
    const std::string key = set.substr(0, equals), value = set.substr(equals + 1);
    // Words need no quotes: what is not JSON is text.
    changes[key] = Json::accept(value) ? Json::parse(value) : Json(value);
  }
  return lm::recipe_options(lm::find_recipe(recipe), changes);
}

void RecipeOptions::refuse_beside(const std::string& adapter) const {
  if (adapter.empty() || (named->count() == 0 && sets.empty())) return;
  fail_usage("--adapter {} has its own recipe and options: leave --recipe and --set out", adapter);
}

void TextOptions::add_to(CLI::App& verb) {
  verb.add_option("--text", texts, "text, Markdown or HTML files, or folders of them (repeatable)");
  verb.add_option("--tokens-file", tokens, "token file made by `unbend lm tokens`");
}

std::shared_ptr<const lm::TokenFile> TextOptions::open(const engine::Gguf& file, const engine::Tokenizer& tokenizer,
                                                       bool quiet) const {
  const auto hash = lm::tokenizer_hash(file);
  if (texts.empty() == tokens.empty()) fail_usage("give either --text or --tokens-file");
  if (!tokens.empty()) return std::make_shared<lm::TokenFile>(lm::load_tokens(tokens, hash));
  return std::make_shared<lm::TokenFile>(
      lm::tokenize(lm::read_texts({texts.begin(), texts.end()}), tokenizer, hash, quiet));
}

std::vector<std::filesystem::path> TextOptions::files() const {
  std::vector<std::filesystem::path> all{texts.begin(), texts.end()};
  all.emplace_back(tokens);
  return all;
}

void RunOptions::add_to(CLI::App& verb) {
  verb.add_option("--rows", rows, "sequences per batch")->capture_default_str();
  verb.add_option("--accumulate", accumulate, "batches per step")->capture_default_str();
  verb.add_option("--seconds", seconds, "stop after so long; 0 = no limit")->capture_default_str();
  verb.add_option("--checkpoints", checkpoints, "folder; training goes on from the latest one in it");
  verb.add_option("--checkpoint-seconds", checkpoint_seconds, "time between checkpoints")->capture_default_str();
  verb.add_option("--validate-every", validate_every, "steps; 0 = 20 where there is held-out text")
      ->capture_default_str();
  verb.add_option("--validation-windows", validation_windows, "at most so many")->capture_default_str();
  verb.add_option("--log", log, "file for one line of JSON per step");
  verb.add_flag("--quiet", quiet, "no progress");
}

lm::TrainOptions RunOptions::train_options() const {
  if (rows < 1 || accumulate < 1) fail_usage("--rows {} and --accumulate {} must be at least 1", rows, accumulate);
  if (!(seconds >= 0)) fail_usage("--seconds must be 0 (no limit) or more");
  lm::TrainOptions train;
  train.accumulate = accumulate;
  train.seconds = seconds;
  train.checkpoints = checkpoints;
  train.checkpoint_seconds = checkpoint_seconds;
  train.log = log;
  train.quiet = quiet;
  return train;
}

Json to_json(const lm::TrainReport& report) {
  Json json{{"tokens", report.tokens},
            {"steps", report.steps},
            {"skipped_steps", report.skipped},
            {"seconds", report.seconds},
            {"cpu_seconds", report.cpu_seconds},
            {"tokens_per_cpu_second", static_cast<double>(report.tokens) / std::max(1e-9, report.cpu_seconds)},
            {"loss", report.loss},
            {"results", report.stages},
            {"interrupted", report.interrupted}};
  if (report.validation >= 0) json["validation_nats"] = report.validation;
  return json;
}

std::string summary(const lm::TrainReport& report, const RunOptions& run) {
  auto text = fmt::format("{} tokens in {:.0f} s ({:.0f} per CPU-second), loss {:.4f}", report.tokens, report.seconds,
                          static_cast<double>(report.tokens) / std::max(1e-9, report.cpu_seconds), report.loss);
  for (const auto& stage : report.stages)
    if (stage.at("steps") == 0 || stage.value("idle", false))
      text += fmt::format("; {} stage {}", stage.value("idle", false) ? "nothing to train in" : "no time for",
                          stage.at("name").get<std::string>());
  if (report.interrupted)
    text += run.checkpoints.empty() ? "; interrupted: without --checkpoints the same command begins anew"
                                    : "; interrupted: run the same command again to go on";
  return text;
}

std::vector<std::string> given(const std::vector<const CLI::Option*>& options) {
  std::vector<std::string> names;
  for (const auto* option : options)
    if (option->count() > 0) names.push_back(option->get_single_name());
  return names;
}

std::string mib(std::int64_t bytes) { return fmt::format("{:.1f} MB", static_cast<double>(bytes) / 1e6); }

}  // namespace unbend::cli

namespace unbend {

void add_lm_verbs(CLI::App& app) {
  auto* lm = app.add_subcommand("lm", "language models: look, train, convert, distill, evaluate, generate");
  lm->require_subcommand(1);
  lm->footer(
      "Examples:\n"
      "  unbend lm info model.gguf\n"
      "  unbend lm distill model.gguf --text docs/ --out student.safetensors\n"
      "  unbend lm generate model.gguf --adapter student.safetensors --prompt 'Once upon a time'");
  cli::add_lm_model_verbs(*lm);
  cli::add_lm_text_verbs(*lm);
  cli::add_lm_training_verbs(*lm);
  cli::add_lm_scratch_verb(*lm);
  cli::add_lm_eval_verb(*lm);
  cli::add_lm_measure_verbs(*lm);
  cli::add_lm_compare_verb(*lm);
  cli::add_lm_curvature_verb(*lm);
}

}  // namespace unbend
