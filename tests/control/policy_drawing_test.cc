// Episodes as strips of pictures.
#include "unbend/control/policy_drawing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/error_message.h"
#include "unbend/base/files.h"
#include "unbend/control/environments_mujoco.h"
#include "unbend/control/environments_own.h"
#include "unbend/control/mdpo.h"

namespace unbend::control {
namespace {

using ::testing::HasSubstr;

Agent untrained(const MakeDynamics& make) {
  OnPolicyOptions o;
  o.horizon = 8, o.steps = 8, o.hidden = {4};
  return on_policy(make, 1, o, 1)->agent();
}

/// Every corner lies within the drawing, with finite coordinates.
void expect_inside(const Drawing& d) {
  for (const auto& polygon : d.polygons)
    for (const Point& p : polygon.corners)
      EXPECT_TRUE(p.x >= d.low.x - 1e-9 && p.x <= d.high.x + 1e-9 && p.y >= d.low.y - 1e-9 && p.y <= d.high.y + 1e-9)
          << p.x << ", " << p.y;
}

TEST(FilmStrip, OwnSimulators) {
  const std::pair<MakeDynamics, std::size_t> tasks[] = {{cartpole, 4}, {pendulum, 3}, {point_mass, 2}};
  for (const auto& [make, shapes] : tasks) {
    const Agent agent = untrained(make);
    StripOptions o;
    o.frames = 5, o.columns = 2, o.every = 1;
    const Strip strip = film_strip(agent, make, o);
    EXPECT_EQ(strip.drawing.polygons.size(), 5 * shapes) << agent.spec.name;  // with a background each
    expect_inside(strip.drawing);
    EXPECT_GT(strip.episode.steps, 5);
    // three rows of two pictures, which are as wide as high only for some
    const Drawing::Polygon& first = strip.drawing.polygons[0];
    const double width = first.corners[1].x - first.corners[0].x, height = first.corners[2].y - first.corners[1].y;
    EXPECT_NEAR(strip.drawing.high.x - strip.drawing.low.x, 2 * width + 3 * .04 * width, 1e-9);
    EXPECT_NEAR(strip.drawing.high.y - strip.drawing.low.y, 3 * height + 4 * .04 * width, 1e-9);
  }
}

TEST(FilmStrip, ShowsTheState) {
  const Agent agent = untrained(pendulum);
  StripOptions o;
  o.frames = 1, o.seed = 3;
  const Strip strip = film_strip(agent, pendulum, o);
  Environments same(pendulum(1), 3);
  const double cos = same.observations().row(0)[0], sin = same.observations().row(0)[1];
  const auto& background = strip.drawing.polygons[0].corners;
  const Point middle{(background[0].x + background[2].x) / 2, (background[0].y + background[2].y) / 2};
  Point mean{0, 0};  // of the rod's outline: half its length along it, theta = 0 upright, positive to the left
  const auto& rod = strip.drawing.polygons[1].corners;
  for (const Point& p : rod) {
    mean.x += (p.x - middle.x) / static_cast<double>(rod.size());
    mean.y += (p.y - middle.y) / static_cast<double>(rod.size());
  }
  EXPECT_NEAR(mean.x, -.5 * sin, 1e-9);
  EXPECT_NEAR(mean.y, .5 * cos, 1e-9);
}

TEST(FilmStrip, MujocoGeometry) {
  const TemporaryFolder folder;
  write_file(folder.path() / "m.xml", R"(<mujoco><worldbody><geom type="plane" size="5 5 1"/>
    <body pos="0 0 1"><joint name="slide" type="slide" axis="1 0 0"/>
      <geom type="box" size=".2 .1 .1"/><geom type="capsule" size=".05 .3"/><geom type="sphere" size=".1"/>
      <geom type="ellipsoid" size=".1 .1 .2"/><geom type="cylinder" size=".1 .1"/></body></worldbody>
    <actuator><motor joint="slide" ctrllimited="true" ctrlrange="-1 1"/></actuator></mujoco>)");
  const Json json = parse_json(R"({"name": "m", "model": "m.xml", "limit": 9, "observation": [{"from": "qpos"}],
    "reward": [{"kind": "alive", "weight": 1}]})",
                               "test");
  const auto task = std::make_shared<const MujocoTask>(MujocoTask::from_json(json, folder.path(), "m.json"));
  const MakeDynamics make = [&](std::int64_t copies) { return mujoco_dynamics(task, copies); };
  StripOptions o;
  o.frames = 3;
  const Strip strip = film_strip(untrained(make), make, o);
  EXPECT_EQ(strip.drawing.polygons.size(), 3u * 7);
  expect_inside(strip.drawing);
  const auto& box = strip.drawing.polygons[2].corners;  // after background and plane
  ASSERT_EQ(box.size(), 4u);                            // from the side a rectangle
  double low = INFINITY, high = -INFINITY;
  for (const Point& p : box) low = std::min(low, p.x), high = std::max(high, p.x);
  EXPECT_NEAR(high - low, .4, 1e-9);
}

TEST(FilmStrip, Refuses) {
  const Agent agent = untrained(cartpole);
  EXPECT_THAT(error_message([&] { film_strip(agent, pendulum, {}); }), HasSubstr("is not that of the policy"));
  StripOptions o;
  o.frames = 0;
  EXPECT_THAT(error_message([&] { film_strip(agent, cartpole, o); }), HasSubstr("0 pictures"));
  const auto table = std::make_shared<const BanditTable>(classification(1, {0, 1}, {0, 1}));
  const MakeDynamics make = [&](std::int64_t copies) { return bandit(table, copies); };
  EXPECT_THAT(error_message([&] { film_strip(untrained(make), make, {}); }), HasSubstr("no body to draw"));
}

}  // namespace
}  // namespace unbend::control
