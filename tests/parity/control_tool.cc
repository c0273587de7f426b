// Steps a Gymnasium task of ours: control_tool TASK FOLDER reads JSON {"qpos", "qvel", "actions"} from standard input
// and prints {"observations", "rewards", "terminated"}, step by step.
#include <fmt/format.h>

#include <iostream>
#include <iterator>

#include "unbend/base/error.h"
#include "unbend/control/environments_mujoco.h"

int main(int argc, char** argv) try {
  using namespace unbend;
  using namespace unbend::control;
  if (argc != 3) fail_usage("control_tool TASK FOLDER");
  const auto description = gymnasium_task(argv[1]);
  require(description.has_value(), "no task {}", argv[1]);
  const auto task = std::make_shared<const MujocoTask>(MujocoTask::from_json(*description, argv[2], argv[1]));
  const Json input = parse_json(std::string(std::istreambuf_iterator<char>(std::cin), {}), "input");
  const auto dynamics = mujoco_dynamics(task, 1);
  Random random(1);
  dynamics->reset(0, random);
  Mujoco& world = *mujoco_world(*dynamics, 0);
  const auto qpos = input.at("qpos").get<std::vector<double>>(), qvel = input.at("qvel").get<std::vector<double>>();
  world = task->world;
  std::copy(qpos.begin(), qpos.end(), world.position().begin());
  std::copy(qvel.begin(), qvel.end(), world.velocity().begin());
  world.forward();
  Json out{{"observations", Json::array()}, {"rewards", Json::array()}, {"terminated", Json::array()},
           {"low", task->spec.low},         {"high", task->spec.high},  {"limit", task->spec.limit}};
  std::vector<double> seen(static_cast<std::size_t>(task->spec.observations));
  for (const auto& row : input.at("actions")) {
    const auto values = row.get<std::vector<double>>();
    Matrix<double> action(1, std::ssize(values));
    std::copy(values.begin(), values.end(), action.data.begin());
    double reward = 0;
    std::uint8_t over = 0;
    dynamics->step(action, {&reward, 1}, {&over, 1});
    dynamics->observe(0, seen.data());
    out["observations"].push_back(seen), out["rewards"].push_back(reward), out["terminated"].push_back(over != 0);
  }
  fmt::print("{}\n", out.dump());
  return 0;
} catch (const unbend::Error& error) {
  fmt::print(stderr, "{}\n", error.what());
  return error.exit_code();
}
