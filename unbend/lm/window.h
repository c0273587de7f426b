// Recipe `window`: sliding-window softmax with pinned sinks and nothing else. The control of every other recipe.
#pragma once

#include "unbend/lm/recipe.h"

namespace unbend::lm {

Recipe window_recipe();

}  // namespace unbend::lm
