// Discrete measures: weighted points. Masses are as given, never normalised behind the caller's back.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace unbend::transport {

struct Measure {
  std::int64_t dim = 0;
  std::vector<double> points;  ///< [size, dim]
  std::vector<double> masses;  ///< [size], not negative

  std::int64_t size() const { return static_cast<std::int64_t>(masses.size()); }
  double total() const;
  std::span<const double> point(std::int64_t i) const {
    return std::span(points).subspan(static_cast<std::size_t>(i * dim), static_cast<std::size_t>(dim));
  }
  void add(std::span<const double> at, double mass);  ///< one more atom
};

/// Input error that starts with `name` unless there are as many points as masses, all finite, no mass negative.
/// No atoms at all are allowed: the empty measure.
void check(const Measure& measure, std::string_view name);

/// The same masses divided by their sum. Input error that starts with `name` if there is no mass.
Measure normalised(Measure measure, std::string_view name);

/// sum over k of (a_k - b_k)^2.
double squared_distance(std::span<const double> a, std::span<const double> b);

}  // namespace unbend::transport
