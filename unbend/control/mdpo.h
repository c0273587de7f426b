// Mirror descent policy optimisation (Tomar, Shani, Efroni and Ghavamzadeh, "Mirror Descent Policy Optimization", ICLR
// 2022, arXiv 2005.09814): the policy takes several gradient steps on the linearised return minus KL(new || old) / t.
// On-policy with generalised advantages, off-policy with a replay buffer and soft critics; PPO, no divergence at all
// and SAC are special cases of the same code.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>

#include "unbend/control/policy_agent.h"

namespace unbend::control {

/// One point of a learning curve: an iteration (on-policy) or `report_every` steps (off-policy).
struct CurvePoint {
  std::int64_t steps = 0, episodes = 0, updates = 0;  ///< since the start; updates: gradient steps of the policy
  double total = 0, length = 0;                       ///< means over the last `recent` episodes; NaN before the first
  double divergence = 0, entropy = 0;                 ///< of the policy from the old one, at the last gradient step
  double policy_loss = 0, value_loss = 0;
  double step_size = 0;                  ///< t_k
  std::int64_t clamped = 0;              ///< ratios that were cut, in this point
  std::int64_t skipped = 0;              ///< gradient steps left out so far: gradient zero or not finite
  double seconds = 0;                    ///< of work since the start, resumed runs included
  std::optional<double> evaluated = {};  ///< mean return of the deterministic policy, where it was measured
};

/// Training as a sequence of points. Between points everything can be saved, so that a resumed run gives the same
/// curve.
class Trainer {
 public:
  virtual ~Trainer() = default;
  virtual bool done() const = 0;
  /// Learns on to the next point. An Error of the environment leaves the learner as it is, without the failed step.
  virtual CurvePoint advance() = 0;
  virtual Agent agent() const = 0;
  virtual std::int64_t steps() const = 0, total_steps() const = 0;
  /// `environment` false leaves out the state of the simulators: resumed, they start anew.
  virtual ArrayFile checkpoint(bool environment) const = 0;
};

struct OnPolicyOptions {
  static constexpr const char* kKind = "on_policy";  ///< in checkpoints
  Objective objective = Objective::Mdpo;
  std::int64_t steps = 1000000;   ///< of the environment, over all copies
  std::int64_t horizon = 2048;    ///< steps per iteration, over all copies; a multiple of their number
  std::int64_t inner = 10;        ///< m: gradient steps of the policy per iteration; m = 1 is a plain policy gradient
  std::int64_t policy_batch = 0;  ///< 0: whole batches, as in the paper; otherwise m epochs of minibatches, as in PPO
  std::vector<std::int64_t> hidden{64, 64};
  Nonlinearity nonlinearity = Nonlinearity::Tanh;
  bool squash = false;  ///< continuous actions through tanh, stretched to the box
  double lr = 3e-4, value_lr = 3e-4, adam_eps = 1e-5, max_norm = .5;
  double gamma = .99, lambda = .95;
  std::int64_t value_epochs = 5, value_batch = 128;
  double value_clip = .2;  ///< around the old value, in units of normalised rewards: without those, or 0, none
  double step_size = 1;    ///< t_0; t_k = t_0 max(1 - k/K, 1/K)
  bool anneal = true;      ///< false: t_k = t_0
  double clip = .2, entropy = 0, kappa = 1;
  double log_std = 0;  ///< at the start
  bool normalise_observations = false, normalise_rewards = false, decay_lr = false;
  Start start = Start::Orthogonal;
  bool compat = false;  ///< as the official code: a truncated episode counts as terminated
  std::int64_t recent = 40;
};

/// Input error for options out of range and for tasks that do not fit them.
std::unique_ptr<Trainer> on_policy(const MakeDynamics& make, std::int64_t copies, const OnPolicyOptions& options,
                                   std::uint64_t seed);

struct OffPolicyOptions {
  static constexpr const char* kKind = "off_policy";
  std::int64_t steps = 1000000;
  std::int64_t warm_up = 10000;  ///< random steps first; no update before `batch` transitions either
  std::int64_t buffer = 1000000, batch = 256;
  double updates_per_step = 1;
  std::int64_t refresh = 1000;  ///< steps between renewals of pi_old
  std::vector<std::int64_t> hidden{256, 256};
  Nonlinearity nonlinearity = Nonlinearity::Relu;
  Start start = Start::Uniform;
  double lr = 3e-4, gamma = .99, tau = .005;
  OffPolicyWeights weights = {};
  bool sac = false;                    ///< no old policy, c = lambda
  bool deterministic_actions = false;  ///< collect with the mean action after the warm-up, as the official code does
  bool normalise_observations = false;
  std::int64_t report_every = 1000, recent = 10;
  /// Changes actions while collecting (exploration noise), after the policy chose them. Not kept in checkpoints.
  std::function<void(Matrix<double>& actions, Random& random)> action_noise = {};
};

/// Continuous actions (squashed Gaussian, finite boxes only) or choices (categorical, exact sums over them).
std::unique_ptr<Trainer> off_policy(const MakeDynamics& make, std::int64_t copies, const OffPolicyOptions& options,
                                    std::uint64_t seed);

/// Goes on from Trainer::checkpoint(). `steps` > 0 changes how many in all; on-policy, the annealing then follows it.
/// Input error for a file that is damaged and for an environment that is not the checkpoint's.
std::unique_ptr<Trainer> resume(const ArrayFile& checkpoint, const MakeDynamics& make, std::int64_t steps = 0);

/// Generalised advantage estimation (Schulman et al., 2016) over [time, copies] in that order. `next_values` are 0
/// where the task ended and V of the observation reached where only time ran out; `ends` stops the sum either way.
struct Advantages {
  std::vector<double> advantage, target;  ///< target: advantage + value, the lambda-return
};
Advantages generalised_advantages(std::int64_t copies, std::span<const double> rewards, std::span<const double> values,
                                  std::span<const double> next_values, std::span<const std::uint8_t> ends, double gamma,
                                  double lambda);

/// The annealed step size t_0 max(1 - k/K, 1/K).
double annealed_step_size(double start, std::int64_t iteration, std::int64_t iterations);

}  // namespace unbend::control
