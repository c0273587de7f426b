#include "unbend/control/robot.h"

#include <cmath>

#include "unbend/base/error.h"
#include "unbend/control/chain.h"
#include "unbend/control/cholesky.h"

namespace unbend::control {
namespace {

Joints<double> joints_of(const Vector& v) {
  Joints<double> out{};
  for (int i = 0; i < v.size(); ++i) out[i] = v[i];
  return out;
}

Vector vector_of(const Joints<double>& joints, int n) {
  Vector out(n);
  for (int i = 0; i < n; ++i) out[i] = joints[i];
  return out;
}

/// Solves with the mass matrix at q.
struct MassFactor {
  Matrix factor;

  MassFactor(const Robot& robot, const Vector& q) : factor(mass_matrix(robot, q)) {
    if (!q.allFinite()) fail_computation("the joint angles are not finite: the motion is unstable");
    if (!cholesky(factor))
      fail_computation("the mass matrix is not positive definite at q = ({:.4g}): check the state, masses and inertias",
                       fmt::join(q, ", "));
  }
  Vector solve(Vector b) const {
    cholesky_solve(factor, b);
    return b;
  }
};

struct Field {
  const char* key;
  Vector Robot::*member;
  bool positive;  ///< otherwise not negative
};

constexpr Field kFields[] = {
    {"length", &Robot::length, true},
    {"centre", &Robot::centre, false},
    {"mass", &Robot::mass, true},
    {"inertia", &Robot::inertia, false},
    {"stiffness", &Robot::stiffness, true},
    {"hardening", &Robot::hardening, false},
    {"link_friction", &Robot::link_friction, false},
    {"motor_inertia", &Robot::motor_inertia, true},
    {"motor_friction", &Robot::motor_friction, false},
};

/// d tau_e / d delta.
Vector effective_stiffness(const Robot& r, const Vector& d) {
  return r.stiffness.array() + 3 * r.hardening.array() * d.array().square();
}

}  // namespace

Robot default_robot(int joints) {
  const auto all = [&](double value) { return Vector::Constant(joints, value); };
  Robot r{all(1), all(.5), all(1), all(1. / 12), all(60), all(0), all(0), all(.5), all(0)};
  return r;
}

void check(const Robot& robot, std::string_view where) {
  const int n = robot.joints();
  require(n >= 1 && n <= kMostJoints, "{}: {} joints; 1 to {} are possible", where, n, kMostJoints);
  for (const Field& field : kFields) {
    const Vector& values = robot.*field.member;
    require(values.size() == n, "{}: '{}' has {} values for {} joints", where, field.key, values.size(), n);
    for (int i = 0; i < n; ++i) {
      require(std::isfinite(values[i]), "{}: '{}' of joint {} is not finite", where, field.key, i + 1);
      require(field.positive ? values[i] > 0 : values[i] >= 0, "{}: '{}' of joint {} is {:g}; it must {}", where,
              field.key, i + 1, values[i], field.positive ? "be positive" : "not be negative");
    }
  }
  require(std::isfinite(robot.gravity), "{}: 'gravity' is not finite", where);
  // Rotating the last link alone must cost energy; with that every mass matrix is positive definite.
  for (int i = 0; i < n; ++i)
    require(robot.inertia[i] > 0 || robot.centre[i] > 0,
            "{}: link {} has neither inertia nor a distance of its centre of mass: its mass matrix would be singular",
            where, i + 1);
}

Robot robot_from_json(const Json& json, std::string_view where) {
  require(json.is_object(), "{}: a robot is a JSON object with keys such as 'joints', 'length', 'mass'", where);
  int joints = 0;
  if (json.contains("joints")) {
    joints = json_get<int>(json, "joints", where);
  } else {  // as many as the first list says
    for (const auto& [key, value] : json.items()) {
      if (value.is_array() && joints == 0) joints = static_cast<int>(value.size());
    }
    if (joints == 0) joints = 2;
  }
  require(joints >= 1 && joints <= kMostJoints, "{}: 'joints' is {}; 1 to {} are possible", where, joints, kMostJoints);
  Robot robot = default_robot(joints);
  for (const auto& [key, value] : json.items()) {
    if (key == "joints") continue;
    if (key == "gravity") {
      robot.gravity = json_get<double>(json, key, where);
      continue;
    }
    const auto* field = std::ranges::find_if(kFields, [&key = key](const Field& f) { return key == f.key; });
    require(field != std::end(kFields),
            "{}: unknown key '{}'; a robot has joints, gravity, length, centre, mass, inertia, "
            "stiffness, hardening, link_friction, motor_inertia, motor_friction",
            where, key);
    if (value.is_number()) {
      robot.*field->member = Vector::Constant(joints, json_get<double>(json, key, where));
    } else {
      const auto values = json_get<std::vector<double>>(json, key, where);
      require(static_cast<int>(values.size()) == joints, "{}: '{}' has {} values for {} joints", where, key,
              values.size(), joints);
      robot.*field->member = Eigen::Map<const Eigen::VectorXd>(values.data(), joints);
    }
  }
  check(robot, where);
  return robot;
}

Json to_json(const Robot& robot) {
  Json json{{"joints", robot.joints()}, {"gravity", robot.gravity}};
  for (const Field& field : kFields) {
    const Vector& values = robot.*field.member;
    json[field.key] = std::vector<double>(values.begin(), values.end());
  }
  return json;
}

State state_of(const Vector& q, const Vector& dq, const Vector& theta, const Vector& dtheta) {
  State x(4 * q.size());
  x << q, dq, theta, dtheta;
  return x;
}

Vector bias(const Robot& robot, const Vector& q, const Vector& dq) {
  return vector_of(inverse_dynamics<double>(robot, joints_of(q), joints_of(dq), {}, robot.gravity), robot.joints());
}

Matrix mass_matrix(const Robot& robot, const Vector& q) {
  const int n = robot.joints();
  Matrix mass(n, n);
  const auto at = joints_of(q);
  for (int k = 0; k < n; ++k) {
    Joints<double> unit{};
    unit[k] = 1;
    mass.col(k) = vector_of(inverse_dynamics<double>(robot, at, {}, unit, 0), n);
  }
  return (mass + mass.transpose()) / 2;  // equal to rounding; exactly symmetric from here on
}

Vector spring_torque(const Robot& robot, const Vector& d) {
  return robot.stiffness.array() * d.array() + robot.hardening.array() * d.array().cube();
}

Vector spring_deflection(const Robot& robot, const Vector& torque) {
  Vector d(torque.size());
  for (int i = 0; i < torque.size(); ++i) {
    const double k = robot.stiffness[i], k3 = robot.hardening[i], t = torque[i];
    if (k3 == 0) {
      d[i] = t / k;
      continue;
    }
    // The one real root of k3 d^3 + k d = t (p, q > 0 in Cardano's formula), as a hyperbolic sine: no cancellation.
    const double scale = 2 * std::sqrt(k / (3 * k3));
    d[i] = scale * std::sinh(std::asinh(4 * t / (k3 * scale * scale * scale)) / 3);
  }
  return d;
}

double energy(const Robot& robot, const State& x) {
  const int n = robot.joints();
  const Vector q = x.head(n), dq = x.segment(n, n), dtheta = x.tail(n), d = x.segment(2 * n, n) - q;
  double height = 0, potential = 0, angle = 0;
  for (int i = 0; i < n; ++i) {
    angle += q[i];
    potential += robot.mass[i] * robot.gravity * (height + robot.centre[i] * std::sin(angle));
    height += robot.length[i] * std::sin(angle);
  }
  const double springs =
      (robot.stiffness.array() * d.array().square() / 2 + robot.hardening.array() * d.array().square().square() / 4)
          .sum();
  return dq.dot(mass_matrix(robot, q) * dq) / 2 + potential + springs +
         (robot.motor_inertia.array() * dtheta.array().square()).sum() / 2;
}

State derivative(const Robot& robot, const State& x, const Vector& u) {
  const int n = robot.joints();
  const Vector q = x.head(n), dq = x.segment(n, n), dtheta = x.tail(n);
  const Vector torque = spring_torque(robot, x.segment(2 * n, n) - q);
  const Vector ddq = MassFactor(robot, q).solve(torque - bias(robot, q, dq));
  const Vector ddtheta = (u - robot.motor_friction.cwiseProduct(dtheta) - torque).cwiseQuotient(robot.motor_inertia);
  return state_of(dq, ddq, dtheta, ddtheta);
}

State rk4(const Robot& robot, const State& x, const Vector& u, double h) {
  const State a = derivative(robot, x, u), b = derivative(robot, x + h / 2 * a, u);
  const State c = derivative(robot, x + h / 2 * b, u), d = derivative(robot, x + h * c, u);
  return x + h / 6 * (a + 2 * b + 2 * c + d);
}

State resting(const Robot& robot, const Vector& q) {
  const Vector still = Vector::Zero(q.size());
  return state_of(q, still, q + spring_deflection(robot, bias(robot, q, still)), still);
}

namespace {

/// q(t) to order K + 2 as the triple of series q, q', q'' to order K, from derivatives xi = [q, q', .., ] of which the
/// rest is zero.
template <int K>
void motion(const State& xi, int n, Joints<Taylor<K>>& q, Joints<Taylor<K>>& dq, Joints<Taylor<K>>& ddq) {
  const int orders = static_cast<int>(xi.size()) / n;
  const auto at = [&](int i, int order) { return order < orders ? xi[order * n + i] : 0.; };
  for (int i = 0; i < n; ++i) {
    double factorial = 1;
    for (int k = 0; k <= K; factorial *= ++k) {
      q[i].c[k] = at(i, k) / factorial;
      dq[i].c[k] = at(i, k + 1) / factorial;
      ddq[i].c[k] = at(i, k + 2) / factorial;
    }
  }
}

/// The derivatives 0..K of the joint torques along q(t).
template <int K>
std::array<Vector, K + 1> torque_derivatives(const Robot& robot, const State& xi) {
  const int n = robot.joints();
  Joints<Taylor<K>> q, dq, ddq;
  motion<K>(xi, n, q, dq, ddq);
  const auto torque = inverse_dynamics<Taylor<K>>(robot, q, dq, ddq, robot.gravity);
  std::array<Vector, K + 1> out;
  for (int k = 0; k <= K; ++k) {
    out[k].resize(n);
    for (int i = 0; i < n; ++i) out[k][i] = torque[i].derivative(k);
  }
  return out;
}

State extended(const State& xi, const Vector& next) {
  State out(xi.size() + next.size());
  out << xi, next;
  return out;
}

}  // namespace

State flat_state(const Robot& robot, const State& x) {
  const int n = robot.joints();
  const Vector q = x.head(n), dq = x.segment(n, n), d = x.segment(2 * n, n) - q;
  const MassFactor mass(robot, q);
  const Vector ddq = mass.solve(spring_torque(robot, d) - bias(robot, q, dq));
  // With q''' = 0 the torque of the links changes at rate n' + M' q''; what is missing is M q'''.
  const State known = extended(x.head(2 * n), ddq);
  const Vector rate = effective_stiffness(robot, d).cwiseProduct(x.tail(n) - dq);
  const Vector dddq = mass.solve(rate - torque_derivatives<1>(robot, known)[1]);
  return extended(known, dddq);
}

State state_from_flat(const Robot& robot, const State& xi) {
  const int n = robot.joints();
  const auto torque = torque_derivatives<1>(robot, xi);
  const Vector d = spring_deflection(robot, torque[0]);
  const Vector dd = torque[1].cwiseQuotient(effective_stiffness(robot, d));
  return state_of(xi.head(n), xi.segment(n, n), xi.head(n) + d, xi.segment(n, n) + dd);
}

Affine flat_dynamics(const Robot& robot, const State& x) {
  const int n = robot.joints();
  const Vector q = x.head(n), dtheta = x.tail(n), d = x.segment(2 * n, n) - q, dd = dtheta - x.segment(n, n);
  const State xi = flat_state(robot, x);
  const Vector ddq = xi.segment(2 * n, n), ks = effective_stiffness(robot, d);
  const MassFactor mass(robot, q);
  // tau_e'' = Ks d'' + 6 K3 d d'^2 with d'' = theta'' - q'' equals M q'''' + (the same derivative for q'''' = 0).
  const Vector spring =
      (-spring_torque(robot, d) - robot.motor_friction.cwiseProduct(dtheta)).cwiseQuotient(robot.motor_inertia) - ddq;
  const Vector torque = ks.cwiseProduct(spring) + Vector(6 * robot.hardening.array() * d.array() * dd.array().square());
  Affine out;
  out.f = mass.solve(torque - torque_derivatives<2>(robot, xi)[2]);
  out.g.resize(n, n);
  for (int j = 0; j < n; ++j) out.g.col(j) = mass.solve(ks[j] / robot.motor_inertia[j] * Vector::Unit(n, j));
  return out;
}

Eigen::Vector2d tip(const Robot& robot, const Vector& q) {
  double x, y;
  tip_position<double>(robot, joints_of(q), x, y);
  return {x, y};
}

}  // namespace unbend::control
