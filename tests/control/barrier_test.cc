#include "unbend/control/barrier.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <Eigen/LU>

#include "tests/error_message.h"

namespace unbend::control {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<Constraint> constraints(const char* text) { return constraints_from_json(Json::parse(text), 2, "c.json"); }

State random_flat(double seed) {
  State xi(8);
  for (int i = 0; i < 8; ++i) xi[i] = std::sin(seed + 1.7 * i) * (1 + i / 2);
  return xi;
}

TEST(Barrier, GainsOfPoles) {
  EXPECT_THAT(pole_gains(5), ElementsAre(625, 500, 150, 20));
  EXPECT_THAT(pole_gains(8), ElementsAre(4096, 2048, 384, 32));
  EXPECT_THAT(pole_gains(2, 2), ElementsAre(4, 4));
  EXPECT_THROW(pole_gains(0), Error);
}

TEST(Barrier, LinearConstraintsFollowTheAngles) {
  const auto list = constraints(R"([{"joint": 1, "max": 0.9}, {"joints": [1, 2], "min": -1}])");
  const State xi = random_flat(1);
  const Barrier upper = barrier(list[0], default_robot(), xi), sum = barrier(list[1], default_robot(), xi);
  EXPECT_DOUBLE_EQ(upper.h[0], .9 - xi[0]);
  for (int k = 1; k < 4; ++k) {
    EXPECT_DOUBLE_EQ(upper.h[k], -xi[2 * k]);
    EXPECT_DOUBLE_EQ(sum.h[k], xi[2 * k] + 2 * xi[2 * k + 1]);
  }
  EXPECT_EQ(upper.drift, 0);
  EXPECT_EQ(upper.gradient, Vector(-Vector::Unit(2, 0)));
}

TEST(Barrier, DerivativesOfTheTipAgreeWithDifferences) {
  const auto list =
      constraints(R"([{"circle": [1, 0.5], "radius": 0.3}, {"circle": [0, 0], "radius": 1.9, "side": "inside"},
                                    {"wall": [1, -2], "offset": 0.1}])");
  const Robot robot = default_robot();
  const State xi = random_flat(2);
  const Vector q4{{1.5, -2}};
  // q(t) with these five derivatives; h at t by its position alone.
  const auto moved = [&](double t) {
    State at = State::Zero(8);
    at.head(2) = xi.head(2) + t * xi.segment(2, 2) + t * t / 2 * xi.segment(4, 2) + t * t * t / 6 * xi.tail(2) +
                 t * t * t * t / 24 * q4;
    return at;
  };
  for (const Constraint& c : list) {
    const auto h = [&](double t) { return barrier(c, robot, moved(t)).h[0]; };
    const Barrier b = barrier(c, robot, xi);
    const double s = .01;
    EXPECT_NEAR(b.h[0], h(0), 1e-14);
    EXPECT_NEAR(b.h[1], (h(s) - h(-s)) / (2 * s), 2e-2);
    EXPECT_NEAR(b.h[2], (h(s) - 2 * h(0) + h(-s)) / (s * s), 2e-2);
    EXPECT_NEAR(b.h[3], (h(2 * s) - 2 * h(s) + 2 * h(-s) - h(-2 * s)) / (2 * s * s * s), .2);
    EXPECT_NEAR(b.drift + b.gradient.dot(q4),
                (h(2 * s) - 4 * h(s) + 6 * h(0) - 4 * h(-s) + h(-2 * s)) / (s * s * s * s), .2);
  }
}

TEST(Barrier, CircleOracle) {  // h = |r|^2 - 4 with r jets (1,2), (.5,-.3), (.2,.1), (-.4,.6), (1.5,-2)
  // The tip of two links has these derivatives for some q; found by inverting its Taylor series order by order.
  const Robot robot = default_robot();
  Constraint circle{"circle", Constraint::Kind::Circle, {}};
  circle.radius = 2;
  Robot wide = robot;
  wide.length = Vector{{2, 2}};
  const double target[5][2] = {{1, 2}, {.5, -.3}, {.2, .1}, {-.4, .6}, {1.5, -2}};
  const Constraint x_axis{"x", Constraint::Kind::Wall, Vector{{1, 0}}},
      y_axis{"y", Constraint::Kind::Wall, Vector{{0, 1}}};
  State xi = State::Zero(8);
  const double bend = std::acos((5. - 8) / 8);  // law of cosines at the second joint
  xi[1] = bend;
  xi[0] = std::atan2(2, 1) - std::atan2(2 * std::sin(bend), 2 + 2 * std::cos(bend));
  Vector q4(2);
  for (int order = 1; order <= 4; ++order) {  // each derivative of the tip is J q^(order) + lower ones
    const auto coordinates = [&](int axis) { return barrier(axis ? y_axis : x_axis, wide, xi); };
    Eigen::Matrix2d jacobian;
    Eigen::Vector2d rest;
    for (int axis = 0; axis < 2; ++axis) {
      const Barrier b = coordinates(axis);
      jacobian.row(axis) = b.gradient.transpose();
      rest[axis] = target[order][axis] - (order < 4 ? b.h[order] : b.drift);
    }
    const Eigen::Vector2d next = jacobian.inverse() * rest;
    if (order < 4)
      xi.segment(2 * order, 2) = next;
    else
      q4 = next;
  }
  const Barrier b = barrier(circle, wide, xi);
  EXPECT_NEAR(b.h[0], 1, 1e-12);
  EXPECT_NEAR(b.h[1], -.2, 1e-12);
  EXPECT_NEAR(b.h[2], 1.48, 1e-11);
  EXPECT_NEAR(b.h[3], 2.02, 1e-11);
  EXPECT_NEAR(b.drift + b.gradient.dot(q4), -7.74, 1e-10);
}

TEST(Barrier, ChainAtEqualityStaysPositive) {
  const double p = 8;
  Barrier b;
  b.h = {1, -7, 50, -350};
  b.gradient = Vector::Ones(1);
  const auto nu = chain(b, p);
  EXPECT_DOUBLE_EQ(nu[0], 1);
  EXPECT_DOUBLE_EQ(nu[1], -7 + 8);
  EXPECT_DOUBLE_EQ(nu[2], 50 + 2 * 8 * -7 + 64);
  EXPECT_DOUBLE_EQ(nu[3], -350 + 3 * 8 * 50 + 3 * 64 * -7 + 512);
  for (const double member : nu) EXPECT_GE(member, 0);
  EXPECT_NO_THROW(check_start(constraints(R"([{"joint": 1, "max": 1}])")[0], b, p));
  // (s + p)^4 h = 0: integrate and look.
  const auto k = pole_gains(p);
  std::array<double, 4> h = b.h;
  double lowest = 1;
  for (int i = 0; i < 200000; ++i) {
    const double h4 = -(k[0] * h[0] + k[1] * h[1] + k[2] * h[2] + k[3] * h[3]), dt = 1e-5;
    for (int j = 0; j < 3; ++j) h[j] += dt * h[j + 1];
    h[3] += dt * h4;
    lowest = std::min(lowest, h[0]);
  }
  EXPECT_GT(lowest, 0);
  EXPECT_LT(h[0], 1e-3);
}

TEST(Barrier, RefusesStartsThatCannotBeKept) {
  Barrier b;
  b.h = {.1, -7, 0, 0};
  b.gradient = Vector::Ones(1);
  const Constraint c = constraints(R"([{"joint": 1, "max": 1, "name": "reach"}])")[0];
  EXPECT_THAT(error_message([&] { check_start(c, b, 8); }), AllOf(HasSubstr("'reach"), HasSubstr("member 1")));
  b.h = {-.1, 0, 0, 0};
  EXPECT_THAT(error_message([&] { check_start(c, b, 8); }), HasSubstr("violated already"));
  b.h = {0, 0, 0, 0};
  b.gradient = Vector::Zero(1);
  EXPECT_THAT(error_message([&] { check_start(c, b, 8); }), HasSubstr("no gradient"));
}

TEST(Barrier, RefusesBadConstraints) {
  const auto refused = [](const char* text) { return error_message([&] { constraints(text); }); };
  EXPECT_THAT(refused(R"([{"joint": 3, "max": 1}])"),
              AllOf(HasSubstr("c.json, constraint 1"), HasSubstr("joints 1 to 2")));
  EXPECT_THAT(refused(R"([{"joint": 1}])"), HasSubstr("'min', 'max' or both"));
  EXPECT_THAT(refused(R"([{"joint": 1, "min": 2, "max": 1}])"), HasSubstr("not below"));
  EXPECT_THAT(refused(R"([{"joints": [0, 0], "max": 1}])"), HasSubstr("is zero"));
  EXPECT_THAT(refused(R"([{"circle": [1, 1], "radius": -1}])"), HasSubstr("positive"));
  EXPECT_THAT(refused(R"([{"circle": [1, 1], "radius": 1, "side": "left"}])"), HasSubstr("outside or inside"));
  EXPECT_THAT(refused(R"([{"box": 1}])"), HasSubstr("joint, joints, wall, circle"));
  EXPECT_THAT(refused(R"([{"joint": 1, "max": 1, "mux": 2}])"), HasSubstr("unknown key 'mux'"));
  EXPECT_THAT(refused(R"({"joint": 1})"), HasSubstr("list"));
}

}  // namespace
}  // namespace unbend::control
