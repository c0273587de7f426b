#include "unbend/tangent/stable_law.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numbers>
#include <vector>

#include "unbend/base/error.h"

namespace unbend {
namespace {

constexpr double kPi = std::numbers::pi;

// The z of the standard Gaussian that has the same probability.
double gaussian_z(const Law& law, double z) { return law.gaussian() ? z : z / std::numbers::sqrt2; }

// Simpson's rule, halved until it agrees with itself. `f` is given at the ends and in the middle.
double simpson(const std::function<double(double)>& f, double a, double fa, double b, double fb, double fm, double tol,
               int depth) {
  const double m = (a + b) / 2, h = b - a, left = f((a + m) / 2), right = f((m + b) / 2);
  const double once = h / 6 * (fa + 4 * fm + fb), twice = h / 12 * (fa + 4 * left + 2 * fm + 4 * right + fb);
  if (depth == 0 || std::abs(twice - once) < 15 * tol) return twice + (twice - once) / 15;
  return simpson(f, a, fa, m, fm, left, tol / 2, depth - 1) + simpson(f, m, fm, b, fb, right, tol / 2, depth - 1);
}

double integral(const std::function<double(double)>& f, double a, double b) {
  constexpr int kPanels = 32;
  double sum = 0;
  for (int i = 0; i < kPanels; ++i) {
    const double left = a + (b - a) * i / kPanels, right = a + (b - a) * (i + 1) / kPanels;
    sum += simpson(f, left, f(left), right, f(right), f((left + right) / 2), 1e-12 / kPanels, 40);
  }
  return sum;
}

// P(s > z) for z > 0, alpha neither 1 nor 2.
double upper_tail(double alpha, double z) {
  const double power = alpha / (alpha - 1), log_z = power * std::log(z);
  const auto integrand = [&](double theta) {
    const double c = std::cos(theta);
    const double log_v = power * std::log(c / std::sin(alpha * theta)) + std::log(std::cos((alpha - 1) * theta) / c);
    return std::exp(-std::exp(log_z + log_v));
  };
  const double share = integral(integrand, 1e-12, kPi / 2 - 1e-12) / kPi;
  return alpha > 1 ? share : .5 - share;
}

}  // namespace

Law stable_law(double alpha) {
  require(alpha > 0 && alpha <= 2, "a stable law has an alpha above 0 and up to 2, not {}", alpha);
  return {Law::Kind::Stable, alpha};
}

Law law_named(std::string_view name, double alpha) {
  if (name == "gaussian") return gaussian_law();
  if (name == "cauchy") return cauchy_law();
  if (name == "stable") return stable_law(alpha);
  fail_usage("there is no law '{}': it is one of gaussian, cauchy, stable", name);
}

std::string_view name_of(const Law& law) {
  return law.gaussian() ? "gaussian" : law.kind == Law::Kind::Cauchy ? "cauchy" : "stable";
}

double cdf(const Law& law, double z) {
  if (law.alpha == 2) return .5 * std::erfc(-gaussian_z(law, z) / std::numbers::sqrt2);
  if (law.alpha == 1) return std::atan2(1, -z) / kPi;
  if (z == 0) return .5;
  const double tail = upper_tail(law.alpha, std::abs(z));
  return z > 0 ? 1 - tail : tail;
}

double quantile(const Law& law, double p) {
  require(p > 0 && p < 1, "a quantile is of a probability between 0 and 1, not {}", p);
  if (law.alpha == 1) return std::tan(kPi * (p - .5));
  if (p == .5) return 0;
  const double tail = std::min(p, 1 - p);
  double low = 0, high = 1;  // of |z|, with P(s < -high) <= tail
  while (cdf(law, -high) > tail && high < 1e300) low = high, high *= 2;
  for (int i = 0; i < 100 && high - low > 1e-14 * high; ++i) {
    const double middle = (low + high) / 2;
    (cdf(law, -middle) > tail ? low : high) = middle;
  }
  return p < .5 ? -(low + high) / 2 : (low + high) / 2;
}

at::Tensor log_cdf(const Law& law, const at::Tensor& z) {
  if (law.alpha == 2) return at::special_log_ndtr(law.gaussian() ? z : z / std::numbers::sqrt2);
  if (law.alpha == 1) return at::log(at::atan2(at::ones_like(z), -z) / kPi);
  require(!z.requires_grad(), "the stable law of alpha {} has no closed form to be differentiated: use alpha 1 or 2",
          law.alpha);
  const auto flat = z.to(at::kCPU, at::kDouble).contiguous();
  auto result = at::empty_like(flat);
  const double* from = flat.const_data_ptr<double>();
  double* to = result.mutable_data_ptr<double>();
  for (int64_t i = 0; i < flat.numel(); ++i) to[i] = std::log(cdf(law, from[i]));
  return result.to(z.options());
}

at::Tensor standard_variables(const Law& law, const at::Tensor& like, at::Generator& generator) {
  const auto drawn = [&] { return at::empty_like(like, like.options().device(generator.device())); };
  const auto uniform = [&] { return drawn().uniform_(1e-7, 1 - 1e-7, generator).to(like.device()); };
  if (law.gaussian()) return drawn().normal_(0, 1, generator).to(like.device());
  const auto angle = kPi * (uniform() - .5);
  if (law.alpha == 1) return at::tan(angle);
  const double alpha = law.alpha;
  const auto exponential = drawn().exponential_(1, generator).to(like.device());
  return at::sin(alpha * angle) / at::pow(at::cos(angle), 1 / alpha) *
         at::pow(at::cos((1 - alpha) * angle) / exponential, (1 - alpha) / alpha);
}

}  // namespace unbend
