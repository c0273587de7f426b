#include "unbend/lm/window.h"

#include "unbend/lm/softmax_mixer.h"

namespace unbend::lm {

Recipe window_recipe() {
  Recipe recipe;
  recipe.name = "window";
  recipe.title = "sliding window with attention sinks (the control)";
  recipe.source = "Xiao et al. 2023, arXiv 2309.17453 (sinks)";
  recipe.defaults = common_options(256, 4);
  recipe.mixer = [](const DecoderConfig&, const Json& options, std::int64_t, Random&) {
    return window_mixer(options.at("window").get<std::int64_t>(), options.at("sinks").get<std::int64_t>());
  };
  recipe.stages = [](const Json&) {
    Stage lora;
    lora.name = "lora";
    lora.tokens = 65536;
    lora.kl = .9;
    lora.cross_entropy = .1;
    return std::vector<Stage>{lora};
  };
  return recipe;
}

}  // namespace unbend::lm
