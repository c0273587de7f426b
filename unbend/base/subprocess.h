// Other programs, started without a shell.
#pragma once

#include <string>
#include <vector>

namespace unbend {

struct CommandOptions {
  bool capture = false;                       ///< keep standard output and error instead of passing them through
  std::vector<std::string> environment = {};  ///< "NAME=value", added to this process's own
};

struct CommandResult {
  int exit_code = 0;   ///< 128 + n if signal n ended it
  std::string output;  ///< with `capture`: standard output
  std::string errors;  ///< with `capture`: standard error
};

/// Runs `command` (program, looked up in PATH, then its arguments, passed as they are) and waits for it.
/// Input error if it cannot be started. Interrupts reach it too, as it stays in our process group.
CommandResult run_command(const std::vector<std::string>& command, const CommandOptions& options = {});

}  // namespace unbend
