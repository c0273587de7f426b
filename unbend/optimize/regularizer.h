// Regularisers psi(x) = sum_i lambda_i/2 x_i^2 + kappa |x|_1 on R^d, a box or a ball, and lambda (sum x ln x + ln d) on
// the simplex, seen along the ray theta - b a of one row: all that an implicit update needs (methods/implicit_ftrl.md).
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "unbend/optimize/rows.h"

namespace unbend::optimize {

enum class Domain { Whole, Box, Ball, Simplex };

struct Geometry {
  Domain domain = Domain::Whole;
  double low = -1, high = 1;  ///< of each weight in the box; low <= 0 <= high, so that psi's least value is 0
  double radius = 1;          ///< of the ball
};

std::vector<std::string> domain_names();  ///< whole, box, ball, simplex
Domain domain_named(std::string_view name);
void check_geometry(const Geometry& geometry);

/// psi* along one ray. x(b) = grad psi*(theta - b a).
class Ray {
 public:
  virtual ~Ray() = default;
  struct Margin {
    double value;  ///< <a, x(b)>, nonincreasing in b
    double q;      ///< minus its derivative
  };
  virtual Margin margin(double b) const = 0;
  /// psi*(theta - c a) - psi*(theta - b a).
  virtual double difference(double c, double b) const = 0;
  virtual bool straight() const { return false; }  ///< whether q is the same for every b
};

/// psi = lambda/2 |x|^2 on R^d, or with lambda_i: everything follows from m = <a, theta / lambda> and
/// q = sum a_i^2 / lambda_i.
class PlainRay final : public Ray {
 public:
  PlainRay(double m, double q) : m_(m), q_(q) {}
  Margin margin(double b) const override { return {m_ - b * q_, q_}; }
  // Of the form that does not cancel when lambda is tiny.
  double difference(double c, double b) const override { return (c - b) * (.5 * (c + b) * q_ - m_); }
  bool straight() const override { return true; }

 private:
  double m_, q_;
};

/// Coordinates on their own: box and L1. One element of `theta` and `lambda` for each feature of the row.
class SeparableRay final : public Ray {
 public:
  SeparableRay(std::span<const double> a, std::vector<double> theta, std::vector<double> lambda, double kappa,
               double low, double high)
      : a_(a), theta_(std::move(theta)), lambda_(std::move(lambda)), kappa_(kappa), low_(low), high_(high) {}
  Margin margin(double b) const override;
  double difference(double c, double b) const override;

 private:
  std::span<const double> a_;
  std::vector<double> theta_, lambda_;
  double kappa_, low_, high_;
};

class BallRay final : public Ray {
 public:
  /// From <theta, theta>, <a, theta> and <a, a>.
  BallRay(double theta2, double dot, double a2, double lambda, double radius)
      : theta2_(theta2), dot_(dot), a2_(a2), lambda_(lambda), radius_(radius) {}
  Margin margin(double b) const override;
  double difference(double c, double b) const override;
  double conjugate(double b) const;  ///< psi*(theta - b a)

 private:
  double norm(double b) const;
  double theta2_, dot_, a2_, lambda_, radius_;
};

class SimplexRay final : public Ray {
 public:
  /// All of theta (every `stride`-th element); O(d) here, O(features) afterwards.
  SimplexRay(const Row& row, std::span<const double> theta, std::size_t stride, double lambda);
  Margin margin(double b) const override;
  double difference(double c, double b) const override { return log_sum(c) - log_sum(b); }
  double log_sum(double b) const;  ///< lambda log sum exp((theta - b a) / lambda)

 private:
  Row row_;
  std::vector<double> theta_;  // of the row's features
  double lambda_, rest_, rest_top_;
};

/// x = argmin lambda/2 x^2 + kappa |x| - theta x over [low, high], and psi* there.
double separable_weight(double theta, double lambda, double kappa, double low, double high);
double separable_conjugate(double theta, double lambda, double kappa, double low, double high);

}  // namespace unbend::optimize
