// What training leaves behind: a policy that acts, with the normaliser of its observations, in one file.
#pragma once

#include <optional>

#include "unbend/base/json.h"
#include "unbend/control/environments.h"
#include "unbend/control/policy_arrays.h"
#include "unbend/control/policy_head.h"
#include "unbend/control/policy_net.h"

namespace unbend::control {

/// Running mean and variance per column, merged batch by batch (Chan, Golub and LeVeque, 1983).
struct RunningMoments {
  double count = 1e-4;  ///< a whiff of a standard normal, so that the first batch divides by no zero
  std::vector<double> mean, variance;

  RunningMoments() = default;
  explicit RunningMoments(std::int64_t columns);
  void add(const double* rows, std::int64_t count, std::int64_t stride);
  bool empty() const { return mean.empty(); }
};

/// (row - mean) / sqrt(variance + 1e-8), cut to [-10, 10]; a plain copy if `moments` is empty.
void normalise(const RunningMoments& moments, const double* row, std::int64_t columns, float* out);
void normalise(const RunningMoments& moments, const Matrix<double>& rows, Matrix<float>& out);  ///< every row

/// A network with parameters, and how its outputs become actions of a task.
struct Agent {
  PolicyKind kind = PolicyKind::Categorical;
  Mlp<float> net;
  Numbers<float> parameters;    ///< of the net; Gaussian with on-policy training: then `log_std`
  std::vector<float> log_std;   ///< per dimension; empty for Categorical, and where the net gives it
  RunningMoments observations;  ///< empty: none
  EnvironmentSpec spec;
  Json about = Json::object();  ///< how it was trained, for people and for `resume`

  struct Work {
    Matrix<float> rows;
    Mlp<float>::Work net;
  };

  /// Actions for observations [n, ...], as the task takes them: the most likely ones, or draws.
  void act(const Matrix<double>& observations, bool deterministic, Random& random, Work& work,
           Matrix<double>& actions) const;
};

/// From what a head gives to what the task takes: an index stays, a squashed action is stretched to the box.
void to_task_action(const EnvironmentSpec& spec, PolicyKind kind, const float* raw, double* action);

/// Actions as the task takes them for a network's outputs [n, ...]: the most likely ones, or draws. `log_std` empty:
/// that of a Gaussian is the second half of the outputs.
void choose_actions(const EnvironmentSpec& spec, PolicyKind kind, const Matrix<float>& outputs,
                    const std::vector<float>& log_std, bool deterministic, Random& random, Matrix<double>& actions);

/// Input error unless a policy for `own` can act in `task`.
void require_fits(const EnvironmentSpec& own, const EnvironmentSpec& task);

Json to_json(const EnvironmentSpec& spec);
EnvironmentSpec spec_from_json(const Json& json, std::string_view where);

/// policy.safetensors: "policy.0.weight" [outputs, inputs], "policy.0.bias", ..., "policy.log_std",
/// "normaliser.mean", "normaliser.variance"; metadata "unbend_policy" is a JSON text.
void save_agent(const Agent& agent, const std::filesystem::path& path);
Agent load_agent(const std::filesystem::path& path);

/// Running moments under "PREFIX.mean" and so on. Input error for counts and variances that are negative.
void put_moments(ArrayFile& file, const std::string& prefix, const RunningMoments& moments);
void get_moments(const ArrayFile& file, const std::string& prefix, RunningMoments& moments);

/// Parameters (or anything in their order) of a network under "PREFIX.0.weight" and so on.
void put_network(ArrayFile& file, const std::string& prefix, const Mlp<float>& net, const float* parameters);
void get_network(const ArrayFile& file, const std::string& prefix, const Mlp<float>& net, float* parameters);

struct Evaluation {
  std::vector<Episode> episodes;
  std::int64_t steps = 0;
  double mean() const;
  double deviation() const;  ///< sample standard deviation of the returns; 0 for one episode
  double mean_steps() const;
};

/// `episodes` whole episodes, the first ones that each copy begins, so that short ones are not preferred. Input error
/// if the task is not the agent's.
Evaluation evaluate(const Agent& agent, const MakeDynamics& make, std::int64_t episodes, bool deterministic,
                    std::uint64_t seed);

}  // namespace unbend::control
