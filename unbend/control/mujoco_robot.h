// Our robots in MuJoCo: the same equations, integrated by somebody else.
#pragma once

#include <string>

#include "unbend/control/simulate.h"

namespace unbend::control {

/// The robot as MJCF: links in the x-z plane with joints link1, link2, ..; motors as bodies of their own with joints
/// motor1, ..; springs between them as tendons, actuators on the motors. Runge-Kutta with this time step.
std::string mujoco_xml(const Robot& robot, double time_step);

/// A plant that MuJoCo integrates.
Plant mujoco_plant(const Robot& robot, double time_step = .001);

}  // namespace unbend::control
