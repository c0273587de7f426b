// Sums of kernel gradients over many sources, in tiles that stay in the first-level cache.
#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "unbend/tangent/kernel_gan_radial.h"

namespace unbend::gan {
namespace {

constexpr std::int64_t kTile = 512;  // sources at a time: squared distances and coefficients take 8 KiB

/// grad f at one point.
template <KernelKind kKind>
void radial_gradient(const Kernel& kernel, const Expansion& f, const double* point, double* out, double cutoff) {
  const Doubles d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const double inverse = 1 / (kernel.sigma * kernel.sigma);
  const auto inverse_square = hn::Set(d, inverse);
  const auto farthest = hn::Set(d, cutoff > 0 ? cutoff * cutoff / inverse : INFINITY);
  alignas(64) std::array<double, kTile> coefficients;
  std::fill(out, out + f.dims, 0);
  for (std::int64_t begin = 0; begin < f.count; begin += kTile) {
    const std::int64_t count = std::min(kTile, f.count - begin);
    for (std::int64_t i = 0; i < count; i += lanes) {
      const auto at = static_cast<std::size_t>(begin + i);
      auto s = hn::Zero(d);
      for (std::int64_t k = 0; k < f.dims; ++k) {
        const auto difference =
            hn::Sub(hn::LoadU(d, f.coordinates[static_cast<std::size_t>(k)].data() + at), hn::Set(d, point[k]));
        s = hn::MulAdd(difference, difference, s);
      }
      auto coefficient = hn::Zero(d);
      if (!hn::AllTrue(d, hn::Gt(s, farthest)))
        coefficient = hn::Mul(slope<kKind>(d, kernel, s, inverse_square), hn::LoadU(d, f.weights.data() + at));
      hn::Store(coefficient, d, coefficients.data() + i);
    }
    for (std::int64_t k = 0; k < f.dims; ++k) {
      auto sum = hn::Zero(d);
      const double* const column = f.coordinates[static_cast<std::size_t>(k)].data() + begin;
      const auto x = hn::Set(d, point[k]);
      for (std::int64_t i = 0; i < count; i += lanes)
        sum = hn::MulAdd(hn::Load(d, coefficients.data() + i), hn::Sub(hn::LoadU(d, column + i), x), sum);
      out[k] += hn::GetLane(hn::SumOfLanes(d, sum));
    }
  }
}

/// The same for the tangent kernel of a ReLU layer. With u = (x, sigma), v = (z, sigma), t the cosine between them:
/// sigma^2 grad_u K = v (2 kappa_0 + t kappa_0') + u |v| / |u| (sqrt(1 - t^2) / pi - t^2 kappa_0'),
/// where kappa_0 = 1 - angle / pi and kappa_0' = 1 / (pi sqrt(1 - t^2)).
void ntk_gradient(const Kernel& kernel, const Expansion& f, const double* point, double* out) {
  using std::numbers::pi;
  std::fill(out, out + f.dims, 0);
  const double one = kernel.sigma * kernel.sigma;
  double x_square = one;
  for (std::int64_t k = 0; k < f.dims; ++k) x_square += point[k] * point[k];
  double of_point = 0;
  for (std::int64_t i = 0; i < f.count; ++i) {
    const auto at = static_cast<std::size_t>(i);
    double product = one, z_square = one;
    for (std::int64_t k = 0; k < f.dims; ++k) {
      const double z = f.coordinates[static_cast<std::size_t>(k)][at];
      product += z * point[k];
      z_square += z * z;
    }
    const double t = std::clamp(product / std::sqrt(x_square * z_square), -1., 1.), sine = std::sqrt(1 - t * t);
    const double kink = sine > 0 ? 1 / (pi * sine) : 0;  // no direction to pull in where points meet
    const double of_source = 2 * (1 - std::acos(t) / pi) + t * kink;
    of_point += f.weights[at] * std::sqrt(z_square / x_square) * (sine / pi - t * t * kink);
    for (std::int64_t k = 0; k < f.dims; ++k)
      out[k] += f.weights[at] * of_source * f.coordinates[static_cast<std::size_t>(k)][at];
  }
  for (std::int64_t k = 0; k < f.dims; ++k) out[k] = (out[k] + of_point * point[k]) / one;
}

}  // namespace

void gradients(const Kernel& kernel, const Expansion& f, const double* points, std::int64_t n, double* out,
               double cutoff) {
  const auto one = [&](std::int64_t i) {
    const double* const point = points + i * f.dims;
    double* const gradient = out + i * f.dims;
    switch (kernel.kind) {
      case KernelKind::Gaussian: return radial_gradient<KernelKind::Gaussian>(kernel, f, point, gradient, cutoff);
      case KernelKind::RationalQuadratic:
        return radial_gradient<KernelKind::RationalQuadratic>(kernel, f, point, gradient, cutoff);
      case KernelKind::MultiGaussian:
        return radial_gradient<KernelKind::MultiGaussian>(kernel, f, point, gradient, cutoff);
      case KernelKind::Laplacian: return radial_gradient<KernelKind::Laplacian>(kernel, f, point, gradient, cutoff);
      case KernelKind::ReluNtk: return ntk_gradient(kernel, f, point, gradient);
    }
  };
  constexpr std::int64_t kPairsPerTask = 1 << 15;
  at::parallel_for(0, n, std::max<std::int64_t>(1, kPairsPerTask / std::max<std::int64_t>(1, f.count)),
                   [&](std::int64_t first, std::int64_t last) {
                     for (std::int64_t i = first; i < last; ++i) one(i);
                   });
}

}  // namespace unbend::gan
