#include "unbend/control/policy_drawing.h"

#include <mujoco/mujoco.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "unbend/base/error.h"
#include "unbend/control/environments_mujoco.h"

namespace unbend::control {
namespace {

constexpr int kBody = 0, kAccent = 1, kGround = 7;

/// One picture in the task's own units, and the window that it needs.
struct Frame {
  Point low, high;
  std::vector<Drawing::Polygon> polygons;
  std::vector<Drawing::Line> lines;
};

/// The outline of all points within `radius` of the line from a to b: a disc if they are the same.
std::vector<Point> capsule(Point a, Point b, double radius) {
  constexpr int kCorners = 8;
  const double along = std::atan2(b.y - a.y, b.x - a.x);
  std::vector<Point> corners;
  for (int end = 0; end < 2; ++end) {
    const Point c = end ? a : b;
    for (int i = 0; i <= kCorners; ++i) {
      const double angle = along + std::numbers::pi * (end + static_cast<double>(i) / kCorners - .5);
      corners.push_back({c.x + radius * std::cos(angle), c.y + radius * std::sin(angle)});
    }
  }
  return corners;
}

std::vector<Point> rectangle(double x, double y, double half_width, double half_height) {
  return {{x - half_width, y - half_height},
          {x + half_width, y - half_height},
          {x + half_width, y + half_height},
          {x - half_width, y + half_height}};
}

/// Corners of the convex hull, in order (Andrew's monotone chain).
std::vector<Point> hull(std::vector<Point> points) {
  std::ranges::sort(points, [](Point a, Point b) { return std::pair(a.x, a.y) < std::pair(b.x, b.y); });
  std::vector<Point> chain;
  for (int pass = 0; pass < 2; ++pass, std::ranges::reverse(points)) {
    const auto begin = chain.size();
    for (const Point& p : points) {
      const auto left = [&](Point a, Point b) { return (b.x - a.x) * (p.y - a.y) - (b.y - a.y) * (p.x - a.x) > 0; };
      while (chain.size() >= begin + 2 && !left(chain[chain.size() - 2], chain.back())) chain.pop_back();
      chain.push_back(p);
    }
    chain.pop_back();
  }
  return chain;
}

Frame own_frame(const std::string& name, const std::vector<double>& state) {
  if (name == "cartpole") {
    Frame f{{-2.6, -.3}, {2.6, 1.4}, {}, {}};
    const double x = state[0], angle = state[2];
    f.polygons.push_back({rectangle(0, -.12, 2.4, .015), kGround, .6});
    f.polygons.push_back({rectangle(x, 0, .2, .1), kBody, .9});
    f.polygons.push_back({capsule({x, .1}, {x + std::sin(angle), .1 + std::cos(angle)}, .04), kAccent, .95});
    return f;
  }
  if (name == "pendulum") {
    Frame f{{-1.25, -1.25}, {1.25, 1.25}, {}, {}};
    f.polygons.push_back({capsule({0, 0}, {-std::sin(state[0]), std::cos(state[0])}, .08), kAccent, .95});
    f.polygons.push_back({capsule({0, 0}, {0, 0}, .05), kBody, 1});
    return f;
  }
  if (name == "point_mass") {
    Frame f{{-1.6, -1.6}, {1.6, 1.6}, {}, {}};
    f.lines = {{{-.15, 0}, {.15, 0}}, {{0, -.15}, {0, .15}}};
    const Point p{std::clamp(state[0], -1.5, 1.5), std::clamp(state[1], -1.5, 1.5)};
    f.polygons.push_back({capsule(p, p, .1), kAccent, .95});
    return f;
  }
  fail_input("{} has no body to draw: there are pictures of cartpole, pendulum, point_mass and MuJoCo tasks", name);
}

Frame mujoco_frame(Mujoco& world) {
  world.forward();
  const mjModel& model = world.model();
  const mjData& data = world.data();
  const double side = 1.1 * std::max(.5, model.stat.extent > 0 ? std::min(model.stat.extent, 2.) : 1.);
  const double x = model.nbody > 1 ? data.subtree_com[3] : 0, z = model.nbody > 1 ? data.subtree_com[5] : 0;
  Frame f{{x - side, z - side}, {x + side, z + side}, {}, {}};
  for (int g = 0; g < model.ngeom; ++g) {
    const double *p = data.geom_xpos + 3 * g, *r = data.geom_xmat + 9 * g, *size = model.geom_size + 3 * g;
    const int color = model.geom_bodyid[g] == 0 ? kGround : kBody;
    std::vector<Point> outline;
    switch (model.geom_type[g]) {
      case mjGEOM_PLANE: outline = rectangle(x, p[2] - .01 * side, side, .01 * side); break;
      case mjGEOM_CAPSULE:
      case mjGEOM_CYLINDER: {
        const Point half{r[2] * size[1], r[8] * size[1]};  // the axis is z in its own frame
        outline = capsule({p[0] - half.x, p[2] - half.y}, {p[0] + half.x, p[2] + half.y}, size[0]);
        break;
      }
      case mjGEOM_BOX: {
        std::vector<Point> corners;
        for (int c = 0; c < 8; ++c) {
          const double a = (c & 1 ? 1 : -1) * size[0], b = (c & 2 ? 1 : -1) * size[1], d = (c & 4 ? 1 : -1) * size[2];
          corners.push_back({p[0] + r[0] * a + r[1] * b + r[2] * d, p[2] + r[6] * a + r[7] * b + r[8] * d});
        }
        outline = hull(corners);
        break;
      }
      case mjGEOM_SPHERE: outline = capsule({p[0], p[2]}, {p[0], p[2]}, size[0]); break;
      default: outline = capsule({p[0], p[2]}, {p[0], p[2]}, std::min(model.geom_rbound[g], side)); break;
    }
    f.polygons.push_back({outline, color, .75});
  }
  return f;
}

/// Cuts a polygon at the frame's window: pictures must not reach into their neighbours.
void keep_inside(const Frame& f, std::vector<Point>& corners) {
  for (Point& p : corners) p = {std::clamp(p.x, f.low.x, f.high.x), std::clamp(p.y, f.low.y, f.high.y)};
}

}  // namespace

Strip film_strip(const Agent& agent, const MakeDynamics& make, const StripOptions& o) {
  require(o.frames > 0 && o.frames <= 400 && o.columns > 0 && o.every >= 0,
          "{} pictures in {} columns, one every {} steps: 1 to 400 are possible", o.frames, o.columns, o.every);
  // The episode is run twice in the same way: once for its length, once to draw.
  const auto play = [&](const std::function<void(Environments&, std::int64_t)>& before_step) {
    Environments environments(make(1), o.seed);
    require_fits(agent.spec, environments.spec());
    Random random(o.seed ^ 0x9e3779b97f4a7c15);
    Agent::Work work;
    Matrix<double> actions;
    for (std::int64_t step = 0;; ++step) {
      before_step(environments, step);
      agent.act(environments.observations(), o.deterministic, random, work, actions);
      environments.step(actions);
      if (!environments.finished().empty()) return environments.finished().front();
    }
  };
  Strip strip;
  strip.episode = play([](Environments&, std::int64_t) {});
  const auto every = o.every > 0 ? o.every : std::max<std::int64_t>(1, strip.episode.steps / o.frames);
  std::vector<Frame> frames;
  play([&](Environments& e, std::int64_t step) {
    if (step % every || std::ssize(frames) >= o.frames) return;
    if (Mujoco* const world = mujoco_world(e.dynamics(), 0)) {
      Mujoco copy = *world;
      frames.push_back(mujoco_frame(copy));
    } else {
      frames.push_back(own_frame(e.spec().name, e.dynamics().state()));
    }
  });

  const double width = frames[0].high.x - frames[0].low.x, height = frames[0].high.y - frames[0].low.y;
  const double gap = .04 * width;
  const auto columns = std::min(o.columns, std::ssize(frames)), rows = (std::ssize(frames) + columns - 1) / columns;
  Drawing& d = strip.drawing;
  d.title = fmt::format("{}: return {:.4g} in {} steps", agent.spec.name, strip.episode.total, strip.episode.steps);
  d.caption = fmt::format("One picture every {} steps, from left to right and top to bottom.", every);
  d.low = {-gap, -static_cast<double>(rows) * (height + gap)};
  d.high = {static_cast<double>(columns) * (width + gap), gap};
  for (std::size_t i = 0; i < frames.size(); ++i) {
    Frame& f = frames[i];
    const auto column = static_cast<std::int64_t>(i) % columns, row = static_cast<std::int64_t>(i) / columns;
    const double dx = static_cast<double>(column) * (width + gap) - f.low.x;
    const double dy = -static_cast<double>(row) * (height + gap) - height - f.low.y;
    const auto moved = [&](Point p) { return Point{p.x + dx, p.y + dy}; };
    d.polygons.push_back(
        {{moved(f.low), moved({f.high.x, f.low.y}), moved(f.high), moved({f.low.x, f.high.y})}, kGround, .12});
    for (auto& polygon : f.polygons) {
      keep_inside(f, polygon.corners);
      for (Point& p : polygon.corners) p = moved(p);
      d.polygons.push_back(std::move(polygon));
    }
    for (const auto& line : f.lines) d.lines.push_back({moved(line.from), moved(line.to)});
  }
  return strip;
}

}  // namespace unbend::control
