// Closed loops: a plant (our equations, or MuJoCo), a controller, and the log of both; and the data from which models
// of the error are learned.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "unbend/base/random.h"
#include "unbend/control/controller.h"

namespace unbend::control {

/// What is controlled: the state after `seconds` with u held. Its state and flat state are taken as measured exactly.
struct Plant {
  Robot robot;  ///< its true values, for the flat state
  std::function<State(const State& x, const Vector& u, double seconds)> advance;
};
/// Runge-Kutta steps of at most `step` seconds.
Plant equations_plant(const Robot& robot, double step = .002);

struct LoopOptions {
  double duration = 4, period = .004;  ///< seconds; of one control step
  ControllerOptions controller = {};
};

struct Run {
  std::vector<ControlStep> steps;  ///< h is the plant's, also where the controller believes in other lengths of links
  std::string stopped;  ///< empty, or why it ended early: the state left what a robot can do, the gain was singular,
                        ///< a signal came
};

/// From x. Constraints that cannot be kept from x are Input errors (check_start) unless the filter is off. Where the
/// filter gives no answer, the last input is kept and the next step sees a reference at rest.
Run simulate(const Plant& plant, const Model& model, const std::vector<Constraint>& constraints,
             const Reference& reference, const State& x, const LoopOptions& options);

struct Summary {
  std::vector<double> least_h;  ///< per constraint
  double tracking = 0;          ///< root mean square over time of the largest joint error (rad)
  int steps = 0, active = 0, infeasible = 0, held = 0, extrapolating = 0;
  double largest_ratio = 0;  ///< of r
};
Summary summarize(const Run& run);

/// Rows of measurements for learning.
struct Experience {
  Eigen::MatrixXd x, xi;  ///< [N, 4 n]
  Eigen::MatrixXd u, q4;  ///< [N, n]
};

struct ExploreOptions {
  double duration = 16, period = .004;
  int hold = 5;                             ///< control steps that one value of the input noise lasts
  double input_noise = 2, label_noise = 1;  ///< standard deviations, of u (N m) and of the measured q''''
  int sample_every = 10;                    ///< control steps
  double pole = 6;
};
/// A closed loop on the nominal model with noise on the input, sampled: labels are the plant's, but the law sees q''
/// and q''' as the nominal model computes them from the sensors, since nothing better is known before learning.
/// Computation error if the robot runs away.
Experience explore(const Plant& plant, const Robot& nominal, const Reference& reference, const State& x,
                   const ExploreOptions& options, Random& random);

/// What the run of a closed loop has shown of the plant: each `every`-th step, with its q'''' measured without noise.
/// It covers the motions that the filter makes, which exploring does not see. Input error for every < 1.
Experience experience_of(const Run& run, const Robot& plant, int every);
/// The rows of both. Input error for other numbers of joints.
Experience joined(const Experience& a, const Experience& b);

/// Inputs and outputs of the error process: z = xi / units, y = q'''' - F_nominal(x) - G_nominal(x) u. Input error for
/// fewer than ten rows.
GpData error_data(const Experience& experience, const Robot& nominal, const Eigen::VectorXd& units);

/// How a model does on other data.
struct HeldOut {
  Eigen::VectorXd nrmse;         ///< [n]: root mean square error over the standard deviation of the labels
  std::vector<double> surprise;  ///< |error| / standard deviation, all outputs, sorted
};
HeldOut evaluate(const Model& model, const Experience& experience);

}  // namespace unbend::control
