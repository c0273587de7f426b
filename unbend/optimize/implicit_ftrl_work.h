// Inside of implicit_ftrl: the numbers of the row that is being learnt.
#pragma once

#include <Eigen/Core>

#include "unbend/optimize/implicit_ftrl.h"

namespace unbend::optimize {

constexpr std::size_t kWidth = 8;  // models of one vector

/// What one row needs: a number per model (padded), and the row's own weights gathered.
struct Ftrl::Work {
  using Vector = Eigen::ArrayXd;
  Vector y, dot, s, value, c, m, q, b, dual, gain, lambda_next;
  Vector theta, g2, inverse;  // of a single model, per feature of the row
  double norm2 = 0;
  explicit Work(std::size_t stride) {
    for (Vector* v : {&y, &dot, &s, &value, &c, &m, &q, &b, &dual, &gain, &lambda_next})
      v->setZero(static_cast<Eigen::Index>(stride));
  }
};

}  // namespace unbend::optimize
