// Enumerations by name, as files and the command line have them.
#pragma once

#include <fmt/ranges.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "unbend/base/error.h"
#include "unbend/control/policy_head.h"
#include "unbend/control/policy_net.h"

namespace unbend::control {

template <class Enumeration>
using Names = std::pair<Enumeration, const char*>;

inline constexpr Names<PolicyKind> kPolicyKinds[] = {
    {PolicyKind::Categorical, "categorical"}, {PolicyKind::Gaussian, "gaussian"}, {PolicyKind::Squashed, "squashed"}};
inline constexpr Names<Nonlinearity> kNonlinearities[] = {{Nonlinearity::Tanh, "tanh"}, {Nonlinearity::Relu, "relu"}};
inline constexpr Names<Start> kStarts[] = {{Start::Orthogonal, "orthogonal"}, {Start::Uniform, "uniform"}};
inline constexpr Names<Objective> kObjectives[] = {
    {Objective::Mdpo, "mdpo"}, {Objective::NoKl, "no-kl"}, {Objective::Ppo, "ppo"}};

constexpr const auto& names_of(PolicyKind) { return kPolicyKinds; }
constexpr const auto& names_of(Nonlinearity) { return kNonlinearities; }
constexpr const auto& names_of(Start) { return kStarts; }
constexpr const auto& names_of(Objective) { return kObjectives; }

template <class Enumeration>
std::string name(Enumeration value) {
  for (const auto& [known, text] : names_of(value))
    if (known == value) return text;
  return "unknown";
}

/// The value of that name. Input error that begins with `where` and lists the names there are.
template <class Enumeration>
Enumeration named(std::string_view text, std::string_view where) {
  std::vector<std::string_view> all;
  for (const auto& [value, name] : names_of(Enumeration())) {
    if (name == text) return value;
    all.emplace_back(name);
  }
  fail_input("{}: '{}' is none of {}", where, text, fmt::join(all, ", "));
}

}  // namespace unbend::control
