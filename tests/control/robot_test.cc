#include "unbend/control/robot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <Eigen/Eigenvalues>
#include <Eigen/LU>
#include <cmath>

#include "tests/error_message.h"
#include "unbend/base/random.h"

namespace unbend::control {
namespace {

using ::testing::HasSubstr;

Vector vec(std::initializer_list<double> values) {
  Vector out(values.size());
  std::copy(values.begin(), values.end(), out.begin());
  return out;
}

Robot hardened() {
  Robot robot = default_robot();
  robot.hardening = vec({20, 20});
  robot.link_friction = vec({.3, .2});
  robot.motor_friction = vec({.1, .1});
  return robot;
}

State oracle_state() { return state_of(vec({.3, -.4}), vec({.5, .2}), vec({.45, -.35}), vec({.6, .1})); }

State random_state(int n, Random& random) {
  State x(4 * n);
  for (double& value : x) value = random.normal() / 2;
  return x;
}

template <class A, class B>
void expect_near(const A& a, const B& b, double tolerance) {
  ASSERT_EQ(a.size(), b.size());
  EXPECT_LT((a - b).norm(), tolerance * (1 + b.norm())) << a << "\nand\n" << b;
}

TEST(Robot, MatchesTheClosedFormsOfTwoLinks) {  // values from the reconstruction in the brief
  const Robot robot = hardened();
  const State x = oracle_state();
  const Vector u = vec({3, -1});
  Matrix mass(2, 2), g(2, 2);
  mass << 2.58772766, .79386383, .79386383, .33333333;
  g << 176.02291906, -411.01488799, -419.21468625, 1339.76955991;
  expect_near(mass_matrix(robot, x.head(2)), mass, 1e-8);
  expect_near(bias(robot, x.head(2), x.segment(2, 2)), vec({19.13500207, 4.87181814}), 1e-8);
  const State dx = derivative(robot, x, u), xi = flat_state(robot, x);
  expect_near(Vector(dx.segment(2, 2)), vec({-8.05595342, 13.57803571}), 1e-8);
  expect_near(Vector(dx.tail(2)), vec({-12.255, -8.025}), 1e-12);
  expect_near(Vector(xi.tail(2)), vec({46.02521068, -140.66704846}), 1e-8);
  const Affine flat = flat_dynamics(robot, x);
  expect_near(flat.f, vec({2884.1577592, -10167.45703804}), 1e-10);
  expect_near(flat.g, g, 1e-8);
  expect_near(Vector(flat.f + flat.g * u), vec({3823.24140437, -12764.87065672}), 1e-10);
}

TEST(Robot, FourthDerivativeAgreesWithTheMotion) {
  Random random(3);
  for (int n = 1; n <= 4; ++n) {
    Robot robot = default_robot(n);
    for (double& v : robot.mass) v = .5 + random.uniform();
    for (double& v : robot.centre) v = .3 + .3 * random.uniform();
    for (double& v : robot.hardening) v = 20 * random.uniform();
    for (double& v : robot.link_friction) v = random.uniform();
    for (double& v : robot.motor_friction) v = random.uniform();
    const State x = random_state(n, random);
    Vector u(n);
    for (double& v : u) v = random.normal();
    const auto slope = [&](double h) {
      return Vector((flat_state(robot, rk4(robot, x, u, h)).tail(n) - flat_state(robot, rk4(robot, x, u, -h)).tail(n)) /
                    (2 * h));
    };
    const Vector difference = (4 * slope(5e-5) - slope(1e-4)) / 3;
    const Affine flat = flat_dynamics(robot, x);
    expect_near(Vector(flat.f + flat.g * u), difference, 1e-7);
    expect_near(state_from_flat(robot, flat_state(robot, x)), x, 1e-10);
  }
}

TEST(Robot, KeepsItsEnergyWithoutFrictionAndInput) {
  const Robot robot = default_robot();
  State x = oracle_state();
  const double before = energy(robot, x);
  for (int i = 0; i < 2000; ++i) x = rk4(robot, x, vec({0, 0}), 5e-4);
  EXPECT_LT(std::abs(energy(robot, x) / before - 1), 1e-11);
}

TEST(Robot, PowerIsTheWorkOfTheMotorsLessFriction) {  // holds with Coriolis forces only if dM/dt - 2C is skew
  Random random(5);
  Robot robot = hardened();
  for (int trial = 0; trial < 20; ++trial) {
    const State x = random_state(2, random);
    const Vector u = vec({random.normal(), random.normal()}), dq = x.segment(2, 2), dtheta = x.tail(2);
    const double h = 1e-6, power = (energy(robot, rk4(robot, x, u, h)) - energy(robot, rk4(robot, x, u, -h))) / (2 * h);
    const double expected = u.dot(dtheta) - dq.dot(robot.link_friction.cwiseProduct(dq)) -
                            dtheta.dot(robot.motor_friction.cwiseProduct(dtheta));
    EXPECT_NEAR(power, expected, 1e-6);
    EXPECT_GT(Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd>(mass_matrix(robot, x.head(2))).eigenvalues()[0], 0);
  }
}

TEST(Robot, RestsWithItsWeightOnTheSprings) {
  const Robot robot = hardened();
  const State x = resting(robot, vec({.4, -.3}));
  EXPECT_LT(derivative(robot, x, bias(robot, vec({.4, -.3}), vec({0, 0}))).norm(), 1e-12);
  const Vector torque = vec({1e-9, 300});
  expect_near(spring_torque(robot, spring_deflection(robot, torque)), torque, 1e-14);
}

TEST(Robot, IsReadFromJson) {
  const Robot robot = robot_from_json(Json::parse(R"({"joints": 3, "mass": [1, 2, 3], "stiffness": 50})"), "r.json");
  EXPECT_EQ(robot.joints(), 3);
  EXPECT_EQ(robot.mass[2], 3);
  EXPECT_EQ(robot.stiffness[1], 50);
  EXPECT_EQ(robot_from_json(to_json(robot), "again").mass, robot.mass);
}

TEST(Robot, RefusesWhatCannotMove) {
  const auto refused = [](const char* text) {
    return error_message([&] { robot_from_json(Json::parse(text), "r.json"); });
  };
  EXPECT_THAT(refused(R"({"stiffness": [60, 0]})"),
              AllOf(HasSubstr("r.json"), HasSubstr("'stiffness' of joint 2"), HasSubstr("positive")));
  EXPECT_THAT(refused(R"({"mass": [1, -1]})"), HasSubstr("'mass' of joint 2"));
  EXPECT_THAT(refused(R"({"mass": [1, 1, 1], "length": [1, 1]})"), HasSubstr("2 values for 3 joints"));
  EXPECT_THAT(refused(R"({"hardening": -5})"), HasSubstr("'hardening'"));
  EXPECT_THAT(refused(R"({"inertia": 0, "centre": [0.5, 0]})"), HasSubstr("singular"));
  EXPECT_THAT(refused(R"({"weight": 1})"), HasSubstr("unknown key 'weight'"));
  EXPECT_THAT(refused(R"({"joints": 9})"), HasSubstr("1 to 6"));
  EXPECT_THAT(refused(R"([1])"), HasSubstr("JSON object"));
  Robot robot = default_robot();
  robot.motor_inertia[0] = NAN;
  EXPECT_THAT(error_message([&] { check(robot, "robot"); }), HasSubstr("'motor_inertia' of joint 1 is not finite"));
}

}  // namespace
}  // namespace unbend::control
