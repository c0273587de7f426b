// A policy at work as a strip of pictures, drawn by ourselves: no renderer, no display.
#pragma once

#include "unbend/base/drawing.h"
#include "unbend/control/policy_agent.h"

namespace unbend::control {

struct StripOptions {
  std::int64_t frames = 12, columns = 6;
  std::int64_t every = 0;  ///< steps between pictures; 0: so that they spread over the episode
  bool deterministic = true;
  std::uint64_t seed = 1;
};

struct Strip {
  Drawing drawing;
  Episode episode;  ///< the one that is shown
};

/// The first episode of a policy. Own simulators, and the geometry of MuJoCo models seen from the side (x to the right,
/// z up), the camera following the model's centre of mass. Input error for tasks without a body to draw
/// (bandits) and for those that are not the agent's.
Strip film_strip(const Agent& agent, const MakeDynamics& make, const StripOptions& options);

}  // namespace unbend::control
