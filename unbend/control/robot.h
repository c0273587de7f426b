// Serial robots with elastic joints in a plane: their equations, and their flat form. Model of Spong (1987): links and
// motors are coupled by springs only (large gear ratios),
//   M(q) q'' + C(q, q') q' + g(q) + F_l q' = tau_e,   tau_e = K d + K3 d^3,  d = theta - q,
//   B theta'' + F_m theta' + tau_e = u.
// The angles q are relative to the link before; the first is measured from the horizontal.
#pragma once

#include <Eigen/Core>
#include <cstdint>

#include "unbend/base/json.h"

namespace unbend::control {

constexpr int kMostJoints = 6;
/// Vectors and matrices of joints: no heap.
using Vector = Eigen::Matrix<double, Eigen::Dynamic, 1, 0, kMostJoints, 1>;
using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, 0, kMostJoints, kMostJoints>;
/// States of all joints, [4 n].
using State = Eigen::Matrix<double, Eigen::Dynamic, 1, 0, 4 * kMostJoints, 1>;

/// Per joint [n], in SI units.
struct Robot {
  Vector length;          ///< of the link (m)
  Vector centre;          ///< distance of its centre of mass from the joint (m)
  Vector mass;            ///< (kg)
  Vector inertia;         ///< about the centre of mass (kg m^2)
  Vector stiffness;       ///< K (N m / rad), linear part of the spring
  Vector hardening;       ///< K3 (N m / rad^3), cubic part
  Vector link_friction;   ///< F_l (N m s / rad)
  Vector motor_inertia;   ///< B, after the gear (kg m^2)
  Vector motor_friction;  ///< F_m (N m s / rad)
  double gravity = 9.81;  ///< downwards (m / s^2)

  int joints() const { return static_cast<int>(length.size()); }
};

/// n equal links of 1 m and 1 kg (rods), K = 60, B = 0.5, no hardening and no friction.
Robot default_robot(int joints = 2);

/// A robot from JSON: {"joints": 2, "length": [1, 1], "centre": ..., ...}, keys as in Robot; a single number stands for
/// all joints, missing keys take the values of default_robot. Input error that names `where` and the key: unequal
/// lengths, values that are not finite, masses, lengths, inertias and stiffness that are not positive, negative
/// frictions or hardening, unknown keys.
Robot robot_from_json(const Json& json, std::string_view where);
Json to_json(const Robot& robot);
/// The same checks for a robot made in code.
void check(const Robot& robot, std::string_view where);

/// The state x of a robot is [q, q', theta, theta'] in this order.
State state_of(const Vector& q, const Vector& dq, const Vector& theta, const Vector& dtheta);

Matrix mass_matrix(const Robot& robot, const Vector& q);
/// n(q, q') = C q' + g + F_l q'.
Vector bias(const Robot& robot, const Vector& q, const Vector& dq);
/// tau_e, from joint deflections d = theta - q.
Vector spring_torque(const Robot& robot, const Vector& d);
/// The deflections that give these torques. Exact to rounding; monotone since K > 0, K3 >= 0.
Vector spring_deflection(const Robot& robot, const Vector& torque);
/// Kinetic and potential energy of links, motors and springs (J).
double energy(const Robot& robot, const State& x);
/// x' = f(x, u).
State derivative(const Robot& robot, const State& x, const Vector& u);
/// One step of the classical Runge-Kutta method with u held.
State rk4(const Robot& robot, const State& x, const Vector& u, double seconds);
/// At rest at q, springs carrying the weight; the motor torque that keeps it there is bias(q, 0).
State resting(const Robot& robot, const Vector& q);

/// Flat coordinates xi = [q, q', q'', q'''] of a state, [4 n].
State flat_state(const Robot& robot, const State& x);
/// The inverse.
State state_from_flat(const Robot& robot, const State& xi);

/// q'''' = F + G u.
struct Affine {
  Vector f;  ///< F [n]
  Matrix g;  ///< G [n, n]
};

/// F and G at the state x, by Taylor series of the inverse dynamics along the motion.
Affine flat_dynamics(const Robot& robot, const State& x);

/// Position of the end of the last link (m), x to the right and y upwards.
Eigen::Vector2d tip(const Robot& robot, const Vector& q);

}  // namespace unbend::control
