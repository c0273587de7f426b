#include "unbend/optimize/implicit_step.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "unbend/base/error.h"

namespace unbend::optimize {
namespace {

constexpr std::array<std::string_view, 5> kUpdates{"linear", "proximal", "aprox", "two-step", "user"};

/// The b with b = step(m, q) for the tangent of the margin at b: semismooth Newton, kept inside a bracket. `step` gives
/// the solution for a margin m - b q. Where the margin is a straight line, the first one is the answer.
template <class F>
Proximal root(const Ray& ray, double c, const F& step) {
  double low = std::min(0., c), high = std::max(0., c), b = 0;
  Proximal next{};
  for (int i = 0; i < 100; ++i) {
    const auto [m, q] = ray.margin(b);
    next = step(m + b * q, q);
    if (ray.straight() || std::abs(next.b - b) <= 1e-15 * std::abs(b)) break;
    (next.b > b ? low : high) = b;
    if (!(next.b >= low && next.b <= high)) next.b = low + (high - low) / 2;
    if (next.b == b) break;
    b = next.b;
  }
  return next;
}

/// max(value + c (s - at), lower): zero slope below the kink.
Proximal truncated(double value, double c, double at, double lower, double m, double q) {
  const double above = value - lower;  // over the floor at `at`
  const double here = above + c * (m - at), share = here == 0 ? 0 : std::clamp(here / (c * c * q), 0., 1.);
  const double b = share * c;
  return {b, b * (at - above / c) - lower};
}

}  // namespace

std::vector<std::string> update_names() { return {kUpdates.begin(), kUpdates.end() - 1}; }

Update update_named(std::string_view name) {
  const auto found = std::find(kUpdates.begin(), kUpdates.end() - 1, name);
  if (found == kUpdates.end() - 1)
    fail_usage("there is no update '{}': use {}", name, fmt::join(kUpdates.begin(), kUpdates.end() - 1, ", "));
  return static_cast<Update>(found - kUpdates.begin());
}

Step implicit_step(const Loss& loss, Update update, const UserUpdate& user, const Situation& at) {
  const double c = at.slope, h = at.weight;
  const Step linear{c, c * at.s - at.value, 0};  // Fenchel and Young: equal at a subgradient
  if (c == 0 && update != Update::Proximal && update != Update::User) return linear;
  const auto weighted = [&](double m, double q) {
    const auto [b, conjugate] = proximal(loss, m, h * q, at.label);
    return Proximal{h * b, h * conjugate};
  };

  Proximal chosen{};
  switch (update) {
    case Update::Linear: return linear;
    case Update::Proximal: {
      // The slope before the step, where the margin is that of the new regulariser, bounds b.
      const double bound = h * loss_slope(loss, at.ray.margin(0).value, at.label);
      chosen = root(at.ray, bound, weighted);
      break;
    }
    case Update::AProx:
      chosen = root(at.ray, c, [&](double m, double q) { return truncated(at.value, c, at.s, h * loss.lower, m, q); });
      // The loss' own conjugate is the smaller one.
      if (loss.kind != LossKind::User || loss.conjugate)
        chosen.conjugate = h * loss_conjugate(loss, chosen.b / h, at.label);
      break;
    case Update::TwoStep: {
      const double s = at.ray.margin(c).value;
      chosen.b = h * loss_slope(loss, s, at.label);
      chosen.conjugate = chosen.b * s - h * loss_value(loss, s, at.label);
      break;
    }
    case Update::User:
      chosen.b = user(at);
      chosen.conjugate = h * loss_conjugate(loss, chosen.b / h, at.label);
      break;
  }
  const double gain = at.ray.difference(c, chosen.b) + linear.conjugate - chosen.conjugate;
  const double rounding = 1e-12 * (std::abs(linear.conjugate) + std::abs(at.ray.difference(c, 0)));
  if (!(gain >= -rounding)) return {linear.b, linear.conjugate, 0, true};
  return {chosen.b, chosen.conjugate, std::max(0., gain)};
}

}  // namespace unbend::optimize
