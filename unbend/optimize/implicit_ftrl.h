// Generalised implicit Follow-The-Regularized-Leader (Chen and Orabona 2023, arXiv 2306.00201): online linear models
// that take the loss itself into a step, not its tangent, so that a step size that is far too large costs a little
// accuracy instead of divergence.
//
//   x_t = argmin psi_t(x) - <theta_t, x>;  pay l_t(x_t);  choose z_t with H_t(z_t) <= H_t(g_t);
//   theta_{t+1} = theta_t - z_t,           H_t(z) = psi*_{t+1}(theta_t - z) + l_t*(z)
//
// A learner is a bank of models that see the same rows: one for each rate and each class, side by side in memory.
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "unbend/optimize/implicit_step.h"
#include "unbend/optimize/rows.h"

namespace unbend::optimize {

/// How the regulariser's strength lambda_t grows. `rate` is the knob beta.
enum class Schedule {
  Constant,     ///< lambda = rate
  Sqrt,         ///< lambda_t = rate sqrt(t)
  AdagradNorm,  ///< lambda_t = sqrt(epsilon + sum of |g|^2 before t) / rate
  Adagrad,      ///< the same for each coordinate
  Adaptive,     ///< lambda_{t+1} = lambda_t + gamma_t / rate^2, by how much the loss really changed
  User          ///< lambda_t = rate times a nondecreasing function of t
};

enum class Multiclass { OneVsRest, Softmax };

struct FtrlOptions {
  Loss loss = {};
  Update update = Update::Proximal;
  UserUpdate user_update = {};
  Schedule schedule = Schedule::Sqrt;
  std::function<double(std::int64_t)> user_lambda = {};
  std::vector<double> rates{1};  ///< one model for each, all learnt in one pass
  double lambda1 = 1e-2;         ///< where Adaptive starts
  double epsilon = 1e-8;         ///< of the Adagrad schedules
  Geometry geometry = {};
  double l1 = 0, l1_power = 0;  ///< kappa_t = l1 t^l1_power of the L1 term, power in [0, 1]
  int classes = 1;              ///< more than 1: labels are 0 .. classes - 1
  Multiclass multiclass = Multiclass::OneVsRest;
  bool zero_one = false;  ///< labels of hinge and logistic are 0 and 1 instead of -1 and 1
  bool average = false;   ///< keep the mean of the iterates too
};

std::vector<std::string> schedule_names();  ///< constant, sqrt, adagrad-norm, adagrad, adaptive
Schedule schedule_named(std::string_view name);

/// What one rate did so far.
struct Tally {
  double weight = 0;    ///< sum of the rows' weights
  double loss = 0;      ///< sum of weight times loss, predict first, then update
  double mistakes = 0;  ///< the same of wrong classes, where labels are classes
  double dual = 0;      ///< sum of l_t*(z_t)
  double gain = 0;      ///< sum of delta_t: by how much the regret bound is better than linear FTRL's
  std::int64_t fallbacks = 0;
  std::int64_t diverged_at =
      0;  ///< row, from 1, at which numbers overflowed; its weights stay where they were. 0: never
  double mean_loss() const { return diverged_at ? INFINITY : loss / weight; }
};

class Ftrl {
 public:
  /// Weights are indexed 0 .. dimension - 1. Input error for rates or lambda1 that are not positive, combinations that
  /// have no closed form (they are named).
  Ftrl(FtrlOptions options, std::int64_t dimension);
  Ftrl(Ftrl&&) noexcept;
  ~Ftrl();

  const FtrlOptions& options() const { return options_; }
  std::int64_t dimension() const { return dimension_; }
  std::int64_t rows() const { return t_ - 1; }
  const std::vector<Tally>& tallies() const { return tallies_; }  ///< one per rate
  std::size_t best() const;                                       ///< the rate of least mean loss

  /// Predicts, pays, updates: O(features) (O(dimension) on the simplex). A row without features only advances t. Input
  /// error, and no change, for numbers that are not finite, a label that the loss does not take, an index that is too
  /// large, a negative weight.
  void learn(const Row& row);

  /// Input error for a label that the loss does not take.
  void check_label(double label) const;

  /// Predictions <a, x> of the row without learning, [rates, classes].
  void predict(const Row& row, std::vector<double>& margins) const;

  std::vector<double> weights(std::size_t rate = 0, int label = 0) const;  ///< x, [dimension]
  /// Mean of the iterates that predicted so far; Input error without FtrlOptions::average.
  std::vector<double> average(std::size_t rate = 0, int label = 0) const;

  /// psi_{T+1}(u) + psi*_{T+1}(theta_{T+1}) + sum_t l_t(x_t) + l_t*(z_t) >= sum_t l_t(x_t) - l_t(u) for every u in the
  /// domain; `u` is [classes, dimension].
  double regret_bound(const std::vector<double>& u, std::size_t rate = 0) const;
  double lambda(std::size_t rate = 0, int label = 0) const;  ///< the scalar of the next row; not of Adagrad

  /// Everything beside the options that the next row depends on, by name; all numbers are exact. And the way back:
  /// Input error for numbers of another learner.
  std::map<std::string, std::vector<double>> numbers() const;
  void set_numbers(std::map<std::string, std::vector<double>> numbers);

  /// Asks the memory for a row's weights before they are needed.
  void prefetch(const Row& row) const;

 private:
  struct Work;
  bool plain() const { return options_.geometry.domain == Domain::Whole && options_.l1 == 0; }
  bool per_coordinate() const { return options_.schedule == Schedule::Adagrad; }
  double rate(std::size_t model) const { return options_.rates[model / static_cast<std::size_t>(options_.classes)]; }
  const double* slot(std::int64_t index) const { return weights_.data() + index * slot_size_; }
  double* slot(std::int64_t index) { return weights_.data() + index * slot_size_; }
  double kappa(std::int64_t t) const;
  double lambda_at(std::int64_t index, std::size_t model) const;
  double weight(std::int64_t index, std::size_t model) const;
  double scalar_lambda(std::size_t model, std::int64_t t) const;
  double scale(std::size_t model) const;
  double log_partition(std::size_t model) const;

  void check(const Row& row) const;
  void label(const Row& row);
  void read(const Row& row);
  void pay(const Row& row);
  void guard(const Row& row);
  void grow(const Row& row);
  void choose(const Row& row);
  void choose_softmax(const Row& row);
  void write(const Row& row);
  void settle();
  std::unique_ptr<Ray> ray(const Row& row, std::size_t model, std::int64_t t) const;

  FtrlOptions options_;
  std::int64_t dimension_, t_ = 1;
  std::size_t models_, stride_;          // rates x classes; the same padded to whole vectors
  std::int64_t slot_size_;               // numbers per coordinate: a stride of theta, of sums of g^2, of averages
  std::vector<double> weights_;          // [dimension, slot_size]
  std::vector<double> lambda_, sum_g2_;  // [stride]: lambda_t, sum of |g|^2
  std::vector<double> norm2_,
      scale_sum_;  // [stride]: |theta|^2 (ball), sum of the factors from theta_t to x_t (averages)
  std::vector<Tally> tallies_;
  std::unique_ptr<Work> work_;
};

}  // namespace unbend::optimize
