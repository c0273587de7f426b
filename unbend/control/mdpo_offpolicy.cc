#include <algorithm>
#include <chrono>
#include <cmath>

#include "unbend/base/error.h"
#include "unbend/control/mdpo_state.h"
#include "unbend/control/policy_replay.h"

namespace unbend::control {
namespace {

Json to_json(const OffPolicyOptions& o) {
  return {{"steps", o.steps},
          {"warm_up", o.warm_up},
          {"buffer", o.buffer},
          {"batch", o.batch},
          {"updates_per_step", o.updates_per_step},
          {"refresh", o.refresh},
          {"hidden", o.hidden},
          {"nonlinearity", text(o.nonlinearity)},
          {"start", text(o.start)},
          {"lr", o.lr},
          {"gamma", o.gamma},
          {"tau", o.tau},
          {"c", o.weights.c},
          {"lambda", o.weights.lambda},
          {"kappa", o.weights.kappa},
          {"penalty", o.weights.penalty},
          {"sac", o.sac},
          {"deterministic_actions", o.deterministic_actions},
          {"normalise_observations", o.normalise_observations},
          {"report_every", o.report_every},
          {"recent", o.recent}};
}

OffPolicyOptions options_from(const Json& j, const std::string& where) {
  OffPolicyOptions o;
  const auto get = [&](const char* key, auto& value) {
    value = json_get<std::remove_reference_t<decltype(value)>>(j, key, where);
  };
  std::string nonlinearity, start;
  get("nonlinearity", nonlinearity), get("start", start);
  o.nonlinearity = nonlinearity == "relu" ? Nonlinearity::Relu : Nonlinearity::Tanh;
  o.start = start == "uniform" ? Start::Uniform : Start::Orthogonal;
  get("steps", o.steps), get("warm_up", o.warm_up), get("buffer", o.buffer), get("batch", o.batch);
  get("updates_per_step", o.updates_per_step), get("refresh", o.refresh), get("hidden", o.hidden), get("lr", o.lr);
  get("gamma", o.gamma), get("tau", o.tau), get("c", o.weights.c), get("lambda", o.weights.lambda);
  get("kappa", o.weights.kappa), get("penalty", o.weights.penalty), get("sac", o.sac);
  get("deterministic_actions", o.deterministic_actions), get("normalise_observations", o.normalise_observations);
  get("report_every", o.report_every), get("recent", o.recent);
  return o;
}

void check(const OffPolicyOptions& o, const EnvironmentSpec& spec, std::int64_t copies) {
  const OffPolicyWeights& w = o.weights;
  require(w.c >= 0 && w.lambda >= 0 && w.penalty >= 0, "c = 1/t {}, lambda {} and the penalty {} must not be negative",
          w.c, w.lambda, w.penalty);
  require(w.kappa >= 1 && w.kappa <= 2, "the coefficient of Tsallis' logarithm must be in [1, 2], not {}", w.kappa);
  require(o.refresh >= 1, "the old policy is renewed every {} steps: at least 1 is needed", o.refresh);
  require(o.batch >= 1 && o.buffer >= o.batch, "batches of {} cannot be drawn from a buffer of {}", o.batch, o.buffer);
  require(o.lr > 0 && o.tau > 0 && o.tau <= 1 && o.gamma >= 0 && o.gamma <= 1,
          "the learning rate {} must be positive, tau {} in (0, 1], gamma {} in [0, 1]", o.lr, o.tau, o.gamma);
  require(o.updates_per_step >= 0 && o.warm_up >= 0 && o.steps > 0 && o.report_every >= copies && o.recent > 0,
          "{} updates per step, {} random steps, {} steps, a report every {} (at least the {} copies), {} recent "
          "episodes: one of them is too small",
          o.updates_per_step, o.warm_up, o.steps, o.report_every, copies, o.recent);
  for (std::size_t k = 0; k < spec.low.size(); ++k)
    require(std::isfinite(spec.low[k]) && std::isfinite(spec.high[k]),
            "{}: action {} has the bounds [{}, {}]: a squashed policy needs finite ones", spec.name, k, spec.low[k],
            spec.high[k]);
}

std::vector<std::int64_t> widths(std::int64_t in, std::vector<std::int64_t> hidden, std::int64_t out) {
  hidden.insert(hidden.begin(), in);
  hidden.push_back(out);
  return hidden;
}

class OffPolicy final : public Trainer {
 public:
  OffPolicy(const MakeDynamics& make, std::int64_t copies, const OffPolicyOptions& options, std::uint64_t seed)
      : options_(options), random_(seed), environments_(make(copies), random_.split().bits()) {
    const EnvironmentSpec& spec = environments_.spec();
    if (options_.sac) options_.weights.c = options_.weights.lambda;
    check(options_, spec, copies);
    discrete_ = spec.choices > 0;
    const auto d = discrete_ ? spec.choices : spec.actions(), in = spec.observations;
    const auto critic_in = discrete_ ? in : in + d, critic_out = discrete_ ? d : 1;
    actor_ = Learner(widths(in, options.hidden, discrete_ ? d : 2 * d), options.nonlinearity);
    v_ = Learner(widths(in, options.hidden, 1), options.nonlinearity);
    for (Learner& q : q_) q = Learner(widths(critic_in, options.hidden, critic_out), options.nonlinearity);
    for (Learner* l : {&actor_, &v_, &q_[0], &q_[1]})
      l->net.initialise(l->parameters.data(), options.start, l == &actor_ ? .01 : 1, random_);
    old_ = actor_.parameters, target_ = v_.parameters;
    if (options.normalise_observations) observed_ = RunningMoments(in);
    replay_ = Replay(options.buffer, in, discrete_ ? 1 : d);
    ledger_.recent = static_cast<std::size_t>(options.recent);
  }

  void restore(const ArrayFile& file) {
    get_learner(file, "policy", actor_), get_learner(file, "v", v_);
    get_learner(file, "q1", q_[0]), get_learner(file, "q2", q_[1]);
    get_network(file, "old", actor_.net, old_.data()), get_network(file, "target", v_.net, target_.data());
    get_ledger(file, ledger_), get_environments(file, environments_), replay_.get(file);
    random_ = get_random(file);
    due_ = file.doubles("due", 1)[0];
    if (!observed_.empty()) get_moments(file, "observed", observed_);
  }

  bool done() const override { return ledger_.steps >= options_.steps; }
  std::int64_t steps() const override { return ledger_.steps; }
  std::int64_t total_steps() const override { return options_.steps; }

  CurvePoint advance() override {
    const auto begin = std::chrono::steady_clock::now();
    CurvePoint point;
    point.step_size = 1 / options_.weights.c;
    const auto end = std::min(ledger_.steps + options_.report_every, options_.steps);
    while (ledger_.steps < end) {
      collect();
      if (ledger_.steps < options_.warm_up || replay_.size() < options_.batch) continue;
      // the old policy is renewed where a multiple of `refresh` is passed
      if (ledger_.steps / options_.refresh != (ledger_.steps - environments_.copies()) / options_.refresh)
        old_ = actor_.parameters;
      for (due_ += options_.updates_per_step * static_cast<double>(environments_.copies()); due_ >= 1; --due_)
        update(point);
    }
    ledger_.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    ledger_.fill(point);
    for (const Learner* l : {&actor_, &v_, &q_[0], &q_[1]}) point.skipped += l->adam.skipped();
    return point;
  }

  Agent agent() const override {
    Agent agent{discrete_ ? PolicyKind::Categorical : PolicyKind::Squashed,
                actor_.net,
                actor_.parameters,
                {},
                observed_,
                environments_.spec()};
    agent.about = {{"algorithm", "off-policy"}, {"options", to_json(options_)}, {"steps", ledger_.steps}};
    return agent;
  }

  ArrayFile checkpoint(bool environment) const override {
    ArrayFile file;
    put_learner(file, "policy", actor_), put_learner(file, "v", v_);
    put_learner(file, "q1", q_[0]), put_learner(file, "q2", q_[1]);
    put_network(file, "old", actor_.net, old_.data()), put_network(file, "target", v_.net, target_.data());
    put_ledger(file, ledger_), put_random(file, random_), replay_.put(file);
    if (environment) put_environments(file, environments_);
    if (!observed_.empty()) put_moments(file, "observed", observed_);
    file.put("due", std::span(&due_, 1));
    file.metadata[kCheckpointKey] = Json{
        {"kind", "off_policy"},
        {"copies", environments_.copies()},
        {"task", control::to_json(environments_.spec())},
        {"options", to_json(options_)}}.dump();
    return file;
  }

 private:
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
      act(seen);
    }
    if (options_.action_noise) options_.action_noise(task_, random_);
    const Matrix<double> before = seen;
    environments_.step(task_);
    for (std::int64_t i = 0; i < n; ++i) {
      float action[64];
      std::vector<float> many;
      float* a = action;
      if (spec.actions() > 64) many.resize(static_cast<std::size_t>(spec.actions())), a = many.data();
      for (std::size_t k = 0; k < static_cast<std::size_t>(spec.actions()); ++k) {
        const double taken = task_.row(i)[k];
        a[k] = static_cast<float>(
            discrete_ ? taken : std::clamp(2 * (taken - spec.low[k]) / (spec.high[k] - spec.low[k]) - 1, -1., 1.));
      }
      replay_.add(before.row(i), a, environments_.rewards()[static_cast<std::size_t>(i)], environments_.reached(i),
                  environments_.terminated(i));
    }
    ledger_.count(environments_);
  }

  void act(const Matrix<double>& seen) {
    const EnvironmentSpec& spec = environments_.spec();
    rows_.resize(seen.rows, spec.observations, spec.observations);
    for (std::int64_t i = 0; i < seen.rows; ++i) normalise(observed_, seen.row(i), spec.observations, rows_.row(i));
    actor_.forward(rows_);
    const Matrix<float>& out = actor_.work.result();
    const auto d = discrete_ ? spec.choices : spec.actions();
    std::vector<float> raw(static_cast<std::size_t>(d)), spread(raw.size());
    const auto kind = discrete_ ? PolicyKind::Categorical : PolicyKind::Squashed;
    for (std::int64_t i = 0; i < seen.rows; ++i) {
      const float* const row = out.row(i);
      if (options_.deterministic_actions) {
        most_likely(kind, row, d, raw.data());
      } else {
        for (std::int64_t k = 0; k < d && !discrete_; ++k)
          spread[static_cast<std::size_t>(k)] = std::clamp(row[d + k], -20.f, 2.f);
        sample(kind, row, spread.data(), d, random_, raw.data());
      }
      to_task_action(spec, kind, raw.data(), task_.row(i));
    }
  }

  void update(CurvePoint& point) {
    replay_.sample(options_.batch, random_, batch_);
    if (!observed_.empty()) {
      for (Matrix<float>* m : {&batch_.states, &batch_.reached}) normalise_rows(*m);
    }
    actor_.forward(batch_.states);
    const Matrix<float>* old = nullptr;
    if (!options_.sac) {
      actor_.net.forward(old_.data(), batch_.states, old_work_);
      old = &old_work_.result();
    }
    v_.net.forward(target_.data(), batch_.reached, target_work_);
    v_.forward(batch_.states);
    if (discrete_) {
      learn_from_sums(point, old);
    } else {
      learn_from_draws(point, old);
    }
    // V to the soft value that learn_* left in soft_
    value_gradient(v_, batch_.states, [&](std::int64_t i) { return soft_[static_cast<std::size_t>(i)]; });
    const AdamOptions adam{.lr = options_.lr};
    for (Learner* l : {&actor_, &q_[0], &q_[1], &v_}) l->adam.step(adam, l->parameters.data(), l->gradient.data());
    const auto tau = static_cast<float>(options_.tau);
    for (std::size_t i = 0; i < target_.size(); ++i) target_[i] += tau * (v_.parameters[i] - target_[i]);
    ++ledger_.updates;
  }

  void normalise_rows(Matrix<float>& m) {
    std::vector<double> row(static_cast<std::size_t>(m.columns));
    for (std::int64_t i = 0; i < m.rows; ++i) {
      std::copy_n(m.row(i), m.columns, row.begin());
      normalise(observed_, row.data(), m.columns, m.row(i));
    }
  }

  float q_target(std::int64_t i) const {
    const auto k = static_cast<std::size_t>(i);
    return batch_.rewards[k] + static_cast<float>(options_.gamma) * batch_.goes_on[k] * target_work_.result().row(i)[0];
  }

  /// Gradient of half the mean squared error of a learner with one output, whose forward pass is done; the loss.
  template <class Target>
  double value_gradient(Learner& learner, const Matrix<float>& x, const Target& target) {
    upstream_.resize(x.rows, 1, 1);
    double loss = 0;
    for (std::int64_t i = 0; i < x.rows; ++i) {
      const float error = learner.work.result().row(i)[0] - target(i);
      loss += .5 * static_cast<double>(error) * static_cast<double>(error);
      upstream_.row(i)[0] = error / static_cast<float>(x.rows);
    }
    learner.net.backward(learner.parameters.data(), x, upstream_, learner.work, learner.gradient.data());
    return loss / static_cast<double>(x.rows);
  }

  /// [states, actions]
  void join(const Matrix<float>& actions, Matrix<float>& joined) const {
    const auto s = batch_.states.columns, d = actions.columns;
    joined.resize(actions.rows, s + d, s + d);
    for (std::int64_t i = 0; i < actions.rows; ++i)
      std::copy_n(actions.row(i), d, std::copy_n(batch_.states.row(i), s, joined.row(i)));
  }

  void learn_from_draws(CurvePoint& point, const Matrix<float>* old) {
    const OffPolicyWeights& w = options_.weights;
    const auto n = options_.batch, d = environments_.spec().actions(), s = batch_.states.columns;
    const Matrix<float>& outputs = actor_.work.result();
    noise_.resize(n, d, d);
    for (std::int64_t i = 0; i < n * d; ++i)
      noise_.data[static_cast<std::size_t>(i)] = static_cast<float>(random_.normal());
    squash(outputs, noise_, w.kappa, drawn_);
    join(drawn_.action, joined_);
    for (Learner& q : q_) q.forward(joined_);
    soft_.resize(static_cast<std::size_t>(n)), q_values_.resize(static_cast<std::size_t>(n));
    double log_prob = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      const auto k = static_cast<std::size_t>(i);
      const float first = q_[0].work.result().row(i)[0], second = q_[1].work.result().row(i)[0];
      q_values_[k] = first;
      soft_[k] = std::min(first, second) - static_cast<float>(w.lambda) * drawn_.log_prob[k];
      for (std::int64_t j = 0; j < d; ++j) log_prob += static_cast<double>(drawn_.log_each.row(i)[j]);
    }
    upstream_.resize(n, 1, 1);
    std::fill_n(upstream_.data.begin(), n, 1.f);
    q_[0].net.backward(q_[0].parameters.data(), joined_, upstream_, q_[0].work, nullptr, &by_input_);
    slope_.resize(n, d, d);
    for (std::int64_t i = 0; i < n; ++i) std::copy_n(by_input_.row(i) + s, d, slope_.row(i));
    point.policy_loss = squashed_loss(outputs, noise_, drawn_, old, q_values_.data(), slope_, w, policy_upstream_);
    point.entropy = -log_prob / static_cast<double>(n);
    point.divergence = old ? divergence(outputs, *old) : 0;
    actor_.net.backward(actor_.parameters.data(), batch_.states, policy_upstream_, actor_.work, actor_.gradient.data());

    join(batch_.actions, joined_);
    point.value_loss = 0;
    for (Learner& q : q_) {
      q.forward(joined_);
      point.value_loss += value_gradient(q, joined_, [&](std::int64_t i) { return q_target(i); });
    }
  }

  /// Mean KL of the Gaussians before the tanh.
  static double divergence(const Matrix<float>& now, const Matrix<float>& old) {
    const auto d = now.columns / 2;
    double sum = 0;
    for (std::int64_t i = 0; i < now.rows; ++i) {
      for (std::int64_t k = 0; k < d; ++k) {
        const float l = std::clamp(now.row(i)[d + k], -20.f, 2.f), l0 = std::clamp(old.row(i)[d + k], -20.f, 2.f);
        const float away = (now.row(i)[k] - old.row(i)[k]) * std::exp(-l0), ratio = std::exp(2 * (l - l0));
        sum += static_cast<double>(l0 - l + .5f * (ratio + away * away - 1));
      }
    }
    return sum / static_cast<double>(now.rows);
  }

  void learn_from_sums(CurvePoint& point, const Matrix<float>* old) {
    const OffPolicyWeights& w = options_.weights;
    const auto n = options_.batch, choices = environments_.spec().choices;
    const Matrix<float>& logits = actor_.work.result();
    for (Learner& q : q_) q.forward(batch_.states);
    soft_.assign(static_cast<std::size_t>(n), 0);
    std::vector<float> log_p(static_cast<std::size_t>(choices)), p = log_p, old_log = log_p, old_p = log_p;
    double entropy = 0, divergence = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      log_softmax(logits.row(i), choices, log_p.data(), p.data());
      if (old) log_softmax(old->row(i), choices, old_log.data(), old_p.data());
      for (std::int64_t k = 0; k < choices; ++k) {
        const auto c = static_cast<std::size_t>(k);
        const float q = std::min(q_[0].work.result().row(i)[k], q_[1].work.result().row(i)[k]);
        const auto cost = static_cast<float>(w.kappa == 1 ? log_p[c] : tsallis_log(std::max(p[c], 1e-6f), w.kappa));
        soft_[static_cast<std::size_t>(i)] += p[c] * (q - static_cast<float>(w.lambda) * cost);
        entropy -= static_cast<double>(p[c] * log_p[c]);
        if (old) divergence += static_cast<double>(p[c] * (log_p[c] - old_log[c]));
      }
    }
    point.entropy = entropy / static_cast<double>(n), point.divergence = divergence / static_cast<double>(n);
    point.policy_loss = categorical_loss(logits, old, q_[0].work.result(), w, policy_upstream_);
    actor_.net.backward(actor_.parameters.data(), batch_.states, policy_upstream_, actor_.work, actor_.gradient.data());
    point.value_loss = 0;
    for (Learner& q : q_) {
      upstream_.resize(n, choices, choices);
      std::fill_n(upstream_.data.begin(), n * choices, 0.f);
      for (std::int64_t i = 0; i < n; ++i) {
        const auto taken = static_cast<std::int64_t>(batch_.actions.row(i)[0]);
        const float error = q.work.result().row(i)[taken] - q_target(i);
        point.value_loss += .5 * static_cast<double>(error * error) / static_cast<double>(n);
        upstream_.row(i)[taken] = error / static_cast<float>(n);
      }
      q.net.backward(q.parameters.data(), batch_.states, upstream_, q.work, q.gradient.data());
    }
  }

  OffPolicyOptions options_;
  Random random_;
  Environments environments_;
  bool discrete_ = false;
  Learner actor_, v_, q_[2];
  Numbers<float> old_, target_;  // parameters of pi_old and of V'
  RunningMoments observed_;
  Replay replay_;
  Ledger ledger_;
  double due_ = 0;  // gradient steps owed

  Replay::Batch batch_;
  SquashedSample<float> drawn_;
  Mlp<float>::Work old_work_, target_work_;
  Matrix<float> rows_, noise_, joined_, upstream_, policy_upstream_, by_input_, slope_;
  Matrix<double> task_;
  std::vector<float> soft_, q_values_;
};

}  // namespace

std::unique_ptr<Trainer> off_policy(const MakeDynamics& make, std::int64_t copies, const OffPolicyOptions& options,
                                    std::uint64_t seed) {
  require(copies > 0, "at least one copy of the environment is needed");
  return std::make_unique<OffPolicy>(make, copies, options, seed);
}

std::unique_ptr<Trainer> resume_off_policy(const ArrayFile& file, const Json& json, const MakeDynamics& make,
                                           std::int64_t steps) {
  auto options = options_from(json_get<Json>(json, "options", file.where()), file.where());
  if (steps > 0) options.steps = steps;
  auto trainer = std::make_unique<OffPolicy>(make, json_get<std::int64_t>(json, "copies", file.where()), options, 0);
  trainer->restore(file);
  return trainer;
}

}  // namespace unbend::control
