#include "unbend/control/simulate.h"

#include <algorithm>
#include <cmath>

#include "unbend/base/error.h"
#include "unbend/base/interrupt.h"

namespace unbend::control {
namespace {

/// Beyond this a joint has run away: fifty turns, or 1e4 rad / s.
bool lost(const State& x, int n) {
  return !x.allFinite() || x.head(n).lpNorm<Eigen::Infinity>() > 300 || x.segment(n, n).lpNorm<Eigen::Infinity>() > 1e4;
}

std::int64_t step_count(double duration, double period) {
  require(duration >= .5 * period && duration <= 1e7 * period,
          "a duration of {:g} s; from one step of {:g} s up to 1e7 steps are possible", duration, period);
  return std::max<std::int64_t>(1, std::llround(duration / period));
}

void check_joints(int n, const Robot& nominal, const Reference& reference, const State& start) {
  require(nominal.joints() == n, "the nominal robot has {} joints, the plant {}", nominal.joints(), n);
  require(reference.offset.size() == n, "the reference is for {} joints, the plant has {}", reference.offset.size(), n);
  require(start.size() == 4 * n && start.allFinite(), "the initial state must be {} finite numbers", 4 * n);
}

/// A row for each {x, xi} and {u, q''''}.
Experience experience_from(const std::vector<std::array<State, 2>>& states,
                           const std::vector<std::array<Vector, 2>>& values, int n) {
  const auto rows = static_cast<Eigen::Index>(states.size());
  Experience out{Eigen::MatrixXd(rows, 4 * n), Eigen::MatrixXd(rows, 4 * n), Eigen::MatrixXd(rows, n),
                 Eigen::MatrixXd(rows, n)};
  for (Eigen::Index i = 0; i < rows; ++i) {
    out.x.row(i) = states[i][0];
    out.xi.row(i) = states[i][1];
    out.u.row(i) = values[i][0];
    out.q4.row(i) = values[i][1];
  }
  return out;
}

}  // namespace

Plant equations_plant(const Robot& robot, double step) {
  require(step > 0, "the integrator's step must be positive, not {:g} s", step);
  return {robot, [robot, step](const State& x, const Vector& u, double seconds) {
            require(seconds <= 1e6 * step, "{:g} s are more than 1e6 steps of the integrator of {:g} s", seconds, step);
            const int steps = std::max(1, static_cast<int>(std::ceil(seconds / step - 1e-9)));
            State next = x;
            for (int i = 0; i < steps && next.allFinite(); ++i) next = rk4(robot, next, u, seconds / steps);
            return next;
          }};
}

Run simulate(const Plant& plant, const Model& model, const std::vector<Constraint>& constraints,
             const Reference& reference, const State& start, const LoopOptions& options) {
  const int n = plant.robot.joints();
  check(model, constraints, options.controller, options.period);
  check_joints(n, model.nominal, reference, start);
  const std::int64_t steps = step_count(options.duration, options.period);
  State x = start;
  if (options.controller.filter) {
    const State xi = flat_state(plant.robot, x);
    for (const Constraint& c : constraints) {
      Barrier first = barrier(c, plant.robot, xi);
      first.h[0] -= options.controller.margin;
      check_start(c, first, options.controller.barrier_pole);
    }
  }
  Run run;
  Vector last = Vector::Zero(n);
  bool held = false;
  for (std::int64_t i = 0; i < steps; ++i) {
    const double time = static_cast<double>(i) * options.period;
    if (interrupted()) {
      run.stopped = fmt::format("stopped at {:.3f} s: interrupted", time);
      return run;
    }
    try {
      auto towards = reference_at(reference, time);
      for (int k = 1; held && k < 5; ++k) towards[k].setZero();
      const State xi = flat_state(plant.robot, x);
      auto step = control_step(model, constraints, options.controller, towards, x, xi);
      step.time = time;
      for (std::size_t k = 0; k < constraints.size(); ++k) step.h[k] = barrier(constraints[k], plant.robot, xi).h[0];
      held = step.held;
      if (held) step.input = last;
      last = step.input;
      run.steps.push_back(step);
      x = plant.advance(x, last, options.period);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::Computation) throw;
      run.stopped = fmt::format("stopped at {:.3f} s: {}", time, error.what());
      return run;
    }
    if (lost(x, n)) {
      run.stopped = fmt::format(
          "stopped at {:.3f} s: the robot ran away (a joint beyond 300 rad or 1e4 rad/s): the loop is unstable", time);
      return run;
    }
  }
  return run;
}

Summary summarize(const Run& run) {
  Summary out;
  double squares = 0;
  for (const ControlStep& step : run.steps) {
    const auto n = step.reference.size();
    if (out.least_h.empty()) out.least_h.assign(step.h.size(), INFINITY);
    for (std::size_t i = 0; i < step.h.size(); ++i) out.least_h[i] = std::min(out.least_h[i], step.h[i]);
    for (const double r : step.ratio) out.largest_ratio = std::max(out.largest_ratio, r);
    squares += std::pow((step.flat.head(n) - step.reference).lpNorm<Eigen::Infinity>(), 2);
    out.active += step.status != FilterStatus::Unchanged;
    out.infeasible += step.status == FilterStatus::Infeasible;
    out.held += step.held;
    out.extrapolating += step.extrapolating();
    ++out.steps;
  }
  out.tracking = std::sqrt(squares / std::max(1, out.steps));
  return out;
}

Experience explore(const Plant& plant, const Robot& nominal, const Reference& reference, const State& start,
                   const ExploreOptions& options, Random& random) {
  const int n = plant.robot.joints();
  require(options.hold >= 1 && options.sample_every >= 1,
          "exploring: noise must be held and data sampled for at least one step");
  ControllerOptions controller;
  controller.pole = options.pole;
  controller.filter = false;
  const Model model{nominal, {}, {}};
  check_joints(n, nominal, reference, start);
  check(model, {}, controller, options.period);
  State x = start;
  Vector noise = Vector::Zero(n);
  const std::int64_t steps = step_count(options.duration, options.period);
  std::vector<std::array<State, 2>> states;
  std::vector<std::array<Vector, 2>> values;
  for (std::int64_t i = 0; i < steps; ++i) {
    if (i % options.hold == 0) {
      for (double& v : noise) v = options.input_noise * random.normal();
    }
    const Vector u =
        control_step(model, {}, controller, reference_at(reference, static_cast<double>(i) * options.period), x,
                     flat_state(nominal, x))
            .input +
        noise;
    if (i > 0 && i % options.sample_every == 0) {
      const Affine truth = flat_dynamics(plant.robot, x);
      Vector q4 = truth.f + truth.g * u;
      for (double& v : q4) v += options.label_noise * random.normal();
      states.push_back({x, flat_state(plant.robot, x)});
      values.push_back({u, q4});
    }
    x = plant.advance(x, u, options.period);
    if (lost(x, n))
      fail_computation(
          "exploring: the robot ran away after {:.2f} s: the nominal model is too far from the plant for a pole of "
          "{:g} (a higher one holds it tighter)",
          static_cast<double>(i) * options.period, options.pole);
  }
  return experience_from(states, values, n);
}

Experience experience_of(const Run& run, const Robot& plant, int every) {
  require(every >= 1, "experience of a run: it takes every n-th step, n from 1, not {}", every);
  std::vector<std::array<State, 2>> states;
  std::vector<std::array<Vector, 2>> values;
  for (std::size_t i = 0; i < run.steps.size(); i += static_cast<std::size_t>(every)) {
    const ControlStep& step = run.steps[i];
    const Affine truth = flat_dynamics(plant, step.state);
    states.push_back({step.state, step.flat});
    values.push_back({step.input, truth.f + truth.g * step.input});
  }
  return experience_from(states, values, plant.joints());
}

Experience joined(const Experience& a, const Experience& b) {
  require(a.x.cols() == b.x.cols(), "experience of {} and of {} joints", a.u.cols(), b.u.cols());
  const auto stacked = [](const Eigen::MatrixXd& over, const Eigen::MatrixXd& under) {
    Eigen::MatrixXd out(over.rows() + under.rows(), over.cols());
    out << over, under;
    return out;
  };
  return {stacked(a.x, b.x), stacked(a.xi, b.xi), stacked(a.u, b.u), stacked(a.q4, b.q4)};
}

GpData error_data(const Experience& e, const Robot& nominal, const Eigen::VectorXd& units) {
  const int n = nominal.joints();
  require(e.x.rows() >= 10, "learning: {} rows of data; at least 10 are needed", e.x.rows());
  require(e.x.cols() == 4 * n && e.xi.cols() == 4 * n && e.u.cols() == n && e.q4.cols() == n && units.size() == 4 * n,
          "learning: data of {} states and {} inputs for a robot of {} joints", e.x.cols(), e.u.cols(), n);
  GpData data{e.xi.array().rowwise() / units.transpose().array(), e.u, Eigen::MatrixXd(e.x.rows(), n)};
  for (Eigen::Index i = 0; i < e.x.rows(); ++i) {
    require(e.x.row(i).allFinite() && e.xi.row(i).allFinite() && e.u.row(i).allFinite() && e.q4.row(i).allFinite(),
            "learning: row {} is not finite", i + 1);
    const Affine known = flat_dynamics(nominal, e.x.row(i).transpose());
    data.y.row(i) = e.q4.row(i).transpose() - known.f - known.g * Vector(e.u.row(i).transpose());
  }
  return data;
}

HeldOut evaluate(const Model& model, const Experience& experience) {
  require(model.error.has_value(), "held-out data: the model has no learned error");
  const GpData data = error_data(experience, model.nominal, model.units);
  HeldOut out;
  out.nrmse = Eigen::VectorXd::Zero(data.y.cols());
  for (Eigen::Index i = 0; i < data.y.rows(); ++i) {
    const Prediction p = model.error->predict(data.z.row(i).transpose());
    const Vector u = data.u.row(i).transpose(), mean = mean_at(p, u);
    const double deviation = deviation_at(p, u);
    for (Eigen::Index j = 0; j < data.y.cols(); ++j) {
      const double error = data.y(i, j) - mean[j];
      out.nrmse[j] += error * error;
      out.surprise.push_back(std::abs(error) / (model.error->scale()[j] * deviation));
    }
  }
  for (Eigen::Index j = 0; j < data.y.cols(); ++j) {
    const double spread = std::sqrt((data.y.col(j).array() - data.y.col(j).mean()).square().mean());
    require(spread > 0, "held-out data: output {} is {:g} in all rows", j + 1, data.y(0, j));
    out.nrmse[j] = std::sqrt(out.nrmse[j] / static_cast<double>(data.y.rows())) / spread;
  }
  std::ranges::sort(out.surprise);
  return out;
}

}  // namespace unbend::control
