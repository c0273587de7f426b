#include "unbend/control/policy_agent.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "unbend/base/error.h"
#include "unbend/control/policy_names.h"

namespace unbend::control {

RunningMoments::RunningMoments(std::int64_t columns)
    : mean(static_cast<std::size_t>(columns), 0.), variance(static_cast<std::size_t>(columns), 1.) {}

void RunningMoments::add(const double* rows, std::int64_t added, std::int64_t stride) {
  const auto n = static_cast<double>(added), total = count + n;
  for (std::size_t k = 0; k < mean.size(); ++k) {
    double sum = 0, squares = 0;
    for (std::int64_t i = 0; i < added; ++i) sum += rows[i * stride + static_cast<std::int64_t>(k)];
    const double own = sum / n;
    for (std::int64_t i = 0; i < added; ++i) {
      const double away = rows[i * stride + static_cast<std::int64_t>(k)] - own;
      squares += away * away;
    }
    const double gap = own - mean[k];
    variance[k] = (variance[k] * count + squares + gap * gap * count * n / total) / total;
    mean[k] += gap * n / total;
  }
  count = total;
}

void normalise(const RunningMoments& moments, const double* row, std::int64_t columns, float* out) {
  if (moments.empty()) {
    for (std::int64_t k = 0; k < columns; ++k) out[k] = static_cast<float>(row[k]);
    return;
  }
  for (std::int64_t k = 0; k < columns; ++k) {
    const auto c = static_cast<std::size_t>(k);
    const double z = (row[k] - moments.mean[c]) / std::sqrt(moments.variance[c] + 1e-8);
    out[k] = static_cast<float>(std::clamp(z, -10., 10.));
  }
}

void normalise(const RunningMoments& moments, const Matrix<double>& rows, Matrix<float>& out) {
  out.resize(rows.rows, rows.columns, rows.columns);
  for (std::int64_t i = 0; i < rows.rows; ++i) normalise(moments, rows.row(i), rows.columns, out.row(i));
}

void to_task_action(const EnvironmentSpec& spec, PolicyKind kind, const float* raw, double* action) {
  if (kind == PolicyKind::Categorical) {
    action[0] = raw[0];
    return;
  }
  for (std::size_t k = 0; k < spec.low.size(); ++k) {
    action[k] = raw[k];
    if (kind == PolicyKind::Squashed) {
      action[k] = spec.low[k] + .5 * (std::tanh(action[k]) + 1) * (spec.high[k] - spec.low[k]);
    }
  }
}

void choose_actions(const EnvironmentSpec& spec, PolicyKind kind, const Matrix<float>& outputs,
                    const std::vector<float>& log_std, bool deterministic, Random& random, Matrix<double>& actions) {
  const bool own_spread = kind != PolicyKind::Categorical && log_std.empty();
  const auto columns = own_spread ? outputs.columns / 2 : outputs.columns;
  std::vector<float> raw(static_cast<std::size_t>(columns)), spread(log_std);
  if (own_spread) spread.resize(raw.size());
  actions.resize(outputs.rows, spec.actions(), spec.actions());
  for (std::int64_t i = 0; i < outputs.rows; ++i) {
    const float* const row = outputs.row(i);
    if (deterministic) {
      most_likely(kind, row, columns, raw.data());
    } else {
      if (own_spread) std::transform(row + columns, row + 2 * columns, spread.begin(), cut_log_std<float>);
      sample(kind, row, spread.data(), columns, random, raw.data());
    }
    to_task_action(spec, kind, raw.data(), actions.row(i));
  }
}

void Agent::act(const Matrix<double>& seen, bool deterministic, Random& random, Work& work,
                Matrix<double>& actions) const {
  normalise(observations, seen, work.rows);
  net.forward(parameters.data(), work.rows, work.net);
  choose_actions(spec, kind, work.net.result(), log_std, deterministic, random, actions);
}

void require_fits(const EnvironmentSpec& own, const EnvironmentSpec& task) {
  const auto kind = [](const EnvironmentSpec& s) {
    return fmt::format("{} ({} observations, {})", s.name, s.observations,
                       s.choices ? fmt::format("{} choices", s.choices) : fmt::format("{} actions", s.low.size()));
  };
  require(task.observations == own.observations && task.choices == own.choices && task.low.size() == own.low.size(),
          "the task {} is not that of the policy, {}", kind(task), kind(own));
}

// ---- Files

namespace {

constexpr const char* kKey = "unbend_policy";

Json bounds(const std::vector<double>& values) {
  Json list = Json::array();
  for (const double v : values) list.push_back(std::isfinite(v) ? Json(v) : Json(v > 0 ? "inf" : "-inf"));
  return list;
}

std::vector<double> bounds(const Json& json, std::string_view where) {
  std::vector<double> values;
  for (const Json& v : json_get<Json>(json, "values", where)) {
    if (v.is_string()) {
      values.push_back(v == "inf" ? INFINITY : -INFINITY);
    } else {
      require(v.is_number(), "{}: a bound of an action is not a number", where);
      values.push_back(v.get<double>());
    }
  }
  return values;
}

}  // namespace

Json to_json(const EnvironmentSpec& s) {
  return {{"name", s.name},       {"observations", s.observations}, {"choices", s.choices},
          {"low", bounds(s.low)}, {"high", bounds(s.high)},         {"limit", s.limit}};
}

EnvironmentSpec spec_from_json(const Json& json, std::string_view where) {
  const auto of = [&](const char* key) { return bounds(Json{{"values", json_get<Json>(json, key, where)}}, where); };
  EnvironmentSpec s{json_get<std::string>(json, "name", where),
                    json_get<std::int64_t>(json, "observations", where),
                    json_get<std::int64_t>(json, "choices", where),
                    of("low"),
                    of("high"),
                    json_get<std::int64_t>(json, "limit", where)};
  require(s.observations > 0 && s.observations <= 1 << 16 && s.choices >= 0 && s.choices <= 1 << 16 &&
              s.low.size() == s.high.size() && (s.choices > 0 || !s.low.empty()),
          "{}: the task that it describes makes no sense", where);
  return s;
}

void put_network(ArrayFile& file, const std::string& prefix, const Mlp<float>& net, const float* parameters) {
  const auto layers = net.layers(parameters);
  for (std::size_t l = 0; l < layers.size(); ++l) {
    const auto at = fmt::format("{}.{}.", prefix, l);
    file.put(at + "weight", {net.widths()[l + 1], net.widths()[l]}, layers[l].weight);
    file.put(at + "bias", {net.widths()[l + 1]}, layers[l].bias);
  }
}

void get_network(const ArrayFile& file, const std::string& prefix, const Mlp<float>& net, float* parameters) {
  std::vector<Mlp<float>::Layer> layers;
  for (std::size_t l = 0; l + 1 < net.widths().size(); ++l) {
    const auto at = fmt::format("{}.{}.", prefix, l);
    layers.push_back({file.floats(at + "weight", net.widths()[l] * net.widths()[l + 1]),
                      file.floats(at + "bias", net.widths()[l + 1])});
  }
  net.set_layers(layers, parameters);
}

void put_moments(ArrayFile& file, const std::string& prefix, const RunningMoments& moments) {
  file.put(prefix + ".count", std::span(&moments.count, 1));
  file.put(prefix + ".mean", moments.mean), file.put(prefix + ".variance", moments.variance);
}

void get_moments(const ArrayFile& file, const std::string& prefix, RunningMoments& moments) {
  const auto columns = std::ssize(moments.mean);
  moments.count = file.doubles(prefix + ".count", 1)[0];
  moments.mean = file.doubles(prefix + ".mean", columns);
  moments.variance = file.doubles(prefix + ".variance", columns);
  require(moments.count > 0, "{}: '{}.count' is {}", file.where(), prefix, moments.count);
  for (const double v : moments.variance)
    require(v >= 0, "{}: '{}.variance' has the value {}", file.where(), prefix, v);
}

void save_agent(const Agent& agent, const std::filesystem::path& path) {
  ArrayFile file;
  put_network(file, "policy", agent.net, agent.parameters.data());
  if (!agent.log_std.empty()) file.put("policy.log_std", {std::ssize(agent.log_std)}, agent.log_std);
  if (!agent.observations.empty()) put_moments(file, "normaliser", agent.observations);
  file.metadata[kKey] = Json{
      {"kind", name(agent.kind)},
      {"widths", agent.net.widths()},
      {"nonlinearity", name(agent.net.nonlinearity())},
      {"task", to_json(agent.spec)},
      {"training",
       agent.about}}.dump();
  file.write(path);
}

Agent load_agent(const std::filesystem::path& path) {
  const auto file = ArrayFile::read(path);
  const auto& where = file.where();
  const Json json = parse_json(file.text(kKey), where);
  Agent agent;
  agent.kind = named<PolicyKind>(json_get<std::string>(json, "kind", where), where);
  agent.net = Mlp<float>(json_get<std::vector<std::int64_t>>(json, "widths", where),
                         named<Nonlinearity>(json_get<std::string>(json, "nonlinearity", where), where));
  agent.spec = spec_from_json(json_get<Json>(json, "task", where), where);
  agent.about = json_get<Json>(json, "training", where);
  const auto dimensions = std::ssize(agent.spec.low);
  if (file.has("policy.log_std")) agent.log_std = file.floats("policy.log_std", dimensions);
  const auto outputs = agent.kind == PolicyKind::Categorical ? agent.spec.choices
                       : agent.log_std.empty()               ? 2 * dimensions
                                                             : dimensions;
  require(agent.net.inputs() == agent.spec.observations && agent.net.outputs() == outputs,
          "{}: a network of {} inputs and {} outputs does not fit the task", where, agent.net.inputs(),
          agent.net.outputs());
  agent.parameters.resize(static_cast<std::size_t>(agent.net.parameters()));
  get_network(file, "policy", agent.net, agent.parameters.data());
  if (file.has("normaliser.mean")) {
    agent.observations = RunningMoments(agent.spec.observations);
    get_moments(file, "normaliser", agent.observations);
  }
  return agent;
}

// ---- Evaluation

double Evaluation::mean() const {
  double sum = 0;
  for (const Episode& e : episodes) sum += e.total;
  return episodes.empty() ? NAN : sum / static_cast<double>(episodes.size());
}

double Evaluation::deviation() const {
  if (episodes.size() < 2) return 0;
  double sum = 0;
  for (const Episode& e : episodes) sum += (e.total - mean()) * (e.total - mean());
  return std::sqrt(sum / static_cast<double>(episodes.size() - 1));
}

double Evaluation::mean_steps() const {
  double sum = 0;
  for (const Episode& e : episodes) sum += static_cast<double>(e.steps);
  return episodes.empty() ? NAN : sum / static_cast<double>(episodes.size());
}

Evaluation evaluate(const Agent& agent, const MakeDynamics& make, std::int64_t episodes, bool deterministic,
                    std::uint64_t seed) {
  require(episodes > 0, "at least one episode is needed");
  const auto copies = std::min<std::int64_t>(episodes, 16);
  Environments environments(make(copies), seed);
  require_fits(agent.spec, environments.spec());
  Random random(seed ^ 0x9e3779b97f4a7c15);
  Agent::Work work;
  Matrix<double> actions;
  Evaluation result;
  std::vector<std::int64_t> left(static_cast<std::size_t>(copies));  // episodes that each copy still owes
  for (std::size_t i = 0; i < left.size(); ++i)
    left[i] = episodes / copies + (static_cast<std::int64_t>(i) < episodes % copies);
  while (std::ssize(result.episodes) < episodes) {
    agent.act(environments.observations(), deterministic, random, work, actions);
    environments.step(actions);
    auto next = environments.finished().begin();
    for (std::int64_t i = 0; i < copies; ++i) {
      auto& owed = left[static_cast<std::size_t>(i)];
      result.steps += owed > 0;
      if (!environments.ended(i)) continue;
      if (owed > 0) result.episodes.push_back(*next), --owed;
      ++next;
    }
  }
  return result;
}

}  // namespace unbend::control
