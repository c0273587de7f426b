// `unbend lm bench|linearize`.
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>

#include "cli/lm_contest.h"
#include "cli/verbs.h"
#include "unbend/base/error.h"
#include "unbend/base/progress.h"
#include "unbend/engine/engine.h"
#include "unbend/lm/contest.h"

namespace unbend::cli {
namespace {

struct BenchArguments {
  ModelOptions model;
  BackendOption backend;
  std::vector<std::int64_t> contexts{256, 1024, 4096, 16384, 32768};
  std::int64_t tokens = 16;
  bool decode_only = false, json = false;
};

void bench(const BenchArguments& a) {
  if (a.tokens < 1) fail_usage("--tokens must be at least 1, not {}", a.tokens);
  check_contexts(a.contexts);
  a.backend.refuse_type(a.model);
  Progress progress("decoding speed", static_cast<std::int64_t>(a.contexts.size()), "contexts", a.json);
  std::int64_t done = 0, weights = 0;
  const auto tick = [&] { progress.update(++done); };
  std::vector<lm::SpeedPoint> points;
  if (a.backend.engine(a.model)) {
    engine::EngineOptions options;
    options.threads = thread_count(a.model);
    if (!a.contexts.empty()) options.context = *std::ranges::max_element(a.contexts) + 1024;
    const auto model = open_engine_model(a.model);
    for (const auto& tensor : model->file().tensors()) weights += static_cast<std::int64_t>(tensor.bytes);
    engine::Engine runner(model, options);
    points = engine::decode_speed(runner, a.contexts, a.tokens, !a.decode_only, tick);
  } else {
    const auto model = open_model(a.model);
    const auto decoder = lm::merge_lora(model.decoder());
    weights = lm::weight_bytes(decoder);
    points = lm::decode_speed(decoder, a.contexts, a.tokens, tick);
  }
  progress.finish();
  Table table{"", {"context", "tokens/s", "512 more tokens/s", "state (MB)", "peak memory (MB)"}, {}};
  Json json = Json::array();
  for (const auto& p : points) {
    table.rows.push_back({std::to_string(p.context), fmt::format("{:.1f}", p.tokens_per_second),
                          p.prefill_per_second > 0 ? fmt::format("{:.0f}", p.prefill_per_second) : "-",
                          fmt::format("{:.1f}", static_cast<double>(p.state_bytes) / 1e6),
                          fmt::format("{:.0f}", static_cast<double>(p.peak_resident_bytes) / 1e6)});
    json.push_back({{"context", p.context},
                    {"tokens_per_second", p.tokens_per_second},
                    {"prefill_tokens_per_second", p.prefill_per_second},
                    {"state_bytes", p.state_bytes},
                    {"peak_resident_bytes", p.peak_resident_bytes}});
  }
  if (a.json)
    print_json({{"weight_bytes", weights}, {"points", json}});
  else
    fmt::print("weights: {}\n{}", mib(weights), to_text(table));
}

struct LinearizeArguments {
  ModelOptions model;
  BackendOption backend;
  RecipeOptions recipe;
  TextOptions text;
  WindowOptions windows;
  std::string control, report;
  std::vector<std::int64_t> contexts{256, 1024, 4096, 16384, 32768};
  std::vector<std::string> prompts;
  bool json = false;
};

/// Tokens that a delta says its student learned from; 0 without a delta.
std::int64_t trained_tokens(const std::string& delta) {
  return delta.empty() ? 0 : json_get(lm::read_delta_info(delta).training, "tokens", delta, std::int64_t{0});
}

std::string training_note(std::int64_t tokens) {
  return tokens > 0 ? fmt::format("trained on {} tokens", tokens) : "not trained";
}

/// What the control has of the student, and what it has of its own. `made`: here, not loaded from a file.
std::string control_note(const lm::Student& student, const lm::Student& control, bool made, std::int64_t tokens) {
  const auto of = [](const lm::Student& s, const char* option) { return s.options.at(option).get<std::int64_t>(); };
  const auto window = of(control, "window"), sinks = of(control, "sinks");
  const bool same = window == of(student, "window"), alone = control.recipe == "window";
  return fmt::format("The control{} has {}{} and {} sinks, {}{}.", alone ? "" : ", recipe " + control.recipe + ",",
                     made && !same ? "the memory, " : "",
                     same ? "the same window" : fmt::format("a window of {}", window),
                     sinks == of(student, "sinks") ? "as many" : std::to_string(sinks), training_note(tokens),
                     alone ? ", and forgets what leaves the window" : "");
}

void linearize(const LinearizeArguments& a) {
  check_contexts(a.contexts);
  for (const auto& inputs : {a.model.files(), a.text.files(), {a.control, a.windows.frozen}})
    check_output(a.report, inputs);
  a.recipe.refuse_beside(a.model.adapter);
  auto model = open_model(a.model);
  Progress progress("convert", 3, "models", a.json);
  if (!model.student)
    model.student = lm::convert(model.teacher, lm::find_recipe(a.recipe.recipe), a.recipe.options(), 0);
  const auto& options = model.student->options;
  progress.update(1, model.student->recipe);
  // The control keeps the student's window and sinks, and nothing of its linear part.
  auto control_options = lm::control_options(*model.student, options.at("sinks").get<std::int64_t>());
  control_options["lora_rank"] = 0;
  const auto control = a.control.empty() ? lm::convert(model.teacher, lm::find_recipe("window"), control_options, 0)
                                         : lm::load_delta(a.control, model.teacher, model.file);
  progress.update(2, "control");
  const auto student = lm::merge_lora(model.student->decoder), control_decoder = lm::merge_lora(control.decoder);
  progress.update(3, "low-rank corrections merged");
  progress.finish();

  lm::ComparisonOptions comparison;
  const auto window = options.at("window").get<std::int64_t>();
  comparison.window = std::max(window, control.options.at("window").get<std::int64_t>());
  comparison.contexts = a.contexts;
  comparison.prompts = a.prompts;
  comparison.quiet = a.json;
  if (a.windows.frozen.empty())
    a.windows.choose(comparison, *a.text.open(model.file, model.tokenizer, a.json));
  else
    a.windows.choose_frozen(comparison, model.file);
  const TemporaryFolder folder;
  const auto measuring = use_engine(comparison, a.backend, a.model, model.file, {&control, &*model.student}, folder);
  const auto control_tokens = trained_tokens(a.control);
  const auto student_tokens = trained_tokens(a.model.adapter);
  const auto named = [](const std::string& name, std::int64_t tokens) {
    return name + (tokens > 0 ? ", trained" : ", untrained");
  };
  const auto result = compare_models(
      {{"teacher", &model.teacher},
       {named(control.recipe == "window" ? "window + sinks" : control.recipe, control_tokens), &control_decoder},
       {named(model.student->recipe, student_tokens), &student}},
      model.tokenizer, comparison);
  std::vector<std::string> notes{
      fmt::format("Teacher: {} ({}). Surrogate: recipe {}, window {}, {} sinks, {}. {}",
                  model.file.text("general.name", a.model.model), a.model.model, model.student->recipe, window,
                  options.at("sinks").get<std::int64_t>(), training_note(student_tokens),
                  control_note(*model.student, control, a.control.empty(), control_tokens)),
      "Ratios of perplexities below one can come from adapting to the kind of text; the divergence (KL) from the "
      "teacher cannot.",
      measuring.note};
  if (!a.report.empty())
    lm::comparison_report(result, model.file.text("general.name", "model") + ", linearized", notes).write(a.report);
  if (a.json) return print_json(to_json(result, measuring, notes));
  for (std::size_t p = 0; p < a.prompts.size(); ++p) {
    fmt::print("\n> {}\n", a.prompts[p]);
    for (const auto& m : result.models) fmt::print("[{}] {}\n", m.name, m.texts[p]);
  }
  fmt::print("\n{}", to_text(lm::comparison_table(result)));
  for (const auto& note : notes) fmt::print("- {}\n", note);
  for (const auto& note : result.notes) fmt::print("left out: {}\n", note);
  if (!a.report.empty()) fmt::print("\nreport: {}\n", a.report);
}

}  // namespace

void add_lm_measure_verbs(CLI::App& lm) {
  {
    auto* verb = lm.add_subcommand("bench", "decoding speed and memory against context length");
    auto a = std::make_shared<BenchArguments>();
    a->model.add_to(*verb);
    a->backend.add_to(*verb);
    verb->add_option("--contexts", a->contexts, "lengths")->delimiter(',')->capture_default_str();
    verb->add_option("--tokens", a->tokens, "to decode after each")->capture_default_str();
    verb->add_flag("--decode-only", a->decode_only, "do not measure how fast 512 tokens more are read");
    verb->add_flag("--json", a->json, "print JSON");
    verb->footer(
        "Examples:\n  unbend lm bench model.gguf\n  unbend lm bench model.gguf --adapter student.safetensors "
        "--contexts 1024,65536 --json");
    verb->callback([a] { bench(*a); });
  }
  {
    auto* verb =
        lm.add_subcommand("linearize", "the main job: teacher, control and surrogate side by side, with a report");
    auto a = std::make_shared<LinearizeArguments>();
    a->model.add_to(*verb);
    a->backend.add_to(*verb);
    a->recipe.add_to(*verb);
    a->text.add_to(*verb);
    a->windows.add_to(*verb);
    verb->add_option("--control", a->control, "delta of the control; otherwise window + sinks without training");
    verb->add_option("--prompt", a->prompts, "prompt that all models answer (repeatable)");
    verb->add_option("--contexts", a->contexts, "context lengths for speed and memory")
        ->delimiter(',')
        ->capture_default_str();
    verb->add_option("--report", a->report, "HTML report to write");
    verb->add_flag("--json", a->json, "print JSON");
    verb->footer(
        "Examples:\n  unbend lm linearize model.gguf --adapter student.safetensors --text held-out/ --report "
        "report.html\n"
        "  unbend lm linearize model.gguf --recipe hybrid --set window=128 --text held-out/ --json");
    verb->callback([a] { linearize(*a); });
  }
}

}  // namespace unbend::cli
