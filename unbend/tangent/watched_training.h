// Trains a perceptron far beyond interpolation, and logs at log-spaced steps what local complexity, accuracy and
// attacks say: the protocol of "Deep Networks Always Grok" (arXiv 2402.15555), with its authors' training as defaults.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "unbend/base/json.h"
#include "unbend/nets/images.h"
#include "unbend/nets/network.h"
#include "unbend/tangent/attack.h"
#include "unbend/tangent/phases.h"

namespace unbend {

enum class ClassLoss { SquaredError, CrossEntropy };  ///< squared error of logits against one-hot labels, mean over all

struct WatchedTraining {
  std::string name = "train";                     ///< for the progress line
  std::vector<int64_t> hidden = {128, 128, 128};  ///< widths of the hidden layers
  Elementwise activation = {Activation::Relu};
  double initialization_scale = 1;  ///< times torch.nn.Linear's start
  ClassLoss loss = ClassLoss::SquaredError;
  double learning_rate = 1e-3, weight_decay = .01;  ///< AdamW
  int64_t batch = 200, steps = 40000;
  int64_t evaluations = 24;        ///< beside step 0, spaced as steps^(i / (evaluations - 1))
  std::vector<int64_t> keep = {};  ///< steps whose networks are kept: at the first evaluation from each on

  double radius = .05;      ///< of local complexity, in units of the inputs
  int64_t directions = 20;  ///< of its frame
  int64_t probes = 100;     ///< first ones of the training and of the test points, and as many uniform random points
  bool include_output = false;

  std::vector<double> attacks = {.05, .1, .15};  ///< radii
  int attack_iterations = 7;
  int64_t attacked = 300;    ///< first test points
  double low = 0, high = 1;  ///< the inputs' range

  uint64_t seed = 0;                       ///< of the start, the order, attacks, frame and random points
  std::filesystem::path checkpoints = {};  ///< folder; empty: none
  bool quiet = false;
};

/// The state after `step` updates.
struct TrainingMoment {
  int64_t step = 0;
  double loss = 0, train_accuracy = 0, test_accuracy = 0;
  double train_complexity = 0, test_complexity = 0, random_complexity = 0;  ///< means over probes
  std::vector<double> layers;                                               ///< of train_complexity
  std::vector<Robustness> robustness;                                       ///< per radius
};
Json to_json(const TrainingMoment& moment);

struct WatchedRun {
  std::vector<TrainingMoment> moments;
  Network network;
  std::map<int64_t, Network> kept;  ///< by their step
  bool finished = false;            ///< not interrupted
  /// Around training points, with the margin attack of that radius.
  TrainingCurves curves(size_t attack) const;
};

/// 0, then `count` steps from 1 to `steps`, evenly spaced in their logarithm; those that round to the same are one.
std::vector<int64_t> log_spaced_steps(int64_t steps, int64_t count);

/// Trains on all of `train`, shuffled anew in each epoch. Inputs are flattened. The same settings give the same numbers
/// with the same number of threads; with checkpoints a run that was interrupted goes on to the same end. Input error
/// for data or settings that make no sense, Usage error for checkpoints of other settings; Computation error if the
/// loss is no longer finite.
WatchedRun train_watched(const ImageSet& train, const ImageSet& test, const WatchedTraining& settings);

}  // namespace unbend
