#include "unbend/lm/controls.h"

#include "unbend/base/error.h"
#include "unbend/lm/softmax_mixer.h"

namespace unbend::lm {
namespace {

std::vector<Stage> end_to_end(const Json&) {
  Stage lora;
  lora.name = "lora";
  lora.tokens = 65536;
  lora.kl = .9;
  lora.cross_entropy = .1;
  return {lora};
}

}  // namespace

Recipe window_recipe() {
  Recipe recipe;
  recipe.name = "window";
  recipe.title = "sliding window with attention sinks (a control)";
  recipe.source = "Xiao et al. 2023, arXiv 2309.17453 (sinks)";
  recipe.defaults = common_options(256, 4);
  recipe.mixer = [](const DecoderConfig&, const Json& options, std::int64_t, Random&) {
    return window_mixer(options.at("window").get<std::int64_t>(), options.at("sinks").get<std::int64_t>());
  };
  recipe.stages = end_to_end;
  return recipe;
}

Recipe softmax_recipe() {
  Recipe recipe;
  recipe.name = "softmax";
  recipe.title = "the teacher's attention, low-rank corrections only (a control)";
  recipe.source = "Hu et al. 2021, arXiv 2106.09685 (LoRA)";
  recipe.defaults = common_options(0, 0);
  recipe.mixer = [](const DecoderConfig&, const Json& options, std::int64_t, Random&) {
    for (const auto* option : {"window", "sinks"})
      require(options.at(option).get<std::int64_t>() == 0, "softmax: {} must be 0: it attends to everything", option);
    return softmax_mixer();
  };
  recipe.stages = end_to_end;
  return recipe;
}

}  // namespace unbend::lm
