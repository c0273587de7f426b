// `unbend lm compare`, and what it shares with `linearize`.
#include "cli/lm_contest.h"

#include <fmt/format.h>
#include <torch/types.h>

#include <algorithm>
#include <memory>

#include "cli/verbs.h"
#include "unbend/base/error.h"
#include "unbend/base/interrupt.h"
#include "unbend/base/subprocess.h"
#include "unbend/engine/engine.h"
#include "unbend/lm/batch_source.h"
#include "unbend/lm/contest.h"
#include "unbend/lm/export.h"

namespace unbend::cli {
namespace {

/// Speed of a model in a process of its own, so that its memory is its own too.
std::vector<lm::SpeedPoint> engine_speed(const std::string& path, const std::vector<std::int64_t>& contexts,
                                         std::int64_t tokens, int threads) {
  const auto self = std::filesystem::read_symlink("/proc/self/exe").string();
  const auto result =
      run_command({self, "lm", "bench", path, "--contexts", fmt::format("{}", fmt::join(contexts, ",")), "--tokens",
                   std::to_string(tokens), "--threads", std::to_string(threads), "--decode-only", "--json"},
                  {.capture = true});
  if (result.exit_code != 0)
    fail_computation("`unbend lm bench` failed (exit code {}): {}", result.exit_code,
                     result.errors.substr(0, result.errors.find('\n')));
  std::vector<lm::SpeedPoint> points;
  const auto json = parse_json(result.output, "unbend lm bench");
  for (const auto& p : json_get<Json>(json, "points", "unbend lm bench"))
    points.push_back({json_get<std::int64_t>(p, "context", "point"), json_get<double>(p, "tokens_per_second", "point"),
                      0, json_get<std::int64_t>(p, "state_bytes", "point"),
                      json_get<std::int64_t>(p, "peak_resident_bytes", "point")});
  return points;
}

struct CompareArguments {
  ModelOptions model;
  BackendOption backend;
  TextOptions text;
  WindowOptions windows;
  lm::ContestOptions contest;
  std::vector<std::string> recipes{"all"}, evaluation, tasks{"copy", "codes", "passkey"};
  std::vector<std::int64_t> contexts{1024, 16384};
  std::string checkpoints, report;
  std::int64_t tokens = 16384, length = 512, rows = 2, recall_texts = 4;
  double held_out = .1;
  std::uint64_t seed = 0;
  bool quiet = false, json = false;

  CompareArguments() { windows.short_windows = 12, windows.long_windows = 3; }
};

void compare(CompareArguments a) {
  if (a.tokens < 1) fail_usage("--tokens must be at least 1, not {}", a.tokens);
  if (a.length < 2 || a.rows < 1) fail_usage("--length {} and --rows {}: expected 2 and 1 or more", a.length, a.rows);
  if (!(a.held_out > 0 && a.held_out < 1)) fail_usage("--held-out {}: expected a share between 0 and 1", a.held_out);
  for (const auto& task : a.tasks) lm::find_task(task);
  if (a.recipes != std::vector<std::string>{"all"}) a.contest.recipes = a.recipes;
  for (const auto& name : a.contest.recipes) lm::find_recipe(name);
  check_contexts(a.contexts);
  for (const auto& inputs :
       {a.model.files(), a.text.files(), {a.evaluation.begin(), a.evaluation.end()}, {a.windows.frozen}})
    check_output(a.report, inputs);
  check_folder(a.checkpoints);
  lm::TrainOptions options;
  options.checkpoints = a.checkpoints;
  options.quiet = a.quiet || a.json;

  const auto model = open_model(a.model);
  options.identity = model.file.content_hash() + a.model.weight_type();
  auto text = a.text.open(model.file, model.tokenizer, options.quiet);
  lm::ComparisonOptions comparison;
  if (!a.windows.frozen.empty()) {
    a.windows.choose_frozen(comparison, model.file);
  } else if (!a.evaluation.empty()) {
    TextOptions held_out;
    held_out.texts = a.evaluation;
    a.windows.choose(comparison, *held_out.open(model.file, model.tokenizer, options.quiet));
  } else {
    auto [training, rest] = lm::split_tail(*text, a.held_out);
    a.windows.choose(comparison, rest);
    text = std::make_shared<lm::TokenFile>(std::move(training));
    options.identity += fmt::format(" but the last {} of ", a.held_out);
  }
  for (const auto& source : text->sources) options.identity += source.sha256;

  const auto entrants = lm::entrants(model.teacher, a.contest);
  lm::BatchOptions batch;
  batch.length = a.length;
  batch.rows = a.rows;
  batch.least = std::clamp<std::int64_t>(2 * lm::largest_window(entrants), 1, std::max<std::int64_t>(1, a.length / 2));
  batch.seed = a.seed + 1;
  if (model.tokenizer.adds_bos()) batch.bos = model.tokenizer.bos();
  catch_interrupts();
  const auto training = lm::train_entrants(model.teacher, entrants, text, batch, a.tokens, a.seed, options);
  if (training.interrupted)
    fail_computation("interrupted{}", a.checkpoints.empty() ? "" : ": run the same command again to go on");
  require(!training.students.empty(), "compare: nothing could be trained: {}", fmt::join(training.left_out, "; "));

  std::vector<lm::Decoder> merged;
  std::vector<lm::Contestant> contestants{{"teacher", &model.teacher}};
  std::vector<const lm::Student*> students;
  for (const auto& trained : training.students) {
    merged.push_back(lm::merge_lora(trained.student.decoder));
    students.push_back(&trained.student);
  }
  for (std::size_t i = 0; i < merged.size(); ++i) {
    const auto& trained = training.students[i];
    contestants.push_back({trained.entrant.name, &merged[i], trained.report.tokens,
                           static_cast<double>(trained.report.tokens) / std::max(1e-9, trained.report.seconds)});
  }
  comparison.window = std::max<std::int64_t>(16, lm::largest_window(entrants));
  comparison.tasks = a.tasks;
  comparison.recall_texts = a.recall_texts;
  comparison.contexts = a.contexts;
  comparison.quiet = options.quiet;
  const TemporaryFolder folder;
  const auto measuring = use_engine(comparison, a.backend, a.model, model.file, students, folder);
  auto result = compare_models(contestants, model.tokenizer, comparison);
  result.notes.insert(result.notes.end(), training.left_out.begin(), training.left_out.end());

  std::vector<std::string> notes{
      fmt::format("Teacher: {} ({}). Every other model learned from {} tokens, the same batches of {} sequences of {} "
                  "in the same order, by the stages of its recipe at the paper's rates.",
                  model.file.text("general.name", a.model.model), a.model.model, a.tokens, batch.rows, batch.length),
      "A recipe is worth its linear part where it beats the control with its window. Training also adapts to the kind "
      "of text: what the softmax control, which keeps the teacher's attention, gains on the teacher is no recipe's "
      "merit, "
      "and its divergence (KL) from the teacher no recipe's loss.",
      "Recall: share of the answers' tokens that are guessed right. " + measuring.note};
  notes.insert(notes.end(), training.notes.begin(), training.notes.end());
  if (!a.report.empty())
    lm::comparison_report(result, model.file.text("general.name", "model") + ": recipes side by side", notes)
        .write(a.report);
  if (a.json) {
    auto json = to_json(result, measuring, notes);
    json["budget"] = a.tokens;
    for (std::size_t i = 0; i < training.students.size(); ++i) {
      const auto& trained = training.students[i];
      json["models"][i + 1].update({{"recipe", trained.entrant.recipe}, {"options", trained.entrant.options}});
      json["models"][i + 1]["training"].update(to_json(trained.report));
    }
    return print_json(json);
  }
  fmt::print("{}\n{}", to_text(lm::summary_table(result)), to_text(lm::position_table(result)));
  for (const auto& note : notes) fmt::print("- {}\n", note);
  for (const auto& note : result.notes) fmt::print("left out: {}\n", note);
  if (!a.report.empty()) fmt::print("\nreport: {}\n", a.report);
}

}  // namespace

void WindowOptions::add_to(CLI::App& verb) {
  verb.add_option("--windows-file", frozen, "frozen windows instead of text (data/heldout_docs.safetensors)");
  verb.add_option("--short-windows", short_windows, "at most so many short texts")->capture_default_str();
  verb.add_option("--long-windows", long_windows, "at most so many long ones")->capture_default_str();
  verb.add_option("--short-length", short_length, "tokens of a short text")->capture_default_str();
  verb.add_option("--long-length", long_length, "tokens of a long one")->capture_default_str();
}

void WindowOptions::choose_frozen(lm::ComparisonOptions& comparison, const engine::Gguf& model) const {
  const auto all = lm::load_windows(frozen, lm::tokenizer_hash(model));
  for (const auto& [name, rows] : all) {
    if (rows.empty()) continue;
    const auto windows = lm::window_tensor(rows);
    if (windows.size(1) <= short_length)
      comparison.short_windows = lm::spread_rows(windows, short_windows);
    else
      comparison.long_windows = lm::spread_rows(windows, long_windows);
  }
  require(comparison.short_windows.defined(), "{}: no windows of at most {} tokens", frozen, short_length);
}

void WindowOptions::choose(lm::ComparisonOptions& comparison, const lm::TokenFile& text) const {
  if (short_length < 2 || long_length <= short_length)
    fail_usage("--short-length {} and --long-length {}: expected 2 or more, and more", short_length, long_length);
  comparison.short_windows = lm::spread_windows(text, short_length, short_windows);
  if (long_windows > 0 && !lm::full_windows(text, long_length).empty())
    comparison.long_windows = lm::spread_windows(text, long_length, long_windows);
}

void check_contexts(const std::vector<std::int64_t>& contexts) {
  for (const auto context : contexts)
    if (context < 1) fail_usage("--contexts: a context has at least 1 token, not {}", context);
}

lm::Comparison compare_models(const std::vector<lm::Contestant>& models, const engine::Tokenizer& tokenizer,
                              lm::ComparisonOptions options) {
  const auto failure = std::make_shared<std::string>();
  if (options.speed)
    options.speed = [failure, models, measure = options.speed](std::size_t m) -> std::vector<lm::SpeedPoint> {
      if (!failure->empty()) return {};
      try {
        return measure(m);
      } catch (const Error& error) {  // all else is measured by now, after long training perhaps
        if (interrupted()) throw;
        *failure = fmt::format("speed and memory: {}: {}", models[m].name, error.what());
        return {};
      }
    };
  auto result = lm::compare(models, tokenizer, options);
  if (failure->empty()) return result;
  for (auto& model : result.models) model.speed.clear();  // tables have columns for all models or none
  result.notes.push_back(*failure);
  return result;
}

Json to_json(const lm::Comparison& result, const Measuring& measuring, const std::vector<std::string>& notes) {
  auto json = lm::to_json(result);
  json.update({{"backend", measuring.backend}, {"notes", notes}, {"left_out", result.notes}});
  return json;
}

Measuring use_engine(lm::ComparisonOptions& comparison, const BackendOption& backend, const ModelOptions& options,
                     const engine::Gguf& model, const std::vector<const lm::Student*>& students,
                     const TemporaryFolder& folder) {
  Measuring torch{"torch", "Speed, memory and answers: LibTorch, float32 states."};
  if ((comparison.contexts.empty() && comparison.prompts.empty()) || !backend.engine(options)) return torch;
  std::vector<std::string> paths{options.model};
  try {
    for (const auto* student : students) {
      paths.push_back((folder.path() / fmt::format("{}.gguf", paths.size())).string());
      lm::export_student(model, *student, paths.back());
    }
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::Input || backend.name == "engine") throw;
    torch.note += fmt::format(" The engine cannot: {}.", error.what());
    return torch;
  }
  const int threads = thread_count(options);
  comparison.speed = [paths, contexts = comparison.contexts, tokens = 2 * comparison.speed_tokens,
                      threads](std::size_t m) { return engine_speed(paths[m], contexts, tokens, threads); };
  comparison.write = [paths, threads, runner = std::shared_ptr<engine::Engine>()](
                         std::size_t m, const engine::Tokenizer& tokenizer, const std::vector<engine::TokenId>& prompt,
                         const engine::GenerateOptions& generation) mutable {
    if (!runner || runner->model().file().path() != paths[m]) {
      runner.reset();  // one model in memory at a time
      engine::EngineOptions of_engine;
      of_engine.threads = threads;
      runner = std::make_shared<engine::Engine>(engine::Model::open(paths[m]), of_engine);
    }
    return engine::generate(*runner, tokenizer, prompt, generation).text;
  };
  return {"engine",
          fmt::format("Speed, memory and answers: the engine on {} threads, weights as in the model's file (corrected "
                      "ones at 8 bits), keys and values in float16; each model in a process of its own.",
                      threads)};
}

void add_lm_compare_verb(CLI::App& lm) {
  auto* verb = lm.add_subcommand("compare", "recipes side by side on one model: trained alike, measured alike");
  auto a = std::make_shared<CompareArguments>();
  a->model.add_to(*verb, false);
  verb->add_option("--recipes", a->recipes, "all, or names with commas: each in its published form")
      ->delimiter(',')
      ->capture_default_str();
  verb->add_option("--tokens", a->tokens, "tokens that each recipe and each control learns from")
      ->capture_default_str();
  a->text.add_to(*verb);
  verb->add_option("--held-out", a->held_out, "share of the text that is kept for measuring")->capture_default_str();
  verb->add_option("--eval", a->evaluation, "measure on these texts instead (repeatable)");
  a->windows.add_to(*verb);
  verb->add_option("--window", a->contest.window, "of every recipe that has one; 0 = each its own")
      ->capture_default_str();
  verb->add_option("--sinks", a->contest.sinks, "recipes without sinks compete with so many, too")
      ->capture_default_str();
  verb->add_option("--control-sinks", a->contest.control_sinks, "of the controls, which are window and sinks only")
      ->capture_default_str();
  verb->add_option("--length", a->length, "tokens per training sequence")->capture_default_str();
  verb->add_option("--rows", a->rows, "sequences per batch")->capture_default_str();
  verb->add_option("--checkpoints", a->checkpoints, "folder; a run that was stopped goes on from there");
  verb->add_option("--tasks", a->tasks, "of recall, see `unbend lm eval --help`")
      ->delimiter(',')
      ->capture_default_str();
  verb->add_option("--recall-texts", a->recall_texts, "per task; 0 = no recall")->capture_default_str();
  verb->add_option("--contexts", a->contexts, "context lengths for speed and memory; the table has the last one")
      ->delimiter(',')
      ->capture_default_str();
  a->backend.add_to(*verb);
  verb->add_option("--seed", a->seed, "of starts and of the order of texts")->capture_default_str();
  verb->add_option("--report", a->report, "HTML report to write");
  verb->add_flag("--quiet", a->quiet, "no progress");
  verb->add_flag("--json", a->json, "print JSON");
  verb->footer(
      "Two kinds of controls learn from the same tokens: the teacher's own attention (what adapting to the text "
      "gives),\n"
      "and for each distinct window that window and sinks. Recipes without a window are to be compared with the "
      "control\n"
      "of their state's size (the one with the window nearest to it). Recipes that train all weights need --type f32\n"
      "and are left out without it.\n\n"
      "Examples:\n  unbend lm compare model.gguf --text docs/ --type f32 --report recipes.html\n"
      "  unbend lm compare model.gguf --recipes liger,lolcats --window 64 --sinks 4 --tokens 100000 --text docs/\n"
      "  unbend lm compare model.gguf --recipes lawcat --tokens-file train.safetensors --windows-file "
      "data/heldout_docs.safetensors --json");
  verb->callback([a] { compare(*a); });
}

}  // namespace unbend::cli
