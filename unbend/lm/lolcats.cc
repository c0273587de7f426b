#include "unbend/lm/lolcats.h"

#include "unbend/lm/common_denominator.h"

namespace unbend::lm {

Recipe lolcats_recipe() {
  Recipe recipe;
  recipe.name = "lolcats";
  recipe.title = "LoLCATs: window + linear attention with learned feature maps under one denominator";
  recipe.source = "Zhang et al. 2024, arXiv 2410.10254";
  recipe.defaults = common_options(64, 0);
  recipe.defaults.update({{"window_factor", -2.197},  // f = 0.1
                          {"terraced", false},
                          {"linear", true},
                          {"lora_alpha", 16.0},
                          {"lora_targets", {"q", "k", "v", "o"}}});
  recipe.mixer = [](const DecoderConfig& config, const Json& options, std::int64_t, Random&) -> std::unique_ptr<Mixer> {
    CommonDenominator settings;
    settings.window = options.at("window").get<std::int64_t>();
    settings.sinks = options.at("sinks").get<std::int64_t>();
    settings.terraced = options.at("terraced").get<bool>();
    settings.states = config.heads;
    settings.linear = options.at("linear").get<bool>();
    settings.weight = CommonDenominator::Weight::WindowFactor;
    settings.weight_start = options.at("window_factor").get<double>();
    return common_denominator_mixer(config, settings);
  };
  recipe.stages = [](const Json&) {
    Stage transfer;
    transfer.kind = Stage::Kind::Transfer;
    transfer.name = "transfer";
    transfer.tokens = 65536;
    transfer.mixer_learning_rate = 1e-2;
    transfer.beta2 = .999;
    transfer.schedule = Stage::Schedule::Plateau;
    Stage lora;
    lora.name = "lora";
    lora.tokens = 65536;
    lora.learning_rate = 1e-4;
    lora.mixer_learning_rate = 0;  // maps and factors stay as transfer left them
    lora.beta2 = .999;
    lora.schedule = Stage::Schedule::Plateau;
    return std::vector<Stage>{transfer, lora};
  };
  return recipe;
}

}  // namespace unbend::lm
