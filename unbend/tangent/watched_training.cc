#include "unbend/tangent/watched_training.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "unbend/base/error.h"
#include "unbend/base/interrupt.h"
#include "unbend/base/progress.h"
#include "unbend/tangent/local_complexity.h"
#include "unbend/tensor/adamw.h"
#include "unbend/tensor/check.h"
#include "unbend/tensor/checkpoint.h"

namespace unbend {
namespace {

constexpr int64_t kCheckpointEvery = 5000;

// Independent streams of one seed.
Random stream(uint64_t seed, uint64_t purpose, uint64_t index = 0) {
  Random random(seed);
  Random of_purpose(random.bits() ^ (purpose << 56));
  return Random(of_purpose.bits() ^ index);
}
enum Purpose : uint64_t { kStart = 1, kOrder, kFrame, kPoints, kAttack };

Json settings_json(const WatchedTraining& s) {
  return {{"hidden", s.hidden},
          {"activation", std::string(name_of(s.activation.function))},
          {"slope", s.activation.slope},
          {"initialization_scale", s.initialization_scale},
          {"loss", s.loss == ClassLoss::SquaredError ? "squared error" : "cross-entropy"},
          {"learning_rate", s.learning_rate},
          {"weight_decay", s.weight_decay},
          {"batch", s.batch},
          {"steps", s.steps},
          {"evaluations", s.evaluations},
          {"keep", s.keep},
          {"radius", s.radius},
          {"directions", s.directions},
          {"probes", s.probes},
          {"include_output", s.include_output},
          {"attacks", s.attacks},
          {"attack_iterations", s.attack_iterations},
          {"attacked", s.attacked},
          {"range", {s.low, s.high}},
          {"seed", s.seed}};
}

struct Data {
  at::Tensor train, train_labels, test, test_labels;  // [N, D], [N]
  int64_t classes;
};

Data checked(const ImageSet& train, const ImageSet& test, const WatchedTraining& s) {
  require(train.size() >= 1 && test.size() >= 1, "training: {} points to train on and {} to test", train.size(),
          test.size());
  require(s.batch >= 1 && s.batch <= train.size(), "training: a batch of {} does not fit into {} points", s.batch,
          train.size());
  require(s.steps >= 1 && s.evaluations >= 2, "training: {} steps and {} evaluations", s.steps, s.evaluations);
  require(s.probes >= 1 && s.attacked >= 1, "training: {} probes and {} attacked points", s.probes, s.attacked);
  require(!s.hidden.empty(), "training: without a hidden layer nothing folds");
  require(s.low < s.high, "training: inputs from {} to {}", s.low, s.high);
  Data data{pixels(train.images).flatten(1), train.labels, pixels(test.images).flatten(1), test.labels, 0};
  check_finite(data.train, "training: inputs");
  check_finite(data.test, "training: test inputs");
  check_shape(data.test, {-1, data.train.size(1)}, "training: test inputs");
  data.classes = std::max(train.labels.max().item<int64_t>(), test.labels.max().item<int64_t>()) + 1;
  require(data.classes >= 2, "training: one class");
  check_indices(train.labels, data.classes, "training: labels");
  check_indices(test.labels, data.classes, "training: test labels");
  return data;
}

Network initial(const Data& data, const WatchedTraining& s) {
  std::vector<int64_t> widths = {data.train.size(1)};
  widths.insert(widths.end(), s.hidden.begin(), s.hidden.end());
  widths.push_back(data.classes);
  auto random = stream(s.seed, kStart);
  auto network = multilayer_perceptron(widths, s.activation, random);
  for (const auto& p : parameters(network)) {
    p.tensor->mul_(s.initialization_scale);
    p.tensor->requires_grad_();
  }
  return network;
}

at::Tensor loss_of(const at::Tensor& logits, const at::Tensor& labels, ClassLoss loss) {
  if (loss == ClassLoss::CrossEntropy) return at::cross_entropy_loss(logits, labels);
  return at::mse_loss(logits, at::one_hot(labels, logits.size(1)).to(logits.scalar_type()));
}

// What does not change along a training.
struct Watch {
  const Data& data;
  const WatchedTraining& settings;
  at::Tensor frame, random_points;

  Watch(const Data& d, const WatchedTraining& s) : data(d), settings(s) {
    const int64_t dimensions = data.train.size(1);
    frame = orthoplex_frame(dimensions, s.directions, stream(s.seed, kFrame).bits());
    auto random = stream(s.seed, kPoints);
    random_points = (uniform_tensor({s.probes, dimensions}, .5, random) + .5) * (s.high - s.low) + s.low;
  }

  LocalComplexity complexity(const Network& network, const at::Tensor& points) const {
    return local_complexity(network, points.slice(0, 0, settings.probes), frame,
                            {.radius = settings.radius, .include_output = settings.include_output});
  }

  TrainingMoment moment(const Network& trained, int64_t step) const {
    const auto network = to(trained, at::kFloat);  // without gradients of the weights
    const Classifier logits = [&](const at::Tensor& x) { return network(x); };
    TrainingMoment m;
    m.step = step;
    {
      const at::NoGradGuard no_grad;
      m.loss = loss_of(network(data.train), data.train_labels, settings.loss).item<double>();
    }
    if (!std::isfinite(m.loss)) fail_computation("training: the loss at step {} is {}", step, m.loss);
    m.train_accuracy = accuracy(logits, data.train, data.train_labels);
    m.test_accuracy = accuracy(logits, data.test, data.test_labels);
    const auto around_training = complexity(network, data.train);
    m.train_complexity = around_training.mean();
    for (const auto& layer : around_training.layers) m.layers.push_back(layer.mean());
    m.test_complexity = complexity(network, data.test).mean();
    m.random_complexity = complexity(network, random_points).mean();
    auto random = stream(settings.seed, kAttack, static_cast<uint64_t>(step));
    for (const double radius : settings.attacks) {
      const AttackOptions attack{
          .radius = radius, .iterations = settings.attack_iterations, .low = settings.low, .high = settings.high};
      m.robustness.push_back(robustness(logits, data.test.slice(0, 0, settings.attacked),
                                        data.test_labels.slice(0, 0, settings.attacked), attack, random));
    }
    return m;
  }
};

TrainingMoment moment_from(const Json& json, const std::string& where) {
  TrainingMoment m;
  m.step = json_get<int64_t>(json, "step", where);
  const auto number = [&](const char* key) { return json_get<double>(json, key, where); };
  m.loss = number("loss"), m.train_accuracy = number("train_accuracy"), m.test_accuracy = number("test_accuracy");
  m.train_complexity = number("train_complexity"), m.test_complexity = number("test_complexity");
  m.random_complexity = number("random_complexity");
  m.layers = json_get<std::vector<double>>(json, "layers", where);
  for (const auto& pair : json_get<std::vector<std::vector<double>>>(json, "robustness", where)) {
    require(pair.size() == 2, "{}: robustness is a pair of numbers", where);
    m.robustness.push_back({pair[0], pair[1]});
  }
  return m;
}

struct Trainer {
  Data data;
  WatchedTraining settings;
  WatchedRun run;
  AdamW optimizer;
  int64_t step = 0;
  at::Tensor order;  // of the epoch

  Trainer(Data d, const WatchedTraining& s)
      : data(std::move(d)), settings(s), optimizer([&] {
          run.network = initial(data, s);
          ParameterGroup group;
          group.lr = s.learning_rate, group.weight_decay = s.weight_decay;
          for (const auto& p : parameters(run.network)) group.parameters.push_back(*p.tensor);
          return std::vector{group};
        }()) {}

  void save() {
    if (settings.checkpoints.empty()) return;
    Checkpoint c;
    const auto add = [&](const std::string& prefix, Network& network) {
      for (const auto& p : parameters(network)) c.tensors[prefix + p.name] = p.tensor->detach();
    };
    add("network.", run.network);
    Json kept = Json::array();
    for (auto& [at_step, network] : run.kept) {
      add(fmt::format("kept.{}.", at_step), network);
      kept.push_back(at_step);
    }
    add_under(c.tensors, "optimizer.", optimizer.state());
    Json moments = Json::array();
    for (const auto& m : run.moments) moments.push_back(to_json(m));
    c.state = {{"settings", settings_json(settings)}, {"step", step}, {"moments", moments}, {"kept", kept}};
    save_checkpoint(settings.checkpoints, step, c);
  }

  void resume() {
    if (settings.checkpoints.empty()) return;
    const auto file = latest_checkpoint(settings.checkpoints);
    if (!file) return;
    const auto c = load_checkpoint(*file);
    const auto where = file->string();
    if (json_get<Json>(c.state, "settings", where) != settings_json(settings))
      fail_usage("{}: this checkpoint is of another training: name another folder", where);
    const at::NoGradGuard no_grad;
    auto stored = to(run.network, at::kFloat);
    assign(parameters(stored), tensors_under(c.tensors, "network."), where);
    const auto live = parameters(run.network), from = parameters(stored);  // the optimizer holds the live ones
    for (size_t i = 0; i < live.size(); ++i) live[i].tensor->copy_(*from[i].tensor);
    for (const auto at_step : json_get<std::vector<int64_t>>(c.state, "kept", where)) {
      auto network = to(run.network, at::kFloat);
      assign(parameters(network), tensors_under(c.tensors, fmt::format("kept.{}.", at_step)), where);
      run.kept.emplace(at_step, std::move(network));
    }
    optimizer.load_state(tensors_under(c.tensors, "optimizer."));
    for (const auto& json : json_get<Json>(c.state, "moments", where)) run.moments.push_back(moment_from(json, where));
    step = json_get<int64_t>(c.state, "step", where);
  }

  void update() {
    const int64_t per_epoch = data.train.size(0) / settings.batch, place = step % per_epoch;
    if (place == 0 || !order.defined()) {
      auto random = stream(settings.seed, kOrder, static_cast<uint64_t>(step / per_epoch));
      order = permutation(data.train.size(0), random);
    }
    const auto batch = order.narrow(0, place * settings.batch, settings.batch);
    const auto logits = run.network(data.train.index_select(0, batch));
    optimizer.zero_grad();
    loss_of(logits, data.train_labels.index_select(0, batch), settings.loss).backward();
    optimizer.step();
    ++step;
  }
};

}  // namespace

Json to_json(const TrainingMoment& m) {
  Json robustness = Json::array();
  for (const auto& r : m.robustness) robustness.push_back({r.cross_entropy, r.margin});
  return {{"step", m.step},
          {"loss", m.loss},
          {"train_accuracy", m.train_accuracy},
          {"test_accuracy", m.test_accuracy},
          {"train_complexity", m.train_complexity},
          {"test_complexity", m.test_complexity},
          {"random_complexity", m.random_complexity},
          {"layers", m.layers},
          {"robustness", robustness}};
}

TrainingCurves WatchedRun::curves(size_t attack) const {
  TrainingCurves c;
  for (const auto& m : moments) {
    c.steps.push_back(m.step);
    c.complexity.push_back(m.train_complexity), c.train_accuracy.push_back(m.train_accuracy);
    if (attack < m.robustness.size()) c.robustness.push_back(m.robustness[attack].margin);
  }
  return c;
}

std::vector<int64_t> log_spaced_steps(int64_t steps, int64_t count) {
  require(steps >= 1 && count >= 2, "{} evaluations of {} steps", count, steps);
  std::vector<int64_t> all = {0};
  for (int64_t i = 0; i < count; ++i) {
    const double share = static_cast<double>(i) / static_cast<double>(count - 1);
    const auto step = std::llround(std::pow(static_cast<double>(steps), share));
    if (step > all.back()) all.push_back(step);
  }
  return all;
}

WatchedRun train_watched(const ImageSet& train, const ImageSet& test, const WatchedTraining& settings) {
  Trainer trainer(checked(train, test, settings), settings);
  const Watch watch(trainer.data, settings);
  const auto evaluations = log_spaced_steps(settings.steps, settings.evaluations);
  trainer.resume();
  auto& run = trainer.run;
  Progress progress(settings.name, settings.steps, "steps", settings.quiet);
  const auto note = [&] {
    const auto& m = run.moments.back();
    return fmt::format("complexity {:.2f}, test {:.3f}", m.train_complexity, m.test_accuracy);
  };
  if (trainer.step > 0) progress.update(trainer.step, "resumed");
  auto keep = settings.keep;
  std::ranges::sort(keep);
  for (;;) {
    const bool seen = !run.moments.empty() && run.moments.back().step >= trainer.step;
    if (std::ranges::binary_search(evaluations, trainer.step) && !seen) {
      const int64_t before = run.moments.empty() ? -1 : run.moments.back().step;
      run.moments.push_back(watch.moment(run.network, trainer.step));
      const auto due = std::ranges::upper_bound(keep, before);
      if (due != keep.end() && *due <= trainer.step) run.kept.emplace(trainer.step, to(run.network, at::kFloat));
      trainer.save();
    } else if (trainer.step % kCheckpointEvery == 0 && !seen) {
      trainer.save();
    }
    if (trainer.step >= settings.steps) break;
    if (interrupted()) {
      trainer.save();
      return run;
    }
    trainer.update();
    if (trainer.step % 20 == 0) progress.update(trainer.step, note());
  }
  progress.finish(note());
  if (trainer.optimizer.skipped() > 0)
    fail_computation("training: gradients of {} steps were not finite", trainer.optimizer.skipped());
  run.finished = true;
  return run;
}

}  // namespace unbend
