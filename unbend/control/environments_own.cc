#include "unbend/control/environments_own.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "unbend/base/error.h"

namespace unbend::control {
namespace {

constexpr double kPi = std::numbers::pi;

/// State as one array per coordinate, so that a step of all copies is a loop over arrays.
class Coordinates : public Dynamics {
 public:
  Coordinates(EnvironmentSpec spec, std::int64_t copies, std::size_t coordinates)
      : spec_(std::move(spec)),
        copies_(copies),
        count_(static_cast<std::size_t>(copies)),
        state_(coordinates * count_) {}
  const EnvironmentSpec& spec() const override { return spec_; }
  std::int64_t copies() const override { return copies_; }
  std::vector<double> state() const override { return state_; }
  void set_state(const std::vector<double>& state) override {
    require(state.size() == state_.size(), "{}: a state of {} numbers, {} expected", spec_.name, state.size(),
            state_.size());
    state_ = state;
  }

 protected:
  double* all(std::size_t coordinate) { return state_.data() + coordinate * count_; }
  double& at(std::size_t coordinate, std::int64_t copy) { return all(coordinate)[copy]; }
  double at(std::size_t coordinate, std::int64_t copy) const {
    return state_[coordinate * count_ + static_cast<std::size_t>(copy)];
  }

  EnvironmentSpec spec_;
  std::int64_t copies_;

 private:
  std::size_t count_;
  std::vector<double> state_;
};

double uniform(Random& random, double low, double high) { return low + (high - low) * random.uniform(); }

class CartPole final : public Coordinates {
 public:
  explicit CartPole(std::int64_t copies) : Coordinates({"cartpole", 4, 2, {}, {}, 500}, copies, 4) {}

  void reset(std::int64_t copy, Random& random) override {
    for (std::size_t c = 0; c < 4; ++c) at(c, copy) = uniform(random, -.05, .05);
  }

  void step(const Matrix<double>& actions, std::span<double> rewards, std::span<std::uint8_t> terminated) override {
    constexpr double g = 9.8, pole = .1, total = 1 + pole, half = .5, push = 10, dt = .02;
    double *x = all(0), *v = all(1), *angle = all(2), *rate = all(3);
    for (std::int64_t i = 0; i < copies_; ++i) {
      const double force = actions.row(i)[0] == 1 ? push : -push;
      const double sin = std::sin(angle[i]), cos = std::cos(angle[i]);
      const double term = (force + pole * half * rate[i] * rate[i] * sin) / total;
      const double turn = (g * sin - cos * term) / (half * (4. / 3 - pole * cos * cos / total));
      const double speed_up = term - pole * half * turn * cos / total;
      x[i] += dt * v[i];
      v[i] += dt * speed_up;
      angle[i] += dt * rate[i];
      rate[i] += dt * turn;
      rewards[static_cast<std::size_t>(i)] = 1;
      terminated[static_cast<std::size_t>(i)] = std::abs(x[i]) > 2.4 || std::abs(angle[i]) > 12 * kPi / 180;
    }
  }

  void observe(std::int64_t copy, double* observation) const override {
    for (std::size_t c = 0; c < 4; ++c) observation[c] = at(c, copy);
  }
};

class Pendulum final : public Coordinates {
 public:
  explicit Pendulum(std::int64_t copies) : Coordinates({"pendulum", 3, 0, {-2}, {2}, 200}, copies, 2) {}

  void reset(std::int64_t copy, Random& random) override {
    at(0, copy) = uniform(random, -kPi, kPi);
    at(1, copy) = uniform(random, -1, 1);
  }

  void step(const Matrix<double>& actions, std::span<double> rewards, std::span<std::uint8_t> terminated) override {
    double *angle = all(0), *rate = all(1);
    for (std::int64_t i = 0; i < copies_; ++i) {
      const double u = actions.row(i)[0], away = angle[i] - 2 * kPi * std::floor((angle[i] + kPi) / (2 * kPi));
      rewards[static_cast<std::size_t>(i)] = -(away * away + .1 * rate[i] * rate[i] + .001 * u * u);
      rate[i] = std::clamp(rate[i] + (15 * std::sin(angle[i]) + 3 * u) * .05, -8., 8.);
      angle[i] += rate[i] * .05;
      terminated[static_cast<std::size_t>(i)] = 0;
    }
  }

  void observe(std::int64_t copy, double* observation) const override {
    observation[0] = std::cos(at(0, copy)), observation[1] = std::sin(at(0, copy)), observation[2] = at(1, copy);
  }
};

class PointMass final : public Coordinates {
 public:
  explicit PointMass(std::int64_t copies) : Coordinates({"point_mass", 4, 0, {-1, -1}, {1, 1}, 100}, copies, 4) {}

  void reset(std::int64_t copy, Random& random) override {
    for (std::size_t c = 0; c < 2; ++c) at(c, copy) = uniform(random, -1, 1), at(c + 2, copy) = 0;
  }

  void step(const Matrix<double>& actions, std::span<double> rewards, std::span<std::uint8_t> terminated) override {
    double *x = all(0), *y = all(1), *vx = all(2), *vy = all(3);
    for (std::int64_t i = 0; i < copies_; ++i) {
      const double ax = actions.row(i)[0], ay = actions.row(i)[1];
      x[i] += .1 * vx[i], y[i] += .1 * vy[i];
      vx[i] = .95 * vx[i] + .1 * ax, vy[i] = .95 * vy[i] + .1 * ay;
      rewards[static_cast<std::size_t>(i)] = -std::hypot(x[i], y[i]) - .01 * (ax * ax + ay * ay);
      terminated[static_cast<std::size_t>(i)] = 0;
    }
  }

  void observe(std::int64_t copy, double* observation) const override {
    for (std::size_t c = 0; c < 4; ++c) observation[c] = at(c, copy);
  }
};

class Bandit final : public Coordinates {
 public:
  Bandit(std::shared_ptr<const BanditTable> table, std::int64_t copies)
      : Coordinates({"bandit", table->features, table->choices, {}, {}, 1}, copies, 1), table_(std::move(table)) {}

  void reset(std::int64_t copy, Random& random) override { at(0, copy) = static_cast<double>(random.below(rows())); }

  void set_state(const std::vector<double>& state) override {  // of a table that may have changed since
    for (const double row : state)
      require(row >= 0 && row < static_cast<double>(rows()), "bandit: row {} of a table of {} rows", row, rows());
    Coordinates::set_state(state);
  }

  void step(const Matrix<double>& actions, std::span<double> rewards, std::span<std::uint8_t> terminated) override {
    for (std::int64_t i = 0; i < copies_; ++i) {
      const auto choice = static_cast<std::int64_t>(actions.row(i)[0]);
      rewards[static_cast<std::size_t>(i)] =
          table_->rewards[static_cast<std::size_t>(row(i) * table_->choices + choice)];
      terminated[static_cast<std::size_t>(i)] = 1;
    }
  }

  void observe(std::int64_t copy, double* observation) const override {
    std::copy_n(table_->contexts.begin() + row(copy) * table_->features, table_->features, observation);
  }

 private:
  std::uint64_t rows() const { return table_->rewards.size() / static_cast<std::size_t>(table_->choices); }
  std::int64_t row(std::int64_t copy) const { return static_cast<std::int64_t>(at(0, copy)); }
  std::shared_ptr<const BanditTable> table_;
};

}  // namespace

std::unique_ptr<Dynamics> cartpole(std::int64_t copies) { return std::make_unique<CartPole>(copies); }
std::unique_ptr<Dynamics> pendulum(std::int64_t copies) { return std::make_unique<Pendulum>(copies); }
std::unique_ptr<Dynamics> point_mass(std::int64_t copies) { return std::make_unique<PointMass>(copies); }

BanditTable classification(std::int64_t features, std::vector<double> contexts, const std::vector<double>& labels) {
  require(!labels.empty(), "the table of labels is empty");
  double most = 0;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    const double label = labels[i];
    require(label >= 0 && label < 4096 && label == std::floor(label),
            "label {} of row {}: labels are the classes 0, 1, ... up to 4095", label, i);
    most = std::max(most, label);
  }
  BanditTable table{features, static_cast<std::int64_t>(most) + 1, std::move(contexts), {}};
  table.rewards.resize(labels.size() * static_cast<std::size_t>(table.choices));
  for (std::size_t i = 0; i < labels.size(); ++i)
    table.rewards[i * static_cast<std::size_t>(table.choices) + static_cast<std::size_t>(labels[i])] = 1;
  return table;
}

std::unique_ptr<Dynamics> bandit(std::shared_ptr<const BanditTable> table, std::int64_t copies) {
  const BanditTable& t = *table;
  require(t.features > 0 && t.choices >= 2, "a bandit needs features and two choices, not {} and {}", t.features,
          t.choices);
  const auto features = static_cast<std::size_t>(t.features), choices = static_cast<std::size_t>(t.choices);
  const auto rows = t.rewards.size() / choices;
  require(rows > 0 && t.rewards.size() == rows * choices && t.contexts.size() == rows * features,
          "{} numbers of contexts and {} of rewards are not {} and {} columns of the same rows", t.contexts.size(),
          t.rewards.size(), t.features, t.choices);
  const auto check = [](const std::vector<double>& values, std::size_t columns, const char* what) {
    for (std::size_t i = 0; i < values.size(); ++i)
      require(std::isfinite(values[i]), "{}, row {}, column {}: {}", what, i / columns, i % columns, values[i]);
  };
  check(t.contexts, features, "contexts");
  check(t.rewards, choices, "rewards");
  return std::make_unique<Bandit>(std::move(table), copies);
}

}  // namespace unbend::control
