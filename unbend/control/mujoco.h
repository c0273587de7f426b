// MuJoCo behind our own errors: models from XML, steps, access to the state. Nothing in it ends the process or writes
// log files, as MuJoCo's own handlers do.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

struct mjModel_;
struct mjData_;

namespace unbend::control {

/// One simulated world: a compiled model, shared by copies, and its own state. Copying forks the simulation. Not
/// thread-safe, but different worlds may run on different threads.
class Mujoco {
 public:
  /// Compiles an MJCF or URDF file. Input error that names file, line and element.
  static Mujoco load(const std::filesystem::path& path);
  /// The same for text; `where` (a file name or argument) starts the error message.
  static Mujoco parse(std::string_view xml, std::string_view where);

  Mujoco(const Mujoco& other);
  Mujoco& operator=(const Mujoco& other);
  Mujoco(Mujoco&&) noexcept = default;
  Mujoco& operator=(Mujoco&&) noexcept = default;
  ~Mujoco() = default;

  /// Initial state of the model; controls and forces zero, warnings forgotten.
  void reset();
  /// `count` steps of time_step() seconds each. Computation error naming joint and time if the state is no longer
  /// finite or beyond 1e10 (MuJoCo would silently start again), and for errors inside MuJoCo. After such an error the
  /// world is as after reset().
  void step(std::int64_t count = 1);
  /// Derived quantities (accelerations, positions of bodies, contacts) of the current state, without time passing.
  void forward();

  double time() const;
  double time_step() const;
  std::span<double> position();                  ///< generalised positions [nq]
  std::span<double> velocity();                  ///< generalised velocities [nv]
  std::span<double> control();                   ///< actuator inputs [nu]
  std::span<double> force();                     ///< generalised forces applied from outside [nv]
  std::span<const double> acceleration() const;  ///< of the last step or forward() [nv]
  /// Index of the joint's first position. Input error that lists the joints there are.
  std::int64_t joint(const std::string& name) const;

  struct Warning {
    std::string text;
    std::int64_t count;
  };
  std::vector<Warning> warnings() const;  ///< since the last reset(), by kind

  /// MuJoCo's own structures, for everything else of its C interface (mujoco/mujoco.h).
  const mjModel_& model() const { return *model_; }
  mjData_& data() { return *data_; }
  const mjData_& data() const { return *data_; }

 private:
  struct DeleteData {
    void operator()(mjData_* data) const;
  };
  explicit Mujoco(std::shared_ptr<mjModel_> model);

  std::shared_ptr<mjModel_> model_;
  std::unique_ptr<mjData_, DeleteData> data_;
};

}  // namespace unbend::control
