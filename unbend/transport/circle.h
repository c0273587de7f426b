// Measures on the circle of length 1, [0, 1) with its ends joined, and exact optimal transport between them (Delon,
// Salomon and Sobolevski 2010). Angles are told apart from positions by their period: 1, 24 hours, 2 pi, 360 degrees.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace unbend::transport {

/// A probability measure on the circle as a quantile function: stretches of mass, each spread evenly from `left` to
/// `right`, or all at one place where they are equal. Positions do not fall.
struct CircularMeasure {
  std::vector<double> left, right;  ///< in [0, 1]
  std::vector<double> weights;      ///< positive, sum 1
  std::vector<std::int64_t> atoms;  ///< which of the caller's values or bins each was
  double given = 0;                 ///< the sum of the masses before they were scaled

  std::int64_t size() const { return static_cast<std::int64_t>(weights.size()); }
  bool is_discrete() const;
  double mean() const;  ///< sum of weights times centres, coordinates in [0, 1]
};

enum class Range {
  Refuse,  ///< values beyond [-period, period] are an Input error: probably another unit
  Reduce,  ///< all values are taken modulo the period
};

/// Atoms at `values` with `masses` (none: equal). Input error that starts with `name` for no values, numbers that are
/// not finite, negative masses, no mass at all, other numbers of masses than of values.
CircularMeasure circular_atoms(std::span<const double> values, std::span<const double> masses, double period,
                               std::string_view name, Range range = Range::Refuse);

/// Bins of equal width around the whole circle, mass spread evenly over each. Input error as above.
CircularMeasure circular_histogram(std::span<const double> masses, std::string_view name);

double wrap(double x);                            ///< to [-1/2, 1/2]: x - round(x)
double reduced(double value, double period = 1);  ///< into [0, 1)

/// Geodesic distance, at most 1/2.
double circular_distance(double x, double y);

struct CircularTransport {
  double cost = 0;   ///< COT_p^p
  double shift = 0;  ///< alpha: COT_p^p = integral over [0, 1] of |Q_mu(s) - Q_nu(s - alpha)|^p
};

/// Exact for p >= 1: bisection on the slope of a convex function of alpha, whose last piece is linear between atoms for
/// p = 2, up to rounding; for other p and for histograms to about 1e-12.
CircularTransport circular_transport(const CircularMeasure& mu, const CircularMeasure& nu, double p = 2);

/// COT_2^2 to the uniform measure, closed form.
double transport_to_uniform(const CircularMeasure& nu);

}  // namespace unbend::transport
