#include <algorithm>
#include <cmath>

#include "unbend/base/error.h"
#include "unbend/control/mdpo_state.h"

namespace unbend::control {

double annealed_step_size(double start, std::int64_t iteration, std::int64_t iterations) {
  const auto all = static_cast<double>(iterations);
  return start * std::max(1 - static_cast<double>(iteration) / all, 1 / all);
}

Advantages generalised_advantages(std::int64_t copies, std::span<const double> rewards, std::span<const double> values,
                                  std::span<const double> next_values, std::span<const std::uint8_t> ends, double gamma,
                                  double lambda) {
  const auto n = rewards.size(), step = static_cast<std::size_t>(copies);
  require(copies > 0 && n % step == 0 && values.size() == n && next_values.size() == n && ends.size() == n,
          "{} rewards, {} values, {} next values and {} ends of {} copies do not fit together", n, values.size(),
          next_values.size(), ends.size(), copies);
  Advantages result{std::vector<double>(n), std::vector<double>(n)};
  for (std::size_t i = n; i-- > 0;) {
    const double surprise = rewards[i] + gamma * next_values[i] - values[i];
    const double later = ends[i] || i + step >= n ? 0 : result.advantage[i + step];
    result.advantage[i] = surprise + gamma * lambda * later;
    result.target[i] = result.advantage[i] + values[i];
  }
  return result;
}

/// What checkpoints keep.
template <class Visit>
void each_option(OnPolicyOptions& o, const Visit& visit) {
  visit("objective", o.objective), visit("steps", o.steps), visit("horizon", o.horizon), visit("inner", o.inner),
      visit("policy_batch", o.policy_batch), visit("hidden", o.hidden), visit("nonlinearity", o.nonlinearity),
      visit("squash", o.squash), visit("lr", o.lr), visit("value_lr", o.value_lr), visit("adam_eps", o.adam_eps),
      visit("max_norm", o.max_norm), visit("gamma", o.gamma), visit("lambda", o.lambda),
      visit("value_epochs", o.value_epochs), visit("value_batch", o.value_batch), visit("value_clip", o.value_clip),
      visit("step_size", o.step_size), visit("anneal", o.anneal), visit("clip", o.clip), visit("entropy", o.entropy),
      visit("kappa", o.kappa), visit("log_std", o.log_std), visit("normalise_observations", o.normalise_observations),
      visit("normalise_rewards", o.normalise_rewards), visit("decay_lr", o.decay_lr), visit("start", o.start),
      visit("compat", o.compat), visit("recent", o.recent);
}

namespace {

constexpr std::int64_t kMostHorizon = 1 << 28;  // all of it is kept in memory

void check(const OnPolicyOptions& o, const EnvironmentSpec& spec, std::int64_t copies) {
  require(o.inner >= 1, "m, the gradient steps per iteration, must be at least 1, not {}", o.inner);
  require(o.step_size > 0, "the step size t must be positive, not {}", o.step_size);
  require(o.kappa >= 1 && o.kappa <= 2, "the coefficient of Tsallis' logarithm must be in [1, 2], not {}", o.kappa);
  require(o.horizon > 0 && o.horizon <= kMostHorizon && o.horizon % copies == 0,
          "a horizon of {} steps is not a multiple of the {} copies of the environment, or more than {}", o.horizon,
          copies, kMostHorizon);
  require(o.steps >= o.horizon, "{} steps are less than one iteration of {}", o.steps, o.horizon);
  require(o.gamma >= 0 && o.gamma <= 1 && o.lambda >= 0 && o.lambda <= 1, "gamma {} and lambda {} must be in [0, 1]",
          o.gamma, o.lambda);
  require(o.lr > 0 && o.value_lr > 0 && o.max_norm > 0 && o.adam_eps >= 0,
          "learning rates {} and {} and the largest norm {} must be positive", o.lr, o.value_lr, o.max_norm);
  require(o.value_epochs >= 0 && o.value_clip >= 0 && o.policy_batch >= 0,
          "epochs {}, value clip {} and batches {} of the policy must not be negative", o.value_epochs, o.value_clip,
          o.policy_batch);
  require(o.value_batch > 0 && o.recent > 0, "batches {} of the critic and recent episodes {} must be at least 1",
          o.value_batch, o.recent);
  require(o.clip > 0 && o.clip < 1 && o.entropy >= 0,
          "the clip {} must be in (0, 1), the entropy bonus {} not negative", o.clip, o.entropy);
  require(o.log_std >= kLeastLogStd && o.log_std <= kMostLogStd, "log_std {} at the start must be in [{}, {}]",
          o.log_std, kLeastLogStd, kMostLogStd);
  require(!o.squash || spec.choices == 0, "{} has choices: there is nothing to squash", spec.name);
  if (o.squash) require_finite_box(spec);
}

class OnPolicy final : public Learning<OnPolicyOptions> {
 public:
  OnPolicy(const MakeDynamics& make, std::int64_t copies, const OnPolicyOptions& options, std::uint64_t seed)
      : Learning(make, copies, options, seed) {
    const EnvironmentSpec& spec = environments_.spec();
    check(options, spec, copies);
    kind_ = spec.choices > 0 ? PolicyKind::Categorical : options.squash ? PolicyKind::Squashed : PolicyKind::Gaussian;
    policy_ = Learner(spec.observations, options.hidden, spec.choices > 0 ? spec.choices : spec.actions(),
                      options.nonlinearity, spec.choices > 0 ? 0 : spec.actions());
    value_ = Learner(spec.observations, options.hidden, 1, options.nonlinearity);
    learners_.emplace_back("value", &value_);
    policy_.net.initialise(policy_.parameters.data(), options.start, .01, random_);
    value_.net.initialise(value_.parameters.data(), options.start, 1, random_);
    std::fill_n(policy_.extras(), policy_.extra, static_cast<float>(options.log_std));
    if (options.normalise_rewards) earned_ = RunningMoments(1);
    discounted_.assign(static_cast<std::size_t>(copies), 0);
  }

  bool done() const override { return iteration_ >= iterations(); }
  std::int64_t total_steps() const override { return iterations() * options_.horizon; }

 private:
  std::int64_t iterations() const { return options_.steps / options_.horizon; }
  std::string algorithm() const override { return name(options_.objective); }

  void put_own(ArrayFile& file) const override {
    if (!earned_.empty()) put_moments(file, "earned", earned_);
    file.put("discounted", discounted_);
    const auto iteration = static_cast<std::uint64_t>(iteration_);
    file.put("iteration", std::span(&iteration, 1));
  }

  void get_own(const ArrayFile& file) override {
    if (!earned_.empty()) get_moments(file, "earned", earned_);
    discounted_ = file.doubles("discounted", environments_.copies());
    const auto iteration = file.integers("iteration", 1)[0];
    require(iteration <= 1ULL << 60, "{}: 'iteration' is {}", file.where(), iteration);
    iteration_ = static_cast<std::int64_t>(iteration);
  }

  void learn(CurvePoint& point) override {
    collect();
    estimate();
    const double left = 1 - static_cast<double>(iteration_) / static_cast<double>(iterations());
    const double rate = options_.decay_lr ? std::max(left, 0.) : 1;
    point.step_size =
        options_.anneal ? annealed_step_size(options_.step_size, iteration_, iterations()) : options_.step_size;
    improve_policy(point, rate);
    improve_value(point, rate);
    ++iteration_;
  }

  /// `horizon` steps with the policy as it is. What is needed of the states beyond an end is put behind the others.
  void collect() {
    const EnvironmentSpec& spec = environments_.spec();
    const auto n = environments_.copies(), total = options_.horizon, columns = policy_.net.outputs();
    const auto width = kind_ == PolicyKind::Categorical ? 1 : columns;
    states_.resize(total, spec.observations, spec.observations);
    taken_.resize(total, width, width);
    task_.resize(n, spec.actions(), spec.actions());
    rewards_.assign(static_cast<std::size_t>(total), 0), ends_.assign(rewards_.size(), 0);
    beyond_.clear(), beyond_of_.clear();
    for (std::int64_t t = 0; t < total; t += n) {
      const Matrix<double>& seen = environments_.observations();
      if (!observed_.empty()) observed_.add(seen.row(0), n, seen.stride);
      normalise(observed_, seen, now_);
      for (std::int64_t i = 0; i < n; ++i) std::copy_n(now_.row(i), spec.observations, states_.row(t + i));
      policy_.forward(now_, work_);
      for (std::int64_t i = 0; i < n; ++i) {
        sample(kind_, work_.result().row(i), policy_.extras(), columns, random_, taken_.row(t + i));
        to_task_action(spec, kind_, taken_.row(t + i), task_.row(i));
      }
      environments_.step(task_);
      scale_rewards(static_cast<std::size_t>(t));
      for (std::int64_t i = 0; i < n; ++i) {
        const bool over = environments_.terminated(i) || (options_.compat && environments_.ended(i));
        ends_[static_cast<std::size_t>(t + i)] = environments_.ended(i) ? (over ? kTerminated : kTruncated) : kGoesOn;
        if ((environments_.ended(i) && !over) || (!environments_.ended(i) && t + n >= total)) keep_beyond(t + i, i);
      }
      ledger_.count(environments_);
    }
  }

  void scale_rewards(std::size_t at) {
    const auto& rewards = environments_.rewards();
    for (std::size_t i = 0; i < rewards.size(); ++i) {
      discounted_[i] = options_.gamma * discounted_[i] + rewards[i];
      rewards_[at + i] = rewards[i];
    }
    if (!earned_.empty()) {
      earned_.add(discounted_.data(), std::ssize(discounted_), 1);
      for (std::size_t i = 0; i < rewards.size(); ++i)
        rewards_[at + i] = std::clamp(rewards[i] / std::sqrt(earned_.variance[0] + 1e-8), -10., 10.);
    }
    for (std::size_t i = 0; i < rewards.size(); ++i)
      if (environments_.ended(static_cast<std::int64_t>(i))) discounted_[i] = 0;
  }

  void keep_beyond(std::int64_t sample, std::int64_t copy) {
    const auto columns = environments_.spec().observations;
    beyond_of_.push_back(sample);
    beyond_.resize(beyond_.size() + static_cast<std::size_t>(columns));
    normalise(observed_, environments_.reached(copy), columns, beyond_.data() + beyond_.size() - columns);
  }

  /// Values, advantages and targets of what was collected.
  void estimate() {
    const auto total = options_.horizon, n = environments_.copies(), columns = states_.columns;
    value_.forward(states_, work_);
    values_.resize(static_cast<std::size_t>(total));
    for (std::int64_t i = 0; i < total; ++i) values_[static_cast<std::size_t>(i)] = work_.result().row(i)[0];
    std::vector<double> next(values_.size(), 0.);
    for (std::int64_t i = 0; i + n < total; ++i)
      if (ends_[static_cast<std::size_t>(i)] == kGoesOn)
        next[static_cast<std::size_t>(i)] = values_[static_cast<std::size_t>(i + n)];
    if (!beyond_of_.empty()) {
      Matrix<float> beyond(std::ssize(beyond_of_), columns);
      std::copy(beyond_.begin(), beyond_.end(), beyond.data.begin());
      value_.forward(beyond, work_);
      for (std::size_t k = 0; k < beyond_of_.size(); ++k)
        next[static_cast<std::size_t>(beyond_of_[k])] = work_.result().row(static_cast<std::int64_t>(k))[0];
    }
    auto [advantage, target] =
        generalised_advantages(n, rewards_, values_, next, ends_, options_.gamma, options_.lambda);
    double mean = 0, variance = 0;
    for (const double a : advantage) mean += a / static_cast<double>(total);
    for (const double a : advantage) variance += (a - mean) * (a - mean) / static_cast<double>(total);
    advantages_.resize(advantage.size());
    for (std::size_t i = 0; i < advantage.size(); ++i)
      advantages_[i] = static_cast<float>((advantage[i] - mean) / (std::sqrt(variance) + 1e-8));
    targets_ = std::move(target);
  }

  void improve_policy(CurvePoint& point, double rate) {
    SurrogateOptions s{options_.objective, point.step_size, options_.clip, options_.entropy, options_.kappa};
    AdamOptions adam{options_.lr * rate, .9, .999, options_.adam_eps, options_.max_norm};
    policy_.forward(states_, work_);
    const Matrix<float> old_outputs = work_.result();
    const std::vector<float> old_spread(policy_.extras(), policy_.extras() + policy_.extra);
    const auto step = [&](const Matrix<float>& states, const Matrix<float>& old, const Matrix<float>& taken,
                          const float* advantages) {
      const Head<float> now{kind_, &work_.result(), policy_.extras()}, before{kind_, &old, old_spread.data()};
      const auto psi =
          surrogate(now, before, taken, advantages, s, upstream_, policy_.gradient.data() + policy_.net.parameters());
      policy_.backward(states, upstream_, work_);
      policy_.step(adam);
      ++ledger_.updates;
      point.policy_loss = -psi.value, point.divergence = psi.divergence, point.entropy = psi.entropy;
      point.clamped += psi.clamped;
    };
    if (options_.policy_batch == 0) {
      for (std::int64_t i = 0; i < options_.inner; ++i) {
        if (i > 0) policy_.forward(states_, work_);  // at first it is the old policy's
        step(states_, old_outputs, taken_, advantages_.data());
      }
      return;
    }
    Matrix<float> old, taken;
    std::vector<float> advantages;
    for (std::int64_t i = 0; i < options_.inner; ++i) {
      in_minibatches(options_.policy_batch, [&](std::span<const std::int64_t> chosen) {
        const auto count = std::ssize(chosen);
        old.resize(count, old_outputs.columns, old_outputs.columns),
            taken.resize(count, taken_.columns, taken_.columns);
        advantages.resize(chosen.size());
        for (std::int64_t k = 0; k < count; ++k) {
          const auto from = chosen[static_cast<std::size_t>(k)];
          std::copy_n(old_outputs.row(from), old.columns, old.row(k));
          std::copy_n(taken_.row(from), taken.columns, taken.row(k));
          advantages[static_cast<std::size_t>(k)] = advantages_[static_cast<std::size_t>(from)];
        }
        policy_.forward(part_, work_);
        step(part_, old, taken, advantages.data());
      });
    }
  }

  /// Calls `use` for random minibatches that together are all states once; part_ holds the states of each.
  template <class Use>
  void in_minibatches(std::int64_t size, const Use& use) {
    const auto total = options_.horizon;
    order_.resize(static_cast<std::size_t>(total));
    for (std::int64_t i = 0; i < total; ++i) order_[static_cast<std::size_t>(i)] = i;
    for (std::int64_t i = total - 1; i > 0; --i)
      std::swap(order_[static_cast<std::size_t>(i)], order_[random_.below(static_cast<std::uint64_t>(i + 1))]);
    for (std::int64_t begin = 0; begin < total; begin += size) {
      const auto count = std::min(size, total - begin);
      const std::span<const std::int64_t> chosen(order_.data() + begin, static_cast<std::size_t>(count));
      part_.resize(count, states_.columns, states_.columns);
      for (std::int64_t k = 0; k < count; ++k)
        std::copy_n(states_.row(chosen[static_cast<std::size_t>(k)]), states_.columns, part_.row(k));
      use(chosen);
    }
  }

  /// Epochs on half the squared error to the lambda-returns, the larger of it and the error of the clipped value.
  void improve_value(CurvePoint& point, double rate) {
    const AdamOptions adam{options_.value_lr * rate, .9, .999, options_.adam_eps, options_.max_norm};
    double loss = 0;
    std::int64_t seen = 0;
    for (std::int64_t epoch = 0; epoch < options_.value_epochs; ++epoch) {
      in_minibatches(options_.value_batch, [&](std::span<const std::int64_t> chosen) {
        value_.forward(part_, work_);
        upstream_.resize(part_.rows, 1, 1);
        for (std::int64_t k = 0; k < part_.rows; ++k) {
          const auto from = static_cast<std::size_t>(chosen[static_cast<std::size_t>(k)]);
          const double v = work_.result().row(k)[0], error = v - targets_[from];
          double used = error, slope = error;
          if (options_.normalise_rewards && options_.value_clip > 0) {
            const double moved = v - values_[from], cut = std::clamp(moved, -options_.value_clip, options_.value_clip);
            const double clipped = values_[from] + cut - targets_[from];
            if (clipped * clipped > error * error) used = clipped, slope = cut == moved ? clipped : 0;
          }
          loss += .5 * used * used;
          upstream_.row(k)[0] = static_cast<float>(slope / static_cast<double>(part_.rows));
        }
        seen += part_.rows;
        value_.backward(part_, upstream_, work_);
        value_.step(adam);
      });
    }
    point.value_loss = seen ? loss / static_cast<double>(seen) : 0;
  }

  static constexpr std::uint8_t kGoesOn = 0, kTruncated = 1, kTerminated = 2;

  Learner value_;
  RunningMoments earned_;
  std::vector<double> discounted_;  // returns so far of each copy, discounted backwards: the scale of rewards
  std::int64_t iteration_ = 0;

  Learner::Work work_;  // of one network at a time
  // Of the current iteration; row t * copies + i is step t of copy i.
  Matrix<float> states_, taken_, now_, upstream_, part_;
  Matrix<double> task_;
  std::vector<double> rewards_, values_, targets_;
  std::vector<float> advantages_, beyond_;
  std::vector<std::int64_t> beyond_of_, order_;
  std::vector<std::uint8_t> ends_;
};

}  // namespace

std::unique_ptr<Trainer> on_policy(const MakeDynamics& make, std::int64_t copies, const OnPolicyOptions& options,
                                   std::uint64_t seed) {
  return std::make_unique<OnPolicy>(make, copies, options, seed);
}

std::unique_ptr<Trainer> resume_on_policy(const ArrayFile& file, const CheckpointHead& head, const MakeDynamics& make,
                                          std::int64_t steps) {
  return go_on<OnPolicy>(file, head, make, steps);
}

}  // namespace unbend::control
