#include "unbend/control/controller.h"

#include <Eigen/SVD>
#include <algorithm>
#include <cmath>

#include "unbend/base/error.h"

namespace unbend::control {
namespace {

/// Standard deviations that the outputs of a barrier's gradient add up to: sum_j |c_j| s_j.
double weight_of(const Barrier& barrier, const GaussianProcess& error) {
  double sum = 0;
  for (Eigen::Index j = 0; j < barrier.gradient.size(); ++j) sum += std::abs(barrier.gradient[j]) * error.scale()[j];
  return sum;
}

}  // namespace

Eigen::VectorXd default_units(int joints) {
  Eigen::VectorXd units(4 * joints);
  for (int k = 0; k < 4; ++k) units.segment(k * joints, joints).setConstant(std::array{1., 2., 6., 30.}[k]);
  return units;
}

GpKernel default_gp_kernel() { return {squared_exponential(1, 3) + linear(.5), squared_exponential(.1, 3), .02}; }

void check(const Model& model, const std::vector<Constraint>& constraints, const ControllerOptions& options,
           double period) {
  check(model.nominal, "the nominal robot");
  const int n = model.nominal.joints();
  if (model.error) {
    require(model.error->outputs() == n && model.error->dimension() == 4 * n &&
                (model.error->inputs() == n || model.error->kernel().gain.empty()),
            "the learned error has {} outputs, {} inputs and {} coordinates; a robot of {} joints needs {}, {} and {}",
            model.error->outputs(), model.error->inputs(), model.error->dimension(), n, n, n, 4 * n);
    require(model.units.size() == 4 * n && (model.units.array() > 0).all(),
            "the units of the learned error must be {} positive numbers", 4 * n);
  }
  for (const Constraint& c : constraints)
    require(c.kind != Constraint::Kind::Joint || c.normal.size() == n,
            "constraint '{}' is for {} joints, the robot has {}", c.name, c.normal.size(), n);
  require(options.pole > 0 && options.barrier_pole > 0, "poles must be positive: {:g} and {:g} are given", options.pole,
          options.barrier_pole);
  require(options.beta >= 0 && std::isfinite(options.beta), "beta must not be negative, not {:g}", options.beta);
  require(options.offset.size() == 0 || options.offset.size() == n,
          "the error bound's offset has {} entries for {} joints", options.offset.size(), n);
  require(options.limit.size() == 0 || (options.limit.size() == n && (options.limit.array() > 0).all()),
          "limits of the input must be {} positive numbers", n);
  require(period > 0 && period <= .2 / options.barrier_pole,
          "a control period of {:g} s is too long for barriers with pole {:g}: at most {:g} s", period,
          options.barrier_pole, .2 / options.barrier_pole);
}

Estimate estimate(const Model& model, const State& x, const State& xi) {
  const int n = model.nominal.joints();
  require(x.size() == 4 * n && xi.size() == 4 * n, "states of {} and {} numbers for a robot of {} joints", x.size(),
          xi.size(), n);
  require(x.allFinite() && xi.allFinite(), "the state is not finite");
  Estimate out{flat_dynamics(model.nominal, x), {}};
  if (model.error) {
    out.error = model.error->predict(xi.cwiseQuotient(model.units));
    const auto inputs = out.error->mean.cols() - 1;
    out.dynamics.f += out.error->mean.col(0);
    if (inputs > 0) out.dynamics.g += out.error->mean.rightCols(inputs);
  }
  return out;
}

std::vector<Cone> conditions(const Estimate& estimate, const std::vector<Barrier>& barriers, const Model& model,
                             const ControllerOptions& options) {
  const auto gains = pole_gains(options.barrier_pole);
  std::vector<Cone> cones;
  for (const Barrier& barrier : barriers) {
    Cone cone{estimate.dynamics.g.transpose() * barrier.gradient,
              barrier.gradient.dot(estimate.dynamics.f) + barrier.drift,
              {}};
    for (int k = 0; k < 4; ++k) cone.b += gains[k] * (barrier.h[k] - (k == 0 ? options.margin : 0));
    if (options.offset.size()) cone.b -= barrier.gradient.cwiseAbs().dot(options.offset);
    if (estimate.error && options.beta > 0) {
      const double factor = options.beta * weight_of(barrier, *model.error);
      if (estimate.error->root.rows() == 1)
        cone.b -= factor * estimate.error->root(0, 0);  // the gain is known: a linear constraint
      else
        cone.m = factor * estimate.error->root;
    }
    cones.push_back(cone);
  }
  return cones;
}

namespace {

ControlStep filtered(const Model& model, const std::vector<Constraint>& constraints, const ControllerOptions& options,
                     const Estimate& known, const State& x, const State& xi, const Vector& desired) {
  ControlStep out;
  out.state = x;
  out.flat = xi;
  out.desired = out.input = desired;
  std::vector<Barrier> barriers;
  for (const Constraint& c : constraints) barriers.push_back(barrier(c, model.nominal, xi));
  const std::vector<Cone> cones = conditions(known, barriers, model, options);
  if (options.filter) {
    try {
      const FilterResult result = solve_filter({desired, cones, options.limit});
      out.input = result.u;
      out.status = result.status;
      out.path = result.path;
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::Computation) throw;
      out.held = true;
    }
  }
  for (std::size_t i = 0; i < cones.size(); ++i) {
    out.h.push_back(barriers[i].h[0]);
    out.margin.push_back(cones[i].margin(out.input));
    const double norm = cones[i].a.norm();
    double uncertain = 0;  // the largest singular value of the gain's part
    if (cones[i].m.rows() > 0)
      uncertain = Eigen::JacobiSVD<Cone::Rows>(cones[i].m.rightCols(desired.size())).singularValues()[0];
    out.ratio.push_back(norm > 0 ? uncertain / norm : INFINITY);
  }
  out.deviation = Vector::Zero(desired.size());
  if (known.error) {
    out.deviation = deviation_at(*known.error, out.input) * model.error->scale();
    out.novelty = model.error->novelty(*known.error, out.input);
  }
  return out;
}

}  // namespace

ControlStep filter_step(const Model& model, const std::vector<Constraint>& constraints,
                        const ControllerOptions& options, const State& x, const State& xi, const Vector& desired) {
  return filtered(model, constraints, options, estimate(model, x, xi), x, xi, desired);
}

ControlStep control_step(const Model& model, const std::vector<Constraint>& constraints,
                         const ControllerOptions& options, const std::array<Vector, 5>& reference, const State& x,
                         const State& xi) {
  const int n = model.nominal.joints();
  const Estimate known = estimate(model, x, xi);
  const auto gains = pole_gains(options.pole);
  Vector desired = reference[4] - known.dynamics.f;
  for (int k = 0; k < 4; ++k) desired -= gains[k] * (xi.segment(k * n, n) - reference[k]);
  const Eigen::JacobiSVD<Matrix> gain(known.dynamics.g, Eigen::ComputeFullU | Eigen::ComputeFullV);
  if (!(gain.singularValues()[n - 1] >= 1e-6 * gain.singularValues()[0]) || gain.singularValues()[0] == 0)
    fail_computation("the gain of the input on q'''' is singular: the model does not hold at this state (q = {:.4g})",
                     fmt::join(xi.head(n), ", "));
  desired = gain.solve(desired);
  ControlStep out = filtered(model, constraints, options, known, x, xi, desired);
  out.reference = reference[0];
  return out;
}

}  // namespace unbend::control
