#include "unbend/optimize/loss.h"

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "unbend/base/error.h"

namespace unbend::optimize {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr std::array<std::string_view, 7> kNames{"hinge",    "logistic", "squared", "absolute", "epsilon-insensitive",
                                                 "quantile", "user"};

/// t / q clipped to [low, high]; for q = 0 the end that t points to.
double clipped_ratio(double t, double q, double low, double high) {
  if (t == 0) return std::clamp(0., low, high);
  return std::clamp(t / q, low, high);
}

double x_log_x(double x) { return x <= 0 ? 0 : x * std::log(x); }

template <int W>
using Lanes = Eigen::Array<double, W, 1>;

/// Root of s = c + q sigmoid(-s), solved for the margin s = y (m - b q), where no digits are lost for any q. With u =
/// s, or u = -s and c' = -(c + q) where the root is negative, u - q sigmoid(-u) - c' is concave on u >= 0 and Newton
/// from the left of its root converges monotonically. The start is a lower bound by Lambert's function.
template <int W>
void logistic_lanes(const Lanes<W>& m, const Lanes<W>& q, const Lanes<W>& y, Lanes<W>* b, Lanes<W>* conjugate) {
  const Lanes<W> c = y * m;
  const auto negative = (c + .5 * q < 0).eval();
  const Lanes<W> c1 = negative.select(-(c + q), c);
  const Lanes<W> log_x = (.5 * q).max(1e-300).log() - c1;
  const Lanes<W> small = log_x.min(1.).exp();
  const Lanes<W> w = (log_x > 1).select(log_x - log_x.max(1.).log(), small / (1 + small));
  Lanes<W> u = c1.max(c1 + w).max(0.);
  Lanes<W> e, sigmoid;
  for (int i = 0; i < 30; ++i) {
    e = (-u).exp();
    sigmoid = e / (1 + e);
    const Lanes<W> step = (u - q * sigmoid - c1) / (1 + q * sigmoid / (1 + e));
    u = (u - step).max(0.);
    if ((step.abs() <= 4e-16 * (1 + u)).all()) break;
  }
  e = (-u).exp();
  const Lanes<W> alpha = negative.select(1 / (1 + e), e / (1 + e));
  const Lanes<W> log1p = e.log1p();
  *b = -y * alpha;
  *conjugate = negative.select(alpha * u - u - log1p, -alpha * u - log1p);
}

template <int W>
void logistic_values(const Lanes<W>& s, const Lanes<W>& y, Lanes<W>* value, Lanes<W>* slope) {
  const Lanes<W> margin = y * s, e = (-margin.abs()).exp();
  *value = e.log1p() - margin.min(0.);
  *slope = -y * (margin > 0).select(e, Lanes<W>::Ones()) / (1 + e);
}

constexpr int kWidth = 8;
template <class F>
void by_blocks(std::size_t count, const F& block) {
  for (std::size_t i = 0; i < count; i += kWidth) block(i);
}
auto lanes_at(std::span<const double> from, std::size_t i) { return Eigen::Map<const Lanes<kWidth>>(from.data() + i); }
auto lanes_at(std::span<double> from, std::size_t i) { return Eigen::Map<Lanes<kWidth>>(from.data() + i); }

/// b with b in the subdifferential at m - b q, from the slope alone: b lies between 0 and the slope at m.
Proximal user_proximal(const Loss& loss, double m, double q, double y) {
  const double c = loss.slope(m, y);
  double from = 0, to = c;  // the residual b - slope(m - b q) has other signs at the two
  for (int i = 0; i < 200 && from != to; ++i) {
    const double middle = from + (to - from) / 2;
    if (middle == from || middle == to) break;
    const double residual = middle - loss.slope(m - middle * q, y);
    (residual * c >= 0 ? to : from) = middle;
  }
  return {to, to * (m - to * q) - loss.value(m - to * q, y)};
}

}  // namespace

std::vector<std::string> loss_names() { return {kNames.begin(), kNames.end() - 1}; }

std::string_view name(LossKind kind) { return kNames[static_cast<std::size_t>(kind)]; }

Loss loss_named(std::string_view wanted, double parameter) {
  const auto found = std::find(kNames.begin(), kNames.end() - 1, wanted);
  if (found == kNames.end() - 1)
    fail_usage("there is no loss '{}': use {}", wanted, fmt::join(kNames.begin(), kNames.end() - 1, ", "));
  Loss loss;
  loss.kind = static_cast<LossKind>(found - kNames.begin());
  loss.parameter = parameter;
  check_loss(loss);
  return loss;
}

void check_loss(const Loss& loss) {
  if (loss.kind == LossKind::Quantile)
    require(loss.parameter > 0 && loss.parameter < 1, "quantile loss: tau must lie in (0, 1), not {}", loss.parameter);
  if (loss.kind == LossKind::EpsilonInsensitive)
    require(loss.parameter >= 0 && std::isfinite(loss.parameter),
            "epsilon-insensitive loss: epsilon must be at least 0, not {}", loss.parameter);
  if (loss.kind == LossKind::User) {
    require(loss.value && loss.slope, "a user's loss needs a value and a slope");
    require(!std::isnan(loss.lower), "a user's loss: its lower bound is NaN");
  }
}

bool is_binary(const Loss& loss) { return loss.kind == LossKind::Hinge || loss.kind == LossKind::Logistic; }

double loss_value(const Loss& loss, double s, double y) {
  switch (loss.kind) {
    case LossKind::Hinge: return std::max(0., 1 - y * s);
    case LossKind::Logistic: return std::log1p(std::exp(-std::abs(y * s))) - std::min(0., y * s);
    case LossKind::Squared: return .5 * (s - y) * (s - y);
    case LossKind::Absolute: return std::abs(s - y);
    case LossKind::EpsilonInsensitive: return std::max(0., std::abs(s - y) - loss.parameter);
    case LossKind::Quantile: return std::max(loss.parameter * (y - s), (loss.parameter - 1) * (y - s));
    case LossKind::User: return loss.value(s, y);
  }
  return NAN;
}

double loss_slope(const Loss& loss, double s, double y) {
  const double r = s - y;
  switch (loss.kind) {
    case LossKind::Hinge: return y * s < 1 ? -y : 0;
    case LossKind::Logistic: {
      const double e = std::exp(-std::abs(y * s));
      return -y * (y * s > 0 ? e : 1) / (1 + e);
    }
    case LossKind::Squared: return r;
    case LossKind::Absolute: return r > 0 ? 1 : r < 0 ? -1 : 0;
    case LossKind::EpsilonInsensitive: return r > loss.parameter ? 1 : r < -loss.parameter ? -1 : 0;
    case LossKind::Quantile: return r > 0 ? 1 - loss.parameter : r < 0 ? -loss.parameter : 0;
    case LossKind::User: return loss.slope(s, y);
  }
  return NAN;
}

double loss_conjugate(const Loss& loss, double b, double y) {
  const double by = b * y;
  switch (loss.kind) {
    case LossKind::Hinge: return by >= -1 && by <= 0 ? by : kInfinity;
    case LossKind::Logistic: return by >= -1 && by <= 0 ? x_log_x(-by) + x_log_x(1 + by) : kInfinity;
    case LossKind::Squared: return .5 * b * b + by;
    case LossKind::Absolute: return std::abs(b) <= 1 ? by : kInfinity;
    case LossKind::EpsilonInsensitive: return std::abs(b) <= 1 ? by + loss.parameter * std::abs(b) : kInfinity;
    case LossKind::Quantile: return b >= -loss.parameter && b <= 1 - loss.parameter ? by : kInfinity;
    case LossKind::User: return loss.conjugate ? loss.conjugate(b, y) : NAN;
  }
  return NAN;
}

Proximal proximal(const Loss& loss, double m, double q, double y) {
  double b = 0;
  switch (loss.kind) {
    case LossKind::Hinge: b = -y * clipped_ratio(1 - y * m, q, 0, 1); break;
    case LossKind::Logistic: {
      Lanes<1> lane, conjugate;
      logistic_lanes<1>(Lanes<1>(m), Lanes<1>(q), Lanes<1>(y), &lane, &conjugate);
      return {lane[0], conjugate[0]};
    }
    case LossKind::Squared: b = (m - y) / (1 + q); break;
    case LossKind::Absolute: b = clipped_ratio(m - y, q, -1, 1); break;
    case LossKind::EpsilonInsensitive:
      b = std::copysign(clipped_ratio(std::max(0., std::abs(m - y) - loss.parameter), q, 0, 1), m - y);
      break;
    case LossKind::Quantile: b = clipped_ratio(m - y, q, -loss.parameter, 1 - loss.parameter); break;
    case LossKind::User: return user_proximal(loss, m, q, y);
  }
  return {b, loss_conjugate(loss, b, y)};
}

void values_and_slopes(const Loss& loss, std::span<const double> s, std::span<const double> y, std::span<double> value,
                       std::span<double> slope) {
  if (loss.kind == LossKind::Logistic && s.size() % kWidth == 0) {
    return by_blocks(s.size(), [&](std::size_t i) {
      Lanes<kWidth> v, c;
      logistic_values<kWidth>(lanes_at(s, i), lanes_at(y, i), &v, &c);
      lanes_at(value, i) = v;
      lanes_at(slope, i) = c;
    });
  }
  for (std::size_t i = 0; i < s.size(); ++i) {
    value[i] = loss_value(loss, s[i], y[i]);
    slope[i] = loss_slope(loss, s[i], y[i]);
  }
}

void proximals(const Loss& loss, std::span<const double> m, std::span<const double> q, std::span<const double> y,
               std::span<double> b, std::span<double> conjugate) {
  if (loss.kind == LossKind::Logistic && m.size() % kWidth == 0) {
    return by_blocks(m.size(), [&](std::size_t i) {
      Lanes<kWidth> step, c;
      logistic_lanes<kWidth>(lanes_at(m, i), lanes_at(q, i), lanes_at(y, i), &step, &c);
      lanes_at(b, i) = step;
      lanes_at(conjugate, i) = c;
    });
  }
  for (std::size_t i = 0; i < m.size(); ++i) {
    const auto [step, c] = proximal(loss, m[i], q[i], y[i]);
    b[i] = step;
    conjugate[i] = c;
  }
}

double softmax_value(std::span<const double> s, std::size_t y, std::span<double> slope) {
  const double top = *std::max_element(s.begin(), s.end());
  double sum = 0;
  for (std::size_t k = 0; k < s.size(); ++k) sum += slope[k] = std::exp(s[k] - top);
  for (double& p : slope) p /= sum;
  slope[y] -= 1;
  return std::log(sum) + top - s[y];
}

namespace {

/// ln p of the root of ln p + q p = t. The left side is increasing and convex in ln p: Newton from above.
double log_root(double t, double q) {
  if (q == 0) return t;
  double low = t > 0 ? std::min(0., std::log(t / (1 + q))) : t - q * std::exp(t);
  double high = t > 0 ? std::min(t, std::log((t - low) / q)) : t;  // q p = t - ln p <= t - low
  double u = high;
  for (int i = 0; i < 100; ++i) {
    const double qp = q * std::exp(u), f = u + qp - t;
    (f > 0 ? high : low) = u;
    double next = u - f / (1 + qp);
    if (!(next >= low && next <= high)) next = low + (high - low) / 2;
    if (std::abs(next - u) <= 1e-15 * (1 + std::abs(u))) return next;
    u = next;
  }
  return u;
}

}  // namespace

double softmax_proximal(std::span<const double> m, std::span<const double> q, std::size_t y, std::span<double> b) {
  // With p = b + e_y: p_k = exp(r_k - q_k p_k - L) for r = m + q e_y, where L makes the sum 1. The sum falls with L.
  const std::size_t classes = m.size();
  double low = -kInfinity, high = -kInfinity;
  for (std::size_t k = 0; k < classes; ++k) {
    const double r = m[k] + (k == y ? q[k] : 0);
    low = std::max(low, r - q[k]);  // there p_k = 1
    high = std::max(high, r);
  }
  high += std::log(static_cast<double>(classes));
  double level = low;
  for (int i = 0; i < 100; ++i) {
    double sum = 0, slope = 0;
    for (std::size_t k = 0; k < classes; ++k) {
      const double r = m[k] + (k == y ? q[k] : 0);
      b[k] = std::exp(log_root(r - level, q[k]));
      sum += b[k];
      slope += b[k] / (1 + q[k] * b[k]);
    }
    (sum > 1 ? low : high) = level;
    double next = level + std::log(sum) * sum / slope;  // Newton on the logarithm of the sum
    if (!(next >= low && next <= high)) next = low + (high - low) / 2;
    if (std::abs(next - level) <= 1e-15 * (1 + std::abs(level)) || std::abs(sum - 1) < 1e-15) break;
    level = next;
  }
  double sum = 0, conjugate = 0;
  for (const double p : b) sum += p;
  for (double& p : b) {
    p /= sum;
    conjugate += x_log_x(p);
  }
  b[y] -= 1;
  return conjugate;
}

}  // namespace unbend::optimize
