#include "unbend/control/reference.h"

#include <cmath>
#include <numbers>

#include "unbend/base/error.h"
#include "unbend/control/taylor.h"

namespace unbend::control {
namespace {

Vector numbers(const Json& json, const std::string& key, int joints, const std::string& where) {
  const auto values = json_get<std::vector<double>>(json, key, where);
  require(static_cast<int>(values.size()) == joints, "{}: '{}' has {} numbers for {} joints", where, key, values.size(),
          joints);
  for (const double v : values) require(std::isfinite(v), "{}: '{}' is not finite", where, key);
  return Eigen::Map<const Eigen::VectorXd>(values.data(), joints);
}

/// s^5 (126 - 420 s + 540 s^2 - 315 s^3 + 70 s^4) for s = t / seconds: from 0 to 1 with four derivatives of zero at
/// both ends.
Taylor<4> smooth_step(double t, double seconds) {
  Taylor<4> s(t / seconds);
  s.c[1] = 1 / seconds;
  Taylor<4> value(70.);
  for (const double c : {-315., 540., -420., 126., 0., 0., 0., 0., 0.}) value = value * s + Taylor<4>(c);
  return value;
}

}  // namespace

std::array<Vector, 5> reference_at(const Reference& reference, double t) {
  std::array<Vector, 5> out;
  out.fill(Vector::Zero(reference.offset.size()));
  out[0] = reference.offset;
  for (const auto& sine : reference.sines) {
    for (Eigen::Index i = 0; i < out[0].size(); ++i) {
      const double w = sine.frequency[i];
      double size = sine.amplitude[i];
      for (int k = 0; k < 5; ++k, size *= w)
        out[k][i] += size * std::sin(w * t + sine.phase[i] + k * std::numbers::pi / 2);
    }
  }
  Vector from = reference.offset;
  double start = 0;
  for (const auto& move : reference.moves) {
    if (t < start) break;
    const bool done = t >= start + move.seconds;
    const Taylor<4> s = done ? Taylor<4>(1.) : smooth_step(t - start, move.seconds);
    for (int k = 0; k < 5; ++k)
      out[k] = (k == 0 ? from : Vector(Vector::Zero(from.size()))) + s.derivative(k) * (move.to - from);
    from = move.to;
    start += move.seconds;
  }
  return out;
}

Reference reference_from_json(const Json& json, int joints, std::string_view where) {
  require(json.is_object(), "{}: a reference is an object with 'offset' and 'sines' or 'moves'", where);
  for (const auto& [key, value] : json.items())
    require(key == "offset" || key == "sines" || key == "moves",
            "{}: unknown key '{}'; a reference has offset, sines, moves", where, key);
  const std::string base(where);
  Reference out{numbers(json, "offset", joints, base), {}, {}};
  require(!json.contains("sines") || !json.contains("moves"), "{}: give 'sines' or 'moves', not both", where);
  const auto list = [&](const char* key) {
    const Json found = json_get<Json>(json, key, where, Json::array());
    require(found.is_array(), "{}: '{}' must be a list", where, key);
    return found;
  };
  int number = 0;
  for (const Json& entry : list("sines")) {
    const std::string at = fmt::format("{}, sine {}", where, ++number);
    require(entry.is_object(), "{}: not an object", at);
    Reference::Sine sine{numbers(entry, "amplitude", joints, at), numbers(entry, "frequency", joints, at),
                         Vector::Zero(joints)};
    if (entry.contains("phase")) sine.phase = numbers(entry, "phase", joints, at);
    out.sines.push_back(sine);
  }
  number = 0;
  for (const Json& entry : list("moves")) {
    const std::string at = fmt::format("{}, move {}", where, ++number);
    require(entry.is_object(), "{}: not an object", at);
    Reference::Move move{numbers(entry, "to", joints, at), json_get<double>(entry, "seconds", at)};
    require(move.seconds > 0, "{}: 'seconds' must be positive", at);
    out.moves.push_back(move);
  }
  return out;
}

Reference with_random_sines(Reference reference, int terms, const SineRanges& ranges, Random& random) {
  const auto within = [&](const std::array<double, 2>& range) {
    return range[0] + (range[1] - range[0]) * random.uniform();
  };
  const Vector zero = Vector::Zero(reference.offset.size());
  for (int k = 0; k < terms; ++k) {
    Reference::Sine sine{zero, zero, zero};
    for (Eigen::Index i = 0; i < zero.size(); ++i) {
      sine.amplitude[i] = within(ranges.amplitude);
      sine.frequency[i] = within(ranges.frequency);
      sine.phase[i] = 2 * std::numbers::pi * random.uniform();
    }
    reference.sines.push_back(sine);
  }
  return reference;
}

}  // namespace unbend::control
