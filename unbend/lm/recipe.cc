#include "unbend/lm/recipe.h"

#include <algorithm>
#include <map>
#include <ranges>

#include "unbend/base/error.h"
#include "unbend/lm/controls.h"
#include "unbend/lm/hybrid.h"
#include "unbend/lm/lawcat.h"
#include "unbend/lm/liger.h"
#include "unbend/lm/lizard.h"
#include "unbend/lm/lolcats.h"
#include "unbend/lm/lora.h"
#include "unbend/lm/regla.h"
#include "unbend/lm/supra.h"
#include "unbend/tensor/check.h"

namespace unbend::lm {
namespace {

std::vector<std::string> lora_targets(const Json& options) {
  for (const auto& target : options.at("lora_targets"))
    if (!target.is_string())
      fail_usage("lora_targets: {} is not text: it takes names of projections, as in [\"q\",\"v\"]", target.dump());
  const auto targets = options.at("lora_targets").get<std::vector<std::string>>();
  check_lora_targets(targets);
  return targets;
}

}  // namespace

const std::vector<Recipe>& recipes() {
  static const std::vector<Recipe> all{hybrid_recipe(), lawcat_recipe(),  liger_recipe(),
                                       lizard_recipe(), lolcats_recipe(), regla_recipe(),
                                       supra_recipe(),  softmax_recipe(), window_recipe()};
  return all;
}

const Recipe& find_recipe(std::string_view name) {
  std::vector<std::string> names;
  for (const auto& recipe : recipes()) {
    if (recipe.name == name) return recipe;
    names.push_back(recipe.name);
  }
  fail_usage("no recipe '{}': use one of {}", name, fmt::join(names, ", "));
}

Json common_options(std::int64_t window, std::int64_t sinks) {
  return {{"window", window},
          {"sinks", sinks},
          {"keep_every", 0},
          {"softmax_layers", Json::array()},
          {"lora_rank", 8},
          {"lora_alpha", 8.0},
          {"lora_targets", {"q", "k", "v"}}};
}

std::vector<bool> softmax_layers(const Json& options, std::int64_t layers) {
  std::vector<bool> kept(static_cast<std::size_t>(layers));
  const auto every = options.value("keep_every", std::int64_t{0});
  const auto list = options.value("softmax_layers", Json::array());  // older files have none
  require(every >= 0, "keep_every must be at least 0, not {}", every);
  require(every == 0 || list.empty(), "keep_every and softmax_layers exclude each other");
  for (std::int64_t i = 1; every > 0 && i <= layers; ++i) kept[static_cast<std::size_t>(i - 1)] = i % every == 0;
  for (const auto& layer : list) {
    require(layer.is_number_integer() && layer.get<std::int64_t>() >= 0 && layer.get<std::int64_t>() < layers,
            "softmax_layers: {} is no number of a layer: 0 to {}", layer.dump(), layers - 1);
    kept[layer.get<std::size_t>()] = true;
  }
  require(list.empty() || std::ranges::find(kept, false) != kept.end(),
          "softmax_layers lists all layers: nothing would be linear");
  return kept;
}

Json recipe_options(const Recipe& recipe, const Json& changes) {
  Json options = recipe.defaults;
  if (!recipe.presets.empty() && changes.contains("preset") && changes["preset"].is_string()) {
    const auto found = recipe.presets.find(changes["preset"].get<std::string>());
    if (found == recipe.presets.end())
      fail_usage("recipe {}: no preset {} ({})", recipe.name, changes["preset"].dump(),
                 fmt::join(recipe.presets | std::views::keys, ", "));
    options.update(found->second);
  }
  for (const auto& [key, value] : changes.items()) {
    if (!options.contains(key)) {
      std::vector<std::string> keys;
      for (const auto& item : options.items()) keys.push_back(item.key());
      fail_usage("recipe {} has no option '{}': it has {}", recipe.name, key, fmt::join(keys, ", "));
    }
    auto& slot = options[key];
    const bool fits = slot.is_number_integer() ? value.is_number_integer()
                      : slot.is_number()       ? value.is_number()
                                               : slot.type() == value.type();
    if (!fits)
      fail_usage("recipe {}: option {} takes a value like {}, not {}", recipe.name, key, slot.dump(), value.dump());
    if (slot.is_number_float())
      slot = value.get<double>();
    else
      slot = value;
  }
  return options;
}

Student convert(const Decoder& teacher, const Recipe& recipe, const Json& options, std::uint64_t seed) {
  Random random(seed);
  Student student{teacher.fork(), recipe.name, options, {}};
  const auto window = options.at("window").get<std::int64_t>(), sinks = options.at("sinks").get<std::int64_t>();
  const auto least = std::min<std::int64_t>(1, recipe.defaults.at("window").get<std::int64_t>());  // 0: none needed
  require(window >= least, "recipe {}: window must be at least {}, not {}", recipe.name, least, window);
  require(sinks >= 0, "recipe {}: sinks must be at least 0, not {}", recipe.name, sinks);
  constexpr std::int64_t kMost = std::int64_t{1} << 20;
  require(window <= kMost && sinks <= kMost,
          "recipe {}: a window of {} and {} sinks are more than the {} that are possible", recipe.name, window, sinks,
          kMost);
  const auto kept = softmax_layers(options, teacher.config.layers);
  const auto rank = options.at("lora_rank").get<std::int64_t>();
  require(rank >= 0, "recipe {}: lora_rank must be at least 0, not {}", recipe.name, rank);
  const auto alpha = options.at("lora_alpha").get<double>();
  const auto targets = lora_targets(options);
  const auto residual = student.decoder.residual_type();
  for (std::size_t i = 0; i < student.decoder.layers.size(); ++i) {
    auto& layer = student.decoder.layers[i];
    if (kept[i]) continue;
    try {
      layer.mixer = recipe.mixer(teacher.config, options, static_cast<std::int64_t>(i), random);
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {  // numbers beyond float32, tensors beyond the memory
      const std::string why = error.what();
      fail_input("recipe {}: an option is too large: {}", recipe.name, why.substr(0, why.find('\n')));
    }
    for (const auto& parameter : layer.mixer->parameters()) {
      check_finite(*parameter.tensor, fmt::format("recipe {}, these options: {}", recipe.name, parameter.name));
      *parameter.tensor = parameter.tensor->to(teacher.device(), residual);
    }
    if (recipe.weights) recipe.weights(layer, options, random);
    if (rank == 0) continue;
    for (auto* projection : {&layer.qkv, &layer.output, &layer.gate_up, &layer.down}) {
      add_lora(*projection, targets, rank, alpha, random);
      for (auto& part : projection->parts)
        if (part.lora.defined()) {
          part.lora.a = part.lora.a.to(teacher.device(), residual);
          part.lora.b = part.lora.b.to(teacher.device(), residual);
        }
    }
  }
  auto original = teacher;
  const auto before = weights(original), after = weights(student.decoder);
  for (std::size_t i = 0; i < after.size(); ++i)
    if (!after[i].tensor->is_same(*before[i].tensor)) student.own.push_back(after[i].name);
  return student;
}

Student with_options(const Student& student, const Json& changes) {
  const auto& recipe = find_recipe(student.recipe);
  Json wanted = student.options;
  wanted.update(changes);
  Student changed{student.decoder.fork(), student.recipe, recipe_options(recipe, wanted), student.own};
  const auto kept = softmax_layers(student.options, student.decoder.config.layers);
  Random random(0);  // what it draws is overwritten
  for (std::size_t i = 0; i < changed.decoder.layers.size(); ++i) {
    if (kept[i]) continue;
    auto& mixer = changed.decoder.layers[i].mixer;
    std::map<std::string, at::Tensor> tensors;
    for (const auto& parameter : mixer->parameters()) tensors[parameter.name] = *parameter.tensor;
    mixer = recipe.mixer(changed.decoder.config, changed.options, static_cast<std::int64_t>(i), random);
    for (const auto& parameter : mixer->parameters())
      *parameter.tensor = parameter.tensor->to(changed.decoder.device(), changed.decoder.residual_type());
    assign(mixer->parameters(), tensors, fmt::format("recipe {}: layer {} under other options", recipe.name, i));
  }
  return changed;
}

}  // namespace unbend::lm
