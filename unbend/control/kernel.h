// Covariance functions of Gaussian processes: sums of products of simple factors. All depend on two points through
// their squared distance r^2 and their inner product only; inputs of unlike units are scaled beforehand.
#pragma once

#include <Eigen/Core>
#include <string>
#include <vector>

#include "unbend/base/json.h"

namespace unbend::control {

struct Factor {
  enum class Kind {
    Constant,            ///< a^2
    SquaredExponential,  ///< exp(-r^2 / (2 l^2))
    Matern32,            ///< (1 + s) exp(-s), s = sqrt(3) r / l
    Matern52,            ///< (1 + s + s^2 / 3) exp(-s), s = sqrt(5) r / l
    RationalQuadratic,   ///< (1 + r^2 / (2 a l^2))^-a; parameters l, a
    Periodic,            ///< exp(-2 sin^2(pi r / p) / l^2); parameters l, p
    Linear,              ///< b^2 + z . z'
  };
  Kind kind;
  std::vector<double> parameters;  ///< positive, in the order of the formula
  bool fixed = false;              ///< left alone when parameters are fitted
};

/// A product of factors; a Kernel is the sum of its terms. An empty kernel is zero.
using Term = std::vector<Factor>;
struct Kernel {
  std::vector<Term> terms;
  bool empty() const { return terms.empty(); }
};

/// a^2 exp(-r^2 / (2 l^2)).
Kernel squared_exponential(double amplitude, double length);
/// a^2 (1 + z . z').
Kernel linear(double amplitude);
Kernel operator+(Kernel a, const Kernel& b);

/// k(z, z') for each squared distance and inner product, all [N].
void evaluate(const Kernel& kernel, const Eigen::ArrayXd& squared, const Eigen::ArrayXd& inner, Eigen::ArrayXd& out);
double evaluate(const Kernel& kernel, double squared, double inner);

/// The parameters that are not fixed, as logarithms, in the order of terms and factors.
std::vector<double> log_parameters(const Kernel& kernel);
std::vector<std::string> parameter_names(const Kernel& kernel);  ///< of the same
Kernel with_log_parameters(Kernel kernel, const std::vector<double>& values);
/// d k / d log_parameters[i], like evaluate.
void evaluate_gradient(const Kernel& kernel, std::size_t parameter, const Eigen::ArrayXd& squared,
                       const Eigen::ArrayXd& inner, Eigen::ArrayXd& out);

/// A constant L with |k(x, z) - k(y, z)| <= L |x - y| for all points of norm at most `radius`.
double lipschitz(const Kernel& kernel, double radius);

/// [[{"constant": 1.2}, {"squared_exponential": 0.5}], [{"linear": 1, "fixed": true}]]: a list of terms.
Kernel kernel_from_json(const Json& json, std::string_view where);
Json to_json(const Kernel& kernel);

}  // namespace unbend::control
