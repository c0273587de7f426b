#include "unbend/tangent/uncertainty.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "unbend/base/error.h"
#include "unbend/tensor/check.h"

namespace unbend {
namespace {

void check_targets(const Propagated& p, const at::Tensor& y) {
  require(y.sizes() == p.location.sizes(), "the targets are {}, the outputs {}", shape_string(y.sizes()),
          shape_string(p.location.sizes()));
  check_floating(y, "the targets");
  check_finite(y, "the targets");
}

// Mean of what is not the label's own entry, [B].
at::Tensor others(const at::Tensor& log_above, const at::Tensor& labels) {
  return log_above.sum(1) - log_above.gather(1, labels.unsqueeze(1)).squeeze(1);
}

at::Tensor gaussian_nll(const Propagated& p, const at::Tensor& residual) {
  const auto s = covariance(p);
  const auto k = s.size(1);
  const auto mean = s.diagonal(0, 1, 2).mean(1).detach();
  const auto smallest = mean.min().item<double>();
  require(smallest > 0, "an output has no variance, and so no density: give the outputs noise of their own");
  const auto [l, info] = at::linalg_cholesky_ex(s + 1e-6 * mean.view({-1, 1, 1}) * at::eye(k, s.options()));
  if (info.ne(0).any().item<bool>()) fail_computation("a covariance is not positive definite");
  const auto white = at::linalg_solve_triangular(l, residual.unsqueeze(2), false).squeeze(2);
  return .5 * white.square().sum(1) + at::log(l.diagonal(0, 1, 2)).sum(1) +
         .5 * static_cast<double>(k) * std::log(2 * std::numbers::pi);
}

}  // namespace

at::Tensor log_above(const Propagated& p, const at::Tensor& labels) {
  const auto width = difference_scale(p, labels);
  const auto difference = p.location.gather(1, labels.unsqueeze(1)) - p.location;
  // Equal outputs without noise: neither is above the other.
  return log_cdf(p.law, difference / width.clamp_min(1e-30));
}

at::Tensor pairwise_probabilities(const Propagated& p) {
  std::vector<at::Tensor> rows;
  for (int64_t i = 0; i < p.location.size(1); ++i)
    rows.push_back(at::exp(log_above(p, at::full({p.location.size(0)}, i, at::kLong).to(p.location.device()))));
  return at::stack(rows, 1);
}

at::Tensor pairwise_loss(const Propagated& p, const at::Tensor& labels) {
  require(p.location.size(1) >= 2, "the pairwise loss is of at least two classes");
  return -others(log_above(p, labels), labels).mean() / static_cast<double>(p.location.size(1) - 1);
}

at::Tensor negative_log_likelihood(const Propagated& p, const at::Tensor& y) {
  check_targets(p, y);
  const auto residual = y - p.location;
  if (p.law.gaussian()) return gaussian_nll(p, residual);
  require(p.law.alpha == 1, "a stable law of alpha {} has no closed density: use gaussian or cauchy", p.law.alpha);
  const auto s = scale(p);
  require(s.detach().min().item<double>() > 0,
          "an output has no scale, and so no density: give the outputs noise of their own");
  return (at::log(std::numbers::pi * s) + at::log1p((residual / s).square())).sum(1);
}

Intervals intervals(const Propagated& p, double coverage) {
  require(coverage > 0 && coverage < 1, "intervals hold a share between 0 and 1, not {}", coverage);
  const auto half = quantile(p.law, .5 + coverage / 2) * scale(p);
  return {p.location - half, p.location + half};
}

Calibration calibration(const Propagated& p, const at::Tensor& y, double coverage) {
  check_targets(p, y);
  const auto [low, high] = intervals(p, coverage);
  const auto inside = at::logical_and(y >= low, y <= high).to(at::kDouble).mean().item<double>();
  double nll = NAN;
  if ((p.law.gaussian() || p.law.alpha == 1) && scale(p).min().item<double>() > 0)
    nll = negative_log_likelihood(p, y).mean().item<double>();
  return {inside, (high - low).mean().item<double>(), nll};
}

at::Tensor predicted_class(const Propagated& p) { return p.location.argmax(1); }

at::Tensor confidence(const Propagated& p) {
  const auto labels = predicted_class(p);
  return others(log_above(p, labels), labels);
}

RiskCoverage risk_coverage(const at::Tensor& confidence, const at::Tensor& wrong, Random& random) {
  check_dims(confidence, 1, "the confidences");
  require(wrong.sizes() == confidence.sizes() && confidence.numel() > 0, "{} confidences and {} outcomes",
          confidence.numel(), wrong.numel());
  const auto scores = confidence.to(at::kCPU, at::kDouble).contiguous(),
             errors = wrong.to(at::kCPU, at::kDouble).contiguous();
  check_finite(scores, "the confidences");
  const int64_t n = scores.numel();
  std::vector<int64_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  for (int64_t i = n - 1; i > 0; --i) std::swap(order[i], order[random.below(i + 1)]);
  const double* score = scores.const_data_ptr<double>();
  const double* error = errors.const_data_ptr<double>();
  std::ranges::stable_sort(order, [&](int64_t a, int64_t b) { return score[a] > score[b]; });
  RiskCoverage curve{{}, {}, 0};
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    sum += error[order[i]];
    const auto kept = static_cast<double>(i + 1);
    curve.coverage.push_back(kept / static_cast<double>(n));
    curve.risk.push_back(sum / kept);
    curve.area += sum / kept / static_cast<double>(n);
  }
  return curve;
}

double auroc(const at::Tensor& positives, const at::Tensor& negatives) {
  require(positives.numel() > 0 && negatives.numel() > 0, "AUROC needs scores of both kinds");
  const auto high = positives.to(at::kDouble).flatten(), low = std::get<0>(negatives.to(at::kDouble).flatten().sort());
  check_finite(high, "the scores");
  check_finite(low, "the scores");
  const auto below = at::searchsorted(low, high, false, false), up_to = at::searchsorted(low, high, false, true);
  return (below + up_to).to(at::kDouble).mean().item<double>() / 2 / static_cast<double>(low.numel());
}

}  // namespace unbend
