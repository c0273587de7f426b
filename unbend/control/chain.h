// Equations of motion of a planar chain, for numbers and for Taylor series alike.
#pragma once

#include <array>

#include "unbend/control/robot.h"
#include "unbend/control/taylor.h"

namespace unbend::control {

template <class T>
using Joints = std::array<T, kMostJoints>;

/// Torques of the joints [n] that give the accelerations `ddq`: M(q) q'' + C(q, q') q' + g(q) + F_l q'. Newton and
/// Euler's recursion in coordinates of the plane: joints outwards, forces inwards.
template <class T>
Joints<T> inverse_dynamics(const Robot& robot, const Joints<T>& q, const Joints<T>& dq, const Joints<T>& ddq,
                           double gravity) {
  const int n = robot.joints();
  struct Link {
    T cosine, sine, fx, fy, moment;
  };
  std::array<Link, kMostJoints> links;
  T angle(0.), rate(0.), turn(0.), ax(0.), ay(gravity);  // a base that accelerates upwards is gravity
  for (int i = 0; i < n; ++i) {
    Link& link = links[i];
    angle = angle + q[i];
    rate = rate + dq[i];
    turn = turn + ddq[i];
    sine_cosine(angle, link.sine, link.cosine);
    const T square = rate * rate;
    // Acceleration of a point r along the link: r (turn (-s, c) - square (c, s)).
    const T ux = T(0.) - turn * link.sine - square * link.cosine, uy = turn * link.cosine - square * link.sine;
    link.fx = robot.mass[i] * (ax + robot.centre[i] * ux);
    link.fy = robot.mass[i] * (ay + robot.centre[i] * uy);
    link.moment = robot.inertia[i] * turn;
    ax = ax + robot.length[i] * ux;
    ay = ay + robot.length[i] * uy;
  }
  Joints<T> torque;
  T fx(0.), fy(0.), moment(0.);  // of the links beyond, at the end of this one
  for (int i = n - 1; i >= 0; --i) {
    const Link& link = links[i];
    moment = moment + link.moment + robot.length[i] * (link.cosine * fy - link.sine * fx) +
             robot.centre[i] * (link.cosine * link.fy - link.sine * link.fx);
    fx = fx + link.fx;
    fy = fy + link.fy;
    torque[i] = moment + robot.link_friction[i] * dq[i];
  }
  return torque;
}

/// The end of the last link.
template <class T>
void tip_position(const Robot& robot, const Joints<T>& q, T& x, T& y) {
  T angle(0.), sine, cosine;
  x = T(0.);
  y = T(0.);
  for (int i = 0; i < robot.joints(); ++i) {
    angle = angle + q[i];
    sine_cosine(angle, sine, cosine);
    x = x + robot.length[i] * cosine;
    y = y + robot.length[i] * sine;
  }
}

}  // namespace unbend::control
