// Simulators to learn in: many copies of one at once, with automatic restarts, episodes counted, and every failure
// located.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "unbend/base/random.h"
#include "unbend/control/policy_matrix.h"

namespace unbend::control {

struct EnvironmentSpec {
  std::string name;
  std::int64_t observations = 0;
  std::int64_t choices = 0;       ///< discrete actions 0..choices-1; 0: continuous actions
  std::vector<double> low, high;  ///< of continuous actions; may be infinite
  std::int64_t limit = 0;         ///< steps after which an episode is truncated; 0: never
  std::int64_t actions() const { return choices > 0 ? 1 : static_cast<std::int64_t>(low.size()); }
};

/// The physics of `copies` independent copies. Implementations report failures as Errors; Environments adds where.
class Dynamics {
 public:
  virtual ~Dynamics() = default;
  virtual const EnvironmentSpec& spec() const = 0;
  virtual std::int64_t copies() const = 0;
  /// A new initial state of one copy.
  virtual void reset(std::int64_t copy, Random& random) = 0;
  /// All copies by one step. `actions` [copies, actions()]: within the box, or the index of a choice.
  virtual void step(const Matrix<double>& actions, std::span<double> rewards, std::span<std::uint8_t> terminated) = 0;
  virtual void observe(std::int64_t copy, double* observation) const = 0;
  /// Everything that set_state() needs to go on in the same way.
  virtual std::vector<double> state() const = 0;
  virtual void set_state(const std::vector<double>& state) = 0;
};

/// An episode that ended.
struct Episode {
  double total = 0;  ///< sum of rewards
  std::int64_t steps = 0;
  bool terminated = false;  ///< by the task; otherwise by its limit
};

class Environments {
 public:
  /// Starts all copies. Input error for a spec that makes no sense.
  Environments(std::unique_ptr<Dynamics> dynamics, std::uint64_t seed);

  const EnvironmentSpec& spec() const { return dynamics_->spec(); }
  std::int64_t copies() const { return dynamics_->copies(); }
  Dynamics& dynamics() { return *dynamics_; }

  /// Of the states in which the next actions are taken [copies, observations].
  const Matrix<double>& observations() const { return observations_; }

  /// One step of all copies; those whose episode ended start again. Continuous actions are clipped to the box.
  /// Computation error with copy, step and what was wrong for rewards and observations that are not finite and for
  /// failures of the dynamics; Input error for actions that are not finite.
  void step(const Matrix<double>& actions);

  // What the last step gave.
  const std::vector<double>& rewards() const { return rewards_; }
  bool terminated(std::int64_t copy) const { return terminated_[static_cast<std::size_t>(copy)] != 0; }
  bool ended(std::int64_t copy) const { return ended_[static_cast<std::size_t>(copy)] != 0; }
  /// Observation at the end of the step, before a restart.
  const double* reached(std::int64_t copy) const { return reached_.row(copy); }
  const std::vector<Episode>& finished() const { return finished_; }  ///< episodes that ended in the last step

  /// Starts all copies again.
  void restart();

  /// For checkpoints. Restoring gives an Input error for a state of another shape.
  struct State {
    std::vector<double> dynamics, totals;
    std::vector<std::uint64_t> random, steps;
  };
  State state() const;
  void set_state(const State& state);

 private:
  void start(std::int64_t copy);
  void check_observation(std::int64_t copy, const double* observation, const char* when) const;
  std::string place(std::int64_t copy) const;

  std::unique_ptr<Dynamics> dynamics_;
  std::vector<Random> random_;  // one stream per copy: results do not depend on the order of copies
  Matrix<double> observations_, reached_, actions_;
  std::vector<double> rewards_, totals_;
  std::vector<std::int64_t> steps_;
  std::vector<std::uint8_t> terminated_, ended_;
  std::vector<Episode> finished_;
};

/// Makes `copies` copies of a task; training and evaluation make their own.
using MakeDynamics = std::function<std::unique_ptr<Dynamics>(std::int64_t copies)>;

}  // namespace unbend::control
