#include "unbend/lm/contest.h"

#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/lm/batch_source.h"

namespace unbend::lm {
namespace {

std::int64_t window_of(const Json& options) { return options.at("window").get<std::int64_t>(); }
std::int64_t sinks_of(const Json& options) { return options.at("sinks").get<std::int64_t>(); }

Entrant entrant_of(const std::string& recipe, const Json& options, const std::string& title) {
  std::string name = title;
  if (window_of(options) > 0) name += fmt::format(", window {}", window_of(options));
  if (sinks_of(options) > 0) name += fmt::format(" + {} sinks", sinks_of(options));
  return {name, recipe, options};
}

void add_once(std::vector<Entrant>& all, Entrant entrant) {
  for (const auto& other : all)
    if (other.recipe == entrant.recipe && other.options == entrant.options) return;
  all.push_back(std::move(entrant));
}

Entrant control_of(std::int64_t window, std::int64_t sinks) {
  const auto& recipe = find_recipe("window");
  return entrant_of("window", recipe_options(recipe, {{"window", window}, {"sinks", sinks}}), "control");
}

}  // namespace

Json control_options(const Student& student, std::int64_t sinks) {
  auto window = student.recipe == "softmax" ? window_of(find_recipe("window").defaults) : window_of(student.options);
  if (window <= 0) {
    const auto& c = student.decoder.config;
    const auto numbers = student.decoder.embedding.options().dtype(student.decoder.residual_type());
    const auto kept = softmax_layers(student.options, c.layers);
    const auto slot = 2 * c.kv_heads * c.head_dim * static_cast<std::int64_t>(numbers.dtype().itemsize());
    std::int64_t bytes = 0, layers = 0;
    for (std::size_t i = 0; i < student.decoder.layers.size(); ++i) {
      if (kept[i]) continue;
      bytes += student.decoder.layers[i].mixer->start(c, 1, numbers)->bytes();
      ++layers;
    }
    window = layers > 0 ? bytes / layers / slot - sinks : 0;
  }
  return recipe_options(find_recipe("window"), {{"window", std::max<std::int64_t>(1, window)}, {"sinks", sinks}});
}

std::vector<Entrant> entrants(const Decoder& teacher, const ContestOptions& options) {
  if (options.window < 0 || options.sinks < 0 || options.control_sinks < 0)
    fail_usage("compare: windows and sinks must not be negative");
  auto names = options.recipes;
  if (names.empty())
    for (const auto& recipe : recipes())
      if (recipe.name != "softmax" && recipe.name != "window") names.push_back(recipe.name);
  std::vector<Entrant> rivals;
  for (const auto& name : names) {
    const auto& recipe = find_recipe(name);
    std::vector<std::pair<std::string, Json>> forms{{name, recipe.defaults}};
    for (const auto& [preset, changes] : recipe.presets)
      if (recipe.defaults.at("preset") != preset)
        forms.emplace_back(name + ", " + preset, recipe_options(recipe, {{"preset", preset}}));
    for (auto& [title, form] : forms) {
      if (options.window > 0 && window_of(form) > 0) form["window"] = options.window;
      add_once(rivals, entrant_of(name, form, title));
      if (options.sinks == 0 || window_of(form) == 0 || sinks_of(form) > 0) continue;
      form["sinks"] = options.sinks;
      add_once(rivals, entrant_of(name, form, title));
    }
  }
  std::set<std::int64_t> windows;
  for (const auto& rival : rivals)
    if (window_of(rival.options) > 0) windows.insert(window_of(rival.options));
  if (windows.empty()) {
    const auto& first = rivals.front();
    try {
      windows.insert(window_of(
          control_options(convert(teacher, find_recipe(first.recipe), first.options, 0), options.control_sinks)));
    } catch (const Error&) {  // the recipe does not take this model: train_entrants() says so
      windows.insert(window_of(find_recipe("window").defaults));
    }
  }
  std::vector<Entrant> all{entrant_of("softmax", find_recipe("softmax").defaults, "control, softmax")};
  for (const auto window : windows) add_once(all, control_of(window, options.control_sinks));
  for (auto& rival : rivals) add_once(all, std::move(rival));
  return all;
}

std::int64_t largest_window(const std::vector<Entrant>& entrants) {
  std::int64_t largest = 0;
  for (const auto& entrant : entrants) largest = std::max(largest, window_of(entrant.options));
  return largest;
}

std::vector<Stage> share_budget(std::vector<Stage> stages, std::int64_t tokens, std::int64_t step) {
  std::int64_t whole = 0;
  for (const auto& stage : stages) {
    require(stage.steps == 0 && stage.tokens > 0, "stage {} has a budget in steps, not in tokens", stage.name);
    whole += stage.tokens;
  }
  auto left = std::max<std::int64_t>(std::ssize(stages), (tokens + step - 1) / step);  // steps, and stages
  auto later = std::ssize(stages);
  for (auto& stage : stages) {
    --later;
    const auto share =
        std::llround(static_cast<double>(left) * static_cast<double>(stage.tokens) / static_cast<double>(whole));
    whole -= stage.tokens;
    const auto mine = std::clamp<std::int64_t>(share, 1, left - later);
    stage.tokens = mine * step;
    left -= mine;
  }
  return stages;
}

ContestTraining train_entrants(const Decoder& teacher, const std::vector<Entrant>& entrants,
                               const std::shared_ptr<const TokenFile>& text, const BatchOptions& batch,
                               std::int64_t tokens, std::uint64_t seed, const TrainOptions& options) {
  ContestTraining result;
  for (std::size_t i = 0; i < entrants.size(); ++i) {
    const auto& entrant = entrants[i];
    const auto& recipe = find_recipe(entrant.recipe);
    const auto source = batch_source(text, batch);
    auto mine = options;
    mine.title = entrant.name;
    if (!options.checkpoints.empty()) mine.checkpoints /= fmt::format("{:02}-{}", i, entrant.recipe);
    const auto identity =
        fmt::format("{} {} {} {} {} {} {} {} {}", options.identity, entrant.recipe, entrant.options.dump(), tokens,
                    seed, batch.length, batch.rows, batch.least, batch.seed);
    mine.identity = sha256(std::as_bytes(std::span(identity)));
    try {
      auto student = convert(teacher, recipe, entrant.options, seed);
      const auto report =
          train(teacher, student,
                share_budget(recipe.stages(entrant.options), tokens, batch.rows * batch.length * options.accumulate),
                *source, mine);
      for (const auto& stage : report.stages)
        if (stage.value("idle", false))
          result.notes.push_back(fmt::format(
              "{}: its stage {} trained nothing: no loss depended on it (texts within the window, parts that are off)",
              entrant.name, stage.at("name").get<std::string>()));
      result.students.push_back({entrant, std::move(student), report});
      if (report.interrupted) {
        result.interrupted = true;
        break;
      }
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::Usage) throw;
      result.left_out.push_back(fmt::format("{}: {}", entrant.name, error.what()));
    }
  }
  return result;
}

}  // namespace unbend::lm
