// Constraints h(q) >= 0 on the joint angles, and what exponential control-barrier functions ask of the input so that
// they hold (Nguyen and Sreenath, ACC 2016; Xiao and Belta 2021 for the chain).
#pragma once

#include <string>
#include <vector>

#include "unbend/control/robot.h"

namespace unbend::control {

/// h >= 0 is safe.
struct Constraint {
  enum class Kind {
    Joint,   ///< h = normal' q + offset, in joint angles
    Wall,    ///< h = normal' tip(q) + offset: the tip stays on one side of a line
    Circle,  ///< h = |tip(q) - centre|^2 - radius^2, or the negative of it with `inside`
  };
  std::string name;
  Kind kind = Kind::Joint;
  Vector normal;  ///< [n] for Joint, [2] for Wall
  double offset = 0;
  Eigen::Vector2d centre = Eigen::Vector2d::Zero();
  double radius = 1;
  bool inside = false;
};

/// Constraints from a JSON list of {"joint": 1, "max": 0.9}, {"joint": 2, "min": -1, "max": 1},
/// {"joints": [1, 1], "max": 2} (a linear combination), {"wall": [nx, ny], "offset": d} and
/// {"circle": [x, y], "radius": r, "side": "outside" | "inside"}; each may have a "name". Input error naming `where`
/// and the entry.
std::vector<Constraint> constraints_from_json(const Json& json, int joints, std::string_view where);

/// h and its derivatives along the motion: h'''' = drift + gradient' q''''.
struct Barrier {
  std::array<double, 4> h{};  ///< h, h', h'', h'''
  double drift = 0;
  Vector gradient;  ///< [n]
};

/// From the flat state xi = [q, q', q'', q'''], by Taylor series along the motion.
Barrier barrier(const Constraint& constraint, const Robot& robot, const State& xi);

/// Coefficients k_0..k_{order-1} of (s + pole)^order without its leading one: (p^4, 4p^3, 6p^2, 4p).
std::vector<double> pole_gains(double pole, int order = 4);

/// nu_0 = h, nu_i = nu_{i-1}' + pole nu_{i-1}: h stays nonnegative if all four start so and h'''' >= -gains' (h, ..,
/// h''').
std::array<double, 4> chain(const Barrier& barrier, double pole);

/// Input error that names the constraint, the member of the chain and its value, unless the chain is nonnegative. Also
/// for a gradient of zero where h = 0: no input could then act on it.
void check_start(const Constraint& constraint, const Barrier& barrier, double pole);

}  // namespace unbend::control
