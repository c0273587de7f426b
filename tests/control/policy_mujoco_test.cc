// Tasks in MuJoCo from a model and a description; parity with Gymnasium is in tests/parity/gymnasium_tasks.py.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/error_message.h"
#include "unbend/base/files.h"
#include "unbend/control/environments_mujoco.h"

namespace unbend::control {
namespace {

using ::testing::HasSubstr;

constexpr const char* kModel = R"(<mujoco><option timestep="0.01"/><worldbody>
  <body name="cart"><joint name="slide" type="slide" axis="1 0 0" damping="1"/><geom size="0.1" mass="1"/>
    <body name="bob" pos="0 0 -0.5"><joint name="hinge" axis="0 1 0" pos="0 0 0.5"/><geom size="0.05" mass="0.2"/><site name="tip"/></body>
  </body></worldbody>
  <actuator><motor joint="slide" ctrllimited="true" ctrlrange="-2 3" gear="5"/></actuator>
  <sensor><jointvel name="spin" joint="hinge"/></sensor></mujoco>)";

class MujocoTasks : public ::testing::Test {
 protected:
  void SetUp() override { write_file(folder_.path() / "cart.xml", kModel); }
  Json description() const {
    return parse_json(R"({"name": "cart", "model": "cart.xml", "frame_skip": 2, "limit": 7,
      "observation": [{"from": "qpos", "index": 0, "clip": 0.05}, {"from": "qpos", "index": 1, "map": "cos"},
                      {"from": "qvel"}, {"from": "sensor", "name": "spin"}, {"from": "body", "name": "bob", "end": 2},
                      {"from": "site", "name": "tip", "index": 2}],
      "reward": [{"kind": "velocity", "index": 0, "weight": 2}, {"kind": "control", "weight": -0.5},
                 {"kind": "alive", "weight": 3}, {"kind": "square", "from": "qvel", "target": [1, 0], "weight": -1},
                 {"kind": "distance", "from": "body", "name": "cart", "target": [3, 4, 0], "weight": -0.1}],
      "healthy": [{"from": "qpos", "index": 0, "min": -0.01, "max": 0.1}],
      "start": {"qpos": {"uniform": 0.001}, "qvel": {"normal": 0.01}}})",
                      "test");
  }
  std::string refusal(const std::function<void(Json&)>& change) {
    Json json = description();
    change(json);
    return error_message([&] { MujocoTask::from_json(json, folder_.path(), "task.json"); });
  }
  TemporaryFolder folder_;
};

TEST_F(MujocoTasks, SeesAndPaysAsDescribed) {
  write_json(folder_.path() / "task.json", description());
  const auto task = std::make_shared<const MujocoTask>(MujocoTask::load(folder_.path() / "task.json"));
  EXPECT_EQ(task->spec.observations, 8);
  EXPECT_EQ(task->spec.low, std::vector<double>{-2});
  EXPECT_EQ(task->spec.high, std::vector<double>{3});
  Environments environments(mujoco_dynamics(task, 2), 1);
  Mujoco* const world = mujoco_world(environments.dynamics(), 1);
  ASSERT_NE(world, nullptr);
  Matrix<double> actions(2, 1);
  int over = 0;
  for (int step = 1; step <= 20; ++step) {
    actions.row(0)[0] = 0, actions.row(1)[0] = 9;  // beyond the box: 3
    Mujoco expected = *world;
    const double before = expected.position()[0];
    expected.control()[0] = 3;
    expected.step(2);
    environments.step(actions);
    const double x = expected.position()[0], v = expected.velocity()[0], spin = expected.velocity()[1];
    const double angle = expected.position()[1];
    const double* const seen = environments.reached(1);
    EXPECT_NEAR(seen[0], std::min(x, .05), 1e-12);
    EXPECT_NEAR(seen[1], std::cos(angle), 1e-12);
    EXPECT_NEAR(seen[2], v, 1e-12);
    EXPECT_NEAR(seen[3], spin, 1e-12);
    EXPECT_NEAR(seen[4], spin, 1e-12);
    EXPECT_NEAR(seen[5], x - .5 * std::sin(angle), 1e-12);
    EXPECT_NEAR(seen[7], -.5 * std::cos(angle), 1e-12);
    const bool healthy = x > -.01 && x < .1;
    EXPECT_NEAR(
        environments.rewards()[1],
        2 * (x - before) / .02 - 4.5 + (healthy ? 3 : 0) - (v - 1) * (v - 1) - spin * spin - .1 * std::hypot(x - 3, 4),
        1e-9);
    EXPECT_EQ(environments.terminated(1), !healthy);
    EXPECT_EQ(environments.ended(0), step % 7 == 0);
    over += environments.terminated(1);
  }
  EXPECT_GT(over, 0);
}

TEST_F(MujocoTasks, StateGoesOnInTheSameWay) {
  const auto task =
      std::make_shared<const MujocoTask>(MujocoTask::from_json(description(), folder_.path(), "task.json"));
  Environments a(mujoco_dynamics(task, 3), 1), b(mujoco_dynamics(task, 3), 2);
  Matrix<double> actions(3, 1);
  actions.data = {1, -1, .3};
  for (int i = 0; i < 4; ++i) a.step(actions);
  b.set_state(a.state());
  EXPECT_EQ(a.observations().data, b.observations().data);
  for (int i = 0; i < 12; ++i) {
    a.step(actions), b.step(actions);
    EXPECT_EQ(a.observations().data, b.observations().data) << "step " << i;
    EXPECT_EQ(a.rewards(), b.rewards());
  }
}

TEST_F(MujocoTasks, RefusesWithThePlace) {
  EXPECT_THAT(refusal([](Json& j) { j["observations"] = 1; }), HasSubstr("unknown key 'observations'"));
  EXPECT_THAT(refusal([](Json& j) { j["model"] = "no.xml"; }), HasSubstr("no.xml"));
  EXPECT_THAT(refusal([](Json& j) { j["observation"] = Json::array(); }), HasSubstr("'observation'"));
  EXPECT_THAT(refusal([](Json& j) { j["observation"][0]["from"] = "qacc"; }), HasSubstr("'observation' 0: 'from'"));
  EXPECT_THAT(refusal([](Json& j) { j["observation"][0]["index"] = 2; }), HasSubstr("[2, 3) is not a part of the 2"));
  EXPECT_THAT(refusal([](Json& j) { j["observation"][3]["name"] = "spon"; }), HasSubstr("no sensor 'spon'"));
  EXPECT_THAT(refusal([](Json& j) { j["reward"][1].erase("weight"); }), HasSubstr("'reward' 1"));
  EXPECT_THAT(refusal([](Json& j) { j["reward"][0]["kind"] = "speed"; }), HasSubstr("'kind' is 'speed'"));
  EXPECT_THAT(refusal([](Json& j) { j["reward"][3]["target"] = {1}; }), HasSubstr("1 targets of 2"));
  EXPECT_THAT(refusal([](Json& j) { j["healthy"][0]["min"] = 1; }), HasSubstr("nothing is between"));
  EXPECT_THAT(refusal([](Json& j) { j["start"]["qpos"]["uniform"] = -1; }), HasSubstr("negative"));
  EXPECT_THAT(refusal([](Json& j) { j["limit"] = 0; }), HasSubstr("limit 0"));
}

TEST_F(MujocoTasks, AnUnstableWorldIsLocated) {
  Json json = description();
  json["healthy"] = Json::array();
  auto task = MujocoTask::from_json(json, folder_.path(), "task.json");
  task.world.velocity()[1] = 1e8;
  const auto message = error_message(
      [&] {
        Environments e(mujoco_dynamics(std::make_shared<const MujocoTask>(std::move(task)), 2), 1);
        Matrix<double> actions(2, 1);
        for (int i = 0; i < 1000; ++i) e.step(actions);
      },
      ErrorKind::Computation);
  EXPECT_THAT(message, HasSubstr("cart"));
  EXPECT_THAT(message, HasSubstr("copy 0"));
  EXPECT_THAT(message, HasSubstr("unstable"));
}

TEST(GymnasiumTasks, AreKnown) {
  EXPECT_EQ(gymnasium_task_names(), (std::vector<std::string>{"halfcheetah", "hopper", "walker2d"}));
  EXPECT_FALSE(gymnasium_task("ant"));
}

}  // namespace
}  // namespace unbend::control
