#include "unbend/transport/circle.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "unbend/base/error.h"

namespace unbend::transport {
namespace {

void check_mass(double mass, std::size_t i, std::string_view name) {
  require(std::isfinite(mass) && mass >= 0, "{}: mass {} is {}, expected a finite number from 0 on", name, i, mass);
}

void scale_to_one(CircularMeasure& m, std::string_view name) {
  m.given = std::accumulate(m.weights.begin(), m.weights.end(), 0.0);
  require(m.given > 0 && std::isfinite(m.given), "{}: its total mass is {}", name, m.given);
  for (double& w : m.weights) w /= m.given;
}

/// Walks a measure's stretches upwards in s from where `s` lies; turns of the circle add 1 to positions.
class Walk {
 public:
  Walk(const CircularMeasure& m, double s) : m_(m) {
    const double turn = std::floor(s);
    double rest = s - turn;
    lift_ = turn;
    while (i_ + 1 < m.size() && rest >= weight()) rest -= weight(), ++i_;
    used_ = std::clamp(rest, 0.0, weight());
  }
  double left_over() const { return std::max(0.0, weight() - used_); }
  double value(double ahead) const {  // `ahead` beyond here
    const auto i = static_cast<std::size_t>(i_);
    return lift_ + m_.left[i] + (m_.right[i] - m_.left[i]) * ((used_ + ahead) / weight());
  }
  void advance(double step) { used_ += step; }
  void next() {
    used_ = 0;
    if (++i_ == m_.size()) i_ = 0, lift_ += 1;
  }

 private:
  double weight() const { return m_.weights[static_cast<std::size_t>(i_)]; }
  const CircularMeasure& m_;
  std::int64_t i_ = 0;
  double lift_ = 0, used_ = 0;
};

/// Integral over a unit interval of |a + (b - a) t|^p.
double power_integral(double a, double b, double p) {
  if (p == 2) return (a * a + a * b + b * b) / 3;
  if (std::abs(b - a) < 1e-9 * (std::abs(a) + std::abs(b))) return std::pow(std::abs(a + b) / 2, p);
  const auto primitive = [p](double x) { return std::copysign(std::pow(std::abs(x), p + 1) / (p + 1), x); };
  return (primitive(b) - primitive(a)) / (b - a);
}

/// The mean over a unit interval of the derivative of |x|^p, x going from a to b.
double power_slope(double a, double b, double p) {
  if (p == 2) return a + b;
  const double middle = (a + b) / 2;
  if (a == b || std::abs(b - a) < 1e-9 * (std::abs(a) + std::abs(b)))
    return std::copysign(p * std::pow(std::abs(middle), p - 1), middle);
  return (std::pow(std::abs(b), p) - std::pow(std::abs(a), p)) / (b - a);
}

/// C(alpha), and its slope from the right: every step of Q_nu moves to the right.
struct Value {
  double cost = 0, slope = 0;
};

Value evaluate(const CircularMeasure& mu, const CircularMeasure& nu, double alpha, double p) {
  Walk a(mu, 0), b(nu, -alpha);
  Value v;
  double at = 0;
  const auto power = [p](double x) { return p == 2 ? x * x : std::pow(std::abs(x), p); };
  while (at < 1) {
    const double step = std::min({a.left_over(), b.left_over(), 1 - at});
    const double d0 = a.value(0) - b.value(0), d1 = a.value(step) - b.value(step);
    v.cost += step * power_integral(d0, d1, p);
    v.slope += (b.value(step) - b.value(0)) * power_slope(d0, d1, p);  // at a fixed level Q_nu falls as alpha grows
    const bool a_ends = a.left_over() <= step, b_ends = b.left_over() <= step;
    a.advance(step), b.advance(step);
    at += step;
    if (a_ends) a.next();
    if (b_ends) {  // a jump of Q_nu at `at`: moving it right lets the lower value hold longer, against Q_mu behind
      const double before = b.value(0);
      b.next();
      v.slope += power(a.value(0) - before) - power(a.value(0) - b.value(0));
    }
    if (step <= 0 && !a_ends && !b_ends) break;
  }
  return v;
}

std::vector<double> levels(const CircularMeasure& m) {
  std::vector<double> ends(m.weights.size());
  std::partial_sum(m.weights.begin(), m.weights.end(), ends.begin());
  ends.back() = 1;
  return ends;
}

/// The same for atoms, whose levels are known: steps of Q_mu and Q_nu are merged.
Value evaluate_atoms(const CircularMeasure& mu, std::span<const double> mu_ends, const CircularMeasure& nu,
                     std::span<const double> nu_ends, double alpha, double p) {
  const auto power = [p](double x) { return p == 2 ? x * x : std::pow(std::abs(x), p); };
  const std::size_t n = mu.left.size(), m = nu.left.size();
  double turn = std::floor(-alpha);
  auto j = static_cast<std::size_t>(std::ranges::upper_bound(nu_ends, -alpha - turn) - nu_ends.begin());
  if (j == m) j = 0, turn += 1;
  Value v;
  double begin = 0, y = nu.left[j] + turn, end_b = nu_ends[j] + turn + alpha;
  for (std::size_t i = 0; i < n;) {
    const double end_a = mu_ends[i], end = std::min(end_a, end_b);
    v.cost += std::max(0.0, end - begin) * power(mu.left[i] - y);
    begin = end;
    i += end_a <= end;
    if (end_b > end) continue;
    if (++j == m) j = 0, turn += 1;
    const double after = nu.left[j] + turn, x = i < n ? mu.left[i] : mu.left[0] + 1;
    v.slope += power(x - y) - power(x - after);
    y = after;
    end_b = nu_ends[j] + turn + alpha;
  }
  return v;
}

}  // namespace

bool CircularMeasure::is_discrete() const { return left == right; }

double CircularMeasure::mean() const {
  double sum = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) sum += weights[i] * (left[i] + right[i]) / 2;
  return sum;
}

double wrap(double x) { return x - std::nearbyint(x); }

double reduced(double value, double period) {
  const double x = value / period, r = x - std::floor(x);
  return r >= 1 ? 0 : r;  // just below a whole turn
}

double circular_distance(double x, double y) { return std::abs(wrap(x - y)); }

CircularMeasure circular_atoms(std::span<const double> values, std::span<const double> masses, double period,
                               std::string_view name, Range range) {
  require(std::isfinite(period) && period > 0, "period is {}, expected a positive number", period);
  require(!values.empty(), "{}: no values", name);
  require(masses.empty() || masses.size() == values.size(), "{}: {} masses for {} values", name, masses.size(),
          values.size());
  std::vector<double> positions;
  for (std::size_t i = 0; i < values.size(); ++i) {
    require(std::isfinite(values[i] / period), "{}: value {} is {}, expected a finite number of periods of {:g}", name,
            i, values[i], period);
    require(range == Range::Reduce || std::abs(values[i]) <= period * (1 + 1e-9),
            "{}: value {} is {}, beyond one turn of {:g}: another period, or values to be reduced", name, i, values[i],
            period);
    if (!masses.empty()) check_mass(masses[i], i, name);
    positions.push_back(reduced(values[i], period));
  }
  std::vector<std::int64_t> order;
  for (std::size_t i = 0; i < values.size(); ++i)
    if (masses.empty() || masses[i] > 0) order.push_back(static_cast<std::int64_t>(i));
  std::ranges::sort(order, {}, [&](std::int64_t i) { return std::pair(positions[static_cast<std::size_t>(i)], i); });
  CircularMeasure m;
  for (const std::int64_t i : order) {
    m.left.push_back(positions[static_cast<std::size_t>(i)]);
    m.weights.push_back(masses.empty() ? 1.0 : masses[static_cast<std::size_t>(i)]);
  }
  m.right = m.left;
  m.atoms = std::move(order);
  scale_to_one(m, name);
  return m;
}

CircularMeasure circular_histogram(std::span<const double> masses, std::string_view name) {
  require(!masses.empty(), "{}: no bins", name);
  CircularMeasure m;
  const auto count = static_cast<double>(masses.size());
  for (std::size_t i = 0; i < masses.size(); ++i) {
    check_mass(masses[i], i, name);
    if (masses[i] == 0) continue;
    m.left.push_back(static_cast<double>(i) / count);
    m.right.push_back(static_cast<double>(i + 1) / count);
    m.weights.push_back(masses[i]);
    m.atoms.push_back(static_cast<std::int64_t>(i));
  }
  scale_to_one(m, name);
  return m;
}

CircularTransport circular_transport(const CircularMeasure& mu, const CircularMeasure& nu, double p) {
  require(std::isfinite(p) && p >= 1, "exponent p is {}, expected at least 1", p);
  double low = -1.5, high = 1.5;  // the slope changes sign in between: half a turn is as far as anything moves
  double best = INFINITY, shift = 0;
  const bool atoms = mu.is_discrete() && nu.is_discrete();
  const auto mu_ends = levels(mu), nu_ends = levels(nu);
  const auto value = [&](double alpha) {
    return atoms ? evaluate_atoms(mu, mu_ends, nu, nu_ends, alpha, p) : evaluate(mu, nu, alpha, p);
  };
  Value at_low = value(low), at_high = value(high);
  const auto consider = [&](double alpha, const Value& v) {
    if (v.cost < best) best = v.cost, shift = alpha;
  };
  consider(low, at_low), consider(high, at_high);
  for (int k = 0; k < 60 && high - low > 1e-15; ++k) {
    const double middle = (low + high) / 2;
    const Value v = value(middle);
    consider(middle, v);
    if (v.slope == 0) break;
    (v.slope < 0 ? low : high) = middle;
    (v.slope < 0 ? at_low : at_high) = v;
    // Where the function is linear on both sides of its kink, the tangents meet in the minimum: try that point once in
    // a while, and stop when it cannot be undercut.
    if (k % 8 != 7 || !(at_high.slope > 0 && at_low.slope < 0)) continue;
    const double kink =
        (at_low.cost - at_high.cost + at_high.slope * high - at_low.slope * low) / (at_high.slope - at_low.slope);
    if (!(kink > low && kink < high)) continue;
    const Value there = value(kink);
    consider(kink, there);
    const double bound = at_low.cost + at_low.slope * (kink - low);  // convex: nothing lies below the tangents
    if (there.cost - bound <= 1e-16 + 1e-15 * there.cost) break;
  }
  return {std::max(0.0, best), shift};
}

double transport_to_uniform(const CircularMeasure& nu) {
  // sum over stretches of the integral of (Q(s) - s - alpha)^2 around their mean: the variance of Q(s) - s.
  double before = 0, mean = 0, square = 0;
  for (std::int64_t i = 0; i < nu.size(); ++i) {
    const auto k = static_cast<std::size_t>(i);
    const double w = nu.weights[k], d0 = nu.left[k] - before, d1 = nu.right[k] - (before + w);
    mean += w * (d0 + d1) / 2;
    square += w * power_integral(d0, d1, 2);
    before += w;
  }
  return std::max(0.0, square - mean * mean);
}

}  // namespace unbend::transport
