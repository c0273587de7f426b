#include "unbend/control/mdpo_state.h"

#include <array>
#include <cmath>

#include "unbend/base/error.h"

namespace unbend::control {

namespace {

constexpr const char* kHeadKey = "unbend_training";
constexpr std::int64_t kMostCopies = 1 << 20;

std::vector<std::int64_t> widths(std::int64_t inputs, std::vector<std::int64_t> hidden, std::int64_t outputs) {
  hidden.insert(hidden.begin(), inputs);
  hidden.push_back(outputs);
  return hidden;
}

/// Parameters and both moments of Adam, which have the same order, with the names that files give them.
template <class L>
auto parts_of(L& learner) {
  auto* const moments = learner.adam.moments().data();
  return std::array{std::pair("", learner.parameters.data()), std::pair(".first", moments),
                    std::pair(".second", moments + std::ssize(learner.parameters))};
}

/// A count that a file gives; Input error for one that no training reaches.
std::int64_t count_of(std::uint64_t stored, const ArrayFile& file, const char* what) {
  require(stored <= 1ULL << 60, "{}: '{}' has the count {}", file.where(), what, stored);
  return static_cast<std::int64_t>(stored);
}

}  // namespace

Learner::Learner(std::int64_t inputs, std::vector<std::int64_t> hidden, std::int64_t outputs, Nonlinearity nonlinearity,
                 std::int64_t extra)
    : net(widths(inputs, std::move(hidden), outputs), nonlinearity), extra(extra), adam(net.parameters() + extra) {
  parameters.resize(static_cast<std::size_t>(net.parameters() + extra));
  gradient.resize(parameters.size());
}

void put_learner(ArrayFile& file, const std::string& prefix, const Learner& learner) {
  for (const auto& [name, part] : parts_of(learner)) {
    put_network(file, prefix + name, learner.net, part);
    file.put(prefix + name + ".extra", {learner.extra},
             std::span(part + learner.net.parameters(), static_cast<std::size_t>(learner.extra)));
  }
  const std::uint64_t counts[] = {static_cast<std::uint64_t>(learner.adam.steps()),
                                  static_cast<std::uint64_t>(learner.adam.skipped())};
  file.put(prefix + ".adam", counts);
}

void get_learner(const ArrayFile& file, const std::string& prefix, Learner& learner) {
  for (const auto& [name, part] : parts_of(learner)) {
    get_network(file, prefix + name, learner.net, part);
    const auto extra = file.floats(prefix + name + ".extra", learner.extra);
    std::copy(extra.begin(), extra.end(), part + learner.net.parameters());
  }
  const auto counts = file.integers(prefix + ".adam", 2);
  learner.adam.set_counts(count_of(counts[0], file, ".adam"), count_of(counts[1], file, ".adam"));
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

std::unique_ptr<Dynamics> copies_of(const MakeDynamics& make, std::int64_t copies) {
  require(copies > 0 && copies <= kMostCopies, "{} copies of the environment: at least one and at most {} are possible",
          copies, kMostCopies);
  return make(copies);
}

void require_finite_box(const EnvironmentSpec& spec) {
  for (std::size_t k = 0; k < spec.low.size(); ++k)
    require(std::isfinite(spec.low[k]) && std::isfinite(spec.high[k]),
            "{}: action {} has the bounds [{}, {}]: a squashed policy needs finite ones", spec.name, k, spec.low[k],
            spec.high[k]);
}

void put_whereabouts(ArrayFile& file, const Random& random, const Environments& environments,
                     const RunningMoments& observed, const Ledger& ledger, bool with_environments) {
  file.put("random", std::span(random.state()));
  if (with_environments) {
    const auto state = environments.state();
    file.put("environments.dynamics", state.dynamics), file.put("environments.totals", state.totals);
    file.put("environments.random", state.random), file.put("environments.steps", state.steps);
  }
  if (!observed.empty()) put_moments(file, "observed", observed);
  const std::uint64_t counts[] = {static_cast<std::uint64_t>(ledger.steps), static_cast<std::uint64_t>(ledger.episodes),
                                  static_cast<std::uint64_t>(ledger.updates)};
  file.put("ledger.counts", counts);
  std::vector<double> episodes{ledger.seconds};
  for (const Episode& e : ledger.last)
    episodes.insert(episodes.end(), {e.total, static_cast<double>(e.steps), e.terminated ? 1. : 0.});
  file.put("ledger.episodes", episodes);
}

void get_whereabouts(const ArrayFile& file, const Whereabouts& to) {
  const auto words = file.integers("random", 4);
  Random::State state{};
  std::copy(words.begin(), words.end(), state.begin());
  require(state != Random::State{}, "{}: 'random' is all zero: no state of a generator", file.where());
  to.random = Random(state);
  if (file.has("environments.dynamics"))
    to.environments.set_state({file.doubles("environments.dynamics"), file.doubles("environments.totals"),
                               file.integers("environments.random"), file.integers("environments.steps")});
  if (!to.observed.empty()) get_moments(file, "observed", to.observed);
  const auto counts = file.integers("ledger.counts", 3);
  Ledger& ledger = to.ledger;
  ledger.steps = count_of(counts[0], file, "ledger.counts");
  ledger.episodes = count_of(counts[1], file, "ledger.counts");
  ledger.updates = count_of(counts[2], file, "ledger.counts");
  const auto episodes = file.doubles("ledger.episodes");
  require(episodes.size() % 3 == 1, "{}: 'ledger.episodes' has {} values", file.where(), episodes.size());
  ledger.seconds = episodes[0];
  for (std::size_t i = 1; i < episodes.size(); i += 3) {
    const double length = episodes[i + 1];
    require(length >= 0 && length < 1e18, "{}: 'ledger.episodes' has an episode of {} steps", file.where(), length);
    ledger.last.push_back({episodes[i], static_cast<std::int64_t>(length), episodes[i + 2] != 0});
  }
}

void put_head(ArrayFile& file, const CheckpointHead& head) {
  file.metadata[kHeadKey] = Json{
      {"kind", head.kind},
      {"copies", head.copies},
      {"task", to_json(head.task)},
      {"options", head.options}}.dump();
}

CheckpointHead get_head(const ArrayFile& file) {
  const auto& where = file.where();
  const Json json = parse_json(file.text(kHeadKey), where);
  return {json_get<std::string>(json, "kind", where), json_get<std::int64_t>(json, "copies", where),
          spec_from_json(json_get<Json>(json, "task", where), where), json_get<Json>(json, "options", where)};
}

std::unique_ptr<Trainer> resume(const ArrayFile& file, const MakeDynamics& make, std::int64_t steps) {
  const CheckpointHead head = get_head(file);
  require_fits(head.task, make(1)->spec());
  if (head.kind == OnPolicyOptions::kKind) return resume_on_policy(file, head, make, steps);
  if (head.kind == OffPolicyOptions::kKind) return resume_off_policy(file, head, make, steps);
  fail_input("{}: unknown kind of training '{}'", file.where(), head.kind);
}

}  // namespace unbend::control
