// The controller: feedback linearisation with a learned correction, and the safety filter behind it. Lederer et al.,
// "Safe Learning-Based Control of Elastic Joint Robots via Control Barrier Functions" (arXiv 2212.00478).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "unbend/control/barrier.h"
#include "unbend/control/filter.h"
#include "unbend/control/gp.h"
#include "unbend/control/reference.h"

namespace unbend::control {

/// What the controller knows of a robot: equations with nominal values, and a process of the error in q''''.
struct Model {
  Robot nominal;
  std::optional<GaussianProcess> error;  ///< over z = xi / units and u
  Eigen::VectorXd units;                 ///< [4 n]
};

/// 1, 2, 6, 30 for q, q', q'', q''' of each joint.
Eigen::VectorXd default_units(int joints);
/// Squared exponential and linear drift, squared exponential gain; where fitting starts.
GpKernel default_gp_kernel();

struct ControllerOptions {
  double pole = 6;              ///< of the tracking error, four times at -pole
  double barrier_pole = 8;      ///< of the barriers
  double beta = 2;              ///< standard deviations of the model error that a constraint must survive
  Eigen::VectorXd offset = {};  ///< [n], what it must survive besides (uniform_bound), or empty
  double margin = 0;            ///< kept from every h, for sampling and sensing
  Vector limit = {};            ///< [n] of |u|, or empty
  bool filter = true;
};

/// Input error unless everything fits: sizes, positive poles, a control period of at most 0.2 / barrier_pole.
void check(const Model& model, const std::vector<Constraint>& constraints, const ControllerOptions& options,
           double period);

/// All that one control step knew and did.
struct ControlStep {
  double time = 0;
  State state, flat;              ///< x and xi [4 n]
  Vector reference;               ///< q_ref [n]
  Vector desired, input;          ///< u before and after the filter [n]
  Vector deviation;               ///< standard deviation of q'''' at the input [n]; zero without a process
  std::vector<double> h, margin;  ///< per constraint: its value, and how far its condition on u is from failing
  std::vector<double> ratio;      ///< r: below 1 is enough for one constraint to be feasible
  FilterStatus status = FilterStatus::Unchanged;
  FilterPath path = FilterPath::None;
  double novelty = 0;  ///< GaussianProcess::novelty at the input: 1 far from data
  bool held = false;   ///< the filter gave no answer: `input` is `desired`, and the caller keeps the last one instead
  bool extrapolating() const { return novelty > .9; }
};

/// F + G u of the model at a state, with its error process: means, and the root of S where there is one.
struct Estimate {
  Affine dynamics;
  std::optional<Prediction> error;
};
Estimate estimate(const Model& model, const State& x, const State& xi);

/// Robust conditions on the input, one per constraint, from its barrier.
std::vector<Cone> conditions(const Estimate& estimate, const std::vector<Barrier>& barriers, const Model& model,
                             const ControllerOptions& options);

/// Minimal change of a desired input so that the constraints hold.
ControlStep filter_step(const Model& model, const std::vector<Constraint>& constraints,
                        const ControllerOptions& options, const State& x, const State& xi, const Vector& desired);

/// One step towards the reference. Computation error where the learned gain cannot be inverted: its least singular
/// value is below 1e-6 of the largest.
ControlStep control_step(const Model& model, const std::vector<Constraint>& constraints,
                         const ControllerOptions& options, const std::array<Vector, 5>& reference, const State& x,
                         const State& xi);

}  // namespace unbend::control
