// Small image classifiers: their shape, training, and accuracy.
#pragma once

#include <string>

#include "unbend/nets/images.h"
#include "unbend/nets/pyramid.h"

namespace unbend {

/// A pyramid for small images: the grid of tokens has half their side, and each stage after the first half of the side
/// before, twice the width and heads, and as many landmarks. The logits come from the mean token.
struct ClassifierShape {
  int64_t side = 28, channels = 1, classes = 10;
  int64_t stages = 1, depth = 2;  ///< depth: blocks per stage
  int64_t width = 64, heads = 2;  ///< of the first stage
  int64_t value_filter = 3;       ///< GridAttentionConfig
  TokenMixing mixing = TokenMixing::Soft;
  bool normalize = false;                                     ///< Soft: SOFT++
  LandmarkSampling sampling = LandmarkSampling::Convolution;  ///< Soft; averages learn sooner (study soft)
};
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
Pyramid train_classifier(const PyramidConfig& config, const ImageSource& source, const ImageTraining& training,
                         uint64_t seed, bool quiet);

/// The likeliest class of each image, [N] on the images' device; with `enlarged`, of the images enlarged twice
/// (bilinearly).
at::Tensor predicted(const Pyramid& net, const at::Tensor& images, bool enlarged = false);

/// Percent of right classes.
double accuracy(const Pyramid& net, const ImageSet& set, bool enlarged = false);

}  // namespace unbend
