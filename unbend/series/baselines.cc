#include "unbend/series/baselines.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "unbend/base/error.h"

namespace unbend::series {
namespace {

using Values = std::span<const double>;

void check(Values history, int horizon) {
  require(!history.empty(), "a forecast needs at least one value of the past");
  require(horizon > 0, "the horizon must be above 0, not {}", horizon);
}

double mean_of(Values x) {
  double sum = 0;
  for (const double v : x) sum += v;
  return sum / static_cast<double>(x.size());
}

/// The series divided by its factors.
std::vector<double> adjusted(Values history, const std::vector<double>& factors) {
  std::vector<double> out(history.begin(), history.end());
  for (std::size_t i = 0; i < out.size(); ++i) out[i] /= factors[i % factors.size()];
  return out;
}

void put_back(std::vector<double>& forecast, std::size_t history, const std::vector<double>& factors) {
  for (std::size_t i = 0; i < forecast.size(); ++i) forecast[i] *= factors[(history + i) % factors.size()];
}

// Sum of squared one-step errors for a smoothing weight, with the initial level that makes it smallest: with it 0 the
// errors are u_t, and a level l0 takes (1 - alpha)^(t-1) l0 off them.
double smoothing_error(Values x, double alpha, Smoothing& found) {
  double level = 0, p = 1, up = 0, pp = 0, uu = 0;
  for (const double v : x) {
    const double u = v - level;
    up += u * p, pp += p * p, uu += u * u;
    level += alpha * u;
    p *= 1 - alpha;
  }
  const double initial = up / pp;
  found = {alpha, initial, level + p * initial};
  return uu - up * initial;
}

}  // namespace

std::vector<double> naive(Values history, int horizon) {
  check(history, horizon);
  return std::vector<double>(static_cast<std::size_t>(horizon), history.back());
}

std::vector<double> seasonal_naive(Values history, int horizon, int period) {
  check(history, horizon);
  const auto m = static_cast<std::size_t>(period);
  if (history.size() < m) return naive(history, horizon);
  std::vector<double> out;
  for (std::size_t i = 0; i < static_cast<std::size_t>(horizon); ++i)
    out.push_back(history[history.size() - m + i % m]);
  return out;
}

bool is_seasonal(Values x, int period) {
  const auto n = x.size(), m = static_cast<std::size_t>(period);
  if (m < 2 || n < 3 * m) return false;
  const double center = mean_of(x);
  const auto covariance = [&](std::size_t lag) {
    double sum = 0;
    for (std::size_t i = lag; i < n; ++i) sum += (x[i] - center) * (x[i - lag] - center);
    return sum;
  };
  const double variance = covariance(0);
  if (variance <= 0) return false;
  double squares = 0;
  for (std::size_t lag = 1; lag < m; ++lag) squares += std::pow(covariance(lag) / variance, 2);
  return std::abs(covariance(m) / variance) > 1.645 * std::sqrt((1 + 2 * squares) / static_cast<double>(n));
}

std::vector<double> seasonal_factors(Values x, int period) {
  const auto n = x.size(), m = static_cast<std::size_t>(std::max(period, 1));
  std::vector<double> factors(m, 1);
  if (!is_seasonal(x, period) || std::any_of(x.begin(), x.end(), [](double v) { return v <= 0; })) return factors;
  // Trend: the centred moving average over a season, of an even season with half weights at its ends.
  const std::size_t half = m / 2;
  std::vector<double> sums(m, 0), counts(m, 0);
  for (std::size_t t = half; t + half < n; ++t) {
    double trend = 0;
    for (std::size_t j = t - half; j <= t + half; ++j)
      trend += x[j] * (m % 2 == 0 && (j == t - half || j == t + half) ? .5 : 1);
    sums[t % m] += x[t] * static_cast<double>(m) / trend;
    ++counts[t % m];
  }
  double total = 0;
  for (std::size_t i = 0; i < m; ++i) factors[i] = sums[i] / counts[i], total += factors[i];
  for (double& f : factors) f *= static_cast<double>(m) / total;
  if (std::any_of(factors.begin(), factors.end(), [](double f) { return f < 1e-4; })) return std::vector<double>(m, 1);
  return factors;
}

std::vector<double> naive2(Values history, int horizon, int period) {
  check(history, horizon);
  const auto factors = seasonal_factors(history, period);
  auto forecast = naive(adjusted(history, factors), horizon);
  put_back(forecast, history.size(), factors);
  return forecast;
}

Smoothing exponential_smoothing(Values x) {
  check(x, 1);
  constexpr double kLow = 1e-4, kHigh = .9999;
  constexpr int kGrid = 100;
  Smoothing found{}, trial{};
  double best = smoothing_error(x, kLow, found), center = kLow;
  for (int i = 1; i <= kGrid; ++i) {
    const double alpha = kLow + (kHigh - kLow) * i / kGrid;
    const double error = smoothing_error(x, alpha, trial);
    if (error < best) best = error, found = trial, center = alpha;
  }
  // Golden section between the neighbours of the best point of the grid.
  const double step = (kHigh - kLow) / kGrid, ratio = (std::sqrt(5.) - 1) / 2;
  double low = std::max(kLow, center - step), high = std::min(kHigh, center + step);
  for (int i = 0; i < 60; ++i) {
    const double a = high - ratio * (high - low), b = low + ratio * (high - low);
    Smoothing at_a{}, at_b{};
    if (smoothing_error(x, a, at_a) <= smoothing_error(x, b, at_b))
      high = b;
    else
      low = a;
  }
  if (smoothing_error(x, (low + high) / 2, trial) < best) found = trial;
  return found;
}

std::vector<double> theta(Values history, int horizon, int period) {
  check(history, horizon);
  if (history.size() < 3) return naive(history, horizon);
  const auto factors = seasonal_factors(history, period);
  const auto x = adjusted(history, factors);
  const auto n = static_cast<double>(x.size());
  double slope = 0;
  const double center = mean_of(x), middle = (n - 1) / 2;
  for (std::size_t t = 0; t < x.size(); ++t) slope += (static_cast<double>(t) - middle) * (x[t] - center);
  slope *= 12 / (n * (n * n - 1));
  const auto smoothing = exponential_smoothing(x);
  const double started = (1 - std::pow(1 - smoothing.alpha, n)) / smoothing.alpha;
  std::vector<double> forecast;
  for (int h = 0; h < horizon; ++h) forecast.push_back(smoothing.level + slope / 2 * (h + started));
  put_back(forecast, history.size(), factors);
  return forecast;
}

std::span<const std::string> baseline_names() {
  static const std::array<std::string, 4> names{"Naive", "SNaive", "Naive2", "Theta"};
  return names;
}

std::vector<double> baseline(const std::string& name, Values history, int horizon, int period) {
  if (name == "Naive") return naive(history, horizon);
  if (name == "SNaive") return seasonal_naive(history, horizon, period);
  if (name == "Naive2") return naive2(history, horizon, period);
  require(name == "Theta", "there is no baseline '{}': Naive, SNaive, Naive2, Theta", name);
  return theta(history, horizon, period);
}

}  // namespace unbend::series
