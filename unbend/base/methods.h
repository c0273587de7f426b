// The table of methods (unbend/methods.def).
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace unbend {

enum class Foundation { attention, calculus, transport, structure };

/// planned: nothing can be run yet; trial: method and study exist; works: the study passes in its full form.
enum class MethodStatus { planned, trial, works };

struct Method {
  std::string_view slug, name, title, authors, venue, arxiv;
  Foundation foundation;
  MethodStatus status;
};

/// All methods, sorted by slug.
std::span<const Method> methods();

/// Null if there is no such slug.
const Method* find_method(std::string_view slug);

std::string_view to_string(Foundation foundation);
std::string_view to_string(MethodStatus status);

/// The candidate nearest to `word` by edit distance, for "did you mean"; empty if none is near.
std::string nearest(std::string_view word, std::span<const std::string> candidates);

}  // namespace unbend
