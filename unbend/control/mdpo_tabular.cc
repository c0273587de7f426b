#include "unbend/control/mdpo_tabular.h"

#include <algorithm>
#include <cmath>

#include "unbend/base/error.h"

namespace unbend::control {
namespace {

void check_rows(const std::vector<double>& table, std::int64_t columns, const char* what) {
  for (std::size_t i = 0; i < table.size(); i += static_cast<std::size_t>(columns)) {
    double sum = 0;
    for (std::size_t k = i; k < i + static_cast<std::size_t>(columns); ++k) {
      require(table[k] >= 0, "{}, row {}: {} is no probability", what, i / static_cast<std::size_t>(columns), table[k]);
      sum += table[k];
    }
    require(std::abs(sum - 1) < 1e-9, "{}, row {}: the probabilities sum to {}", what,
            i / static_cast<std::size_t>(columns), sum);
  }
}

/// x of A x = b by elimination with pivots; A [n, n] is never singular here (strictly dominant diagonal).
std::vector<double> solve(std::vector<double> a, std::vector<double> b) {
  const std::size_t n = b.size();
  for (std::size_t k = 0; k < n; ++k) {
    std::size_t pivot = k;
    for (std::size_t i = k + 1; i < n; ++i)
      if (std::abs(a[i * n + k]) > std::abs(a[pivot * n + k])) pivot = i;
    for (std::size_t j = 0; j < n; ++j) std::swap(a[k * n + j], a[pivot * n + j]);
    std::swap(b[k], b[pivot]);
    for (std::size_t i = k + 1; i < n; ++i) {
      const double factor = a[i * n + k] / a[k * n + k];
      for (std::size_t j = k; j < n; ++j) a[i * n + j] -= factor * a[k * n + j];
      b[i] -= factor * b[k];
    }
  }
  for (std::size_t k = n; k-- > 0;) {
    for (std::size_t j = k + 1; j < n; ++j) b[k] -= a[k * n + j] * b[j];
    b[k] /= a[k * n + k];
  }
  return b;
}

}  // namespace

PolicyValues policy_values(const FiniteProcess& p, const std::vector<double>& policy, double lambda) {
  const auto states = static_cast<std::size_t>(p.states), choices = static_cast<std::size_t>(p.choices);
  require(p.states > 0 && p.choices > 0 && p.transitions.size() == states * choices * states &&
              p.rewards.size() == states * choices && policy.size() == states * choices,
          "{} states and {} choices do not fit {} transitions, {} rewards and {} probabilities of the policy", p.states,
          p.choices, p.transitions.size(), p.rewards.size(), policy.size());
  require(p.discount >= 0 && p.discount < 1, "the discount must be in [0, 1), not {}", p.discount);
  require(lambda >= 0, "the weight of the entropy must not be negative: {}", lambda);
  check_rows(p.transitions, p.states, "transitions");
  check_rows(policy, p.choices, "policy");
  std::vector<double> system(states * states), right(states);
  for (std::size_t s = 0; s < states; ++s) {
    system[s * states + s] = 1;
    for (std::size_t a = 0; a < choices; ++a) {
      const double pi = policy[s * choices + a];
      right[s] += pi * (p.rewards[s * choices + a] - (pi > 0 ? lambda * std::log(pi) : 0));
      for (std::size_t t = 0; t < states; ++t)
        system[s * states + t] -= p.discount * pi * p.transitions[(s * choices + a) * states + t];
    }
  }
  PolicyValues values{solve(std::move(system), std::move(right)), p.rewards};
  for (std::size_t row = 0; row < states * choices; ++row)
    for (std::size_t t = 0; t < states; ++t)
      values.q[row] += p.discount * p.transitions[row * states + t] * values.v[t];
  return values;
}

std::vector<double> mirror_descent_step(const FiniteProcess& p, const std::vector<double>& policy, double t,
                                        double lambda) {
  require(t > 0, "the step size must be positive, not {}", t);
  const auto values = policy_values(p, policy, lambda);
  const auto choices = static_cast<std::size_t>(p.choices);
  std::vector<double> next(policy.size());
  for (std::size_t row = 0; row < policy.size(); row += choices) {
    double most = -INFINITY, sum = 0;
    for (std::size_t k = row; k < row + choices; ++k) {
      // at lambda t = 1 the old policy drops out, its zeros too
      const double keep = 1 - lambda * t;
      next[k] = (keep == 0 ? 0 : keep * std::log(policy[k])) + t * values.q[k];
      most = std::max(most, next[k]);
    }
    for (std::size_t k = row; k < row + choices; ++k) sum += next[k] = std::exp(next[k] - most);
    for (std::size_t k = row; k < row + choices; ++k) next[k] /= sum;
  }
  return next;
}

}  // namespace unbend::control
