// One layer's mixer in double precision, for tests that compare it with worked numbers.
#pragma once

#include <torch/types.h>

#include <memory>
#include <string>
#include <vector>

#include "unbend/lm/recipe.h"

namespace unbend::lm {

inline DecoderConfig config_of(std::int64_t heads, std::int64_t kv_heads, std::int64_t width) {
  DecoderConfig c;
  c.layers = 1, c.hidden = 6, c.heads = heads, c.kv_heads = kv_heads, c.head_dim = width, c.ffn = 8, c.vocab = 10;
  c.context = 512;
  return c;
}

inline std::unique_ptr<Mixer> one_mixer(const std::string& name, const DecoderConfig& c, const Json& changes,
                                        at::ScalarType type = at::kDouble) {
  const auto& recipe = find_recipe(name);
  Random random(4);
  auto mixer = recipe.mixer(c, recipe_options(recipe, changes), 0, random);
  for (const auto& p : mixer->parameters()) *p.tensor = p.tensor->to(type);
  return mixer;
}

inline at::Tensor rows(const std::vector<double>& values, std::int64_t width) {
  return at::tensor(values, at::kDouble).view({-1, width});
}

inline double difference(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<double>(); }

}  // namespace unbend::lm
