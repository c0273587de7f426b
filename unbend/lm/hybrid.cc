#include "unbend/lm/hybrid.h"

#include <cmath>

#include "unbend/base/error.h"
#include "unbend/lm/common_denominator.h"

namespace unbend::lm {

Recipe hybrid_recipe() {
  Recipe recipe;
  recipe.name = "hybrid";
  recipe.title = "window + sinks + gated linear attention under one denominator";
  recipe.source = "this project";
  recipe.defaults = common_options(256, 4);
  recipe.defaults.update(
      {{"state_heads", "kv"}, {"gate", true}, {"gate_bias", 5.0}, {"log_scale", std::log(.02)}, {"linear", true}});
  recipe.mixer = [](const DecoderConfig& config, const Json& options, std::int64_t, Random&) -> std::unique_ptr<Mixer> {
    const auto state_heads = options.at("state_heads").get<std::string>();
    require(state_heads == "kv" || state_heads == "query", "hybrid: state_heads must be kv or query, not '{}'",
            state_heads);
    CommonDenominator settings;
    settings.window = options.at("window").get<std::int64_t>();
    settings.sinks = options.at("sinks").get<std::int64_t>();
    settings.states = state_heads == "kv" ? config.kv_heads : config.heads;
    settings.gate = options.at("gate").get<bool>();
    settings.gate_bias = options.at("gate_bias").get<double>();
    settings.linear = options.at("linear").get<bool>();
    settings.weight_start = options.at("log_scale").get<double>();
    return common_denominator_mixer(config, settings);
  };
  recipe.stages = [](const Json&) {
    Stage transfer;
    transfer.kind = Stage::Kind::Transfer;
    transfer.name = "transfer";
    transfer.tokens = 32768;
    transfer.mixer_learning_rate = 3e-3;
    transfer.beta2 = .99;
    Stage lora;
    lora.name = "lora";
    lora.tokens = 65536;
    lora.mixer_learning_rate = 3e-3;
    lora.kl = .9;
    lora.cross_entropy = .1;
    return std::vector<Stage>{transfer, lora};
  };
  return recipe;
}

}  // namespace unbend::lm
