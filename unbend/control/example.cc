#include "unbend/control/example.h"

namespace unbend::control::example {
namespace {

const Vector kStart{{.4, -.3}};

}  // namespace

Robot true_arm() {
  Robot robot = default_robot();
  robot.hardening.setConstant(20);
  robot.link_friction.setConstant(.3);
  robot.motor_friction.setConstant(.2);
  return robot;
}

Robot guess() {
  Robot robot = default_robot();
  robot.mass.setConstant(.85);
  robot.stiffness.setConstant(50);
  return robot;
}

State start() { return resting(default_robot(), kStart); }

Reference swing() { return {kStart, {{Vector{{.8, .5}}, Vector{{1.2, .9}}, Vector::Zero(2)}}, {}}; }

std::vector<Constraint> limit(double most) {
  return constraints_from_json(Json::array({{{"joint", 1}, {"max", most}}}), 2, "example");
}

Experience experience(double seconds, Random& random) {
  ExploreOptions options;
  options.duration = seconds;
  return explore(equations_plant(true_arm()), guess(), with_random_sines({Vector{{.15, -.2}}, {}, {}}, 4, {}, random),
                 start(), options, random);
}

}  // namespace unbend::control::example
