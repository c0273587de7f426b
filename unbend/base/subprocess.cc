#include "unbend/base/subprocess.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>

#include "unbend/base/error.h"

extern char** environ;

namespace unbend {
namespace {

/// A pipe whose ends close themselves. Close-on-exec: only what spawn duplicates reaches the program.
struct Pipe {
  std::array<int, 2> ends{-1, -1};
  Pipe() {
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) fail_computation("cannot make a pipe: {}", std::strerror(errno));
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  ~Pipe() {
    close(0);
    close(1);
  }
  void close(std::size_t end) {
    if (ends[end] >= 0) ::close(ends[end]);
    ends[end] = -1;
  }
};

struct Actions {
  posix_spawn_file_actions_t list;
  Actions() { posix_spawn_file_actions_init(&list); }
  Actions(const Actions&) = delete;
  Actions& operator=(const Actions&) = delete;
  ~Actions() { posix_spawn_file_actions_destroy(&list); }
};

/// Reads both pipes until the program has closed them. In turns, as a full pipe would stop the program.
void drain(Pipe& output, Pipe& errors, CommandResult* result) {
  std::array<pollfd, 2> waits{{{output.ends[0], POLLIN, 0}, {errors.ends[0], POLLIN, 0}}};
  const std::array<std::string*, 2> texts{&result->output, &result->errors};
  std::array<char, 65536> buffer;
  for (int open = 2; open > 0;) {
    if (::poll(waits.data(), waits.size(), -1) < 0) {
      if (errno == EINTR) continue;
      fail_computation("cannot wait for a program's output: {}", std::strerror(errno));
    }
    for (std::size_t i = 0; i < waits.size(); ++i) {
      if (waits[i].fd < 0 || waits[i].revents == 0) continue;
      const ssize_t count = ::read(waits[i].fd, buffer.data(), buffer.size());
      if (count < 0 && errno == EINTR) continue;
      if (count > 0) {
        texts[i]->append(buffer.data(), static_cast<std::size_t>(count));
      } else {
        waits[i].fd = -1;  // poll leaves negative numbers out
        --open;
      }
    }
  }
}

/// Null-terminated views of `strings`, as exec wants them.
std::vector<char*> pointers(const std::vector<std::string>& strings) {
  std::vector<char*> result;
  result.reserve(strings.size() + 1);
  for (const std::string& text : strings) result.push_back(const_cast<char*>(text.c_str()));
  result.push_back(nullptr);
  return result;
}

/// This process's environment with `added` in place of variables of the same names.
std::vector<std::string> merged_environment(const std::vector<std::string>& added) {
  std::vector<std::string> result = added;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string_view text = *variable;
    const std::string_view name = text.substr(0, text.find('=') + 1);
    bool replaced = false;
    for (const std::string& other : added) replaced = replaced || other.starts_with(name);
    if (!replaced) result.emplace_back(text);
  }
  return result;
}

}  // namespace

CommandResult run_command(const std::vector<std::string>& command, const CommandOptions& options) {
  require(!command.empty() && !command[0].empty(), "run_command: command names no program");
  Pipe output, errors;
  Actions actions;
  if (options.capture) {
    posix_spawn_file_actions_adddup2(&actions.list, output.ends[1], STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions.list, errors.ends[1], STDERR_FILENO);
  }
  const std::vector<std::string> environment = merged_environment(options.environment);
  pid_t child = 0;
  const int failed = ::posix_spawnp(&child, command[0].c_str(), &actions.list, nullptr, pointers(command).data(),
                                    pointers(environment).data());
  require(failed == 0, "cannot start {}: {}", command[0], std::strerror(failed));
  output.close(1);
  errors.close(1);

  CommandResult result;
  if (options.capture) drain(output, errors, &result);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) fail_computation("cannot wait for {}: {}", command[0], std::strerror(errno));
  }
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

}  // namespace unbend
