#include "unbend/calculus/check.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>

#include "unbend/base/error.h"
#include "unbend/calculus/algebra.h"

namespace unbend {
namespace {

enum class Precision { Double, Single, Half };

Precision precision_of(const Space& space) {
  Precision least = Precision::Double;
  for (const Leaf& leaf : space.leaves) {
    least = std::max(least, leaf.dtype == at::kDouble  ? Precision::Double
                            : leaf.dtype == at::kFloat ? Precision::Single
                                                       : Precision::Half);
  }
  return least;
}

double tolerance_of(const LinearMap& a, double in_double, double in_single, double in_half) {
  const Precision least = std::max(precision_of(a.domain()), precision_of(a.codomain()));
  return least == Precision::Double ? in_double : least == Precision::Single ? in_single : in_half;
}

CheckResult compare(double error, double tolerance, const std::string& what) {
  const bool ok = error <= tolerance;  // false for NaN
  return {ok, error, tolerance, fmt::format("{}: relative error {:.3g}, tolerance {:.1g}", what, error, tolerance)};
}

double relative(double difference, double scale) { return difference == 0 ? 0 : std::abs(difference) / scale; }

Tensors combine(const Tensors& x, double factor, const Tensors& y) {  // x + factor y
  Tensors sum;
  for (size_t i = 0; i < x.size(); ++i) sum.push_back(x[i] + factor * y[i]);
  return sum;
}

double dot_tolerance(const LinearMap& a) { return tolerance_of(a, 1e-10, 1e-4, 1e-2); }

}  // namespace

CheckResult dot_test(const LinearMap& a, uint64_t seed) {
  Random random(seed);
  const Tensors v = random_normals(a.domain(), random), c = random_normals(a.codomain(), random);
  const Tensors pushed = a.push(v);
  const double left = inner(pushed, c), right = inner(v, a.pull(c));
  return compare(relative(left - right, norm(pushed) * norm(c)), dot_tolerance(a), "<A v, c> against <v, A^T c>");
}

std::string check_properties(const LinearMap& a, uint64_t seed) {
  Random random(seed);
  const Tensors x = random_normals(a.domain(), random), y = random_normals(a.domain(), random);
  const Tensors ax = a.push(x);
  const double tolerance = dot_tolerance(a), scale = norm(ax) * norm(x);
  const auto differs = [&](const Tensors& got, const Tensors& expected) {
    return norm(combine(got, -1, expected)) > tolerance * std::max(norm(expected), norm(x));
  };
  const auto wrong = [&](const char* property, const char* why) {
    return fmt::format("the map of {} is declared {}, but {}", to_string(a.domain()), property, why);
  };
  if (a.has(Property::Zero) && norm(ax) > 0) return wrong("zero", "A x is not zero for a random x");
  if (a.has(Property::Identity) && differs(ax, x)) return wrong("identity", "A x differs from x for a random x");
  if (a.has(Property::Symmetric)) {
    const Tensors ay = a.push(y);
    if (std::abs(inner(ax, y) - inner(x, ay)) > tolerance * (norm(ax) * norm(y) + norm(x) * norm(ay)))
      return wrong("symmetric", "<A x, y> differs from <x, A y> for random x and y");
  }
  if (a.has(Property::Psd) && inner(x, ax) < -tolerance * scale) return wrong("psd", "<x, A x> < 0 for a random x");
  if (a.has(Property::Nsd) && inner(x, ax) > tolerance * scale) return wrong("nsd", "<x, A x> > 0 for a random x");
  if (a.has(Property::Orthogonal) && differs(a.pull(ax), x))
    return wrong("orthogonal", "A^T A x differs from x for a random x");
  if (a.has(Property::Diagonal)) {  // then A (x y) = x (A y), element by element
    Tensors xy, xay;
    const Tensors ay = a.push(y);
    for (size_t i = 0; i < x.size(); ++i) xy.push_back(x[i] * y[i]), xay.push_back(x[i] * ay[i]);
    if (differs(a.push(xy), xay)) return wrong("diagonal", "A (x y) differs from x (A y) for random x and y");
  }
  return "";
}

CheckResult check_linearization(const Function& f, const Tensors& at, uint64_t seed, const LinearizeOptions& options) {
  const Linearization l = linearize(f, at, options);
  if (options.pull) {
    const CheckResult adjoint = dot_test(l.jacobian, seed);
    if (!adjoint) return adjoint;
  }
  Random random(seed + 1);
  Tensors point, v = random_normals(l.jacobian.domain(), random);
  for (const at::Tensor& x : at) point.push_back(x.detach());
  const Tensors pushed = l.jacobian.push(v);
  const bool wide = tolerance_of(l.jacobian, 1, 0, 0) == 1;
  // A step in proportion to the point, and a few around it: rounding and curvature decide which one is best.
  const double size = std::max(norm(point), 1e-3) / std::max(norm(v), 1e-30);
  double best = INFINITY;
  const at::NoGradGuard no_gradients;
  for (const double step :
       wide ? std::vector<double>{1e-4, 1e-5, 1e-6, 1e-7} : std::vector<double>{.1, .03, 1e-2, 3e-3}) {
    const double h = step * size;
    const Tensors above = f(combine(point, h, v)), below = f(combine(point, -h, v));
    Tensors difference;
    for (size_t i = 0; i < above.size(); ++i) difference.push_back((above[i].detach() - below[i].detach()) / (2 * h));
    best = std::min(best, relative(norm(combine(difference, -1, pushed)), std::max(norm(difference), norm(pushed))));
  }
  return compare(best, wide ? 1e-6 : 1e-2, "J v against central differences");
}

}  // namespace unbend
