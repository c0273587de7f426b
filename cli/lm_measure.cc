// `unbend lm bench|linearize`.
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>

#include "cli/lm_common.h"
#include "cli/verbs.h"
#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/base/progress.h"
#include "unbend/base/subprocess.h"
#include "unbend/engine/engine.h"
#include "unbend/lm/batch_source.h"
#include "unbend/lm/export.h"
#include "unbend/lm/linearize.h"

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
  for (const auto context : a.contexts)
    if (context < 1) fail_usage("--contexts: a context has at least 1 token, not {}", context);
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

/// Speed of a model in a process of its own, so that its memory is its own too.
std::vector<lm::SpeedPoint> engine_speed(const std::string& path, const std::vector<std::int64_t>& contexts,
                                         std::int64_t tokens, int threads) {
  const auto self = std::filesystem::read_symlink("/proc/self/exe").string();
  const auto result =
      run_command({self, "lm", "bench", path, "--contexts", fmt::format("{}", fmt::join(contexts, ",")), "--tokens",
                   std::to_string(tokens), "--threads", std::to_string(threads), "--decode-only", "--json"},
                  {.capture = true});
  if (result.exit_code != 0) fail_computation("{}: measuring its speed failed: {}", path, result.errors);
  std::vector<lm::SpeedPoint> points;
  const auto json = parse_json(result.output, "unbend lm bench");
  for (const auto& p : json_get<Json>(json, "points", "unbend lm bench"))
    points.push_back({json_get<std::int64_t>(p, "context", "point"), json_get<double>(p, "tokens_per_second", "point"),
                      0, json_get<std::int64_t>(p, "state_bytes", "point"),
                      json_get<std::int64_t>(p, "peak_resident_bytes", "point")});
  return points;
}

struct LinearizeArguments {
  ModelOptions model;
  BackendOption backend;
  RecipeOptions recipe;
  TextOptions text;
  std::string frozen, control, report;
  std::int64_t short_windows = 40, long_windows = 12;
  std::vector<std::int64_t> contexts{256, 1024, 4096, 16384, 32768};
  std::vector<std::string> prompts;
  bool json = false;
};

void linearize(const LinearizeArguments& a) {
  auto model = open_model(a.model);
  Progress progress("convert", 3, "models", a.json);
  const bool trained = model.student.has_value();
  if (!trained) model.student = lm::convert(model.teacher, lm::find_recipe(a.recipe.recipe), a.recipe.options(), 0);
  const auto& options = model.student->options;
  progress.update(1, model.student->recipe);
  // The control keeps the student's window and sinks, and nothing of its linear part.
  const auto& window_recipe = lm::find_recipe("window");
  const auto control = a.control.empty()
                           ? lm::convert(model.teacher, window_recipe,
                                         lm::recipe_options(window_recipe, {{"window", options.at("window")},
                                                                            {"sinks", options.at("sinks")},
                                                                            {"lora_rank", 0}}),
                                         0)
                           : lm::load_delta(a.control, model.teacher, model.file);
  progress.update(2, "control");
  const auto student = lm::merge_lora(model.student->decoder), control_decoder = lm::merge_lora(control.decoder);
  progress.update(3, "low-rank corrections merged");
  progress.finish();

  lm::ComparisonOptions comparison;
  comparison.window = options.at("window").get<std::int64_t>();
  comparison.contexts = a.contexts;
  comparison.prompts = a.prompts;
  comparison.quiet = a.json;
  if (!a.frozen.empty()) {
    const auto all = lm::load_windows(a.frozen, lm::tokenizer_hash(model.file));
    for (const auto& [name, rows] : all) {
      if (rows.empty()) continue;
      const auto windows = lm::window_tensor(rows);
      if (windows.size(1) <= 512)
        comparison.short_windows = windows.slice(0, 0, a.short_windows);
      else
        comparison.long_windows = windows.slice(0, 0, a.long_windows);
    }
    require(comparison.short_windows.defined(), "{}: no windows of at most 512 tokens", a.frozen);
  } else {
    const auto tokens = a.text.open(model.file, model.tokenizer);
    comparison.short_windows = lm::spread_windows(*tokens, 512, a.short_windows);
    if (!lm::full_windows(*tokens, 2048).empty())
      comparison.long_windows = lm::spread_windows(*tokens, 2048, a.long_windows);
  }
  // Speed is the engine's, on files as they would be used; students that it cannot run leave all models to LibTorch.
  const TemporaryFolder folder;
  std::vector<std::string> paths{a.model.model};
  std::string speed_note = "Speed and memory: LibTorch, float32 states.";
  if (a.backend.engine(a.model) && !comparison.contexts.empty()) try {
      for (const auto* s : std::initializer_list<const lm::Student*>{&control, &*model.student}) {
        paths.push_back((folder.path() / fmt::format("{}.gguf", paths.size())).string());
        lm::export_student(model.file, *s, paths.back());
      }
      comparison.speed = [&](std::size_t m) {
        return engine_speed(paths[m], comparison.contexts, 2 * comparison.speed_tokens, thread_count(a.model));
      };
      speed_note = fmt::format(
          "Speed and memory: the engine on {} threads, weights as in the model's file (corrected ones at 8 bits), keys "
          "and values in float16; each model in a process of its own.",
          thread_count(a.model));
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::Input || a.backend.name == "engine") throw;
    }
  const std::string control_name = a.control.empty() ? "window + sinks" : "window + sinks, trained";
  const auto result =
      lm::compare({{"teacher", &model.teacher}, {control_name, &control_decoder}, {model.student->recipe, &student}},
                  model.tokenizer, comparison);
  std::vector<std::string> notes{
      fmt::format("Teacher: {} ({}). Surrogate: recipe {}, window {}, {} sinks{}. The control has the same window and "
                  "sinks{}, but forgets what leaves the window.",
                  model.file.text("general.name", a.model.model), a.model.model, model.student->recipe,
                  comparison.window, options.at("sinks").get<std::int64_t>(), trained ? ", trained" : ", not trained",
                  a.control.empty() ? ", not trained" : ", trained on as many tokens"),
      "Ratios of perplexities below one can come from adapting to the kind of text; the divergence (KL) from the "
      "teacher cannot.",
      speed_note};
  if (!a.report.empty())
    lm::comparison_report(result, model.file.text("general.name", "model") + ", linearized", notes).write(a.report);
  if (a.json) return print_json(lm::to_json(result));
  for (std::size_t p = 0; p < a.prompts.size(); ++p) {
    fmt::print("\n> {}\n", a.prompts[p]);
    for (const auto& m : result.models) fmt::print("[{}] {}\n", m.name, m.texts[p]);
  }
  fmt::print("\n{}", to_text(lm::comparison_table(result)));
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
    verb->add_option("--windows-file", a->frozen, "frozen windows instead of text (data/heldout_docs.safetensors)");
    verb->add_option("--control", a->control, "delta of the control; otherwise window + sinks without training");
    verb->add_option("--prompt", a->prompts, "prompt that all models answer (repeatable)");
    verb->add_option("--contexts", a->contexts, "context lengths for speed and memory")
        ->delimiter(',')
        ->capture_default_str();
    verb->add_option("--short-windows", a->short_windows, "texts of 512 tokens")->capture_default_str();
    verb->add_option("--long-windows", a->long_windows, "texts of 2,048 tokens")->capture_default_str();
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
