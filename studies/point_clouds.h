// Digits as point clouds, and noise among them.
#pragma once

#include "unbend/base/random.h"
#include "unbend/transport/measure.h"

namespace unbend {

struct DigitClouds {
  std::vector<transport::Measure> clean, noisy;
  std::vector<int> labels;
};

/// The first `each` digits of each class of MNIST, halved to 14 x 14 by means over 2 x 2: pixels above 0.4 become
/// points of [0, 26]^2, masses sum to 1. The noisy ones have 3/4 as many points more, uniform in [-20, 40]^2, of
/// `noise` total mass. Input error if `tools/setup.sh images` has not put them into build/data.
DigitClouds digit_clouds(const std::vector<int>& classes, int each, double noise, Random& random);

}  // namespace unbend
