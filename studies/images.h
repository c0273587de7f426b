// Small images for studies of image networks: real digits, a task that no local feature solves, training, accuracy.
#pragma once

#include <ATen/ATen.h>

#include <functional>
#include <string>

#include "studies/study.h"
#include "unbend/base/random.h"
#include "unbend/nets/pyramid.h"

namespace unbend {

struct ImageSet {
  at::Tensor images;  ///< [N, channels, h, w] float32
  at::Tensor labels;  ///< [N] int64
};

struct Digits {
  ImageSet train, test;
};
/// 8,000 and 2,000 digits of MNIST (LeCun et al. 1998), 28 x 28, grey values in [0, 1], always split in the same way.
/// Input error if `tools/setup.sh images` has not put them into build/data.
Digits load_digits();

/// Pictures of 28 x 28 in three channels: noise, and two marks of 2 x 2 at least 12 pixels apart, each in one of four
/// colours. Class 1: both have the same colour (half of the pictures). A sum of terms that each see one mark cannot be
/// right in more than 62.5 % of them.
ImageSet colour_pairs(int64_t count, Random& random);

/// Gives the batch of a training step.
using ImageSource = std::function<ImageSet(int64_t step)>;

/// Batches of a set, shuffled anew in each epoch.
ImageSource shuffled(const ImageSet& set, int64_t batch, uint64_t seed);

struct ImageTraining {
  std::string name;  ///< for the progress line
  int64_t steps;
  double learning_rate = 1e-3;
};

/// A network from random weights, trained with AdamW (weight decay 0.05 on matrices, 5 % warm-up, cosine to 1/20,
/// gradients clipped at 1) on cross-entropy. The same seed gives the same start and the same run, number by number.
Pyramid train_classifier(const PyramidConfig& config, const ImageSource& source, const ImageTraining& training,
                         uint64_t seed, const StudyOptions& study);

/// Percent of right classes; with `enlarged`, of the images enlarged twice (bilinearly).
double accuracy(const Pyramid& net, const ImageSet& set, bool enlarged = false);

}  // namespace unbend
