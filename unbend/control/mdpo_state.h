// What both trainers keep in their checkpoints in the same way.
#pragma once

#include <deque>

#include "unbend/control/mdpo.h"
#include "unbend/control/policy_adam.h"

namespace unbend::control {

/// Parameters of a network with their optimiser. `extra` parameters behind those of the network: log standard
/// deviations.
struct Learner {
  Mlp<float> net;
  std::int64_t extra = 0;
  Numbers<float> parameters, gradient;
  Adam<float> adam;
  Mlp<float>::Work work;

  Learner() = default;
  Learner(std::vector<std::int64_t> widths, Nonlinearity hidden, std::int64_t extra = 0);
  float* extras() { return parameters.data() + net.parameters(); }
  const float* extras() const { return parameters.data() + net.parameters(); }
  void forward(const Matrix<float>& x) { net.forward(parameters.data(), x, work); }
};

void put_learner(ArrayFile& file, const std::string& prefix, const Learner& learner);
void get_learner(const ArrayFile& file, const std::string& prefix, Learner& learner);

/// Counters, recent episodes and clock.
struct Ledger {
  std::int64_t steps = 0, episodes = 0, updates = 0;
  std::size_t recent = 40;
  std::deque<Episode> last;
  double seconds = 0;

  void count(const Environments& environments);
  void fill(CurvePoint& point) const;
};

void put_ledger(ArrayFile& file, const Ledger& ledger);
void get_ledger(const ArrayFile& file, Ledger& ledger);
void put_environments(ArrayFile& file, const Environments& environments);
void get_environments(const ArrayFile& file, Environments& environments);  ///< nothing if the file has none
void put_random(ArrayFile& file, const Random& random);
Random get_random(const ArrayFile& file);
void put_moments(ArrayFile& file, const std::string& prefix, const RunningMoments& moments);
void get_moments(const ArrayFile& file, const std::string& prefix, RunningMoments& moments);

/// Checkpoints name their kind, options, task and number of copies under this key.
constexpr const char* kCheckpointKey = "unbend_training";

std::unique_ptr<Trainer> resume_on_policy(const ArrayFile& file, const Json& json, const MakeDynamics& make,
                                          std::int64_t steps);
std::unique_ptr<Trainer> resume_off_policy(const ArrayFile& file, const Json& json, const MakeDynamics& make,
                                           std::int64_t steps);

inline const char* text(Nonlinearity n) { return n == Nonlinearity::Tanh ? "tanh" : "relu"; }
inline const char* text(Start s) { return s == Start::Orthogonal ? "orthogonal" : "uniform"; }
inline const char* text(Objective o) { return o == Objective::Mdpo ? "mdpo" : o == Objective::NoKl ? "no_kl" : "ppo"; }

}  // namespace unbend::control
