#include "unbend/control/mujoco.h"

#include <mujoco/mujoco.h>

#include <cmath>
#include <mutex>

#include "unbend/base/error.h"
#include "unbend/base/files.h"

namespace unbend::control {
namespace {

// MuJoCo's error function must not return, and its default ends the process. The library is C and C++ compiled with
// unwind tables, so an exception passes through it to `guarded`.
void on_message(const mjLogMessage* message) {
  if (message->level == mjLOG_ERROR) throw Error(ErrorKind::Computation, message->subject);
}

void install_handler() {
  static std::once_flag once;
  std::call_once(once, [] { mju_setLogHandler(on_message); });
}

/// Runs `call`; an error inside MuJoCo resets the world, whose working memory it may have left half used.
template <class Call>
void guarded(const mjModel* model, mjData* data, const Call& call) {
  install_handler();
  try {
    call();
  } catch (const Error& error) {
    const double time = data->time;
    mj_resetData(model, data);
    fail_computation("MuJoCo at t = {:g} s: {}", time, error.what());
  }
}

bool bad(double value) { return !(std::abs(value) <= mjMAXVAL); }

std::string name_of(const mjModel* model, int type, int id) {
  const char* name = mj_id2name(model, type, id);
  return name && *name ? fmt::format("'{}'", name) : fmt::format("number {}", id);
}

std::string joint_of_velocity(const mjModel* model, int index) {
  return name_of(model, mjOBJ_JOINT, model->dof_jntid[index]);
}

void check_finite(const mjModel* model, mjData* data) {
  const auto refuse = [&](const char* what, const std::string& joint) {
    const double time = data->time;
    mj_resetData(model, data);
    fail_computation(
        "MuJoCo: the {} of joint {} is not finite or beyond 1e10 at t = {:g} s: the simulation is "
        "unstable; a smaller time step or smaller inputs may help",
        what, joint, time);
  };
  for (int i = 0; i < model->nv; ++i) {
    if (bad(data->qacc[i])) refuse("acceleration", joint_of_velocity(model, i));
    if (bad(data->qvel[i])) refuse("velocity", joint_of_velocity(model, i));
  }
  for (int joint = 0; joint < model->njnt; ++joint) {
    const int end = joint + 1 < model->njnt ? model->jnt_qposadr[joint + 1] : static_cast<int>(model->nq);
    for (int i = model->jnt_qposadr[joint]; i < end; ++i) {
      if (bad(data->qpos[i])) refuse("position", name_of(model, mjOBJ_JOINT, joint));
    }
  }
}

std::shared_ptr<mjModel> compile(const std::filesystem::path& file, const mjVFS* files, std::string_view where) {
  install_handler();
  char error[1024] = "";
  mjModel* model = nullptr;
  try {
    model = mj_loadXML(file.c_str(), files, error, sizeof error);
  } catch (const Error& inner) {
    fail_input("{}: {}", where, inner.what());
  }
  if (!model) {
    std::string text = error;
    for (char& c : text) c = c == '\n' ? ' ' : c;
    while (!text.empty() && text.back() == ' ') text.pop_back();
    fail_input("{}: {}", where, text);
  }
  model->opt.disableflags |= mjDSBL_AUTORESET;  // an unstable world must not start again unseen
  return {model, mj_deleteModel};
}

}  // namespace

void Mujoco::DeleteData::operator()(mjData_* data) const { mj_deleteData(data); }

Mujoco::Mujoco(std::shared_ptr<mjModel_> model) : model_(std::move(model)), data_(mj_makeData(model_.get())) {
  if (!data_) fail_computation("MuJoCo could not allocate the state of the model");
}

Mujoco::Mujoco(const Mujoco& other)
    : model_(other.model_), data_(mj_copyData(nullptr, other.model_.get(), other.data_.get())) {
  if (!data_) fail_computation("MuJoCo could not copy the state of the model");
}

Mujoco& Mujoco::operator=(const Mujoco& other) {
  if (this != &other) *this = Mujoco(other);
  return *this;
}

Mujoco Mujoco::load(const std::filesystem::path& path) {
  (void)MappedFile(path);  // our own message for a file that cannot be read
  return Mujoco(compile(path, nullptr, path.string()));
}

Mujoco Mujoco::parse(std::string_view xml, std::string_view where) {
  mjVFS files;
  mj_defaultVFS(&files);
  const std::unique_ptr<mjVFS, void (*)(mjVFS*)> owner(&files, mj_deleteVFS);
  if (mj_addBufferVFS(&files, "model.xml", xml.data(), static_cast<int>(xml.size())) != 0) {
    fail_computation("{}: MuJoCo did not take the text", where);
  }
  return Mujoco(compile("model.xml", &files, where));
}

void Mujoco::reset() { mj_resetData(model_.get(), data_.get()); }

void Mujoco::step(std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    guarded(model_.get(), data_.get(), [&] { mj_step(model_.get(), data_.get()); });
    check_finite(model_.get(), data_.get());
  }
}

void Mujoco::forward() {
  guarded(model_.get(), data_.get(), [&] { mj_forward(model_.get(), data_.get()); });
  check_finite(model_.get(), data_.get());
}

double Mujoco::time() const { return data_->time; }
double Mujoco::time_step() const { return model_->opt.timestep; }

std::span<double> Mujoco::position() { return {data_->qpos, static_cast<std::size_t>(model_->nq)}; }
std::span<double> Mujoco::velocity() { return {data_->qvel, static_cast<std::size_t>(model_->nv)}; }
std::span<double> Mujoco::control() { return {data_->ctrl, static_cast<std::size_t>(model_->nu)}; }
std::span<double> Mujoco::force() { return {data_->qfrc_applied, static_cast<std::size_t>(model_->nv)}; }
std::span<const double> Mujoco::acceleration() const { return {data_->qacc, static_cast<std::size_t>(model_->nv)}; }

std::int64_t Mujoco::joint(const std::string& name) const {
  const int id = mj_name2id(model_.get(), mjOBJ_JOINT, name.c_str());
  if (id >= 0) return model_->jnt_qposadr[id];
  std::string names;
  for (int i = 0; i < model_->njnt; ++i) names += (i ? ", " : "") + name_of(model_.get(), mjOBJ_JOINT, i);
  fail_input("the model has no joint '{}'; it has {}", name, names.empty() ? "none" : names);
}

std::vector<Mujoco::Warning> Mujoco::warnings() const {
  std::vector<Warning> found;
  for (int i = 0; i < mjNWARNING; ++i) {
    const mjWarningStat& warning = data_->warning[i];
    if (warning.number)
      found.push_back({mju_warningText(i, static_cast<std::size_t>(warning.lastinfo)), warning.number});
  }
  return found;
}

}  // namespace unbend::control
