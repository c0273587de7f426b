// Reference motions with four derivatives, which a flat system of relative degree four needs.
#pragma once

#include <array>
#include <vector>

#include "unbend/base/random.h"
#include "unbend/control/robot.h"

namespace unbend::control {

/// offset + sum of sines + a sequence of smooth moves between points of rest.
struct Reference {
  struct Sine {
    Vector amplitude, frequency, phase;  ///< [n]: amplitude sin(frequency t + phase), in rad, rad / s, rad
  };
  struct Move {
    Vector to;  ///< [n]
    double seconds = 1;
  };
  Vector offset;  ///< [n]; with moves, where they start
  std::vector<Sine> sines;
  /// One after the other; polynomials of degree nine, at rest to the fourth derivative at both ends.
  std::vector<Move> moves;
};

/// q_ref and its first four derivatives at time t.
std::array<Vector, 5> reference_at(const Reference& reference, double t);

/// {"offset": [..], "sines": [{"amplitude": [..], "frequency": [..], "phase": [..]}]} or
/// {"offset": [..], "moves": [{"to": [..], "seconds": 1.5}]}. Input error that names `where` and the key.
Reference reference_from_json(const Json& json, int joints, std::string_view where);

/// What random sines are drawn from, uniformly; phases are any.
struct SineRanges {
  std::array<double, 2> amplitude{.05, .22};  ///< rad
  std::array<double, 2> frequency{.3, 1.6};   ///< rad / s
};
/// `reference` with `terms` random sines per joint on top of it.
Reference with_random_sines(Reference reference, int terms, const SineRanges& ranges, Random& random);

}  // namespace unbend::control
