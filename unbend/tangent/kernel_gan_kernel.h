// Kernels of a discriminator that lives in a reproducing kernel Hilbert space, and sums of their gradients: the
// N-body problem inside the training of a kernel GAN (methods/gda_gan.md).
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <string>
#include <vector>

namespace unbend::gan {

/// With r = |x - z| and the width sigma:
enum class KernelKind {
  Gaussian,           ///< exp(-r^2 / (2 sigma^2))
  RationalQuadratic,  ///< (1 + r^2 / (2 m sigma^2))^-m
  MultiGaussian,      ///< mean of Gaussians of widths factor * sigma
  Laplacian,          ///< exp(-r / sigma): has a kink at r = 0
  ReluNtk,            ///< tangent kernel of a wide ReLU layer (Jacot et al. 2018) on (x / sigma, 1): a kink at x = z
};

struct Kernel {
  KernelKind kind = KernelKind::Gaussian;
  double sigma = 1;
  double shape = 1;                          ///< m of RationalQuadratic
  std::vector<double> factors = {.5, 1, 2};  ///< of MultiGaussian

  /// Whether K is twice differentiable where x = z, so that there is a local linear theory.
  bool smooth() const { return kind != KernelKind::Laplacian && kind != KernelKind::ReluNtk; }
  bool radial() const { return kind != KernelKind::ReluNtk; }
  /// -K''(0) along a line; proportional to 1 / sigma^2. Input error if the kernel is not smooth.
  double curvature() const;
};

/// "gaussian", "rational-quadratic", "multi-gaussian", "laplacian", "relu-ntk"; Usage error for another name.
KernelKind kernel_kind(const std::string& name);
std::string name(KernelKind kind);
const std::vector<std::string>& kernel_names();

/// Input error for widths, shapes and factors that are not positive and finite.
void check_kernel(const Kernel& kernel);

/// K between points x [n, d] and z [m, d]: [n, m]. Differentiable (at x = z only where the kernel is).
at::Tensor kernel_matrix(const Kernel& kernel, const at::Tensor& x, const at::Tensor& z);

/// A radial smooth kernel as functions of s = r^2, element-wise and differentiable: K, phi = -2 dK/ds (so that
/// grad_x K = -(x - z) phi), and dphi/ds.
struct Radial {
  at::Tensor value, slope, slope_derivative;
};
Radial radial(const Kernel& kernel, const at::Tensor& squared_distance);

/// f = sum over sources of weight * K(., source), in columns as the sums want them: with room for whole vectors, and
/// weights of 0 beyond `count`.
struct Expansion {
  std::int64_t dims = 0, count = 0;
  std::vector<std::vector<double>> coordinates;  ///< one column per dimension
  std::vector<double> weights;

  static Expansion with_room(std::int64_t dims, std::int64_t capacity);
};

/// Gradients of f at `points` [n, dims], row-major, to `out` likewise. Sources farther away than `cutoff` widths may
/// be left out (0: none is). Vectors over sources; points are spread over LibTorch's threads where there is enough to
/// do. Radial kernels: 3 dims + 25 flops or so per pair.
void gradients(const Kernel& kernel, const Expansion& f, const double* points, std::int64_t n, double* out,
               double cutoff = 0);

/// f at points [n, d] by kernel_matrix, for checks and pictures: [n].
at::Tensor values(const Kernel& kernel, const Expansion& f, const at::Tensor& points);

}  // namespace unbend::gan
