// `unbend lm eval`.
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <optional>

#include "cli/lm_common.h"
#include "cli/verbs.h"
#include "unbend/base/error.h"
#include "unbend/base/json.h"
#include "unbend/base/progress.h"
#include "unbend/engine/engine.h"
#include "unbend/lm/batch_source.h"
#include "unbend/lm/linearize.h"
#include "unbend/lm/recall.h"

namespace unbend::cli {
namespace {

struct EvalArguments {
  ModelOptions model;
  BackendOption backend;
  TextOptions text;
  lm::TaskOptions task_options;
  std::string teacher, frozen, task;
  std::int64_t length = 0, distance = 0, windows = 40;
  bool json = false;
  std::vector<const CLI::Option*> of_text, of_tasks, of_some_tasks;  ///< what makes no sense everywhere
};

constexpr std::int64_t kLength = 512;  // tokens of a window

/// At most `count` frozen windows of that length; 0 = the longest.
at::Tensor frozen_windows(const EvalArguments& a, const engine::Gguf& file, std::int64_t length, std::int64_t count) {
  const auto all = lm::load_windows(a.frozen, lm::tokenizer_hash(file));
  const std::vector<std::vector<lm::TokenId>>* chosen = nullptr;
  for (const auto& [name, rows] : all) {
    if (rows.empty() || (length > 0 && std::ssize(rows[0]) != length)) continue;
    if (!chosen || rows[0].size() > (*chosen)[0].size()) chosen = &rows;
  }
  if (!chosen) fail_input("{}: no windows of {} tokens", a.frozen, length);
  return lm::spread_rows(lm::window_tensor(*chosen), count);
}

/// The user's text for a task: all of it, documents of any length one after the other, or, of a long text, pieces
/// spread over it that have `least` tokens together.
at::Tensor stream(const lm::TokenFile& text, std::int64_t least) {
  const auto all = std::ssize(text.ids);
  if (all <= least + kLength) return lm::window_tensor({text.ids});
  const auto pieces = (least + kLength - 1) / kLength;
  std::vector<std::vector<lm::TokenId>> rows;
  for (std::int64_t i = 0; i < pieces; ++i) {
    const auto at = text.ids.begin() + (all - kLength) * i / std::max<std::int64_t>(1, pieces - 1);
    rows.emplace_back(at, at + kLength);
  }
  return lm::window_tensor(rows);
}

/// What the models are to be measured on: windows of text, or a task.
struct EvalData {
  at::Tensor windows;  // [N, T]
  std::vector<lm::Probe> probes;
  std::int64_t context = 0;      // tokens of the longest
  std::int64_t size = 0;         // of the task
  std::int64_t window = 0;       // of the student, 0 without
  std::optional<double> within;  // share of questions that this window answers
};

/// The window of the student's mixers, 0 without.
std::int64_t student_window(const EvalArguments& a) {
  const auto window = [](const Json& options, const std::string& where) {
    const auto tokens = json_get(options, "window", where, std::int64_t{0});
    require(tokens >= 0 && tokens <= std::numeric_limits<std::int32_t>::max(), "{}: a window of {} tokens", where,
            tokens);
    return tokens;
  };
  if (!a.model.adapter.empty()) return window(lm::read_delta_info(a.model.adapter).options, a.model.adapter);
  const auto file = engine::Gguf::open(a.model.model);
  return window(parse_json(file.text("unbend.options", "{}"), a.model.model), a.model.model);
}

EvalData eval_data(const EvalArguments& a, const engine::Gguf& file, const engine::Tokenizer& tokenizer) {
  EvalData data;
  if (a.task.empty()) {
    const auto length = a.length > 0 ? a.length : kLength;
    const auto windows = a.frozen.empty() ? lm::spread_windows(*a.text.open(file, tokenizer, a.json), length, a.windows)
                                          : frozen_windows(a, file, length, a.windows);
    data.windows = lm::behind_bos(windows, tokenizer);
    data.context = length;
    warn_beyond_context(length, engine::read_config(file));
    return data;
  }
  const auto& task = lm::find_task(a.task);
  const bool by_distance = task.measure == lm::Task::Measure::Distance;
  if (by_distance ? a.length > 0 && a.frozen.empty() : a.distance > 0)
    fail_usage("task {} is measured by its {}", task.name, by_distance ? "--distance" : "--length");
  auto options = a.task_options;
  options.size = by_distance ? a.distance : a.length;
  data.window = student_window(a);
  if (options.size == 0)
    options.size = lm::size_beyond(task, data.window, engine::read_config(file).context, tokenizer.size());
  data.size = options.size;
  at::Tensor text;
  if (task.needs_text) {
    auto least = std::max(a.windows * kLength, 2 * options.size);
    if (task.pieces) least = std::max(least, options.count * options.size);
    text = a.frozen.empty() ? stream(*a.text.open(file, tokenizer, a.json), least)
                            : frozen_windows(a, file, by_distance ? a.length : 0, (least + kLength - 1) / kLength);
  }
  data.probes = lm::make_probes(task, lm::task_text(tokenizer, text), options);
  if (std::ssize(data.probes) < options.count)
    fmt::print(stderr, "unbend: the text has room for {} of {} pieces of {} tokens: so many texts are asked\n",
               data.probes.size(), options.count, options.size);
  if (data.window > 0) data.within = lm::share_within(data.probes, data.window);
  for (const auto& probe : data.probes) data.context = std::max(data.context, std::ssize(probe.ids));
  warn_beyond_context(data.context, engine::read_config(file));
  return data;
}

/// What was asked, so that the same texts can be asked for again.
Json task_json(const EvalArguments& a, const EvalData& data) {
  const auto& task = lm::find_task(a.task);
  Json json{{"task", a.task},
            {"tokens", data.context},
            {"texts", data.probes.size()},
            {"seed", a.task_options.seed},
            {task.measure == lm::Task::Measure::Distance ? "distance" : "length", data.size}};
  const auto add = [&](const char* name, const Json& value) {
    if (task.options.find(name) != std::string_view::npos) json[name] = value;
  };
  add("depth", a.task_options.depth);
  add("digits", a.task_options.digits);
  add("pairs", a.task_options.pairs);
  if (data.window > 0) {
    json["window"] = data.window;
    json["within_window"] = data.within ? Json(*data.within) : Json();
  }
  return json;
}

/// "; 25 % of the answers are told within the window of 64".
std::string window_note(const EvalData& data) {
  if (data.window == 0) return "";
  if (!data.within) return fmt::format("; answers may be told within the window of {}", data.window);
  return fmt::format("; {:.3g} % of the answers are told within the window of {}", 100 * *data.within, data.window);
}

constexpr const char* kTeacher = "teacher";

/// Models to evaluate, by whatever runs them; the first is the one that the others are measured against.
struct EvalModels {
  std::vector<std::string> names;  // kTeacher, or a student's recipe
  std::function<std::vector<lm::Scores>(const at::Tensor& windows, const std::function<void(std::int64_t)>& progress)>
      scores;
  std::function<lm::Recall(std::size_t model, const std::vector<lm::Probe>& probes)> recall;
};

void eval_models(const EvalArguments& a, const EvalModels& models, const EvalData& data) {
  if (!a.task.empty()) {
    auto json = task_json(a, data);
    std::string text;
    for (std::size_t m = 0; m < models.names.size(); ++m) {
      const auto r = models.recall(m, data.probes);
      json["questions"] = r.questions, json["answers"] = r.answers;
      if (m == 0) json["chance"] = r.chance;
      const bool teacher = models.names[m] == kTeacher;
      auto& entry = json[teacher ? "teacher" : "student"];
      if (!teacher) entry["recipe"] = models.names[m];
      entry.update({{"accuracy", r.accuracy},
                    {"chance", r.chance},
                    {"accuracy_error", r.accuracy_error},
                    {"exact", r.exact},
                    {"exact_error", r.exact_error},
                    {"nats", r.nats}});
      text += fmt::format(
          "  {:<9}tokens right {:.3f} +- {:.3f} (chance {:.3f}), whole answers {:.3f} +- {:.3f}, {:.3f} nats per "
          "token\n",
          models.names[m], r.accuracy, r.accuracy_error, r.chance, r.exact, r.exact_error, r.nats);
    }
    if (a.json) return print_json(json);
    fmt::print("{}: {} texts of up to {} tokens, {} answers, {} tokens asked{}\n{}", a.task, data.probes.size(),
               data.context, json["answers"].get<std::int64_t>(), json["questions"].get<std::int64_t>(),
               window_note(data), text);
    return;
  }
  const auto& windows = data.windows;
  lm::Comparison comparison;
  for (const auto& name : models.names) comparison.models.push_back({name, {}, {}, {}, {}, {}});
  {
    Progress progress("evaluate", (windows.numel() - windows.size(0)) * std::ssize(models.names), "tokens", a.json);
    const auto scores = models.scores(windows, [&](std::int64_t done) { progress.update(done); });
    for (std::size_t m = 0; m < scores.size(); ++m) comparison.models[m].scores.push_back(scores[m]);
  }
  if (a.json) return print_json(lm::to_json(comparison));
  fmt::print("{}", to_text(lm::comparison_table(comparison)));
}

/// Options that would do nothing.
void check_options(const EvalArguments& a) {
  const auto* task = a.task.empty() ? nullptr : &lm::find_task(a.task);
  lm::check_options(task, a.task_options, given(a.of_some_tasks));
  if (!task) return lm::check_options(task, a.task_options, given(a.of_tasks));
  const auto text = given(a.of_text);
  if (!task->needs_text && !text.empty()) fail_usage("task {} needs no text: leave --{} out", task->name, text[0]);
}

void eval(const EvalArguments& a) {
  if (a.length < 0 || a.length == 1 || a.windows < 1)
    fail_usage("eval: --length must be at least 2 (or 0) and --windows at least 1");
  if (a.distance < 0) fail_usage("eval: --distance must be 0 or more, not {}", a.distance);
  if (!a.frozen.empty() && !(a.text.texts.empty() && a.text.tokens.empty()))
    fail_usage("eval: give either --windows-file or --text (or --tokens-file)");
  check_options(a);
  if (!a.teacher.empty() && !a.model.adapter.empty())
    fail_usage("eval: --adapter belongs to the model itself, which is then the teacher: leave --teacher out");
  EvalModels models;
  if (!a.backend.engine(a.model)) {
    if (!a.teacher.empty()) fail_usage("eval: --teacher needs the engine, which runs exported files");
    const auto model = open_model(a.model);
    std::vector<const lm::Decoder*> decoders{&model.teacher};
    if (model.student) decoders.push_back(&model.student->decoder);
    models.names = {kTeacher};
    if (model.student) models.names.push_back(model.student->recipe);
    models.scores = [&](const auto& windows, const auto& progress) {
      return lm::evaluate(decoders, windows, progress);
    };
    models.recall = [&](std::size_t m, const auto& probes) { return lm::ask(*decoders[m], probes); };
    return eval_models(a, models, eval_data(a, model.file, model.tokenizer));
  }
  at::set_num_threads(thread_count(a.model));
  const auto& teacher = a.teacher.empty() ? a.model.model : a.teacher;
  const auto file = engine::Gguf::open(teacher);
  const auto tokenizer = engine::Tokenizer::load(teacher);
  const auto data = eval_data(a, file, tokenizer);
  engine::EngineOptions options;
  options.threads = thread_count(a.model);
  options.context = data.context;
  std::vector<std::unique_ptr<engine::Engine>> engines;
  const auto add = [&](const std::shared_ptr<const engine::Model>& model) {
    const bool teacher = engines.empty() && !(a.teacher.empty() && !model->file().text("unbend.recipe", "").empty());
    models.names.push_back(teacher ? kTeacher : model->recipe());
    engines.push_back(std::make_unique<engine::Engine>(model, options));
  };
  add(engine::Model::open(teacher));
  if (!a.teacher.empty() || !a.model.adapter.empty()) {
    const auto student = open_engine_model(a.model);
    if (lm::tokenizer_hash(student->file()) != lm::tokenizer_hash(file))
      fail_input("{} and {} have different tokenizers", a.model.model, teacher);
    add(student);
  }
  std::vector<engine::Engine*> runners;
  for (const auto& e : engines) runners.push_back(e.get());
  models.scores = [&](const auto& ids, const auto& progress) {
    return lm::evaluate_on_engines(runners, ids, progress);
  };
  models.recall = [&](std::size_t m, const auto& probes) { return lm::ask(*runners[m], probes); };
  eval_models(a, models, data);
}

std::string task_list() {
  std::string text = "Tasks:\n";
  for (const auto& task : lm::tasks())
    text += fmt::format("  {:<12}{} ({} of {} tokens{})\n", task.name, task.description,
                        task.measure == lm::Task::Measure::Distance ? "distance" : "length", task.size,
                        task.needs_text ? ", with --text" : "");
  return text;
}

}  // namespace

void add_lm_eval_verb(CLI::App& lm) {
  auto* verb = lm.add_subcommand("eval", "perplexity, agreement and divergence on text, or a recall task");
  auto a = std::make_shared<EvalArguments>();
  a->model.add_to(*verb);
  a->backend.add_to(*verb);
  a->text.add_to(*verb);
  verb->add_option("--teacher", a->teacher, "measure an exported model against this GGUF file");
  verb->add_option("--windows-file", a->frozen, "frozen windows (data/heldout_docs.safetensors)");
  verb->add_option(
          "--length", a->length,
          "tokens per window, or of a task's text; 0 = 512, or the task's own or four of the student's windows")
      ->capture_default_str();
  verb->add_option("--windows", a->windows, "at most so many")->capture_default_str();
  verb->add_option("--task", a->task, "recall from a long text instead (see below and docs/tasks.md)");
  verb->add_option("--count", a->task_options.count, "texts of the task")->capture_default_str();
  verb->add_option("--distance", a->distance,
                   "tokens between a fact and its recall; 0 = twice the student's window, or the task's own")
      ->capture_default_str();
  verb->add_option("--depth", a->task_options.depth, "of a needle, 0 to 1; -1 = spread over the texts")
      ->capture_default_str();
  verb->add_option("--digits", a->task_options.digits, "of the number of niah1 and niah2")->capture_default_str();
  verb->add_option("--pairs", a->task_options.pairs, "of mqar and its kin")->capture_default_str();
  verb->add_option("--seed", a->task_options.seed, "of the task")->capture_default_str();
  for (const auto* name : {"--text", "--tokens-file", "--windows-file", "--windows"})
    a->of_text.push_back(verb->get_option(name));
  for (const auto* name : {"--count", "--distance", "--seed"}) a->of_tasks.push_back(verb->get_option(name));
  for (const auto* name : {"--depth", "--digits", "--pairs"}) a->of_some_tasks.push_back(verb->get_option(name));
  verb->add_flag("--json", a->json, "print JSON");
  verb->footer(task_list() +
               "\nExamples:\n  unbend lm eval model.gguf --adapter student.safetensors --text held-out/\n"
               "  unbend lm eval model.gguf --windows-file data/heldout_docs.safetensors --length 2048 --json\n"
               "  unbend lm eval student.gguf --teacher model.gguf --text held-out/\n"
               "  unbend lm eval model.gguf --adapter student.safetensors --task codes --text held-out/\n"
               "  unbend lm eval model.gguf --task niah1 --length 4096 --depth 0.5 --count 20 --json");
  verb->callback([a] { eval(*a); });
}

}  // namespace unbend::cli
