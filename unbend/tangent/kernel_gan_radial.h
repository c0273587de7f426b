// phi(r^2) = -2 dK/d(r^2) of the radial kernels in vectors of doubles, with a width per lane.
#pragma once

#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include <vector>

#include "unbend/tangent/kernel_gan_kernel.h"

namespace unbend::gan {

namespace hn = hwy::HWY_NAMESPACE;
using Doubles = hn::ScalableTag<double>;
using Vector = hn::Vec<Doubles>;

HWY_INLINE Vector gaussian_slope(Doubles d, Vector s, Vector inverse_square) {
  const auto exponent = hn::Mul(hn::Mul(s, inverse_square), hn::Set(d, -.5));
  return hn::Mul(hn::Exp(d, exponent), inverse_square);
}

/// `inverse_square` is 1 / sigma^2; the kernel's own sigma is not used.
template <KernelKind kKind>
HWY_INLINE Vector slope(Doubles d, const Kernel& kernel, Vector s, Vector inverse_square) {
  if constexpr (kKind == KernelKind::Gaussian) {
    return gaussian_slope(d, s, inverse_square);
  } else if constexpr (kKind == KernelKind::RationalQuadratic) {
    const double m = kernel.shape;
    const auto base = hn::MulAdd(hn::Mul(s, inverse_square), hn::Set(d, 1 / (2 * m)), hn::Set(d, 1));
    return hn::Mul(hn::Exp(d, hn::Mul(hn::Log(d, base), hn::Set(d, -m - 1))), inverse_square);
  } else if constexpr (kKind == KernelKind::MultiGaussian) {
    auto sum = hn::Zero(d);
    for (const double f : kernel.factors)
      sum = hn::Add(sum, gaussian_slope(d, s, hn::Mul(inverse_square, hn::Set(d, 1 / (f * f)))));
    return hn::Mul(sum, hn::Set(d, 1 / static_cast<double>(kernel.factors.size())));
  } else {
    static_assert(kKind == KernelKind::Laplacian);
    const auto r = hn::Sqrt(s), inverse = hn::Sqrt(inverse_square);
    const auto value = hn::Mul(hn::Exp(d, hn::Neg(hn::Mul(r, inverse))), hn::Div(inverse, r));
    return hn::IfThenElseZero(hn::Gt(r, hn::Zero(d)), value);  // no direction to pull in where points meet
  }
}

}  // namespace unbend::gan
