// What mixers say of themselves, as rows of a study's table.
#pragma once

#include <string>

#include "unbend/lm/decoder.h"
#include "unbend/report/table.h"

namespace unbend {

/// Adds a row per layer with the gauges of its mixer on `windows` [N, T]; the first rows give an empty table its
/// columns, so all decoders of a table have the same recipe.
void add_gauges(Table& table, const std::string& name, const lm::Decoder& decoder, const at::Tensor& windows);

}  // namespace unbend
