#include "unbend/control/policy_head.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "unbend/base/error.h"

namespace unbend::control {
namespace {

constexpr double kHalfLogTwoPi = .918938533204672741780329736406;
constexpr double kMostLogRatio = 20;
constexpr double kLeastDensity = 1e-6;  // under Tsallis' logarithm

template <class T>
T gaussian_log(T x, T mean, T log_std) {
  const T z = (x - mean) * std::exp(-log_std);
  return T(-.5) * z * z - log_std - T(kHalfLogTwoPi);
}

/// log_q of exp(l), with its derivative with respect to l. Densities are floored where a power of them is taken.
template <class T>
struct Logarithm {
  T value, slope;
};
template <class T>
Logarithm<T> log_q(T l, T kappa) {
  if (kappa == 1) return {l, 1};
  const bool floored = l < T(std::log(kLeastDensity));
  const T power = std::exp((kappa - 1) * (floored ? T(std::log(kLeastDensity)) : l));
  return {(power - 1) / (kappa - 1), floored ? T(0) : power};
}

/// Divergence of one dimension of a Gaussian from its old one, and its derivatives.
template <class T>
struct Divergence {
  T value, by_mean, by_log_std;
};

template <class T>
Divergence<T> gaussian_kl(T mean, T log_std, T old_mean, T old_log_std) {
  const T ratio = std::exp(2 * (log_std - old_log_std)), inverse = std::exp(-2 * old_log_std);
  const T away = mean - old_mean;
  return {old_log_std - log_std + T(.5) * (ratio + away * away * inverse - 1), away * inverse, ratio - 1};
}

/// Bregman divergence of the integral of x log_q x, in closed form: with S(s) the integral of the density to the power
/// kappa and C that of p p_old^(kappa - 1), (S(s) - kappa C + (kappa - 1) S(s_old)) / (kappa - 1).
template <class T>
Divergence<T> gaussian_tsallis(T mean, T log_std, T old_mean, T old_log_std, T kappa) {
  const T k = kappa - 1;
  const auto power = [&](T l) { return std::exp(-k * (l + T(kHalfLogTwoPi))) / std::sqrt(kappa); };
  const T variance = std::exp(2 * log_std), old_variance = std::exp(2 * old_log_std);
  const T wide = old_variance + k * variance, away = mean - old_mean;
  const T cross = std::exp(-k * (old_log_std + T(kHalfLogTwoPi))) * std::sqrt(old_variance / wide) *
                  std::exp(-k * away * away / (2 * wide));
  const T own = power(log_std);
  const T cross_by_variance = cross * (-k / (2 * wide) + k * k * away * away / (2 * wide * wide));
  return {(own - kappa * cross + k * power(old_log_std)) / k, kappa * cross * away / wide,
          -own - kappa * cross_by_variance * 2 * variance / k};
}

/// The terms of Psi that depend on the ratio: value and derivative with respect to log pi of the action.
template <class T>
struct Gain {
  T value, slope;
};
template <class T>
Gain<T> gain(T log_ratio, T advantage, const SurrogateOptions& o, std::int64_t* clamped) {
  const bool beyond = std::abs(log_ratio) > T(kMostLogRatio);
  *clamped += beyond;
  const T ratio = std::exp(std::clamp(log_ratio, T(-kMostLogRatio), T(kMostLogRatio)));
  const T slope = beyond ? T(0) : ratio * advantage;
  if (o.objective != Objective::Ppo) return {ratio * advantage, slope};
  const T clip = static_cast<T>(o.clip), clipped = std::clamp(ratio, 1 - clip, 1 + clip) * advantage;
  return clipped < ratio * advantage ? Gain<T>{clipped, 0} : Gain<T>{ratio * advantage, slope};
}

}  // namespace

double tsallis_log(double x, double kappa) {
  return kappa == 1 ? std::log(x) : (std::pow(x, kappa - 1) - 1) / (kappa - 1);
}

template <class T>
void log_softmax(const T* logits, std::int64_t choices, T* log_p, T* p) {
  const T most = *std::max_element(logits, logits + choices);
  T sum = 0;
  for (std::int64_t k = 0; k < choices; ++k) sum += p[k] = std::exp(logits[k] - most);
  const T log_sum = std::log(sum);
  for (std::int64_t k = 0; k < choices; ++k) log_p[k] = logits[k] - most - log_sum, p[k] /= sum;
}

namespace {

template <class T>
SurrogateValue categorical_surrogate(const Matrix<T>& now, const Matrix<T>& old, const Matrix<T>& actions,
                                     const T* advantages, const SurrogateOptions& o, Matrix<T>& gradient) {
  const auto n = now.rows, choices = now.columns;
  const T kappa = static_cast<T>(o.kappa), bonus = static_cast<T>(o.entropy);
  const T weight = o.objective == Objective::Mdpo ? static_cast<T>(1 / o.step_size) : T(0);
  const T share = T(1) / static_cast<T>(n);
  std::vector<T> log_p(static_cast<std::size_t>(choices)), p = log_p, old_log = log_p, old_p = log_p, slope = log_p;
  SurrogateValue sum;
  for (std::int64_t i = 0; i < n; ++i) {
    log_softmax(now.row(i), choices, log_p.data(), p.data());
    log_softmax(old.row(i), choices, old_log.data(), old_p.data());
    T divergence = 0, entropy = 0, mean_slope = 0;
    for (std::size_t k = 0; k < p.size(); ++k) {
      entropy -= p[k] * log_p[k];
      T by_p = 0;
      if (kappa == 1) {
        by_p = log_p[k] - old_log[k];
        divergence += p[k] * by_p;
      } else {
        const T power = std::exp((kappa - 1) * log_p[k]), old_power = std::exp((kappa - 1) * old_log[k]);
        by_p = kappa * (power - old_power) / (kappa - 1);
        divergence += (p[k] * power - kappa * old_power * p[k]) / (kappa - 1) + old_p[k] * old_power;
      }
      slope[k] = weight * by_p + bonus * log_p[k];
      mean_slope += p[k] * slope[k];
    }
    const auto action = static_cast<std::size_t>(actions.row(i)[0]);
    const Gain<T> g = gain(log_p[action] - old_log[action], advantages[i], o, &sum.clamped);
    T* const row = gradient.row(i);
    for (std::size_t k = 0; k < p.size(); ++k)
      row[k] = share * (p[k] * (slope[k] - mean_slope) - g.slope * ((k == action ? T(1) : T(0)) - p[k]));
    sum.value += static_cast<double>(g.value - weight * divergence + bonus * entropy);
    sum.divergence += static_cast<double>(divergence), sum.entropy += static_cast<double>(entropy);
  }
  return sum;
}

template <class T>
SurrogateValue gaussian_surrogate(const Head<T>& now, const Head<T>& old, const Matrix<T>& actions, const T* advantages,
                                  const SurrogateOptions& o, Matrix<T>& gradient, T* log_std_gradient) {
  const auto n = now.outputs->rows, d = now.outputs->columns;
  const T kappa = static_cast<T>(o.kappa), bonus = static_cast<T>(o.entropy);
  const T weight = o.objective == Objective::Mdpo ? static_cast<T>(1 / o.step_size) : T(0);
  const T share = T(1) / static_cast<T>(n);
  T entropy = 0;
  for (std::int64_t k = 0; k < d; ++k) {
    entropy += now.log_std[k] + T(.5) + T(kHalfLogTwoPi);
    log_std_gradient[k] = -bonus;
  }
  SurrogateValue sum;
  for (std::int64_t i = 0; i < n; ++i) {
    const T *mean = now.outputs->row(i), *old_mean = old.outputs->row(i), *a = actions.row(i);
    T log_ratio = 0, divergence = 0;
    for (std::int64_t k = 0; k < d; ++k)
      log_ratio += gaussian_log(a[k], mean[k], now.log_std[k]) - gaussian_log(a[k], old_mean[k], old.log_std[k]);
    const Gain<T> g = gain(log_ratio, advantages[i], o, &sum.clamped);
    T* const row = gradient.row(i);
    for (std::int64_t k = 0; k < d; ++k) {
      const auto [value, by_mean, by_log_std] =
          kappa == 1 ? gaussian_kl(mean[k], now.log_std[k], old_mean[k], old.log_std[k])
                     : gaussian_tsallis(mean[k], now.log_std[k], old_mean[k], old.log_std[k], kappa);
      divergence += value;
      const T inverse = std::exp(-now.log_std[k]), z = (a[k] - mean[k]) * inverse;
      row[k] = share * (weight * by_mean - g.slope * z * inverse);
      log_std_gradient[k] += share * (weight * by_log_std - g.slope * (z * z - 1));
    }
    sum.value += static_cast<double>(g.value - weight * divergence + bonus * entropy);
    sum.divergence += static_cast<double>(divergence), sum.entropy += static_cast<double>(entropy);
  }
  return sum;
}

}  // namespace

template <class T>
SurrogateValue surrogate(const Head<T>& now, const Head<T>& old, const Matrix<T>& actions, const T* advantages,
                         const SurrogateOptions& o, Matrix<T>& gradient, std::type_identity_t<T>* log_std_gradient) {
  require(o.step_size > 0, "the step size t_k must be positive, not {}", o.step_size);
  require(o.kappa >= 1 && o.kappa <= 2, "the coefficient of Tsallis' logarithm must be in [1, 2], not {}", o.kappa);
  const auto n = now.outputs->rows;
  require(n > 0 && old.outputs->rows == n && actions.rows == n, "a batch of {} rows, {} old ones and {} actions", n,
          old.outputs->rows, actions.rows);
  gradient.resize(n, now.outputs->columns, now.outputs->columns);
  SurrogateValue sum = now.kind == PolicyKind::Categorical
                           ? categorical_surrogate(*now.outputs, *old.outputs, actions, advantages, o, gradient)
                           : gaussian_surrogate(now, old, actions, advantages, o, gradient, log_std_gradient);
  const auto count = static_cast<double>(n);
  return {sum.value / count, sum.divergence / count, sum.entropy / count, sum.clamped};
}

template <class T>
void sample(PolicyKind kind, const T* outputs, const T* log_std, std::int64_t columns, Random& random, T* action) {
  if (kind != PolicyKind::Categorical) {
    for (std::int64_t k = 0; k < columns; ++k)
      action[k] = outputs[k] + std::exp(log_std[k]) * static_cast<T>(random.normal());
    return;
  }
  // The largest of logits plus Gumbel noise is a draw from their softmax.
  std::int64_t best = 0;
  T most = -std::numeric_limits<T>::infinity();
  for (std::int64_t k = 0; k < columns; ++k) {
    const double u = 1 - random.uniform();  // in (0, 1]
    const T value = outputs[k] - static_cast<T>(std::log(-std::log(u) + 1e-300));
    if (value > most) most = value, best = k;
  }
  action[0] = static_cast<T>(best);
}

template <class T>
void most_likely(PolicyKind kind, const T* outputs, std::int64_t columns, T* action) {
  if (kind == PolicyKind::Categorical) {
    action[0] = static_cast<T>(std::max_element(outputs, outputs + columns) - outputs);
  } else {
    std::copy_n(outputs, columns, action);
  }
}

// ---- Off-policy

template <class T>
void squash(const Matrix<T>& outputs, const Matrix<T>& noise, double kappa, SquashedSample<T>& s) {
  const auto n = outputs.rows, d = outputs.columns / 2;
  for (Matrix<T>* m : {&s.u, &s.action, &s.log_each}) m->resize(n, d, d);
  s.log_prob.resize(static_cast<std::size_t>(n));
  for (std::int64_t i = 0; i < n; ++i) {
    const T *row = outputs.row(i), *eps = noise.row(i);
    T sum = 0;
    for (std::int64_t k = 0; k < d; ++k) {
      const T log_std = cut_log_std(row[d + k]);
      const T u = row[k] + std::exp(log_std) * eps[k];
      // log(1 - tanh^2 u) = 2 (log 2 - u - softplus(-2u)), stable for all u
      const T softplus = std::max(-2 * u, T(0)) + std::log1p(std::exp(-std::abs(2 * u)));
      const T squeeze = 2 * (T(std::numbers::ln2) - u - softplus);
      const T each = T(-.5) * eps[k] * eps[k] - log_std - T(kHalfLogTwoPi) - squeeze;
      s.u.row(i)[k] = u, s.action.row(i)[k] = std::tanh(u), s.log_each.row(i)[k] = each;
      sum += log_q(each, static_cast<T>(kappa)).value;
    }
    s.log_prob[static_cast<std::size_t>(i)] = sum;
  }
}

double squashed_divergence(const Matrix<float>& now, const Matrix<float>& old) {
  const auto d = now.columns / 2;
  double sum = 0;
  for (std::int64_t i = 0; i < now.rows; ++i) {
    const float *row = now.row(i), *before = old.row(i);
    for (std::int64_t k = 0; k < d; ++k)
      sum += static_cast<double>(
          gaussian_kl(row[k], cut_log_std(row[d + k]), before[k], cut_log_std(before[d + k])).value);
  }
  return sum / static_cast<double>(now.rows);
}

template <class T>
double squashed_loss(const Matrix<T>& outputs, const Matrix<T>& noise, const SquashedSample<T>& s, const Matrix<T>* old,
                     const T* q, const Matrix<T>& q_slope, const OffPolicyWeights& w, Matrix<T>& gradient) {
  const auto n = outputs.rows, d = outputs.columns / 2;
  gradient.resize(n, 2 * d, 2 * d);
  const T c = static_cast<T>(w.c), kappa = static_cast<T>(w.kappa), share = T(1) / static_cast<T>(n);
  const T old_weight = static_cast<T>((w.lambda - w.c) * w.kappa);
  const double each = 1 / static_cast<double>(n * d);
  const T pull = static_cast<T>(2 * w.penalty * each);
  double loss = 0, squares = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const T *row = outputs.row(i), *eps = noise.row(i), *a = s.action.row(i), *u = s.u.row(i);
    T* const g = gradient.row(i);
    T sum = -q[i];
    for (std::int64_t k = 0; k < d; ++k) {
      const T raw = row[d + k], log_std = cut_log_std(raw);
      const T spread = std::exp(log_std) * eps[k];  // du / d log_std
      const Logarithm<T> own = log_q(s.log_each.row(i)[k], kappa);
      sum += c * own.value;
      T by_u = -q_slope.row(i)[k] * (1 - a[k] * a[k]);
      by_u += c * own.slope * 2 * a[k];
      T by_log_std = -c * own.slope;
      if (old) {
        const T old_log_std = cut_log_std(old->row(i)[d + k]);
        const T away = u[k] - old->row(i)[k];
        // the tanh's share of the density is that of the own one: log_each + eps^2 / 2 + log_std + ...
        const T squeeze = T(-.5) * eps[k] * eps[k] - log_std - T(kHalfLogTwoPi) - s.log_each.row(i)[k];
        const Logarithm<T> theirs = log_q(gaussian_log(u[k], old->row(i)[k], old_log_std) - squeeze, kappa);
        sum += old_weight * theirs.value;
        by_u += old_weight * theirs.slope * (2 * a[k] - away * std::exp(-2 * old_log_std));
      }
      const bool inside = raw >= T(kLeastLogStd) && raw <= T(kMostLogStd);
      g[k] = share * by_u + pull * row[k];
      g[d + k] = inside ? share * (by_log_std + by_u * spread) + pull * log_std : T(0);
      squares += static_cast<double>(row[k] * row[k] + log_std * log_std);
    }
    loss += static_cast<double>(sum);
  }
  return loss / static_cast<double>(n) + w.penalty * squares * each;
}

template <class T>
double categorical_loss(const Matrix<T>& logits, const Matrix<T>* old, const Matrix<T>& q, const OffPolicyWeights& w,
                        Matrix<T>& gradient) {
  const auto n = logits.rows, choices = logits.columns;
  gradient.resize(n, choices, choices);
  const T c = static_cast<T>(w.c), kappa = static_cast<T>(w.kappa), share = T(1) / static_cast<T>(n);
  const T old_weight = static_cast<T>((w.lambda - w.c) * w.kappa);
  std::vector<T> log_p(static_cast<std::size_t>(choices)), p = log_p, old_log = log_p, old_p = log_p, slope = log_p;
  double loss = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    log_softmax(logits.row(i), choices, log_p.data(), p.data());
    if (old) log_softmax(old->row(i), choices, old_log.data(), old_p.data());
    T mean_slope = 0;
    for (std::size_t k = 0; k < p.size(); ++k) {
      const Logarithm<T> own = log_q(log_p[k], kappa);
      T rest = -q.row(i)[k];
      if (old) rest += old_weight * log_q(old_log[k], kappa).value;
      loss += static_cast<double>(p[k] * (c * own.value + rest));
      slope[k] = c * (own.value + own.slope) + rest;
      mean_slope += p[k] * slope[k];
    }
    for (std::size_t k = 0; k < p.size(); ++k) gradient.row(i)[k] = share * p[k] * (slope[k] - mean_slope);
  }
  return loss / static_cast<double>(n);
}

#define UNBEND_INSTANTIATE(T)                                                                                     \
  template void log_softmax(const T*, std::int64_t, T*, T*);                                                      \
  template SurrogateValue surrogate(const Head<T>&, const Head<T>&, const Matrix<T>&, const T*,                   \
                                    const SurrogateOptions&, Matrix<T>&, T*);                                     \
  template void sample(PolicyKind, const T*, const T*, std::int64_t, Random&, T*);                                \
  template void most_likely(PolicyKind, const T*, std::int64_t, T*);                                              \
  template void squash(const Matrix<T>&, const Matrix<T>&, double, SquashedSample<T>&);                           \
  template double squashed_loss(const Matrix<T>&, const Matrix<T>&, const SquashedSample<T>&, const Matrix<T>*,   \
                                const T*, const Matrix<T>&, const OffPolicyWeights&, Matrix<T>&);                 \
  template double categorical_loss(const Matrix<T>&, const Matrix<T>*, const Matrix<T>&, const OffPolicyWeights&, \
                                   Matrix<T>&);
UNBEND_INSTANTIATE(float)
UNBEND_INSTANTIATE(double)
#undef UNBEND_INSTANTIATE

}  // namespace unbend::control
