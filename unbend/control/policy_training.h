// A training from start to end, in a folder: policy, checkpoint and learning curve, whatever happens in between.
#pragma once

#include <functional>

#include "unbend/control/mdpo.h"

namespace unbend::control {

struct RunOptions {
  /// policy.safetensors, checkpoint.safetensors and curve.csv are kept there; empty: nothing is.
  std::filesystem::path folder = {};
  std::int64_t checkpoint_every = 10;  ///< points
  std::int64_t evaluate_every = 0;     ///< points between evaluations of the deterministic policy; 0: none
  std::int64_t evaluate_episodes = 10;
  std::uint64_t evaluate_seed = 1;
  bool quiet = false;
};

/// Advances the trainer to its end and returns the whole curve; `curve` is what a resumed training had before. An Error
/// of the environment, or an interruption, is thrown on as a Computation error after checkpoint, policy and curve were
/// written: nothing learnt is lost.
std::vector<CurvePoint> run(Trainer& trainer, const MakeDynamics& make, const RunOptions& options,
                            std::vector<CurvePoint> curve = {});

/// One line per point under a line of names.
std::string curve_csv(const std::vector<CurvePoint>& curve);
std::vector<CurvePoint> read_curve(const std::filesystem::path& path);  ///< Input error naming file and line

}  // namespace unbend::control
