// Symmetric stable laws: those that sums of independent variables of one law keep (Gaussian, Cauchy, and between).
#pragma once

#include <ATen/ATen.h>

#include <string_view>

namespace unbend {

/// A standard variable s of the law has P(s <= z) = cdf(law, z). The Gaussian's is N(0, 1), so that a scale is a
/// standard deviation; the others have the characteristic function exp(-|t|^alpha), so that a stable scale of
/// alpha = 2 is a standard deviation over sqrt(2).
struct Law {
  enum class Kind { Gaussian, Cauchy, Stable } kind = Kind::Gaussian;
  double alpha = 2;  ///< a sum of c_i s_i has the scale (sum |c_i|^alpha)^(1/alpha)

  bool operator==(const Law&) const = default;
  bool gaussian() const { return kind == Kind::Gaussian; }
};

inline Law gaussian_law() { return {}; }
inline Law cauchy_law() { return {Law::Kind::Cauchy, 1}; }
/// Input error unless 0 < alpha <= 2.
Law stable_law(double alpha);
/// "gaussian", "cauchy", or "stable" with its alpha. Usage error for other names.
Law law_named(std::string_view name, double alpha);
std::string_view name_of(const Law& law);

/// P(s <= z); closed forms for the Gaussian, Cauchy and alpha = 2, else Zolotarev's integral (Nolan 2020, "Univariate
/// Stable Distributions", theorem 3.1) to about 1e-10.
double cdf(const Law& law, double z);
/// The z with cdf(z) = p, 0 < p < 1.
double quantile(const Law& law, double p);

/// log cdf elementwise, without loss in the lower tail. Differentiable but for laws without a closed form.
at::Tensor log_cdf(const Law& law, const at::Tensor& z);

/// Independent standard variables (Chambers, Mallows and Stuck 1976) in the shape, dtype and on the device of `like`.
at::Tensor standard_variables(const Law& law, const at::Tensor& like, at::Generator& generator);

}  // namespace unbend
