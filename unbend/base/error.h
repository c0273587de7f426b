// The one error type of the project (DESIGN.md §6).
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace unbend {

/// Who is to blame, and so which exit code the command line gives.
enum class ErrorKind {
  Usage = 2,        ///< wrong options or arguments
  Input = 3,        ///< a file, tensor or value that cannot be used
  Computation = 4,  ///< a computation that failed on valid input (non-finite loss, disk full, interrupted)
};

/// A caller's mistake or a failed computation: one sentence that says what was wrong, where (file and offset, tensor
/// and shape, argument), and what would be right. Our own bugs are not Errors: they are assertions.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }
  int exit_code() const { return static_cast<int>(kind_); }

 private:
  ErrorKind kind_;
};

template <class... Args>
[[noreturn]] void fail_usage(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(ErrorKind::Usage, fmt::format(format, std::forward<Args>(args)...));
}

template <class... Args>
[[noreturn]] void fail_input(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(ErrorKind::Input, fmt::format(format, std::forward<Args>(args)...));
}

template <class... Args>
[[noreturn]] void fail_computation(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(ErrorKind::Computation, fmt::format(format, std::forward<Args>(args)...));
}

/// Throws an Input error unless `ok`. The arguments are formatted only on failure.
template <class... Args>
void require(bool ok, fmt::format_string<Args...> format, Args&&... args) {
  if (!ok) fail_input(format, std::forward<Args>(args)...);
}

}  // namespace unbend
