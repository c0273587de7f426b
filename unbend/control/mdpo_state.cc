#include "unbend/control/mdpo_state.h"

#include <cmath>

#include "unbend/base/error.h"

namespace unbend::control {

Learner::Learner(std::vector<std::int64_t> widths, Nonlinearity hidden, std::int64_t extra)
    : net(std::move(widths), hidden), extra(extra), adam(net.parameters() + extra) {
  parameters.resize(static_cast<std::size_t>(net.parameters() + extra));
  gradient.resize(parameters.size());
}

void put_learner(ArrayFile& file, const std::string& prefix, const Learner& learner) {
  auto& adam = const_cast<Learner&>(learner).adam;
  const auto count = std::ssize(learner.parameters);
  const float* const parts[] = {learner.parameters.data(), adam.moments().data(), adam.moments().data() + count};
  const char* const names[] = {"", ".first", ".second"};
  for (int i = 0; i < 3; ++i) {
    put_network(file, prefix + names[i], learner.net, parts[i]);
    file.put(prefix + names[i] + ".extra", {learner.extra},
             std::span(parts[i] + learner.net.parameters(), static_cast<std::size_t>(learner.extra)));
  }
  const std::uint64_t counts[] = {static_cast<std::uint64_t>(adam.steps()), static_cast<std::uint64_t>(adam.skips())};
  file.put(prefix + ".adam", counts);
}

void get_learner(const ArrayFile& file, const std::string& prefix, Learner& learner) {
  const auto count = std::ssize(learner.parameters);
  float* const parts[] = {learner.parameters.data(), learner.adam.moments().data(),
                          learner.adam.moments().data() + count};
  const char* const names[] = {"", ".first", ".second"};
  for (int i = 0; i < 3; ++i) {
    get_network(file, prefix + names[i], learner.net, parts[i]);
    const auto extra = file.floats(prefix + names[i] + ".extra", learner.extra);
    std::copy(extra.begin(), extra.end(), parts[i] + learner.net.parameters());
  }
  const auto counts = file.integers(prefix + ".adam", 2);
  learner.adam.steps() = static_cast<std::int64_t>(counts[0]);
  learner.adam.skips() = static_cast<std::int64_t>(counts[1]);
}

void Ledger::count(const Environments& environments) {
  steps += environments.copies();
  for (const Episode& e : environments.finished()) {
    ++episodes;
    last.push_back(e);
    if (last.size() > recent) last.pop_front();
  }
}

void Ledger::fill(CurvePoint& point) const {
  point.steps = steps, point.episodes = episodes, point.updates = updates, point.seconds = seconds;
  point.total = point.length = last.empty() ? NAN : 0;
  for (const Episode& e : last) {
    point.total += e.total / static_cast<double>(last.size());
    point.length += static_cast<double>(e.steps) / static_cast<double>(last.size());
  }
}

void put_ledger(ArrayFile& file, const Ledger& ledger) {
  const std::uint64_t counts[] = {static_cast<std::uint64_t>(ledger.steps), static_cast<std::uint64_t>(ledger.episodes),
                                  static_cast<std::uint64_t>(ledger.updates)};
  file.put("ledger.counts", counts);
  std::vector<double> episodes{ledger.seconds};
  for (const Episode& e : ledger.last)
    episodes.insert(episodes.end(), {e.total, static_cast<double>(e.steps), e.terminated ? 1. : 0.});
  file.put("ledger.episodes", episodes);
}

void get_ledger(const ArrayFile& file, Ledger& ledger) {
  const auto counts = file.integers("ledger.counts", 3);
  ledger.steps = static_cast<std::int64_t>(counts[0]), ledger.episodes = static_cast<std::int64_t>(counts[1]);
  ledger.updates = static_cast<std::int64_t>(counts[2]);
  const auto episodes = file.doubles("ledger.episodes");
  require(episodes.size() % 3 == 1, "{}: 'ledger.episodes' has {} values", file.where(), episodes.size());
  ledger.seconds = episodes[0];
  for (std::size_t i = 1; i < episodes.size(); i += 3)
    ledger.last.push_back({episodes[i], static_cast<std::int64_t>(episodes[i + 1]), episodes[i + 2] != 0});
}

void put_environments(ArrayFile& file, const Environments& environments) {
  const auto state = environments.state();
  file.put("environments.dynamics", state.dynamics), file.put("environments.totals", state.totals);
  file.put("environments.random", state.random), file.put("environments.steps", state.steps);
}

void get_environments(const ArrayFile& file, Environments& environments) {
  if (!file.has("environments.dynamics")) return;
  environments.set_state({file.doubles("environments.dynamics"), file.doubles("environments.totals"),
                          file.integers("environments.random"), file.integers("environments.steps")});
}

void put_random(ArrayFile& file, const Random& random) { file.put("random", std::span(random.state())); }

Random get_random(const ArrayFile& file) {
  const auto words = file.integers("random", 4);
  Random::State state{};
  std::copy(words.begin(), words.end(), state.begin());
  return Random(state);
}

void put_moments(ArrayFile& file, const std::string& prefix, const RunningMoments& moments) {
  file.put(prefix + ".count", std::span(&moments.count, 1));
  file.put(prefix + ".mean", moments.mean), file.put(prefix + ".variance", moments.variance);
}

void get_moments(const ArrayFile& file, const std::string& prefix, RunningMoments& moments) {
  const auto columns = std::ssize(moments.mean);
  moments.count = file.doubles(prefix + ".count", 1)[0];
  moments.mean = file.doubles(prefix + ".mean", columns),
  moments.variance = file.doubles(prefix + ".variance", columns);
}

std::unique_ptr<Trainer> resume(const ArrayFile& file, const MakeDynamics& make, std::int64_t steps) {
  const Json json = parse_json(file.text(kCheckpointKey), file.where());
  const auto kind = json_get<std::string>(json, "kind", file.where());
  if (kind == "on_policy") return resume_on_policy(file, json, make, steps);
  if (kind == "off_policy") return resume_off_policy(file, json, make, steps);
  fail_input("{}: unknown kind of training '{}'", file.where(), kind);
}

}  // namespace unbend::control
