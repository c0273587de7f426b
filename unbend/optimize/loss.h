// Convex losses phi(s, y) of a prediction s = <a, x> and a label y, with what implicit updates ask of them
// (methods/implicit_ftrl.md, table of closed forms; re-derived).
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace unbend::optimize {

enum class LossKind { Hinge, Logistic, Squared, Absolute, EpsilonInsensitive, Quantile, User };

struct Loss {
  LossKind kind = LossKind::Logistic;
  double parameter = 0;  ///< epsilon of EpsilonInsensitive, tau of Quantile

  /// Of a user's loss: convex in the prediction s (first argument); slope is any subgradient, nondecreasing in s. The
  /// conjugate phi*(b) = sup_s b s - phi(s) is only asked for by Update::User. `lower` bounds phi from below: what
  /// Update::AProx truncates at; one that is too high makes those updates fall back to linear ones.
  std::function<double(double s, double y)> value = {}, slope = {};
  std::function<double(double b, double y)> conjugate = {};
  double lower = 0;
};

std::vector<std::string> loss_names();  ///< hinge, logistic, squared, absolute, epsilon-insensitive, quantile
/// Usage error for another name. `parameter` as in Loss.
Loss loss_named(std::string_view name, double parameter = 0);
std::string_view name(LossKind kind);

/// Input error for tau outside (0, 1), a negative epsilon, a user's loss without value or slope.
void check_loss(const Loss& loss);
/// Whether labels are -1 and 1.
bool is_binary(const Loss& loss);

double loss_value(const Loss& loss, double s, double y);
double loss_slope(const Loss& loss, double s, double y);      ///< a subgradient; 0 where 0 is one
double loss_conjugate(const Loss& loss, double b, double y);  ///< infinity outside its domain

struct Proximal {
  double b;          ///< the b with b in the subdifferential of phi at m - b q
  double conjugate;  ///< phi*(b)
};

/// The implicit step against a regulariser along whose path the prediction is m - b q, q >= 0.
Proximal proximal(const Loss& loss, double m, double q, double y);

/// The same for many models at once. All spans have one length; multiples of 8 are vectorised.
void values_and_slopes(const Loss& loss, std::span<const double> s, std::span<const double> y, std::span<double> value,
                       std::span<double> slope);
void proximals(const Loss& loss, std::span<const double> m, std::span<const double> q, std::span<const double> y,
               std::span<double> b, std::span<double> conjugate);

/// Softmax loss phi(s) = log sum exp(s) - s_y of K predictions: the b with b = softmax(m - b q) - e_y, element-wise
/// products. `m`, `q` and `b` have K elements, q >= 0. Returns phi*(b) = sum p ln p for p = b + e_y.
double softmax_proximal(std::span<const double> m, std::span<const double> q, std::size_t y, std::span<double> b);

/// phi(s) of the softmax loss; `slope` becomes softmax(s) - e_y.
double softmax_value(std::span<const double> s, std::size_t y, std::span<double> slope);

}  // namespace unbend::optimize
