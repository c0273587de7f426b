#include "unbend/tangent/kernel_gan_kernel.h"

#include <cmath>
#include <numbers>

#include "unbend/base/error.h"
#include "unbend/tensor/check.h"

namespace unbend::gan {
namespace {

using std::numbers::pi;

at::Tensor squared_distances(const at::Tensor& x, const at::Tensor& z) {
  return (x.unsqueeze(1) - z.unsqueeze(0)).square().sum(-1);
}

bool positive(double x) { return x > 0 && std::isfinite(x); }

}  // namespace

const std::vector<std::string>& kernel_names() {
  static const std::vector<std::string> names{"gaussian", "rational-quadratic", "multi-gaussian", "laplacian",
                                              "relu-ntk"};
  return names;
}

KernelKind kernel_kind(const std::string& name) {
  for (std::size_t i = 0; i < kernel_names().size(); ++i)
    if (name == kernel_names()[i]) return static_cast<KernelKind>(i);
  fail_usage("kernel '{}' is not one of {}", name, fmt::join(kernel_names(), ", "));
}

std::string name(KernelKind kind) { return kernel_names()[static_cast<std::size_t>(kind)]; }

void check_kernel(const Kernel& kernel) {
  require(positive(kernel.sigma), "kernel: sigma must be positive and finite, not {}", kernel.sigma);
  require(kernel.kind != KernelKind::RationalQuadratic || positive(kernel.shape),
          "kernel: the shape m must be positive and finite, not {}", kernel.shape);
  if (kernel.kind != KernelKind::MultiGaussian) return;
  require(!kernel.factors.empty(), "kernel: a multi-scale Gaussian needs factors of its width");
  for (const double f : kernel.factors) require(positive(f), "kernel: factor {} is not positive and finite", f);
}

double Kernel::curvature() const {
  require(smooth(), "the kernel {} is not smooth where points meet: it has no local linear theory", name(kind));
  if (kind != KernelKind::MultiGaussian) return 1 / (sigma * sigma);
  double sum = 0;
  for (const double f : factors) sum += 1 / (f * f * sigma * sigma);
  return sum / static_cast<double>(factors.size());
}

Radial radial(const Kernel& kernel, const at::Tensor& s) {
  const double inverse = 1 / (kernel.sigma * kernel.sigma);
  switch (kernel.kind) {
    case KernelKind::Gaussian: {
      const auto k = at::exp(s * (-inverse / 2));
      return {k, k * inverse, k * (-inverse * inverse / 2)};
    }
    case KernelKind::RationalQuadratic: {
      const double m = kernel.shape;
      const auto base = 1 + s * (inverse / (2 * m));
      const auto k = base.pow(-m);
      return {k, k / base * inverse, k / base.square() * (-inverse * inverse * (m + 1) / (2 * m))};
    }
    case KernelKind::MultiGaussian: {
      Radial sum;
      const auto count = static_cast<double>(kernel.factors.size());
      for (const double factor : kernel.factors) {
        Kernel one = kernel;
        one.kind = KernelKind::Gaussian;
        one.sigma = factor * kernel.sigma;
        const Radial part = radial(one, s);
        if (!sum.value.defined()) {
          sum = {part.value / count, part.slope / count, part.slope_derivative / count};
        } else {
          sum = {sum.value + part.value / count, sum.slope + part.slope / count,
                 sum.slope_derivative + part.slope_derivative / count};
        }
      }
      return sum;
    }
    case KernelKind::Laplacian:
    case KernelKind::ReluNtk: break;
  }
  fail_input("the kernel {} is not a smooth function of the distance", name(kernel.kind));
}

at::Tensor kernel_matrix(const Kernel& kernel, const at::Tensor& x, const at::Tensor& z) {
  check_kernel(kernel);
  require(x.dim() == 2 && z.dim() == 2 && x.size(1) == z.size(1), "kernel: points {} and {} are not [n, d] and [m, d]",
          shape_string(x.sizes()), shape_string(z.sizes()));
  if (kernel.smooth()) return radial(kernel, squared_distances(x, z)).value;
  if (kernel.kind == KernelKind::Laplacian) return at::exp(squared_distances(x, z).sqrt() / -kernel.sigma);
  // ReLU NTK: |u| |v| (t kappa_0(t) + kappa_1(t)) with t the cosine between u = (x / sigma, 1) and v.
  const auto u = at::constant_pad_nd(x / kernel.sigma, {0, 1}, 1), v = at::constant_pad_nd(z / kernel.sigma, {0, 1}, 1);
  const auto norms = u.norm(2, {1}).unsqueeze(1) * v.norm(2, {1}).unsqueeze(0);
  const auto t = (at::mm(u, v.t()) / norms).clamp(-1, 1);
  const auto angle = at::acos(t);
  return norms * (2 * t * (pi - angle) + (1 - t * t).clamp_min(0).sqrt()) / pi;
}

Expansion Expansion::with_room(std::int64_t dims, std::int64_t capacity) {
  constexpr std::int64_t kMostLanes = 16;
  const auto room = static_cast<std::size_t>((capacity + kMostLanes - 1) / kMostLanes * kMostLanes);
  return {dims, 0, std::vector<std::vector<double>>(static_cast<std::size_t>(dims), std::vector<double>(room)),
          std::vector<double>(room)};
}

at::Tensor values(const Kernel& kernel, const Expansion& f, const at::Tensor& points) {
  std::vector<at::Tensor> columns;
  for (const auto& column : f.coordinates)
    columns.push_back(at::tensor(at::ArrayRef<double>(column.data(), static_cast<std::size_t>(f.count))));
  const auto weights = at::tensor(at::ArrayRef<double>(f.weights.data(), static_cast<std::size_t>(f.count)));
  return at::mv(kernel_matrix(kernel, points, at::stack(columns, 1)), weights);
}

}  // namespace unbend::gan
