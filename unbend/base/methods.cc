#include "unbend/base/methods.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>
#include <vector>

namespace unbend {
namespace {

constexpr Method kMethods[] = {
#define METHOD(slug, name, title, authors, venue, arxiv, foundation, status) \
  {#slug, name, title, authors, venue, arxiv, Foundation::foundation, MethodStatus::status},
#include "unbend/methods.def"
#undef METHOD
};

/// Levenshtein distance in bytes.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i + 1);
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

}  // namespace

std::span<const Method> methods() { return kMethods; }

const Method* find_method(std::string_view slug) {
  const auto found =
      std::find_if(std::begin(kMethods), std::end(kMethods), [&](const Method& m) { return m.slug == slug; });
  return found == std::end(kMethods) ? nullptr : found;
}

std::string_view to_string(Foundation foundation) {
  constexpr std::array<std::string_view, 4> kNames{"attention", "calculus", "transport", "structure"};
  return kNames[static_cast<std::size_t>(foundation)];
}

std::string_view to_string(MethodStatus status) {
  constexpr std::array<std::string_view, 3> kNames{"planned", "trial", "works"};
  return kNames[static_cast<std::size_t>(status)];
}

std::string nearest(std::string_view word, std::span<const std::string> candidates) {
  std::string best;
  std::size_t limit = std::max<std::size_t>(1, word.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    const std::size_t distance = edit_distance(word, candidate);
    if (distance >= limit) continue;
    limit = distance;
    best = candidate;
  }
  return best;
}

}  // namespace unbend
