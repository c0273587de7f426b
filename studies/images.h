// Small images for studies of image networks: real digits, a task that no local feature solves, trainings that are
// kept.
#pragma once

#include <optional>

#include "studies/study.h"
#include "unbend/base/random.h"
#include "unbend/nets/classifier.h"
#include "unbend/tangent/scaling.h"

namespace unbend {

struct Digits {
  ImageSet train, test;
};
/// 8,000 and 2,000 digits of MNIST (LeCun et al. 1998), 28 x 28, grey values in [0, 1], always split in the same way.
/// Input error if `tools/setup.sh images` has not put them into build/data.
Digits load_digits();

/// The 1,797 digits of scikit-learn (Alpaydin and Kaynak 1998), 8 x 8, grey values from 0 to 16, in their own order.
/// Input error as above.
ImageSet load_small_digits();

/// The first `count` images (0: all) as rows of numbers with mean 0 and variance 1 over the whole set.
Examples standardised(const ImageSet& set, int64_t count, at::ScalarType type);

/// Pictures of 28 x 28 in three channels: noise, and two marks of 2 x 2 at least 12 pixels apart, each in one of four
/// colours. Class 1: both have the same colour (half of the pictures). A sum of terms that each see one mark cannot be
/// right in more than 62.5 % of them.
ImageSet colour_pairs(int64_t count, Random& random);

/// train_classifier of unbend/nets/classifier.h; a study that keeps its trainings takes up a finished one.
Pyramid train_classifier(const PyramidConfig& config, const ImageSource& source, const ImageTraining& training,
                         uint64_t seed, const StudyOptions& study, std::optional<double>* residual = nullptr);

}  // namespace unbend
