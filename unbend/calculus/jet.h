// Truncated Taylor series in one variable: K derivatives for O(K^2) per operation, where nested reverse passes grow by
// a factor with each. T is double, at::Tensor (entry by entry) or another Jet.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

namespace unbend::functional {

/// c_0 + c_1 t + .. + c_K t^K. Series of different lengths combine as if the shorter one went on with zeros, so a Jet
/// of one coefficient is a constant.
template <class T>
struct Jet {
  std::vector<T> c;

  Jet(std::vector<T> coefficients) : c(std::move(coefficients)) {}  // NOLINT: by design

  /// x + t, to order K.
  static Jet variable(const T& x, int order) {
    std::vector<T> c(order + 1, x * 0.);
    c[0] = x;
    if (order > 0) c[1] = x * 0. + 1.;
    return {std::move(c)};
  }

  int order() const { return static_cast<int>(c.size()) - 1; }

  /// d^k/dt^k at t = 0.
  T derivative(int k) const {
    double factorial = 1;
    for (int i = 2; i <= k; ++i) factorial *= i;
    return c[k] * factorial;
  }

  Jet padded(int order) const {
    Jet longer = *this;
    while (longer.order() < order) longer.c.push_back(c[0] * 0.);
    return longer;
  }

  /// d/dt, one order lower.
  Jet slope() const {
    std::vector<T> lower;
    for (int k = 1; k <= order(); ++k) lower.push_back(c[k] * static_cast<double>(k));
    return {std::move(lower)};
  }
};

namespace jets {

/// The series z with z_0 given and k z_k = next(k) from lower coefficients.
template <class T, class Next>
Jet<T> from_slope(const T& first, int order, const Next& next) {
  Jet<T> z({first});
  for (int k = 1; k <= order; ++k) z.c.push_back(next(z, k) * (1. / k));
  return z;
}

/// sum over i = 1..k of i a_i b_{k-i}: the slope of a times b, at order k.
template <class T>
T slope_times(const Jet<T>& a, const std::vector<T>& b, int k) {
  T sum = a.c[1] * b[k - 1];
  for (int i = 2; i <= k; ++i) sum = sum + a.c[i] * b[k - i] * static_cast<double>(i);
  return sum;
}

}  // namespace jets

template <class T>
Jet<T> operator+(const Jet<T>& a, const Jet<T>& b) {
  const Jet<T>& longer = a.order() >= b.order() ? a : b;
  const Jet<T>& shorter = a.order() >= b.order() ? b : a;
  Jet<T> sum = longer;
  for (int k = 0; k <= shorter.order(); ++k) sum.c[k] = a.c[k] + b.c[k];
  return sum;
}

template <class T>
Jet<T> operator*(const Jet<T>& a, double factor) {
  Jet<T> product = a;
  for (T& c : product.c) c = c * factor;
  return product;
}

template <class T>
Jet<T> operator*(const Jet<T>& a, const Jet<T>& b) {
  const int order = std::max(a.order(), b.order());
  const Jet<T> x = a.padded(order), y = b.padded(order);
  Jet<T> product(std::vector<T>{});
  for (int k = 0; k <= order; ++k) {
    T sum = x.c[0] * y.c[k];
    for (int i = 1; i <= k; ++i) sum = sum + x.c[i] * y.c[k - i];
    product.c.push_back(sum);
  }
  return product;
}

template <class T>
Jet<T> operator+(const Jet<T>& a, double b) {
  Jet<T> sum = a;
  sum.c[0] = sum.c[0] + b;
  return sum;
}

namespace jets {

inline double power(double x, double p) { return std::pow(x, p); }
inline at::Tensor power(const at::Tensor& x, double p) { return x.pow(p); }
template <class T>
Jet<T> power(const Jet<T>& x, double p);

}  // namespace jets

template <class T>
Jet<T> pow(const Jet<T>& a, double power) {
  return jets::from_slope(jets::power(a.c[0], power), a.order(), [&](const Jet<T>& z, int k) {
    T sum = a.c[1] * z.c[k - 1] * (power - k + 1);
    for (int i = 2; i <= k; ++i) sum = sum + a.c[i] * z.c[k - i] * (power * i - (k - i));
    return sum / a.c[0];
  });
}

template <class T>
Jet<T> jets::power(const Jet<T>& x, double p) {
  return pow(x, p);
}

template <class T>
Jet<T> operator/(const Jet<T>& a, const Jet<T>& b) {
  const int order = std::max(a.order(), b.order());
  const Jet<T> x = a.padded(order), y = b.padded(order);
  Jet<T> q(std::vector<T>{});
  for (int k = 0; k <= order; ++k) {
    T rest = x.c[k];
    for (int i = 0; i < k; ++i) rest = rest - q.c[i] * y.c[k - i];
    q.c.push_back(rest / y.c[0]);
  }
  return q;
}

// clang-format off
template <class T> Jet<T> operator-(const Jet<T>& a) { return a * -1.; }
template <class T> Jet<T> operator-(const Jet<T>& a, const Jet<T>& b) { return a + b * -1.; }
template <class T> Jet<T> operator-(const Jet<T>& a, double b) { return a + -b; }
template <class T> Jet<T> operator+(double a, const Jet<T>& b) { return b + a; }
template <class T> Jet<T> operator-(double a, const Jet<T>& b) { return b * -1. + a; }
template <class T> Jet<T> operator*(double a, const Jet<T>& b) { return b * a; }
template <class T> Jet<T> operator/(const Jet<T>& a, double b) { return a * (1 / b); }
template <class T> Jet<T> operator/(double a, const Jet<T>& b) { return (b * 0. + a) / b; }
template <class T> Jet<T> square(const Jet<T>& a) { return a * a; }
template <class T> Jet<T> sqrt(const Jet<T>& a) { return pow(a, .5); }
// clang-format on

template <class T>
Jet<T> exp(const Jet<T>& a) {
  using std::exp;
  return jets::from_slope(T(exp(a.c[0])), a.order(),
                          [&](const Jet<T>& z, int k) { return jets::slope_times(a, z.c, k); });
}

template <class T>
Jet<T> log(const Jet<T>& a) {
  using std::log;
  return jets::from_slope(T(log(a.c[0])), a.order(), [&](const Jet<T>& z, int k) {
    T rest = a.c[k] * static_cast<double>(k);
    for (int i = 1; i < k; ++i) rest = rest - z.c[i] * a.c[k - i] * static_cast<double>(i);
    return rest / a.c[0];
  });
}

namespace jets {

/// Solutions of s' = c a', c' = sign s a' from their first coefficients.
template <class T>
std::pair<Jet<T>, Jet<T>> pair(const Jet<T>& a, const T& s0, const T& c0, double sign) {
  Jet<T> s({s0}), c({c0});
  for (int k = 1; k <= a.order(); ++k) {
    const T next_s = slope_times(a, c.c, k) * (1. / k), next_c = slope_times(a, s.c, k) * (sign / k);
    s.c.push_back(next_s);
    c.c.push_back(next_c);
  }
  return {s, c};
}

}  // namespace jets

template <class T>
Jet<T> sin(const Jet<T>& a) {
  using std::cos, std::sin;
  return jets::pair(a, T(sin(a.c[0])), T(cos(a.c[0])), -1).first;
}

template <class T>
Jet<T> cos(const Jet<T>& a) {
  using std::cos, std::sin;
  return jets::pair(a, T(sin(a.c[0])), T(cos(a.c[0])), -1).second;
}

template <class T>
Jet<T> sinh(const Jet<T>& a) {
  using std::cosh, std::sinh;
  return jets::pair(a, T(sinh(a.c[0])), T(cosh(a.c[0])), 1).first;
}

template <class T>
Jet<T> cosh(const Jet<T>& a) {
  using std::cosh, std::sinh;
  return jets::pair(a, T(sinh(a.c[0])), T(cosh(a.c[0])), 1).second;
}

template <class T>
Jet<T> tanh(const Jet<T>& a) {
  using std::tanh;
  Jet<T> z({T(tanh(a.c[0]))});
  std::vector<T> rest{z.c[0] * z.c[0] * -1. + 1.};  // 1 - z^2
  for (int k = 1; k <= a.order(); ++k) {
    z.c.push_back(jets::slope_times(a, rest, k) * (1. / k));
    T squared = z.c[0] * z.c[k];
    for (int i = 1; i <= k; ++i) squared = squared + z.c[i] * z.c[k - i];
    rest.push_back(squared * -1.);
  }
  return z;
}

template <class T>
Jet<T> sigmoid(const Jet<T>& a) {
  return tanh(a * .5) * .5 + .5;
}

template <class T>
Jet<T> atan(const Jet<T>& a) {
  using std::atan;
  const Jet<T> rate = 1. / (a * a + 1.);
  return jets::from_slope(T(atan(a.c[0])), a.order(),
                          [&](const Jet<T>&, int k) { return jets::slope_times(a, rate.c, k); });
}

template <class T>
Jet<T> erf(const Jet<T>& a) {
  using std::erf;
  const Jet<T> rate = exp(-(a * a)) * (2 / std::sqrt(std::numbers::pi));
  return jets::from_slope(T(erf(a.c[0])), a.order(),
                          [&](const Jet<T>&, int k) { return jets::slope_times(a, rate.c, k); });
}

/// f(x_0 + (x - x_0)) for the series f about x_0, the first coefficient of x.
template <class T>
Jet<T> at_series(const Jet<T>& f, const Jet<T>& x) {
  Jet<T> shift = x;
  shift.c[0] = shift.c[0] * 0.;
  Jet<T> value({f.c.back()});
  for (int k = f.order() - 1; k >= 0; --k) value = value * shift + Jet<T>({f.c[k]});
  return value.padded(x.order());
}

}  // namespace unbend::functional
