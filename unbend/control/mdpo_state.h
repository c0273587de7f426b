// What both trainers have and do alike: where they act, how far they are, and what they keep in checkpoints.
#pragma once

#include <chrono>
#include <cmath>
#include <deque>
#include <utility>

#include "unbend/base/error.h"
#include "unbend/control/mdpo.h"
#include "unbend/control/policy_adam.h"
#include "unbend/control/policy_names.h"

namespace unbend::control {

/// Parameters of a network with their optimiser. `extra` parameters behind those of the network: log standard
/// deviations.
struct Learner {
  Mlp<float> net;
  std::int64_t extra = 0;
  Numbers<float> parameters, gradient;
  Adam<float> adam;

  using Work = Mlp<float>::Work;
  Learner() = default;
  Learner(std::int64_t inputs, std::vector<std::int64_t> hidden, std::int64_t outputs, Nonlinearity nonlinearity,
          std::int64_t extra = 0);
  float* extras() { return parameters.data() + net.parameters(); }
  const float* extras() const { return parameters.data() + net.parameters(); }
  const Matrix<float>& forward(const Matrix<float>& x, Work& work) const {
    net.forward(parameters.data(), x, work);
    return work.result();
  }
  /// After forward(x, work): the gradient from that with respect to the result.
  void backward(const Matrix<float>& x, const Matrix<float>& upstream, Work& work) {
    net.backward(parameters.data(), x, upstream, work, gradient.data());
  }
  void step(const AdamOptions& options) { adam.step(options, parameters.data(), gradient.data()); }
};

void put_learner(ArrayFile& file, const std::string& prefix, const Learner& learner);
void get_learner(const ArrayFile& file, const std::string& prefix, Learner& learner);

/// Counters, recent episodes and clock.
struct Ledger {
  std::int64_t steps = 0, episodes = 0, updates = 0;
  std::size_t recent = 40;
  std::deque<Episode> last;
  double seconds = 0;

  void count(const Environments& environments);
  void fill(CurvePoint& point) const;
};

/// The environment of a training. Input error for numbers of copies that make no sense.
std::unique_ptr<Dynamics> copies_of(const MakeDynamics& make, std::int64_t copies);

/// Input error naming the first action without finite bounds: a squashed policy is stretched to its box.
void require_finite_box(const EnvironmentSpec& spec);

/// What every checkpoint has beside its learners. Restoring leaves environments as they are if the file has none.
struct Whereabouts {
  Random& random;
  Environments& environments;
  RunningMoments& observed;
  Ledger& ledger;
};
void put_whereabouts(ArrayFile& file, const Random& random, const Environments& environments,
                     const RunningMoments& observed, const Ledger& ledger, bool with_environments);
void get_whereabouts(const ArrayFile& file, const Whereabouts& to);

/// A checkpoint's kind, number of copies, task and options, under one key of its metadata.
struct CheckpointHead {
  std::string kind;
  std::int64_t copies = 0;
  EnvironmentSpec task;
  Json options;
};
void put_head(ArrayFile& file, const CheckpointHead& head);
CheckpointHead get_head(const ArrayFile& file);

/// Options as JSON, by each_option(options, visit), which calls visit(name, member) for every option kept.
template <class Options>
Json options_to_json(Options options) {
  Json json;
  each_option(options, [&](const char* key, auto& value) {
    if constexpr (std::is_enum_v<std::remove_reference_t<decltype(value)>>) {
      json[key] = name(value);
    } else {
      json[key] = value;
    }
  });
  return json;
}

template <class Options>
Options options_from_json(const Json& json, const std::string& where) {
  Options options;
  each_option(options, [&](const char* key, auto& value) {
    using Value = std::remove_reference_t<decltype(value)>;
    if constexpr (std::is_enum_v<Value>) {
      value = named<Value>(json_get<std::string>(json, key, where), where);
    } else {
      value = json_get<Value>(json, key, where);
    }
  });
  return options;
}

/// Input error that names the first option that is not a finite number.
template <class Options>
void require_finite(Options options) {
  each_option(options, [](const char* key, const auto& value) {
    if constexpr (std::is_floating_point_v<std::remove_cvref_t<decltype(value)>>)
      require(std::isfinite(value), "option {} is {}: a finite number expected", key, value);
  });
}

/// The frame of both trainers: a policy that acts in environments, the clock around each point of the curve, files.
/// What and how is learnt is the derived class's.
template <class Own>
class Learning : public Trainer {
 public:
  using Options = Own;

  Learning(const MakeDynamics& make, std::int64_t copies, const Options& options, std::uint64_t seed)
      : options_(options), random_(seed), environments_(copies_of(make, copies), random_.split().bits()) {
    require_finite(options);
    if (options.normalise_observations) observed_ = RunningMoments(environments_.spec().observations);
    ledger_.recent = static_cast<std::size_t>(options.recent);
  }
  Learning(const Learning&) = delete;
  Learning& operator=(const Learning&) = delete;

  std::int64_t steps() const final { return ledger_.steps; }

  CurvePoint advance() final {
    const auto begin = std::chrono::steady_clock::now();
    CurvePoint point;
    learn(point);
    ledger_.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    ledger_.fill(point);
    for (const auto& [name, learner] : learners_) point.skipped += learner->adam.skipped();
    return point;
  }

  Agent agent() const final {
    Agent agent{kind_,
                policy_.net,
                Numbers<float>(policy_.parameters.begin(), policy_.parameters.end() - policy_.extra),
                std::vector<float>(policy_.extras(), policy_.extras() + policy_.extra),
                observed_,
                environments_.spec()};
    agent.about = {{"algorithm", algorithm()}, {"options", options_to_json(options_)}, {"steps", ledger_.steps}};
    return agent;
  }

  ArrayFile checkpoint(bool environment) const final {
    ArrayFile file;
    for (const auto& [name, learner] : learners_) put_learner(file, name, *learner);
    put_whereabouts(file, random_, environments_, observed_, ledger_, environment);
    put_head(file, {Options::kKind, environments_.copies(), environments_.spec(), options_to_json(options_)});
    put_own(file);
    return file;
  }

  void restore(const ArrayFile& file) {
    for (const auto& [name, learner] : learners_) get_learner(file, name, *learner);
    get_whereabouts(file, {random_, environments_, observed_, ledger_});
    get_own(file);
  }

 protected:
  virtual void learn(CurvePoint& point) = 0;  ///< on to the next point, all but its counters and clock
  virtual std::string algorithm() const = 0;
  virtual void put_own(ArrayFile& file) const = 0;  ///< what only this trainer has
  virtual void get_own(const ArrayFile& file) = 0;

  Options options_;
  Random random_;
  Environments environments_;
  RunningMoments observed_;
  Ledger ledger_;
  PolicyKind kind_ = PolicyKind::Categorical;
  Learner policy_;
  std::vector<std::pair<const char*, Learner*>> learners_{{"policy", &policy_}};  ///< all, as files name them
};

/// A trainer of this kind that goes on from a checkpoint, to more `steps` (0: as many). Input error if the environment
/// is not that of the checkpoint.
template <class Trained>
std::unique_ptr<Trainer> go_on(const ArrayFile& file, const CheckpointHead& head, const MakeDynamics& make,
                               std::int64_t steps) {
  auto options = options_from_json<typename Trained::Options>(head.options, file.where());
  require(steps == 0 || steps >= options.steps, "{}: a training of {} steps cannot end after {}: --steps can be raised",
          file.where(), options.steps, steps);
  if (steps > 0) options.steps = steps;
  auto trainer = std::make_unique<Trained>(make, head.copies, options, 0);
  trainer->restore(file);
  return trainer;
}

std::unique_ptr<Trainer> resume_on_policy(const ArrayFile& file, const CheckpointHead& head, const MakeDynamics& make,
                                          std::int64_t steps);
std::unique_ptr<Trainer> resume_off_policy(const ArrayFile& file, const CheckpointHead& head, const MakeDynamics& make,
                                           std::int64_t steps);

}  // namespace unbend::control
