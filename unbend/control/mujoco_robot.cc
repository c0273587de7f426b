#include "unbend/control/mujoco_robot.h"

#include <cmath>
#include <memory>

#include "unbend/base/error.h"
#include "unbend/control/mujoco.h"

namespace unbend::control {

std::string mujoco_xml(const Robot& robot, double time_step) {
  check(robot, "the robot");
  require(time_step > 0 && std::isfinite(time_step), "MuJoCo's time step must be positive, not {:g} s", time_step);
  const int n = robot.joints();
  std::string links, closing, motors, springs, actuators;
  double reach = 0;
  for (int i = 0; i < n; ++i) {
    const double inertia = std::max(robot.inertia[i], 1e-12);
    links += fmt::format(
        "<body pos='{0:.17g} 0 0'><joint name='link{1}' type='hinge' axis='0 -1 0' damping='{2:.17g}'/>"
        "<inertial pos='{3:.17g} 0 0' mass='{4:.17g}' diaginertia='{5:.17g} {5:.17g} {5:.17g}'/>"
        "<geom type='capsule' fromto='0 0 0 {6:.17g} 0 0' size='{7:.17g}' rgba='.3 .5 .8 1'/>\n",
        reach, i + 1, robot.link_friction[i], robot.centre[i], robot.mass[i], inertia, robot.length[i],
        robot.length[i] / 25);
    closing += "</body>";
    reach = robot.length[i];
    motors += fmt::format(
        "<body><joint name='motor{0}' type='hinge' axis='0 -1 0' damping='{1:.17g}'/>"
        "<inertial pos='0 0 0' mass='1' diaginertia='{2:.17g} {2:.17g} {2:.17g}'/></body>\n",
        i + 1, robot.motor_friction[i], robot.motor_inertia[i]);
    springs += fmt::format(
        "<fixed name='spring{0}' stiffness='{1:.17g} 0 {2:.17g}' springlength='0'><joint joint='motor{0}' coef='1'/>"
        "<joint joint='link{0}' coef='-1'/></fixed>\n",
        i + 1, robot.stiffness[i], robot.hardening[i]);
    actuators += fmt::format("<motor joint='motor{}'/>\n", i + 1);
  }
  return fmt::format(
      "<mujoco model='elastic-joint robot'>\n<option timestep='{:.17g}' integrator='RK4' gravity='0 0 {:.17g}'>"
      "<flag "
      "contact='disable'/></option>\n<worldbody>\n{}{}\n{}</worldbody>\n<tendon>\n{}</tendon>\n<actuator>\n{}</"
      "actuator>\n</mujoco>\n",
      time_step, -robot.gravity, links, closing, motors, springs, actuators);
}

Plant mujoco_plant(const Robot& robot, double time_step) {
  auto world = std::make_shared<Mujoco>(Mujoco::parse(mujoco_xml(robot, time_step), "the robot's MJCF"));
  const int n = robot.joints();
  std::vector<std::int64_t> links, motors;  // hinges: one number each, and the same index for angles and speeds
  for (int i = 0; i < n; ++i) {
    links.push_back(world->joint(fmt::format("link{}", i + 1)));
    motors.push_back(world->joint(fmt::format("motor{}", i + 1)));
  }
  return {robot, [=](const State& x, const Vector& u, double seconds) {
            require(seconds <= 1e6 * time_step, "{:g} s are more than 1e6 of MuJoCo's steps of {:g} s", seconds,
                    time_step);
            const auto steps = std::llround(seconds / time_step);
            require(steps >= 1 && std::abs(static_cast<double>(steps) * time_step - seconds) < 1e-9 * seconds,
                    "the control period {:g} s is not a multiple of MuJoCo's time step {:g} s", seconds, time_step);
            const auto position = world->position(), velocity = world->velocity();
            for (int i = 0; i < n; ++i) {
              position[links[i]] = x[i];
              velocity[links[i]] = x[n + i];
              position[motors[i]] = x[2 * n + i];
              velocity[motors[i]] = x[3 * n + i];
              world->control()[i] = u[i];
            }
            world->step(steps);
            State next(4 * n);
            for (int i = 0; i < n; ++i) {
              next[i] = position[links[i]];
              next[n + i] = velocity[links[i]];
              next[2 * n + i] = position[motors[i]];
              next[3 * n + i] = velocity[motors[i]];
            }
            return next;
          }};
}

}  // namespace unbend::control
