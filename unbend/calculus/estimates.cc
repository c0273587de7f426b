#include "unbend/calculus/estimates.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "unbend/base/error.h"

namespace unbend {
namespace {

// Calls use(z * (A z)) with [count, n] for random signs z, a few vectors at a time.
template <class Use>
void for_samples(const char* where, const LinearMap& a, int64_t samples, Random& random, const Use& use) {
  require(a.square(), "{} needs a square map, not {} -> {}", where, to_string(a.domain()), to_string(a.codomain()));
  require(samples >= 1, "{}: samples must be at least 1, not {}", where, samples);
  constexpr int64_t kAtOnce = 32;
  const at::NoGradGuard no_gradients;
  for (int64_t done = 0; done < samples; done += kAtOnce) {
    const int64_t count = std::min(kAtOnce, samples - done);
    const Tensors z = random_signs(a.domain(), random, count);
    use(flatten_many(z, a.domain()) * flatten_many(a.push_many(z), a.domain()));
  }
}

}  // namespace

Estimate mean_of(const std::vector<double>& samples) {
  const auto count = static_cast<double>(samples.size());
  double mean = 0, squares = 0;
  for (const double x : samples) mean += x / count;
  for (const double x : samples) squares += (x - mean) * (x - mean);
  const double spread = count > 1 ? std::sqrt(squares / (count - 1) / count) : std::numeric_limits<double>::infinity();
  return {mean, spread, std::isfinite(mean) ? Outcome::Converged : Outcome::NonfiniteResult, ""};
}

TraceByLeaf estimate_trace_by_leaf(const LinearMap& a, int64_t samples, Random& random) {
  std::vector<double> whole;
  std::vector<std::vector<double>> leaves(a.domain().leaves.size());
  for_samples("estimate_trace", a, samples, random, [&](const at::Tensor& products) {
    const int64_t count = products.size(0);
    auto sums = at::zeros({count}, at::kDouble);
    int64_t begin = 0;
    for (size_t leaf = 0; leaf < leaves.size(); ++leaf) {
      const int64_t size = a.domain().leaves[leaf].numel();
      const auto part = products.narrow(1, begin, size).sum(1, false, at::kDouble).cpu();
      leaves[leaf].insert(leaves[leaf].end(), part.const_data_ptr<double>(), part.const_data_ptr<double>() + count);
      sums += part;
      begin += size;
    }
    whole.insert(whole.end(), sums.const_data_ptr<double>(), sums.const_data_ptr<double>() + count);
  });
  TraceByLeaf result{mean_of(whole), {}};
  for (const auto& leaf : leaves) result.leaves.push_back(mean_of(leaf));
  return result;
}

Estimate estimate_trace(const LinearMap& a, int64_t samples, Random& random) {
  return estimate_trace_by_leaf(a, samples, random).whole;
}

DiagonalEstimate estimate_diagonal(const LinearMap& a, int64_t samples, Random& random) {
  at::Tensor sum, squares;
  for_samples("estimate_diagonal", a, samples, random, [&](const at::Tensor& products) {
    const auto wide = products.to(at::kDouble);
    const auto s = wide.sum(0), q = wide.square().sum(0);
    sum = sum.defined() ? sum + s : s;
    squares = squares.defined() ? squares + q : q;
  });
  const auto count = static_cast<double>(samples);
  const auto mean = sum / count;
  // The unbiased variance of the mean, entry by entry.
  const auto variance = (squares / count - mean.square()).clamp_min(0) / std::max(count - 1, 1.0);
  const double scale = mean.norm().item<double>(), spread = std::sqrt(variance.sum().item<double>());
  const double relative = samples < 2 ? std::numeric_limits<double>::infinity() : spread == 0 ? 0 : spread / scale;
  return {unflatten(mean.to(a.domain().dtype()), a.domain()), relative};
}

}  // namespace unbend
