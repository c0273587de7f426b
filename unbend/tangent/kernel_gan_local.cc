#include "unbend/tangent/kernel_gan_local.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "unbend/base/error.h"

namespace unbend::gan {
namespace {

using Complex = std::complex<double>;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

void check_block(const Block& b) {
  check_steps(b.steps);
  require(!b.q.empty(), "block: there is no generated point");
  for (const double q : b.q) require(q > 0 && std::isfinite(q), "block: a generated mass of {} is not positive", q);
  require(b.p >= 0 && std::isfinite(b.p), "block: a true mass of {} is negative", b.p);
  require(b.kappa > 0 && std::isfinite(b.kappa), "block: kappa {} is not positive", b.kappa);
  require(b.steps.lambda > 0 || std::abs(b.delta()) <= 1e-12 * b.p,
          "block: with lambda = 0 and Delta = {} the discriminator grows for ever: there is no equilibrium", b.delta());
}

bool equal_masses(const Block& b) {
  return std::ranges::all_of(b.q, [&](double q) { return q == b.q[0]; });
}

/// h, the curvature of f at the true point.
double pull_of_excess(const Block& b) {
  const double delta = b.delta();
  return std::abs(delta) <= 1e-12 * b.p ? 0 : -b.kappa * delta / b.steps.lambda;
}

/// The mean of n points of mass q: {trace, determinant}.
std::pair<double, double> mean_mode(const Block& b) {
  const auto n = static_cast<double>(b.q.size());
  const double q = b.q[0], a = b.steps.eta_d * b.steps.lambda;
  const double pull = b.steps.eta_g * q * pull_of_excess(b), g = b.steps.eta_d * b.steps.eta_g * b.kappa * n * q * q;
  if (b.steps.order == Order::Alternating) return {2 - a + pull - g, (1 + pull) * (1 - a)};
  return {2 - a + pull, (1 + pull) * (1 - a) + g};
}

/// Roots of z^2 - trace z + determinant, without cancellation.
std::pair<Complex, Complex> roots(double trace, double determinant) {
  const double discriminant = trace * trace / 4 - determinant;
  if (discriminant < 0) {
    const double turn = std::sqrt(-discriminant);
    return {{trace / 2, turn}, {trace / 2, -turn}};
  }
  const double large = trace / 2 + std::copysign(std::sqrt(discriminant), trace);
  return {large, large == 0 ? 0 : determinant / large};
}

void sort_by_modulus(std::vector<Complex>& values) {
  std::ranges::stable_sort(values, [](Complex a, Complex b) { return std::abs(a) > std::abs(b); });
}

Verdict verdict_of(Complex leading) {
  // Rounding of a modulus of 1: square roots of determinants that are 1 up to a few units.
  constexpr double kRounding = 1e-12;
  const double modulus = std::abs(leading);
  if (modulus > 1 + kRounding) return Verdict::Divergent;
  if (modulus >= 1 - kRounding) return Verdict::Neutral;
  if (leading.imag() != 0) return Verdict::Oscillating;
  return leading.real() < 0 ? Verdict::Period2 : Verdict::Monotone;
}

}  // namespace

std::string name(Verdict verdict) {
  switch (verdict) {
    case Verdict::Monotone: return "monotone";
    case Verdict::Oscillating: return "oscillating";
    case Verdict::Period2: return "period-2";
    case Verdict::Neutral: return "neutral";
    case Verdict::Divergent: return "divergent";
  }
  return "unknown";
}

double Block::delta() const { return p - std::accumulate(q.begin(), q.end(), 0.); }

bool jury_stable(double trace, double determinant) {
  return std::abs(determinant) < 1 && std::abs(trace) < 1 + determinant;
}

std::vector<Complex> eigenvalues_of(const at::Tensor& matrix) {
  const auto values = at::linalg_eigvals(matrix.to(at::kDouble)).to(at::kComplexDouble);
  const auto parts = at::view_as_real(values).contiguous();
  std::vector<Complex> all;
  for (std::int64_t i = 0; i < parts.size(0); ++i)
    all.emplace_back(parts.const_data_ptr<double>()[2 * i], parts.const_data_ptr<double>()[2 * i + 1]);
  sort_by_modulus(all);
  return all;
}

at::Tensor block_matrix(const Block& block) {
  check_block(block);
  const auto n = std::ssize(block.q);
  const double keep = block.steps.decay(), h = pull_of_excess(block);
  auto matrix = at::zeros({n + 1, n + 1}, at::kDouble);
  auto m = matrix.accessor<double, 2>();
  for (std::int64_t j = 0; j < n; ++j) m[n][j] = -block.steps.eta_d * block.kappa * block.q[static_cast<size_t>(j)];
  m[n][n] = keep;
  for (std::int64_t j = 0; j < n; ++j) {
    const double step = block.steps.eta_g * block.q[static_cast<size_t>(j)];
    if (block.steps.order == Order::Alternating) {
      for (std::int64_t k = 0; k <= n; ++k) m[j][k] = step * m[n][k];
    } else {
      m[j][n] = step;
    }
    m[j][j] += 1 + step * h;
  }
  return matrix;
}

Prediction predict(const Block& block) {
  check_block(block);
  Prediction result;
  if (equal_masses(block)) {
    const auto [trace, determinant] = mean_mode(block);
    const auto [first, second] = roots(trace, determinant);
    result.mean_rate = std::max(std::abs(first), std::abs(second));
    result.eigenvalues = {first, second};
    if (block.q.size() > 1) {
      result.difference = 1 + block.steps.eta_g * block.q[0] * pull_of_excess(block);
      result.eigenvalues.insert(result.eigenvalues.end(), block.q.size() - 1, *result.difference);
    }
    sort_by_modulus(result.eigenvalues);
  } else {
    result.eigenvalues = eigenvalues_of(block_matrix(block));
  }
  result.rate = std::abs(result.eigenvalues[0]);
  result.verdict = verdict_of(result.eigenvalues[0]);
  const bool converges = result.verdict != Verdict::Neutral && result.verdict != Verdict::Divergent;
  result.per_decade = converges ? std::log(10) / -std::log(result.rate) : kInfinity;
  return result;
}

double coupling(const Block& block) {
  const double squares = std::inner_product(block.q.begin(), block.q.end(), block.q.begin(), 0.);
  return block.steps.eta_d * block.steps.eta_g * block.kappa * squares;
}

Boundaries boundaries(const Steps& steps) {
  check_steps(steps);
  const double a = steps.eta_d * steps.lambda;
  if (steps.order == Order::Simultaneous) return {a * a / 4, a, a};
  // From a = 1 on the eigenvalues are real and of opposite signs: the larger one decides, and nothing turns round.
  if (a >= 1) return {2 - a, 2 - a, 4 - 2 * a};
  const double root = std::sqrt(1 - a);
  return {(1 - root) * (1 - root), (1 + root) * (1 + root), 4 - 2 * a};
}

Recommendation recommend(const Block& block, const Kernel& kernel) {
  check_block(block);
  require(block.steps.lambda > 0, "recommend: with lambda = 0 no width and no step converges");
  const double a = block.steps.eta_d * block.steps.lambda, g = coupling(block);
  const auto [monotone, oscillating, stable] = boundaries(block.steps);
  const bool alternating = block.steps.order == Order::Alternating;
  // In the middle of the band on a logarithmic axis: (1 - s)(1 + s) = a with s = sqrt(1 - a).
  const double best = !alternating ? monotone : a < 1 ? a : monotone;
  const auto sigma_for = [&](double wanted) { return kernel.sigma * std::sqrt(g / wanted); };
  Recommendation r{};
  r.sigma = sigma_for(best);
  r.sigma_high = sigma_for(monotone);
  r.sigma_low = alternating ? sigma_for(oscillating) : r.sigma_high;
  Block at_sigma = block;
  at_sigma.kappa *= best / g;
  r.sigma_rate = predict(at_sigma).rate;
  r.eta_g = block.steps.eta_g * best / g;
  Block at_eta = block;
  at_eta.steps.eta_g = r.eta_g;
  r.eta_g_rate = predict(at_eta).rate;
  return r;
}

}  // namespace unbend::gan
