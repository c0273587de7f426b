#include "unbend/optimize/regularizer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "unbend/base/error.h"

namespace unbend::optimize {
namespace {

constexpr std::array<std::string_view, 4> kDomains{"whole", "box", "ball", "simplex"};

}  // namespace

std::vector<std::string> domain_names() { return {kDomains.begin(), kDomains.end()}; }

Domain domain_named(std::string_view name) {
  const auto found = std::find(kDomains.begin(), kDomains.end(), name);
  if (found == kDomains.end()) fail_usage("there is no domain '{}': use {}", name, fmt::join(kDomains, ", "));
  return static_cast<Domain>(found - kDomains.begin());
}

void check_geometry(const Geometry& g) {
  if (g.domain == Domain::Box)
    require(g.low <= 0 && g.high >= 0 && g.low < g.high, "box: needs low <= 0 <= high and low < high, not [{}, {}]",
            g.low, g.high);
  if (g.domain == Domain::Ball)
    require(g.radius > 0 && std::isfinite(g.radius), "ball: its radius must be positive, not {}", g.radius);
}

double separable_weight(double theta, double lambda, double kappa, double low, double high) {
  const double shrunk = std::copysign(std::max(0., std::abs(theta) - kappa), theta);
  return std::clamp(shrunk / lambda, low, high);
}

double separable_conjugate(double theta, double lambda, double kappa, double low, double high) {
  const double x = separable_weight(theta, lambda, kappa, low, high);
  return theta * x - .5 * lambda * x * x - kappa * std::abs(x);
}

Ray::Margin SeparableRay::margin(double b) const {
  Margin result{0, 0};
  for (std::size_t i = 0; i < a_.size(); ++i) {
    const double theta = theta_[i] - b * a_[i], x = separable_weight(theta, lambda_[i], kappa_, low_, high_);
    result.value += a_[i] * x;
    if (std::abs(theta) > kappa_ && x > low_ && x < high_) result.q += a_[i] * a_[i] / lambda_[i];
  }
  return result;
}

double SeparableRay::difference(double c, double b) const {
  double sum = 0;
  for (std::size_t i = 0; i < a_.size(); ++i) {
    sum += separable_conjugate(theta_[i] - c * a_[i], lambda_[i], kappa_, low_, high_) -
           separable_conjugate(theta_[i] - b * a_[i], lambda_[i], kappa_, low_, high_);
  }
  return sum;
}

double BallRay::norm(double b) const { return std::sqrt(std::max(0., theta2_ + b * (b * a2_ - 2 * dot_))); }

Ray::Margin BallRay::margin(double b) const {
  const double n = norm(b), along = dot_ - b * a2_;
  if (n <= radius_ * lambda_) return {along / lambda_, a2_ / lambda_};
  return {radius_ * along / n, std::max(0., radius_ * (a2_ - along / n * (along / n)) / n)};
}

double BallRay::conjugate(double b) const {
  const double n = norm(b), edge = radius_ * lambda_;
  return n <= edge ? n * n / (2 * lambda_) : radius_ * (n - edge / 2);
}

double BallRay::difference(double c, double b) const {
  const double edge = radius_ * lambda_;
  if (norm(c) <= edge && norm(b) <= edge) return (c - b) * (.5 * (c + b) * a2_ - dot_) / lambda_;
  return conjugate(c) - conjugate(b);
}

SimplexRay::SimplexRay(const Row& row, std::span<const double> theta, std::size_t stride, double lambda)
    : row_(row), lambda_(lambda), rest_(0), rest_top_(-std::numeric_limits<double>::infinity()) {
  std::vector<double> others;
  for (std::size_t i = 0; i < theta.size(); i += stride) others.push_back(theta[i] / lambda);
  for (const auto i : row.index) {
    theta_.push_back(theta[i * stride]);
    others[i] = -std::numeric_limits<double>::infinity();
  }
  for (const double u : others) rest_top_ = std::max(rest_top_, u);
  if (!std::isfinite(rest_top_)) return;  // the row has all features
  for (const double u : others) rest_ += std::exp(u - rest_top_);
}

double SimplexRay::log_sum(double b) const {
  double top = rest_top_, sum = 0;
  for (std::size_t i = 0; i < theta_.size(); ++i) top = std::max(top, (theta_[i] - b * row_.value[i]) / lambda_);
  for (std::size_t i = 0; i < theta_.size(); ++i) sum += std::exp((theta_[i] - b * row_.value[i]) / lambda_ - top);
  if (rest_ > 0) sum += rest_ * std::exp(rest_top_ - top);
  return lambda_ * (top + std::log(sum));
}

Ray::Margin SimplexRay::margin(double b) const {
  const double level = log_sum(b) / lambda_;
  double mean = 0, square = 0;
  for (std::size_t i = 0; i < theta_.size(); ++i) {
    const double a = row_.value[i], x = std::exp((theta_[i] - b * a) / lambda_ - level);
    mean += a * x;
    square += a * a * x;
  }
  return {mean, std::max(0., square - mean * mean) / lambda_};
}

}  // namespace unbend::optimize
