// Robustness against small changes of the input: projected gradient descent in the l_inf ball (Madry et al. 2018,
// arXiv 1706.06083), on the cross-entropy and on the margin of the logits.
#pragma once

#include <ATen/ATen.h>

#include <functional>

#include "unbend/base/random.h"

namespace unbend {

/// Logits [N, classes] of inputs [N, ..], differentiable in the inputs.
using Classifier = std::function<at::Tensor(const at::Tensor& inputs)>;

/// What the attack makes larger. Where a trained cross-entropy is next to 0 its gradient vanishes in float32, and the
/// attack on it reports a robustness that is not there; the margin (largest other logit minus the true one) does not.
enum class AttackObjective { CrossEntropy, Margin };

struct AttackOptions {
  double radius = .1;        ///< eps, in units of the inputs
  double step = 0;           ///< of each iteration; 0: radius / 3
  int iterations = 7;        ///< may be 0: the random start alone
  double low = 0, high = 1;  ///< the inputs' range, to which changed inputs are cut
  bool random_start = true;  ///< uniform in the ball
};

/// Inputs within `radius` of the given ones, and within their range, that raise the objective. Input error for inputs
/// outside the range, labels that do not fit, and options that make no sense; Computation error for gradients that are
/// not finite.
at::Tensor attacked(const Classifier& logits, const at::Tensor& inputs, const at::Tensor& labels,
                    AttackObjective objective, const AttackOptions& options, Random& random);

/// Share of right classes.
double accuracy(const Classifier& logits, const at::Tensor& inputs, const at::Tensor& labels);

/// Shares that stay right under each attack, and the lower of both, which is what can be said.
struct Robustness {
  double cross_entropy, margin;
  double lower() const { return cross_entropy < margin ? cross_entropy : margin; }
};
Robustness robustness(const Classifier& logits, const at::Tensor& inputs, const at::Tensor& labels,
                      const AttackOptions& options, Random& random);

}  // namespace unbend
