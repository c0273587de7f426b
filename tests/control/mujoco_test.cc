#include "unbend/control/mujoco.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <optional>

#include "tests/error_message.h"

namespace unbend::control {
namespace {

using ::testing::HasSubstr;

std::string pendulum(const std::string& more = "") {
  return R"(<mujoco>)" + more + R"(<option timestep="0.001" integrator="RK4"/><worldbody><body>
  <joint name="hinge" type="hinge" axis="0 -1 0"/><inertial pos="1 0 0" mass="2" diaginertia="1e-9 1e-9 1e-9"/>
  </body></worldbody><actuator><motor joint="hinge"/></actuator></mujoco>)";
}

TEST(Mujoco, SwingsAsTheEquationSays) {
  Mujoco world = Mujoco::parse(pendulum(), "pendulum");
  // q'' = -(g / l) cos q from the horizontal: energy q'^2 / 2 + 9.81 sin q stays.
  world.step(700);
  const double q = world.position()[0], dq = world.velocity()[0];
  EXPECT_NEAR(world.time(), .7, 1e-12);
  EXPECT_LT(q, -1);
  EXPECT_NEAR(dq * dq / 2 + 9.81 * std::sin(q), 0, 1e-8);
  world.control()[0] = 2 * 9.81 * std::cos(q);  // holds the weight
  world.forward();
  EXPECT_NEAR(world.acceleration()[0], 0, 1e-6);
}

TEST(Mujoco, CopiesAreForks) {
  Mujoco world = Mujoco::parse(pendulum(), "pendulum");
  world.step(100);
  Mujoco fork = world;
  world.step(50);
  EXPECT_NEAR(fork.time(), .1, 1e-12);
  fork.step(50);
  EXPECT_EQ(fork.position()[0], world.position()[0]);
  fork.reset();
  EXPECT_EQ(fork.position()[0], 0);
  EXPECT_NE(world.position()[0], 0);
}

TEST(Mujoco, RefusesBadModelsWithTheirPlace) {
  EXPECT_THAT(
      error_message([] { Mujoco::parse("<mujoco>\n<worldbody><body nmae='x'/></worldbody></mujoco>", "a.xml"); }),
      AllOf(HasSubstr("a.xml: "), HasSubstr("line 2"), HasSubstr("nmae")));
  EXPECT_THAT(error_message([] { Mujoco::parse("no xml", "b.xml"); }), HasSubstr("b.xml: "));
  EXPECT_THAT(error_message([] { Mujoco::load("/nowhere/c.xml"); }), HasSubstr("/nowhere/c.xml"));
  EXPECT_THAT(error_message([] { Mujoco::parse(pendulum(), "p").joint("elbow"); }),
              AllOf(HasSubstr("'elbow'"), HasSubstr("'hinge'")));
}

TEST(Mujoco, NamesTheJointThatBecomesUnstableAndGoesOnAfterwards) {
  Mujoco world = Mujoco::parse(pendulum(), "pendulum");
  world.step(10);
  world.velocity()[0] = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THAT(error_message([&] { world.step(); }, ErrorKind::Computation),
              AllOf(HasSubstr("'hinge'"), HasSubstr("t = ")));
  world.step(10);
  EXPECT_NEAR(world.time(), .01, 1e-12);
  EXPECT_TRUE(std::isfinite(world.position()[0]));
}

TEST(Mujoco, ErrorsInsideAreOurs) {  // working memory that is enough until the joint meets its limit
  int failed = 0;
  for (int bytes = 100; bytes <= 4000; bytes += 100) {
    const std::string size =
        fmt::format("<size memory='{}'/><default><joint limited='true' range='-30 90'/></default>", bytes);
    std::optional<Mujoco> world;
    try {
      world = Mujoco::parse(pendulum(size), "small");
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::Input);
      continue;
    }
    try {
      world->step(1000);
    } catch (const Error& error) {
      ++failed;
      EXPECT_EQ(error.kind(), ErrorKind::Computation);
      EXPECT_THAT(error.what(), AllOf(HasSubstr("MuJoCo at t = "), HasSubstr("memory")));
      world->step(10);  // as new
      EXPECT_NEAR(world->time(), .01, 1e-12);
    }
  }
  EXPECT_GT(failed, 0);
}

TEST(Mujoco, CountsWarnings) {
  Mujoco world = Mujoco::parse(pendulum(), "pendulum");
  EXPECT_TRUE(world.warnings().empty());
  world.control()[0] = std::numeric_limits<double>::infinity();
  world.step(3);  // MuJoCo takes bad controls as zero, and says so
  ASSERT_EQ(world.warnings().size(), 1u);
  EXPECT_EQ(world.warnings()[0].count, 12);  // four stages of RK4 in each step
  EXPECT_THAT(world.warnings()[0].text, HasSubstr("CTRL"));
  world.reset();
  EXPECT_TRUE(world.warnings().empty());
}

}  // namespace
}  // namespace unbend::control
