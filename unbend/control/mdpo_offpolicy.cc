#include <algorithm>
#include <cmath>

#include "unbend/base/error.h"
#include "unbend/control/mdpo_state.h"
#include "unbend/control/policy_replay.h"

namespace unbend::control {
/// What checkpoints keep.
template <class Visit>
void each_option(OffPolicyOptions& o, const Visit& visit) {
  visit("steps", o.steps), visit("warm_up", o.warm_up), visit("buffer", o.buffer), visit("batch", o.batch),
      visit("updates_per_step", o.updates_per_step), visit("refresh", o.refresh), visit("hidden", o.hidden),
      visit("nonlinearity", o.nonlinearity), visit("start", o.start), visit("lr", o.lr), visit("gamma", o.gamma),
      visit("tau", o.tau), visit("c", o.weights.c), visit("lambda", o.weights.lambda), visit("kappa", o.weights.kappa),
      visit("penalty", o.weights.penalty), visit("sac", o.sac), visit("deterministic_actions", o.deterministic_actions),
      visit("normalise_observations", o.normalise_observations), visit("report_every", o.report_every),
      visit("recent", o.recent);
}

namespace {

void check(const OffPolicyOptions& o, const EnvironmentSpec& spec, std::int64_t copies) {
  const OffPolicyWeights& w = o.weights;
  require(w.c >= 0 && w.lambda >= 0 && w.penalty >= 0, "c = 1/t {}, lambda {} and the penalty {} must not be negative",
          w.c, w.lambda, w.penalty);
  require(w.kappa >= 1 && w.kappa <= 2, "the coefficient of Tsallis' logarithm must be in [1, 2], not {}", w.kappa);
  require(o.refresh >= 1, "the old policy is renewed every {} steps: at least 1 is needed", o.refresh);
  require(o.batch >= 1 && o.buffer >= o.batch, "batches of {} cannot be drawn from a buffer of {}", o.batch, o.buffer);
  require(o.lr > 0 && o.tau > 0 && o.tau <= 1 && o.gamma >= 0 && o.gamma <= 1,
          "the learning rate {} must be positive, tau {} in (0, 1], gamma {} in [0, 1]", o.lr, o.tau, o.gamma);
  require(o.updates_per_step >= 0 && o.updates_per_step <= 1000 && o.warm_up >= 0 && o.steps > 0 &&
              o.report_every >= copies && o.recent > 0,
          "{} updates per step (at most 1,000), {} random steps, {} steps, a report every {} (at least the {} copies), "
          "{} recent episodes: one of them is out of range",
          o.updates_per_step, o.warm_up, o.steps, o.report_every, copies, o.recent);
  require_finite_box(spec);
}

class OffPolicy final : public Learning<OffPolicyOptions> {
 public:
  OffPolicy(const MakeDynamics& make, std::int64_t copies, const OffPolicyOptions& options, std::uint64_t seed)
      : Learning(make, copies, options, seed) {
    const EnvironmentSpec& spec = environments_.spec();
    if (options_.sac) options_.weights.c = options_.weights.lambda;
    check(options_, spec, copies);
    discrete_ = spec.choices > 0;
    kind_ = discrete_ ? PolicyKind::Categorical : PolicyKind::Squashed;
    const auto d = discrete_ ? spec.choices : spec.actions(), in = spec.observations;
    const auto learner = [&](std::int64_t inputs, std::int64_t outputs) {
      return Learner(inputs, options.hidden, outputs, options.nonlinearity);
    };
    policy_ = learner(in, discrete_ ? d : 2 * d), v_ = learner(in, 1);
    for (Learner& q : q_) q = learner(discrete_ ? in : in + d, discrete_ ? d : 1);
    learners_.insert(learners_.end(), {{"v", &v_}, {"q1", &q_[0]}, {"q2", &q_[1]}});
    for (const auto& [name, l] : learners_)
      l->net.initialise(l->parameters.data(), options.start, l == &policy_ ? .01 : 1, random_);
    old_ = policy_.parameters, target_ = v_.parameters;
    replay_ = Replay(options.buffer, in, discrete_ ? 1 : d);
  }

  bool done() const override { return ledger_.steps >= options_.steps; }
  std::int64_t total_steps() const override { return options_.steps; }

 private:
  std::string algorithm() const override { return options_.sac ? "sac" : "mdpo-off"; }

  void put_own(ArrayFile& file) const override {
    put_network(file, "old", policy_.net, old_.data()), put_network(file, "target", v_.net, target_.data());
    replay_.put(file);
    file.put("due", std::span(&due_, 1));
  }

  void get_own(const ArrayFile& file) override {
    get_network(file, "old", policy_.net, old_.data()), get_network(file, "target", v_.net, target_.data());
    replay_.get(file, environments_.spec().choices);
    due_ = file.doubles("due", 1)[0];
    require(due_ >= 0 && due_ < 1, "{}: 'due' is {}", file.where(), due_);
  }

  void learn(CurvePoint& point) override {
    point.step_size = 1 / options_.weights.c;
    const auto before = ledger_.updates;
    const auto end = std::min(ledger_.steps + options_.report_every, options_.steps);
    while (ledger_.steps < end) {
      collect();
      if (ledger_.steps < options_.warm_up || replay_.size() < options_.batch) continue;
      // the old policy is renewed where a multiple of `refresh` is passed
      if (ledger_.steps / options_.refresh != (ledger_.steps - environments_.copies()) / options_.refresh)
        old_ = policy_.parameters;
      for (due_ += options_.updates_per_step * static_cast<double>(environments_.copies()); due_ >= 1; --due_)
        update(point);
    }
    if (ledger_.updates == before) point.divergence = point.entropy = point.policy_loss = point.value_loss = NAN;
  }

  void collect() {
    const EnvironmentSpec& spec = environments_.spec();
    const Matrix<double>& seen = environments_.observations();
    const auto n = environments_.copies();
    if (!observed_.empty()) observed_.add(seen.row(0), n, seen.stride);
    task_.resize(n, spec.actions(), spec.actions());
    if (ledger_.steps < options_.warm_up) {
      for (std::int64_t i = 0; i < n; ++i) {
        for (std::size_t k = 0; k < static_cast<std::size_t>(spec.actions()); ++k)
          task_.row(i)[k] = discrete_ ? static_cast<double>(random_.below(static_cast<std::uint64_t>(spec.choices)))
                                      : spec.low[k] + random_.uniform() * (spec.high[k] - spec.low[k]);
      }
    } else {
      normalise(observed_, seen, rows_);
      choose_actions(spec, kind_, policy_.forward(rows_, policy_work_), {}, options_.deterministic_actions, random_,
                     task_);
    }
    if (options_.action_noise) options_.action_noise(task_, random_);
    before_ = seen;
    environments_.step(task_);
    stored_.resize(static_cast<std::size_t>(spec.actions()));
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::size_t k = 0; k < stored_.size(); ++k) {
        const double taken = task_.row(i)[k];
        stored_[k] = static_cast<float>(
            discrete_ ? taken : std::clamp(2 * (taken - spec.low[k]) / (spec.high[k] - spec.low[k]) - 1, -1., 1.));
      }
      replay_.add(before_.row(i), stored_.data(), environments_.rewards()[static_cast<std::size_t>(i)],
                  environments_.reached(i), environments_.terminated(i));
    }
    ledger_.count(environments_);
  }

  /// One gradient step of every network. Each is stepped as soon as no other needs it as it was: its gradient is then
  /// still in the cache.
  void update(CurvePoint& point) {
    replay_.sample(options_.batch, random_, batch_);
    if (!observed_.empty()) {
      for (Matrix<float>* m : {&batch_.states, &batch_.reached}) normalise_rows(*m);
    }
    v_.net.forward(target_.data(), batch_.reached, work_[0]);
    q_target_.resize(batch_.rewards.size());
    for (std::size_t i = 0; i < q_target_.size(); ++i)
      q_target_[i] = batch_.rewards[i] + static_cast<float>(options_.gamma) * batch_.goes_on[i] *
                                             work_[0].result().row(static_cast<std::int64_t>(i))[0];
    const Matrix<float>* old = nullptr;
    if (!options_.sac) {
      policy_.net.forward(old_.data(), batch_.states, work_[0]);
      old_outputs_ = work_[0].result();
      old = &old_outputs_;
    }
    const Matrix<float>& outputs = policy_.forward(batch_.states, policy_work_);
    if (discrete_) {
      learn_from_sums(point, outputs, old);
    } else {
      learn_from_draws(point, outputs, old);
    }
    v_.forward(batch_.states, work_[0]);
    fit(v_, batch_.states, work_[0], soft_);  // V to the soft value that learn_* left
    const auto tau = static_cast<float>(options_.tau);
    for (std::size_t i = 0; i < target_.size(); ++i) target_[i] += tau * (v_.parameters[i] - target_[i]);
    ++ledger_.updates;
  }

  AdamOptions adam() const { return {.lr = options_.lr}; }

  void normalise_rows(Matrix<float>& m) {
    std::vector<double> row(static_cast<std::size_t>(m.columns));
    for (std::int64_t i = 0; i < m.rows; ++i) {
      std::copy_n(m.row(i), m.columns, row.begin());
      normalise(observed_, row.data(), m.columns, m.row(i));
    }
  }

  void fit_policy() {
    policy_.backward(batch_.states, policy_upstream_, policy_work_);
    policy_.step(adam());
  }

  /// A step on half the mean squared error of one output, column `of` [n] or the first, after forward(x, work); the
  /// loss.
  double fit(Learner& learner, const Matrix<float>& x, Learner::Work& work, const std::vector<float>& target,
             const Matrix<float>* of = nullptr) {
    const Matrix<float>& values = work.result();
    upstream_.resize(x.rows, values.columns, values.columns);
    std::fill_n(upstream_.data.begin(), x.rows * values.columns, 0.f);
    double loss = 0;
    for (std::int64_t i = 0; i < x.rows; ++i) {
      const auto column = of ? static_cast<std::int64_t>(of->row(i)[0]) : 0;
      const float error = values.row(i)[column] - target[static_cast<std::size_t>(i)];
      loss += .5 * static_cast<double>(error) * static_cast<double>(error);
      upstream_.row(i)[column] = error / static_cast<float>(x.rows);
    }
    learner.backward(x, upstream_, work);
    learner.step(adam());
    return loss / static_cast<double>(x.rows);
  }

  /// [states, actions]
  void join(const Matrix<float>& actions, Matrix<float>& joined) const {
    const auto s = batch_.states.columns, d = actions.columns;
    joined.resize(actions.rows, s + d, s + d);
    for (std::int64_t i = 0; i < actions.rows; ++i)
      std::copy_n(actions.row(i), d, std::copy_n(batch_.states.row(i), s, joined.row(i)));
  }

  void learn_from_draws(CurvePoint& point, const Matrix<float>& outputs, const Matrix<float>* old) {
    const OffPolicyWeights& w = options_.weights;
    const auto n = options_.batch, d = environments_.spec().actions(), s = batch_.states.columns;
    noise_.resize(n, d, d);
    for (std::int64_t i = 0; i < n * d; ++i)
      noise_.data[static_cast<std::size_t>(i)] = static_cast<float>(random_.normal());
    squash(outputs, noise_, w.kappa, drawn_);
    join(drawn_.action, joined_);
    const Matrix<float>&first = q_[0].forward(joined_, work_[0]), &second = q_[1].forward(joined_, work_[1]);
    soft_.resize(static_cast<std::size_t>(n)), q_values_.resize(static_cast<std::size_t>(n));
    double log_prob = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      const auto k = static_cast<std::size_t>(i);
      q_values_[k] = first.row(i)[0];
      soft_[k] = std::min(first.row(i)[0], second.row(i)[0]) - static_cast<float>(w.lambda) * drawn_.log_prob[k];
      for (std::int64_t j = 0; j < d; ++j) log_prob += static_cast<double>(drawn_.log_each.row(i)[j]);
    }
    upstream_.resize(n, 1, 1);
    std::fill_n(upstream_.data.begin(), n, 1.f);
    q_[0].net.backward(q_[0].parameters.data(), joined_, upstream_, work_[0], nullptr, &by_input_);
    slope_.resize(n, d, d);
    for (std::int64_t i = 0; i < n; ++i) std::copy_n(by_input_.row(i) + s, d, slope_.row(i));
    point.policy_loss = squashed_loss(outputs, noise_, drawn_, old, q_values_.data(), slope_, w, policy_upstream_);
    point.entropy = -log_prob / static_cast<double>(n);
    point.divergence = old ? squashed_divergence(outputs, *old) : 0;
    fit_policy();

    join(batch_.actions, joined_);
    point.value_loss = 0;
    for (Learner& q : q_) {
      q.forward(joined_, work_[0]);
      point.value_loss += fit(q, joined_, work_[0], q_target_);
    }
  }

  void learn_from_sums(CurvePoint& point, const Matrix<float>& logits, const Matrix<float>* old) {
    const OffPolicyWeights& w = options_.weights;
    const auto n = options_.batch, choices = environments_.spec().choices;
    for (std::size_t k = 0; k < 2; ++k) q_[k].forward(batch_.states, work_[k]);
    const Matrix<float>&first = work_[0].result(), &second = work_[1].result();
    soft_.assign(static_cast<std::size_t>(n), 0);
    std::vector<float> log_p(static_cast<std::size_t>(choices)), p = log_p, old_log = log_p, old_p = log_p;
    double entropy = 0, divergence = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      log_softmax(logits.row(i), choices, log_p.data(), p.data());
      if (old) log_softmax(old->row(i), choices, old_log.data(), old_p.data());
      for (std::int64_t k = 0; k < choices; ++k) {
        const auto c = static_cast<std::size_t>(k);
        const float q = std::min(first.row(i)[k], second.row(i)[k]);
        const auto cost = static_cast<float>(w.kappa == 1 ? log_p[c] : tsallis_log(std::max(p[c], 1e-6f), w.kappa));
        soft_[static_cast<std::size_t>(i)] += p[c] * (q - static_cast<float>(w.lambda) * cost);
        entropy -= static_cast<double>(p[c] * log_p[c]);
        if (old) divergence += static_cast<double>(p[c] * (log_p[c] - old_log[c]));
      }
    }
    point.entropy = entropy / static_cast<double>(n), point.divergence = divergence / static_cast<double>(n);
    point.policy_loss = categorical_loss(logits, old, first, w, policy_upstream_);
    fit_policy();
    point.value_loss = 0;
    for (std::size_t k = 0; k < 2; ++k)
      point.value_loss += fit(q_[k], batch_.states, work_[k], q_target_, &batch_.actions);
  }

  bool discrete_ = false;
  Learner v_, q_[2];
  Numbers<float> old_, target_;  // parameters of pi_old and of V'
  Replay replay_;
  double due_ = 0;  // gradient steps owed

  Replay::Batch batch_;
  SquashedSample<float> drawn_;
  Learner::Work policy_work_, work_[2];
  Matrix<float> old_outputs_, rows_, noise_, joined_, upstream_, policy_upstream_, by_input_, slope_;
  Matrix<double> task_, before_;
  std::vector<float> stored_, soft_, q_values_, q_target_;
};

}  // namespace

std::unique_ptr<Trainer> off_policy(const MakeDynamics& make, std::int64_t copies, const OffPolicyOptions& options,
                                    std::uint64_t seed) {
  return std::make_unique<OffPolicy>(make, copies, options, seed);
}

std::unique_ptr<Trainer> resume_off_policy(const ArrayFile& file, const CheckpointHead& head, const MakeDynamics& make,
                                           std::int64_t steps) {
  return go_on<OffPolicy>(file, head, make, steps);
}

}  // namespace unbend::control
