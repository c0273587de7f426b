// What every other recipe is measured against: the same training without the recipe's linear part.
#pragma once

#include "unbend/lm/recipe.h"

namespace unbend::lm {

/// Recipe `window`: sliding-window softmax with pinned sinks and nothing else. What a linear part adds, it lacks.
Recipe window_recipe();

/// Recipe `softmax`: the teacher's attention, whole; only Lora factors train. What it gains is adaptation to the text,
/// which every student shares. Not linear: its memory grows as the teacher's.
Recipe softmax_recipe();

}  // namespace unbend::lm
