#include "unbend/control/environments_mujoco.h"

#include <fmt/ranges.h>
#include <mujoco/mujoco.h>

#include <algorithm>
#include <cmath>

#include "unbend/base/error.h"

namespace unbend::control {
namespace {

using Selection = MujocoTask::Selection;
using Source = Selection::Source;
using Kind = MujocoTask::Reward::Kind;

/// Refuses keys that nobody reads: a misspelt option must not be passed over.
void check_keys(const Json& json, std::initializer_list<std::string_view> known, const std::string& where) {
  require(json.is_object(), "{}: an object {{...}} expected", where);
  for (const auto& [key, value] : json.items())
    require(std::ranges::find(known, key) != known.end(), "{}: unknown key '{}'; known: {}", where, key,
            fmt::join(known, ", "));
}

Json list(const Json& json, const std::string& key, std::string_view where, bool needed) {
  if (!needed && !json.contains(key)) return Json::array();
  Json items = json_get<Json>(json, key, where);
  require(items.is_array() && (!needed || !items.empty()), "{}: '{}' must be a list [...]{}", where, key,
          needed ? " of at least one" : "");
  return items;
}

Selection selection(const Json& json, const Mujoco& world, const std::string& where, const char* fallback = nullptr) {
  const mjModel& model = world.model();
  const auto from = fallback && !json.contains("from") ? fallback : json_get<std::string>(json, "from", where);
  const auto named = [&](int type, const char* what) -> std::int64_t {
    const auto name = json_get<std::string>(json, "name", where);
    const int id = mj_name2id(&model, type, name.c_str());
    require(id >= 0, "{}: the model has no {} '{}'", where, what, name);
    return id;
  };
  Selection s;
  std::int64_t size = 3, offset = 0;
  if (from == "qpos") {
    s.source = Source::Position, size = model.nq;
  } else if (from == "qvel") {
    s.source = Source::Velocity, size = model.nv;
  } else if (from == "sensor") {
    s.source = Source::Sensor;
    const auto id = named(mjOBJ_SENSOR, "sensor");
    offset = model.sensor_adr[id], size = model.sensor_dim[id];
  } else if (from == "body") {
    s.source = Source::Body, s.object = named(mjOBJ_BODY, "body");
  } else if (from == "site") {
    s.source = Source::Site, s.object = named(mjOBJ_SITE, "site");
  } else {
    fail_input("{}: 'from' is '{}': qpos, qvel, sensor, body or site expected", where, from);
  }
  s.begin = 0, s.end = size;
  if (json.contains("index")) {
    s.begin = json_get<std::int64_t>(json, "index", where), s.end = s.begin + 1;
  } else {
    s.begin = json_get<std::int64_t>(json, "begin", where, 0), s.end = json_get<std::int64_t>(json, "end", where, size);
  }
  require(s.begin >= 0 && s.begin < s.end && s.end <= size, "{}: [{}, {}) is not a part of the {} numbers of '{}'",
          where, s.begin, s.end, size, from);
  s.begin += offset, s.end += offset;
  const auto map = json_get<std::string>(json, "map", where, "none");
  require(map == "none" || map == "sin" || map == "cos", "{}: 'map' is '{}': sin or cos expected", where, map);
  s.map = map == "sin" ? Selection::Map::Sin : map == "cos" ? Selection::Map::Cos : Selection::Map::None;
  s.clip = json_get<double>(json, "clip", where, 0.);
  require(s.clip >= 0, "{}: the clip {} is negative", where, s.clip);
  return s;
}

MujocoTask::Reward reward(const Json& json, const Mujoco& world, const std::string& where) {
  check_keys(json, {"kind", "weight", "from", "name", "index", "begin", "end", "map", "clip", "target"}, where);
  static const std::pair<const char*, Kind> kinds[] = {{"velocity", Kind::Velocity}, {"alive", Kind::Alive},
                                                       {"control", Kind::Control},   {"value", Kind::Value},
                                                       {"square", Kind::Square},     {"distance", Kind::Distance}};
  const auto kind = json_get<std::string>(json, "kind", where);
  const auto* const found = std::ranges::find(kinds, kind, [](const auto& k) { return std::string(k.first); });
  require(found != std::end(kinds), "{}: 'kind' is '{}': velocity, alive, control, value, square or distance expected",
          where, kind);
  MujocoTask::Reward r;
  r.kind = found->second;
  r.weight = json_get<double>(json, "weight", where);
  if (r.kind == Kind::Alive || r.kind == Kind::Control) return r;
  r.of = selection(json, world, where, "qpos");
  require(r.kind != Kind::Velocity || r.of.size() == 1, "{}: a velocity is that of one number: give its 'index'",
          where);
  r.target.assign(static_cast<std::size_t>(r.of.size()), 0);
  if (json.contains("target")) {
    const auto target = json_get<std::vector<double>>(json, "target", where);
    require(target.size() == r.target.size(), "{}: {} targets of {} numbers", where, target.size(), r.target.size());
    r.target = target;
  }
  return r;
}

MujocoTask::Noise noise(const Json& json, const char* key, const std::string& where) {
  if (!json.contains(key)) return {};
  const Json part = json_get<Json>(json, key, where);
  check_keys(part, {"uniform", "normal"}, fmt::format("{}, '{}'", where, key));
  const MujocoTask::Noise n{json_get<double>(part, "uniform", where, 0.), json_get<double>(part, "normal", where, 0.)};
  require(n.uniform >= 0 && n.normal >= 0, "{}, '{}': noise must not be negative", where, key);
  return n;
}

double read(const Mujoco& world, const Selection& s, std::int64_t k) {
  const mjData& data = world.data();
  double value = 0;
  switch (s.source) {
    case Source::Position: value = data.qpos[k]; break;
    case Source::Velocity: value = data.qvel[k]; break;
    case Source::Sensor: value = data.sensordata[k]; break;
    case Source::Body: value = data.xpos[3 * s.object + k]; break;
    case Source::Site: value = data.site_xpos[3 * s.object + k]; break;
  }
  if (s.map == Selection::Map::Sin) value = std::sin(value);
  if (s.map == Selection::Map::Cos) value = std::cos(value);
  return s.clip > 0 ? std::clamp(value, -s.clip, s.clip) : value;
}

bool is_healthy(const MujocoTask& task, const Mujoco& world) {
  return std::ranges::all_of(task.healthy, [&](const MujocoTask::Range& range) {
    for (auto k = range.of.begin; k < range.of.end; ++k) {
      const double value = read(world, range.of, k);
      if (!(range.low < value && value < range.high)) return false;
    }
    return true;
  });
}

class MujocoDynamics final : public Dynamics {
 public:
  MujocoDynamics(std::shared_ptr<const MujocoTask> task, std::int64_t copies) : task_(std::move(task)) {
    for (std::int64_t i = 0; i < copies; ++i) worlds_.push_back(task_->world);
  }
  const EnvironmentSpec& spec() const override { return task_->spec; }
  std::int64_t copies() const override { return std::ssize(worlds_); }
  Mujoco& world(std::int64_t copy) { return worlds_[static_cast<std::size_t>(copy)]; }

  void reset(std::int64_t copy, Random& random) override {
    Mujoco& w = world(copy);
    w = task_->world;
    const auto shake = [&](std::span<double> values, const MujocoTask::Noise& n) {
      for (double& value : values) {
        if (n.uniform > 0) value += n.uniform * (2 * random.uniform() - 1);
        if (n.normal > 0) value += n.normal * random.normal();
      }
    };
    shake(w.position(), task_->position_noise), shake(w.velocity(), task_->velocity_noise);
    w.forward();
  }

  void step(const Matrix<double>& actions, std::span<double> rewards, std::span<std::uint8_t> terminated) override {
    for (std::int64_t i = 0; i < copies(); ++i) {
      const auto k = static_cast<std::size_t>(i);
      try {
        rewards[k] = advance(world(i), actions.row(i));
      } catch (const Error& error) {
        throw Error(error.kind(), fmt::format("copy {}: {}", i, error.what()));
      }
      terminated[k] = !is_healthy(*task_, world(i));
    }
  }

  void observe(std::int64_t copy, double* observation) const override {
    const Mujoco& w = worlds_[static_cast<std::size_t>(copy)];
    for (const Selection& s : task_->observation)
      for (auto k = s.begin; k < s.end; ++k) *observation++ = read(w, s, k);
  }

  std::vector<double> state() const override {
    const auto size = static_cast<std::size_t>(mj_stateSize(&task_->world.model(), mjSTATE_INTEGRATION));
    std::vector<double> all(size * worlds_.size());
    for (std::size_t i = 0; i < worlds_.size(); ++i)
      mj_getState(&task_->world.model(), &worlds_[i].data(), all.data() + i * size, mjSTATE_INTEGRATION);
    return all;
  }

  void set_state(const std::vector<double>& state) override {
    const auto size = static_cast<std::size_t>(mj_stateSize(&task_->world.model(), mjSTATE_INTEGRATION));
    require(state.size() == size * worlds_.size(), "{}: a state of {} numbers, {} expected", spec().name, state.size(),
            size * worlds_.size());
    for (std::size_t i = 0; i < worlds_.size(); ++i) {
      mj_setState(&task_->world.model(), &worlds_[i].data(), state.data() + i * size, mjSTATE_INTEGRATION);
      // Sensors and positions of bodies follow from the state; the guess that the solver starts from is part of it.
      if (task_->derived) {
        worlds_[i].forward();
        mj_setState(&task_->world.model(), &worlds_[i].data(), state.data() + i * size, mjSTATE_INTEGRATION);
      }
    }
  }

 private:
  double advance(Mujoco& w, const double* action) {
    std::vector<double> before;
    for (const auto& r : task_->rewards)
      if (r.kind == Kind::Velocity) before.push_back(read(w, r.of, r.of.begin));
    std::copy_n(action, w.control().size(), w.control().begin());
    w.step(task_->frame_skip);
    if (task_->derived) w.forward();
    const double dt = w.time_step() * static_cast<double>(task_->frame_skip);
    double sum = 0;
    auto old = before.begin();
    for (const auto& r : task_->rewards) {
      double value = 0;
      if (r.kind == Kind::Velocity) value = (read(w, r.of, r.of.begin) - *old++) / dt;
      if (r.kind == Kind::Alive) value = is_healthy(*task_, w) ? 1 : 0;
      if (r.kind == Kind::Control)
        for (const double u : w.control()) value += u * u;
      if (r.kind >= Kind::Value) {
        for (auto k = r.of.begin; k < r.of.end; ++k) {
          const double away = read(w, r.of, k) - r.target[static_cast<std::size_t>(k - r.of.begin)];
          value += r.kind == Kind::Value ? away : away * away;
        }
        if (r.kind == Kind::Distance) value = std::sqrt(value);
      }
      sum += r.weight * value;
    }
    return sum;
  }

  std::shared_ptr<const MujocoTask> task_;
  std::vector<Mujoco> worlds_;
};

}  // namespace

MujocoTask MujocoTask::from_json(const Json& json, const std::filesystem::path& folder, std::string_view where_) {
  const std::string where(where_);
  check_keys(json, {"name", "model", "frame_skip", "limit", "observation", "reward", "healthy", "start"}, where);
  MujocoTask task(Mujoco::load(folder / json_get<std::string>(json, "model", where)));
  const mjModel& model = task.world.model();
  task.spec.name = json_get<std::string>(json, "name", where);
  task.spec.limit = json_get<std::int64_t>(json, "limit", where, 1000);
  task.frame_skip = json_get<std::int64_t>(json, "frame_skip", where, 1);
  require(task.spec.limit > 0 && task.frame_skip > 0 && task.frame_skip <= 100000,
          "{}: limit {} and frame_skip {} must be positive", where, task.spec.limit, task.frame_skip);
  require(model.nu > 0, "{}: the model has no actuator: nothing can be controlled", where);
  for (int i = 0; i < model.nu; ++i) {
    const bool limited = model.actuator_ctrllimited[i];
    task.spec.low.push_back(limited ? model.actuator_ctrlrange[2 * i] : -INFINITY);
    task.spec.high.push_back(limited ? model.actuator_ctrlrange[2 * i + 1] : INFINITY);
  }
  const auto see = [&](const Selection& s) {
    task.derived |= s.source != Source::Position && s.source != Source::Velocity;
    return s;
  };
  const auto part = [&](const char* key, std::size_t i) { return fmt::format("{}, '{}' {}", where, key, i); };
  const Json seen = list(json, "observation", where, true), earned = list(json, "reward", where, true),
             ranges = list(json, "healthy", where, false);
  for (std::size_t i = 0; i < seen.size(); ++i) {
    check_keys(seen[i], {"from", "name", "index", "begin", "end", "map", "clip"}, part("observation", i));
    task.observation.push_back(see(selection(seen[i], task.world, part("observation", i))));
    task.spec.observations += task.observation.back().size();
  }
  for (std::size_t i = 0; i < earned.size(); ++i) {
    task.rewards.push_back(reward(earned[i], task.world, part("reward", i)));
    see(task.rewards.back().of);
  }
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    const auto at = part("healthy", i);
    check_keys(ranges[i], {"from", "name", "index", "begin", "end", "map", "min", "max"}, at);
    const Range range{see(selection(ranges[i], task.world, at)), json_get<double>(ranges[i], "min", at, -INFINITY),
                      json_get<double>(ranges[i], "max", at, INFINITY)};
    require(range.low < range.high, "{}: nothing is between {} and {}", at, range.low, range.high);
    task.healthy.push_back(range);
  }
  if (json.contains("start")) {
    const Json start = json_get<Json>(json, "start", where);
    check_keys(start, {"qpos", "qvel"}, where + ", 'start'");
    task.position_noise = noise(start, "qpos", where), task.velocity_noise = noise(start, "qvel", where);
  }
  task.world.forward();
  return task;
}

MujocoTask MujocoTask::load(const std::filesystem::path& path) {
  return from_json(read_json(path), path.parent_path(), path.string());
}

namespace {

constexpr const char* kTasks[] = {
    R"({"name": "halfcheetah", "model": "half_cheetah.xml", "frame_skip": 5, "limit": 1000,
 "observation": [{"from": "qpos", "begin": 1}, {"from": "qvel"}],
 "reward": [{"kind": "velocity", "index": 0, "weight": 1}, {"kind": "control", "weight": -0.1}],
 "start": {"qpos": {"uniform": 0.1}, "qvel": {"normal": 0.1}}})",
    R"({"name": "hopper", "model": "hopper.xml", "frame_skip": 4, "limit": 1000,
 "observation": [{"from": "qpos", "begin": 1}, {"from": "qvel", "clip": 10}],
 "reward": [{"kind": "velocity", "index": 0, "weight": 1}, {"kind": "alive", "weight": 1}, {"kind": "control", "weight": -0.001}],
 "healthy": [{"from": "qpos", "index": 1, "min": 0.7}, {"from": "qpos", "index": 2, "min": -0.2, "max": 0.2},
  {"from": "qpos", "begin": 2, "min": -100, "max": 100}, {"from": "qvel", "min": -100, "max": 100}],
 "start": {"qpos": {"uniform": 0.005}, "qvel": {"uniform": 0.005}}})",
    R"({"name": "walker2d", "model": "walker2d_v5.xml", "frame_skip": 4, "limit": 1000,
 "observation": [{"from": "qpos", "begin": 1}, {"from": "qvel", "clip": 10}],
 "reward": [{"kind": "velocity", "index": 0, "weight": 1}, {"kind": "alive", "weight": 1}, {"kind": "control", "weight": -0.001}],
 "healthy": [{"from": "qpos", "index": 1, "min": 0.8, "max": 2}, {"from": "qpos", "index": 2, "min": -1, "max": 1}],
 "start": {"qpos": {"uniform": 0.005}, "qvel": {"uniform": 0.005}}})"};

}  // namespace

std::optional<Json> gymnasium_task(std::string_view name) {
  for (const char* const text : kTasks) {
    Json json = parse_json(text, "task");
    if (json.at("name") == name) return json;
  }
  return std::nullopt;
}

std::vector<std::string> gymnasium_task_names() {
  std::vector<std::string> names;
  for (const char* const text : kTasks) names.push_back(parse_json(text, "task").at("name"));
  return names;
}

std::unique_ptr<Dynamics> mujoco_dynamics(std::shared_ptr<const MujocoTask> task, std::int64_t copies) {
  require(copies > 0 && copies <= 4096, "{}: {} copies: 1 to 4096 are possible", task->spec.name, copies);
  return std::make_unique<MujocoDynamics>(std::move(task), copies);
}

Mujoco* mujoco_world(Dynamics& dynamics, std::int64_t copy) {
  auto* const own = dynamic_cast<MujocoDynamics*>(&dynamics);
  return own ? &own->world(copy) : nullptr;
}

}  // namespace unbend::control
