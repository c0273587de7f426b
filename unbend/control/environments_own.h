// Simulators of our own: classic control tasks with their published dynamics, and a contextual bandit on a table. All
// in float64.
#pragma once

#include <memory>
#include <vector>

#include "unbend/control/environments.h"

namespace unbend::control {

/// A pole on a cart (Barto, Sutton and Anderson, 1983) as in Gym's CartPole-v1: state x, x', theta, theta'; choices
/// push left or right with 10 N; explicit Euler in steps of 0.02 s; reward 1 per step; ends beyond |x| 2.4 or |theta|
/// 12 degrees, truncated after 500 steps.
std::unique_ptr<Dynamics> cartpole(std::int64_t copies);

/// Swinging up a pendulum as in Gym's Pendulum-v1: observation cos, sin, theta'; torque in [-2, 2]; truncated after 200
/// steps of 0.05 s; reward -(theta^2 + 0.1 theta'^2 + 0.001 u^2) in the state before the step, theta in [-pi, pi).
std::unique_ptr<Dynamics> pendulum(std::int64_t copies);

/// A point in the plane with friction: x += 0.1 v, then v = 0.95 v + 0.1 a, a in [-1, 1]^2; reward -|x| - 0.01 |a|^2;
/// truncated after 100 steps.
std::unique_ptr<Dynamics> point_mass(std::int64_t copies);

/// Contexts and what each choice earns in them.
struct BanditTable {
  std::int64_t features = 0, choices = 0;
  std::vector<double> contexts;  ///< [rows, features]
  std::vector<double> rewards;   ///< [rows, choices]
};

/// Reward 1 for the label, 0 for other choices. Input error for labels that are not 0, 1, ... or of another number.
BanditTable classification(std::int64_t features, std::vector<double> contexts, const std::vector<double>& labels);

/// Shows a random row of the table; after one choice the episode is over. Input error for tables that do not fit
/// together or have values that are not finite.
std::unique_ptr<Dynamics> bandit(std::shared_ptr<const BanditTable> table, std::int64_t copies);

}  // namespace unbend::control
