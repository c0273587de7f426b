// Truncated Taylor series of fixed length in time, on the stack: a control step differentiates along the motion a
// thousand times a second. (unbend/calculus/jet.h has series of any length and of tensors.)
#pragma once

#include <array>
#include <cmath>

namespace unbend::control {

/// c[0] + c[1] t + .. + c[K] t^K.
template <int K>
struct Taylor {
  std::array<double, K + 1> c{};

  Taylor() = default;
  Taylor(double constant) { c[0] = constant; }  // NOLINT: numbers are constants

  /// The k-th derivative at t = 0.
  double derivative(int k) const {
    double factorial = 1;
    for (int i = 2; i <= k; ++i) factorial *= i;
    return c[k] * factorial;
  }
};

template <int K>
Taylor<K> operator+(Taylor<K> a, const Taylor<K>& b) {
  for (int k = 0; k <= K; ++k) a.c[k] += b.c[k];
  return a;
}

template <int K>
Taylor<K> operator-(Taylor<K> a, const Taylor<K>& b) {
  for (int k = 0; k <= K; ++k) a.c[k] -= b.c[k];
  return a;
}

template <int K>
Taylor<K> operator*(const Taylor<K>& a, const Taylor<K>& b) {
  Taylor<K> product;
  for (int i = 0; i <= K; ++i) {
    for (int j = 0; i + j <= K; ++j) product.c[i + j] += a.c[i] * b.c[j];
  }
  return product;
}

template <int K>
Taylor<K> operator*(double factor, Taylor<K> a) {
  for (double& c : a.c) c *= factor;
  return a;
}

/// Sine and cosine together: s' = c a', c' = -s a'.
template <int K>
void sine_cosine(const Taylor<K>& a, Taylor<K>& sine, Taylor<K>& cosine) {
  sine.c[0] = std::sin(a.c[0]);
  cosine.c[0] = std::cos(a.c[0]);
  for (int k = 1; k <= K; ++k) {
    double s = 0, c = 0;
    for (int i = 1; i <= k; ++i) {
      s += i * a.c[i] * cosine.c[k - i];
      c -= i * a.c[i] * sine.c[k - i];
    }
    sine.c[k] = s / k;
    cosine.c[k] = c / k;
  }
}

inline void sine_cosine(double a, double& sine, double& cosine) {
  sine = std::sin(a);
  cosine = std::cos(a);
}

}  // namespace unbend::control
