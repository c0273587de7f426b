#include "unbend/control/environments.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "unbend/base/error.h"

namespace unbend::control {

Environments::Environments(std::unique_ptr<Dynamics> dynamics, std::uint64_t seed) : dynamics_(std::move(dynamics)) {
  const EnvironmentSpec& s = spec();
  const auto n = copies();
  require(n > 0 && n <= 1 << 20, "{}: {} copies: at least one and at most 1,048,576 are possible", s.name, n);
  require(s.observations > 0, "{}: there is nothing to observe", s.name);
  require(s.low.size() == s.high.size(), "{}: {} lower and {} upper bounds of actions", s.name, s.low.size(),
          s.high.size());
  require(s.choices >= 2 || (s.choices == 0 && !s.low.empty()), "{}: an action needs two choices or a box", s.name);
  for (std::size_t i = 0; i < s.low.size(); ++i)
    require(s.low[i] < s.high[i], "{}: action {} has the bounds [{}, {}]", s.name, i, s.low[i], s.high[i]);
  const auto count = static_cast<std::size_t>(n);
  Random random(seed);
  for (std::size_t i = 0; i < count; ++i) random_.push_back(random.split());
  observations_.resize(n, s.observations, s.observations), reached_.resize(n, s.observations, s.observations);
  actions_.resize(n, s.actions(), s.actions());
  rewards_.assign(count, 0), totals_.assign(count, 0), steps_.assign(count, 0);
  terminated_.assign(count, 0), ended_.assign(count, 0);
  restart();
}

std::string Environments::place(std::int64_t copy) const {
  return fmt::format("{}, copy {}, step {} of its episode", spec().name, copy, steps_[static_cast<std::size_t>(copy)]);
}

void Environments::check_observation(std::int64_t copy, const double* observation, const char* when) const {
  for (std::int64_t k = 0; k < spec().observations; ++k) {
    if (!std::isfinite(observation[k]))
      fail_computation("{}: observation {} {} is {}; the action was [{:.4g}]", place(copy), k, when, observation[k],
                       fmt::join(actions_.row(copy), actions_.row(copy) + actions_.columns, ", "));
  }
}

void Environments::restart() {
  for (std::int64_t i = 0; i < copies(); ++i) {
    const auto k = static_cast<std::size_t>(i);
    totals_[k] = 0, steps_[k] = 0;
    std::fill_n(actions_.row(i), actions_.columns, 0.);
    start(i);
  }
  finished_.clear();
}

void Environments::start(std::int64_t copy) {
  try {
    dynamics_->reset(copy, random_[static_cast<std::size_t>(copy)]);
  } catch (const Error& error) {
    throw Error(error.kind(), fmt::format("{}, copy {}: it could not start: {}", spec().name, copy, error.what()));
  }
  dynamics_->observe(copy, observations_.row(copy));
  check_observation(copy, observations_.row(copy), "after a start");
}

void Environments::step(const Matrix<double>& actions) {
  const EnvironmentSpec& s = spec();
  const auto n = copies();
  require(actions.rows == n && actions.columns == s.actions(), "{}: actions [{}, {}], [{}, {}] expected", s.name,
          actions.rows, actions.columns, n, s.actions());
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t k = 0; k < s.actions(); ++k) {
      const double a = actions.row(i)[k];
      require(std::isfinite(a), "{}: action {} is {}", place(i), k, a);
      const auto d = static_cast<std::size_t>(k);
      if (s.choices > 0) {
        require(a >= 0 && a < static_cast<double>(s.choices) && a == std::floor(a), "{}: there is no choice {}",
                place(i), a);
        actions_.row(i)[k] = a;
      } else {
        actions_.row(i)[k] = std::clamp(a, s.low[d], s.high[d]);
      }
    }
    ++steps_[static_cast<std::size_t>(i)];
  }
  try {
    dynamics_->step(actions_, rewards_, terminated_);
  } catch (const Error& error) {
    throw Error(error.kind(), fmt::format("{}: {}", s.name, error.what()));
  }
  finished_.clear();
  for (std::int64_t i = 0; i < n; ++i) {
    const auto k = static_cast<std::size_t>(i);
    dynamics_->observe(i, reached_.row(i));
    check_observation(i, reached_.row(i), "after it");
    if (!std::isfinite(rewards_[k]))
      fail_computation("{}: the reward is {}; the action was [{:.4g}]", place(i), rewards_[k],
                       fmt::join(actions_.row(i), actions_.row(i) + actions_.columns, ", "));
    totals_[k] += rewards_[k];
    ended_[k] = terminated_[k] || (s.limit > 0 && steps_[k] >= s.limit);
    if (ended_[k]) {
      finished_.push_back({totals_[k], steps_[k], terminated_[k] != 0});
      totals_[k] = 0, steps_[k] = 0;
      start(i);
    } else {
      std::copy_n(reached_.row(i), s.observations, observations_.row(i));
    }
  }
}

Environments::State Environments::state() const {
  State state{dynamics_->state(), totals_, {}, {}};
  for (const Random& r : random_) state.random.insert(state.random.end(), r.state().begin(), r.state().end());
  for (const auto steps : steps_) state.steps.push_back(static_cast<std::uint64_t>(steps));
  return state;
}

void Environments::set_state(const State& state) {
  const auto n = static_cast<std::size_t>(copies());
  require(state.totals.size() == n && state.steps.size() == n && state.random.size() == 4 * n,
          "{}: the stored state is that of {} copies, not of {}", spec().name, state.totals.size(), n);
  dynamics_->set_state(state.dynamics);
  totals_ = state.totals;
  for (std::size_t i = 0; i < n; ++i) {
    Random::State words{};
    std::copy_n(state.random.begin() + static_cast<std::ptrdiff_t>(4 * i), 4, words.begin());
    require(words != Random::State{}, "{}, copy {}: the stored generator is all zero", spec().name, i);
    random_[i] = Random(words);
    steps_[i] = static_cast<std::int64_t>(state.steps[i]);
    dynamics_->observe(static_cast<std::int64_t>(i), observations_.row(static_cast<std::int64_t>(i)));
  }
  finished_.clear();
}

}  // namespace unbend::control
