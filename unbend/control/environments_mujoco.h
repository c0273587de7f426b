// Tasks in MuJoCo: a model (MJCF) and a description of what is seen, what is earned and when it is over, as JSON. The
// classic tasks of Gymnasium are such descriptions too (docs/policy.md).
#pragma once

#include <filesystem>

#include "unbend/base/json.h"
#include "unbend/control/environments.h"
#include "unbend/control/mujoco.h"

namespace unbend::control {

/// A description read from JSON, with its model; parts that name nothing in the model are Input errors that say where.
class MujocoTask {
 public:
  /// Numbers of a world: `begin`..`end` of a source, which a function and a limit may change.
  struct Selection {
    enum class Source { Position, Velocity, Sensor, Body, Site } source = Source::Position;
    enum class Map { None, Sin, Cos } map = Map::None;
    std::int64_t object = 0;          ///< index of the body or site
    std::int64_t begin = 0, end = 0;  ///< within the source
    double clip = 0;                  ///< to [-clip, clip]; 0: not
    std::int64_t size() const { return end - begin; }
  };
  struct Reward {
    enum class Kind { Velocity, Alive, Control, Value, Square, Distance } kind = Kind::Alive;
    Selection of;
    std::vector<double> target;  ///< of Square and Distance
    double weight = 1;
  };
  struct Range {
    Selection of;
    double low, high;  ///< healthy strictly between them
  };
  struct Noise {
    double uniform = 0, normal = 0;
  };

  EnvironmentSpec spec;
  std::int64_t frame_skip = 1;
  std::vector<Selection> observation;
  std::vector<Reward> rewards;
  std::vector<Range> healthy;
  Noise position_noise, velocity_noise;
  bool derived = false;  ///< something other than positions and velocities is looked at
  Mujoco world;          ///< in the state in which episodes begin, without noise

  /// A task whose parts are found in `folder` (the model's path is relative to it); `where` starts the messages.
  static MujocoTask from_json(const Json& json, const std::filesystem::path& folder, std::string_view where);
  static MujocoTask load(const std::filesystem::path& json);

 private:
  explicit MujocoTask(Mujoco world) : world(std::move(world)) {}
};

/// The description of halfcheetah, hopper or walker2d as in version 5 of Gymnasium; null for other names.
std::optional<Json> gymnasium_task(std::string_view name);
std::vector<std::string> gymnasium_task_names();

std::unique_ptr<Dynamics> mujoco_dynamics(std::shared_ptr<const MujocoTask> task, std::int64_t copies);

/// One copy's world, for pictures; null if the dynamics are not of MuJoCo.
Mujoco* mujoco_world(Dynamics& dynamics, std::int64_t copy);

}  // namespace unbend::control
