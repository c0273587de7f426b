#include "unbend/lm/lora.h"

#include <algorithm>

#include "unbend/base/error.h"

namespace unbend::lm {

void add_lora(Projection& projection, const std::vector<std::string>& targets, std::int64_t rank, double alpha,
              Random& random) {
  for (auto& part : projection.parts)
    if (std::find(targets.begin(), targets.end(), part.name) != targets.end())
      part.lora = make_lora(projection.in(), part.rows, rank, alpha, random);
}

void check_lora_targets(const std::vector<std::string>& targets) {
  static const std::vector<std::string> known{"q", "k", "v", "o", "gate", "up", "down"};
  for (const auto& target : targets)
    if (std::find(known.begin(), known.end(), target) == known.end())
      fail_usage("lora_targets: '{}' is not a projection of the decoder ({})", target, fmt::join(known, ", "));
}

}  // namespace unbend::lm
