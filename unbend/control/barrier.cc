#include "unbend/control/barrier.h"

#include <cmath>

#include "unbend/base/error.h"
#include "unbend/control/chain.h"

namespace unbend::control {
namespace {

template <class T>
T value_of(const Constraint& c, const Robot& robot, const Joints<T>& q) {
  T h(c.offset);
  if (c.kind == Constraint::Kind::Joint) {
    for (int i = 0; i < robot.joints(); ++i) h = h + c.normal[i] * q[i];
    return h;
  }
  T x, y;
  tip_position<T>(robot, q, x, y);
  if (c.kind == Constraint::Kind::Wall) return h + c.normal[0] * x + c.normal[1] * y;
  x = x - T(c.centre[0]);
  y = y - T(c.centre[1]);
  return (c.inside ? -1. : 1.) * (x * x + y * y - T(c.radius * c.radius));
}

std::vector<double> numbers(const Json& entry, const std::string& key, std::size_t count, const std::string& where) {
  const auto values = json_get<std::vector<double>>(entry, key, where);
  require(values.size() == count, "{}: '{}' has {} numbers; {} are needed", where, key, values.size(), count);
  for (const double v : values) require(std::isfinite(v), "{}: '{}' is not finite", where, key);
  return values;
}

void check_keys(const Json& entry, const std::vector<std::string>& known, const std::string& where) {
  for (const auto& [key, value] : entry.items())
    require(std::ranges::find(known, key) != known.end(), "{}: unknown key '{}'; here are possible: {}", where, key,
            fmt::join(known, ", "));
}

/// lower <= normal' q <= upper as one or two constraints.
void add_limits(const Json& entry, const Vector& normal, const std::string& name, const std::string& where,
                std::vector<Constraint>& out) {
  require(entry.contains("min") || entry.contains("max"), "{}: give 'min', 'max' or both", where);
  double low = -INFINITY, high = INFINITY;
  if (entry.contains("min")) {
    low = json_get<double>(entry, "min", where);
    out.push_back({name + " >= " + fmt::format("{:g}", low), Constraint::Kind::Joint, normal, -low});
  }
  if (entry.contains("max")) {
    high = json_get<double>(entry, "max", where);
    out.push_back({name + " <= " + fmt::format("{:g}", high), Constraint::Kind::Joint, -normal, high});
  }
  require(std::isfinite(low) || std::isfinite(high), "{}: limits must be finite", where);
  require(low < high, "{}: 'min' {:g} is not below 'max' {:g}", where, low, high);
}

}  // namespace

std::vector<Constraint> constraints_from_json(const Json& json, int joints, std::string_view where) {
  require(json.is_array(), "{}: constraints are a JSON list", where);
  std::vector<Constraint> out;
  for (std::size_t i = 0; i < json.size(); ++i) {
    const Json& entry = json[i];
    const std::string at = fmt::format("{}, constraint {}", where, i + 1);
    require(entry.is_object(), "{}: not an object", at);
    const auto name = [&](const std::string& standard) { return json_get<std::string>(entry, "name", at, standard); };
    if (entry.contains("joint")) {
      check_keys(entry, {"name", "joint", "min", "max"}, at);
      const int joint = json_get<int>(entry, "joint", at);
      require(joint >= 1 && joint <= joints, "{}: 'joint' is {}; the robot has joints 1 to {}", at, joint, joints);
      add_limits(entry, Vector::Unit(joints, joint - 1), name(fmt::format("q{}", joint)), at, out);
    } else if (entry.contains("joints")) {
      check_keys(entry, {"name", "joints", "min", "max"}, at);
      const auto c = numbers(entry, "joints", static_cast<std::size_t>(joints), at);
      const Vector normal = Eigen::Map<const Eigen::VectorXd>(c.data(), joints);
      require(normal.norm() > 0, "{}: 'joints' is zero", at);
      add_limits(entry, normal, name("combination"), at, out);
    } else if (entry.contains("wall")) {
      check_keys(entry, {"name", "wall", "offset"}, at);
      const auto n = numbers(entry, "wall", 2, at);
      Constraint wall{name("wall"), Constraint::Kind::Wall, Eigen::Vector2d(n[0], n[1])};
      require(wall.normal.norm() > 0, "{}: the normal 'wall' is zero", at);
      wall.offset = json_get<double>(entry, "offset", at, 0.);
      out.push_back(wall);
    } else if (entry.contains("circle")) {
      check_keys(entry, {"name", "circle", "radius", "side"}, at);
      const auto c = numbers(entry, "circle", 2, at);
      Constraint circle{name("circle"), Constraint::Kind::Circle, {}};
      circle.centre = {c[0], c[1]};
      circle.radius = json_get<double>(entry, "radius", at);
      require(std::isfinite(circle.radius) && circle.radius > 0, "{}: 'radius' must be positive", at);
      const auto side = json_get<std::string>(entry, "side", at, "outside");
      require(side == "outside" || side == "inside", "{}: 'side' is '{}'; it is outside or inside", at, side);
      circle.inside = side == "inside";
      out.push_back(circle);
    } else {
      fail_input("{}: a constraint has one of the keys joint, joints, wall, circle", at);
    }
  }
  return out;
}

Barrier barrier(const Constraint& constraint, const Robot& robot, const State& xi) {
  using Series = Taylor<4>;
  const int n = robot.joints();
  Joints<Series> q;
  for (int i = 0; i < n; ++i) {
    double factorial = 1;
    for (int k = 0; k < 4; factorial *= ++k) q[i].c[k] = xi[k * n + i] / factorial;
  }
  const Series h = value_of<Series>(constraint, robot, q);
  Barrier out;
  for (int k = 0; k < 4; ++k) out.h[k] = h.derivative(k);
  out.drift = h.derivative(4);
  out.gradient.resize(n);
  for (int i = 0; i < n; ++i) {  // h'''' is affine in q''''
    q[i].c[4] = 1. / 24;
    out.gradient[i] = value_of<Series>(constraint, robot, q).derivative(4) - out.drift;
    q[i].c[4] = 0;
  }
  return out;
}

std::vector<double> pole_gains(double pole, int order) {
  require(pole > 0 && std::isfinite(pole), "a pole must lie at -p with p positive, not {:g}", pole);
  std::vector<double> gains(order);
  double binomial = 1;
  for (int k = 0; k < order; ++k) {
    gains[k] = binomial * std::pow(pole, order - k);
    binomial = binomial * (order - k) / (k + 1);
  }
  return gains;
}

std::array<double, 4> chain(const Barrier& barrier, double pole) {
  std::array<double, 4> derivatives = barrier.h, nu{};
  for (int i = 0; i < 4; ++i) {
    nu[i] = derivatives[0];
    for (int k = 0; k + 1 < 4 - i; ++k) derivatives[k] = derivatives[k + 1] + pole * derivatives[k];
  }
  return nu;
}

void check_start(const Constraint& constraint, const Barrier& barrier, double pole) {
  const auto nu = chain(barrier, pole);
  for (int i = 0; i < 4; ++i) {
    require(nu[i] >= 0,
            "constraint '{}' cannot be kept from this start: member {} of its chain with pole {:g} is {:g}, below 0"
            "{}",
            constraint.name, i, pole, nu[i],
            i == 0 ? " (it is violated already)" : "; start slower or farther away, or take a larger pole");
  }
  require(barrier.gradient.norm() > 1e-12 || barrier.h[0] > 1e-9,
          "constraint '{}' has no gradient at its boundary: no torque could keep it", constraint.name);
}

}  // namespace unbend::control
