// Files of the control verbs: tasks, learned models, measurements, logs.
#pragma once

#include <filesystem>

#include "unbend/control/simulate.h"

namespace unbend::control {

/// A closed loop to run.
struct Task {
  Reference reference;
  Vector start;  ///< [n], angles at rest; without: where the reference starts
  std::vector<Constraint> constraints;
  LoopOptions loop;
};

/// {"reference": .., "start": [..], "duration": 4, "period": 0.004, "pole": 6, "barrier_pole": 8, "beta": 2, "margin":
/// 0, "limit": [..], "constraints": [..]}. Input error that names `where` and the key.
Task task_from_json(const Json& json, int joints, std::string_view where);

/// How to collect data: {"offset": [..], "terms": 4, "amplitude": [.05, .22], "frequency": [.3, 1.6], "duration": 16,
/// "period", "hold", "input_noise", "label_noise", "sample_every", "pole"}.
struct Exploration {
  Vector offset;  ///< [n] of the random sines, and where it starts; empty: 0, or the motion of a task
  int terms = 4;
  SineRanges sines;
  ExploreOptions options;
};
Exploration exploration_from_json(const Json& json, int joints, std::string_view where);

/// The nominal robot, the kernel, the data: a process is factored again when it is read. Atomic.
void save_model(const std::filesystem::path& path, const Model& model);
Model load_model(const std::filesystem::path& path);

/// Rows of numbers from .npy [N, columns] or CSV, all finite. Input error that names file, row and column.
Eigen::MatrixXd load_rows(const std::filesystem::path& path);

/// Columns q, q', theta, theta', q'', q''', q'''', u, each for all joints: 8 n. Input error for another number of
/// columns.
Experience experience_from_rows(const Eigen::MatrixXd& rows, int joints, std::string_view where);
/// CSV with names in the first line.
void save_experience(const std::filesystem::path& path, const Experience& experience);

/// One row per control step: time, q, q_ref, u before and after the filter, h, margin and ratio of each constraint,
/// deviation, novelty, status (0 unchanged, 1 solved, 2 infeasible, 3 held).
void save_log(const std::filesystem::path& path, const Run& run, const std::vector<Constraint>& constraints);

}  // namespace unbend::control
