// Small image classifiers: their shape, training, and accuracy.
#pragma once

#include <optional>
#include <string>

#include "unbend/nets/images.h"
#include "unbend/nets/pyramid.h"

namespace unbend {

/// A pyramid for small images: the grid of tokens has half their side, and each stage after the first half of the side
/// before, twice the width and heads. The logits come from the mean token.
struct ClassifierShape {
  int64_t side = 28, channels = 1, classes = 10;
  int64_t stages = 1, depth = 2;  ///< depth: blocks per stage
  int64_t width = 64, heads = 2;  ///< of the first stage
  int64_t value_filter = 3;       ///< GridAttentionConfig
  TokenMixing mixing = TokenMixing::Soft;
  bool normalize = false;                                     ///< Soft: SOFT++
  LandmarkSampling sampling = LandmarkSampling::Convolution;  ///< Soft; averages learn sooner (study soft)
  /// Soft. Newton's iteration is the published one; where it has not converged, its gradients are biased.
  InverseSolver solver = InverseSolver::Cholesky;
};

/// Every softmax-free stage keeps about 49 landmarks whatever the side, so that attention is linear in the number of
/// tokens: 7 a side, or the next larger number up to 14 that divides the grid, or else the next smaller one. Under 4 a
/// side only where the grid is that small. All tokens of small grids are landmarks, but for convolutions, which join at
/// least 2 x 2. The ratio of tokens to landmarks belongs to the network: larger images than its own have more
/// landmarks. Input error for a side that the stages cannot halve, or that gives a grid without such a divisor (34).
PyramidConfig classifier_config(const ClassifierShape& shape);

struct ImageTraining {
  std::string name;  ///< for the progress line
  int64_t steps;
  double learning_rate = 1e-3;
  at::Device device = at::kCPU;  ///< batches from others are moved there
};

/// A network from random weights, trained with AdamW (weight decay 0.05 on matrices, 5 % warm-up, cosine to 1/20,
/// gradients clipped at 1) on cross-entropy, on `device`, where the network stays. The same seed gives the same start
/// and, on the CPU, the same run, number by number.
/// Stops early after an interrupt (unbend/base/interrupt.h).
/// If given, `residual` becomes the largest residual of the inverses (SymmetricInverse) in the last hundred steps,
/// every tenth of which is looked at: far from 0, gradients through them were biased. Nothing without softmax-free
/// attention.
Pyramid train_classifier(const PyramidConfig& config, const ImageSource& source, const ImageTraining& training,
                         uint64_t seed, bool quiet, std::optional<double>* residual = nullptr);

/// The likeliest class of each image, [N] on the images' device; with `enlarged`, of the images enlarged twice
/// (bilinearly).
at::Tensor predicted(const Pyramid& net, const at::Tensor& images, bool enlarged = false);

/// Percent of right classes.
double accuracy(const Pyramid& net, const ImageSet& set, bool enlarged = false);

}  // namespace unbend
