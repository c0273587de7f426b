// What to do with the distribution of an output: losses, intervals, pairwise probabilities, abstention, and the
// measures of all that.
#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "unbend/tangent/stable_distribution.h"

namespace unbend {

/// log P(Y_label > Y_j), [B, k] (log 1/2 at the label itself); labels [B] int64. Gaussian: log Phi of the difference
/// over its standard deviation; Cauchy: log(1/2 + atan(z)/pi), without loss in the tails.
at::Tensor log_above(const Propagated& p, const at::Tensor& labels);
/// P(Y_i > Y_j), [B, k, k].
at::Tensor pairwise_probabilities(const Propagated& p);

/// Mean over the batch of -(1/(k-1)) sum over j != label of log P(Y_label > Y_j). Differentiable.
at::Tensor pairwise_loss(const Propagated& p, const at::Tensor& labels);
/// [B]: -log density of y, [B, k]. Gaussian: with all correlations, by Cholesky of the covariance plus 1e-6 of its mean
/// diagonal; Cauchy: sum over the outputs, each by itself. Differentiable. Input error for scales of 0 and for other
/// laws, which have no closed density.
at::Tensor negative_log_likelihood(const Propagated& p, const at::Tensor& y);

struct Intervals {
  at::Tensor low, high;  ///< [B, k]
};
/// Central intervals that hold this share of each output's distribution.
Intervals intervals(const Propagated& p, double coverage);

/// How intervals fit targets.
struct Calibration {
  double coverage;  ///< share of targets inside (PICP)
  double width;     ///< mean (MPIW)
  double nll;       ///< mean negative log-likelihood; NaN where there is none in closed form
};
Calibration calibration(const Propagated& p, const at::Tensor& y, double coverage);

/// argmax of the location, [B].
at::Tensor predicted_class(const Propagated& p);
/// Confidence in it: sum over j of log P(Y_predicted > Y_j), [B].
at::Tensor confidence(const Propagated& p);

/// Risk against coverage when the most confident samples are kept. Ties are shuffled by the generator.
struct RiskCoverage {
  std::vector<double> coverage, risk;  ///< coverage 1/N, 2/N, .. 1
  double area;                         ///< mean risk
};
/// confidence [N], wrong [N] bool (or 0 and 1).
RiskCoverage risk_coverage(const at::Tensor& confidence, const at::Tensor& wrong, Random& random);

/// P(score of a positive > score of a negative), ties half.
double auroc(const at::Tensor& positives, const at::Tensor& negatives);

}  // namespace unbend
