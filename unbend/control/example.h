// The example that study, benchmark and tests share: an arm with two elastic joints, a rough guess of it, and a swing
// that breaks a limit of the first joint. Numbers are of our reconstruction of Lederer et al. (arXiv 2212.00478).
#pragma once

#include "unbend/control/simulate.h"

namespace unbend::control::example {

Robot true_arm();  ///< springs that harden, friction in links and motors
Robot guess();     ///< lighter and softer; without hardening and friction

/// At rest at (0.4, -0.3); the springs carry the weight as they would with K = 60 and no hardening.
State start();
/// (0.4, -0.3) + (0.8 sin 1.2 t, 0.5 sin 0.9 t).
Reference swing();
/// q1 <= most.
std::vector<Constraint> limit(double most = .9);

/// A noisy closed loop around (0.15, -0.2) with four random sines per joint: a row each 0.04 s, but none at time 0.
Experience experience(double seconds, Random& random);

}  // namespace unbend::control::example
