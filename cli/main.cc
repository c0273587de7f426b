// The `unbend` command: builds the verbs, runs one, and turns every failure into one line and an exit code.
#include <fmt/format.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "cli/forecast.h"
#include "cli/net.h"
#include "cli/verbs.h"
#include "unbend/base/error.h"
#include "unbend/base/methods.h"

namespace unbend {

void print_json(const Json& json) { fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace)); }

namespace {

constexpr int kInternalError = 70;  // EX_SOFTWARE of sysexits.h

std::string first_line(std::string_view text) { return std::string(text.substr(0, text.find('\n'))); }

int complain(std::string_view message, int code) {
  std::fflush(stdout);
  fmt::print(stderr, "unbend: {}\n", message);
  return code;
}

/// The innermost verb that was recognised, and its full name ("unbend lm convert").
const CLI::App* innermost(const CLI::App& app, std::string* name) {
  const CLI::App* verb = &app;
  *name = app.get_name();
  while (!verb->get_subcommands().empty()) {
    verb = verb->get_subcommands().front();
    *name += " " + verb->get_name();
  }
  return verb;
}

/// The names that could have been meant instead of `word`: options if it looks like one, verbs otherwise.
std::vector<std::string> alternatives(const CLI::App& verb, bool option) {
  std::vector<std::string> names;
  if (option) {
    for (const CLI::Option* o : verb.get_options()) {
      for (const std::string& name : o->get_lnames()) names.push_back("--" + name);
    }
  } else {
    for (const CLI::App* sub : verb.get_subcommands([](const CLI::App*) { return true; }))
      names.push_back(sub->get_name());
  }
  return names;
}

/// CLI11 writes the end of a range without an end out: 309 digits.
std::string without_ends(std::string text) {
  const auto range = text.find(" not in range "), end = text.find(" to 179769313");
  return range < end && end != text.npos ? text.substr(0, range) + " is out of range" : text;
}

/// One line that says what was wrong with the arguments and where help is.
std::string usage_message(const CLI::App& app, const CLI::ParseError& error) {
  std::string name;
  const CLI::App* verb = innermost(app, &name);
  const std::string hint = fmt::format("see '{} --help'", name);
  const std::vector<std::string> rest = app.remaining(true);
  const std::vector<std::string> verbs = alternatives(*verb, false);
  if (rest.empty() && !verbs.empty())
    return fmt::format("'{}' needs a verb: {}; {}", name, fmt::join(verbs, ", "), hint);
  if (rest.empty()) return fmt::format("{}; {}", without_ends(std::string(first_line(error.what()))), hint);

  const bool option = rest[0].starts_with("-");
  if (!option && verbs.empty()) return fmt::format("'{}' takes no argument '{}'; {}", name, rest[0], hint);
  const std::string near = nearest(rest[0], alternatives(*verb, option));
  return fmt::format("'{}' has no {} '{}'{}; {}", name, option ? "option" : "verb", rest[0],
                     near.empty() ? "" : fmt::format(", did you mean '{}'?", near), hint);
}

/// CLI11 reads -1 as the largest unsigned number.
void refuse_negatives(CLI::App& verb) {
  for (CLI::Option* option :
       verb.get_options([](const CLI::Option* o) { return o->get_type_name().starts_with("UINT"); }))
    option->check([](const std::string& text) { return text.starts_with("-") ? text + " is below 0" : std::string(); });
  for (CLI::App* sub : verb.get_subcommands([](const CLI::App*) { return true; })) refuse_negatives(*sub);
}

int run(int argc, const char* const* argv) {
  CLI::App app("Linearize what you already have, and measure how close the result is.", "unbend");
  app.set_version_flag("--version", "unbend " UNBEND_VERSION, "Print the version and exit");
  app.set_help_flag("-h,--help", "Print this help and exit");
  app.require_subcommand(1);
  app.get_formatter()->column_width(34);
  app.footer(
      "Exit codes: 0 success, 1 a study missed a bar, 2 bad usage, 3 bad input, 4 a computation failed.\n\n"
      "Examples:\n"
      "  unbend methods\n"
      "  unbend study liger\n"
      "  unbend study --help");
  add_method_verbs(app);
  add_lm_verbs(app);
  add_serve_verb(app);
  add_vision_verbs(app);
  add_net_verbs(app);
  add_gan_verbs(app);
  add_forecast_verbs(app);
  add_measure_verbs(app);
  add_online_verbs(app);
  add_fit_verbs(app);
  add_policy_verbs(app);
  add_control_verbs(app);
  refuse_negatives(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::RuntimeError& end) {
    return end.get_exit_code();
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    return complain(usage_message(app, error), static_cast<int>(ErrorKind::Usage));
  }
  return 0;
}

/// Output that could not be written (a full disk) is a failure too.
int flushed(int code) {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return code;
  return complain(fmt::format("cannot write to standard output: {}", std::strerror(errno)),
                  static_cast<int>(ErrorKind::Computation));
}

}  // namespace
}  // namespace unbend

int main(int argc, char** argv) {
  using namespace unbend;
#ifdef __GLIBC__
  // Tensors of some megabytes come and go all the time: keep their pages instead of asking the system for zeroed ones.
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
#endif
  try {
    return flushed(run(argc, argv));
  } catch (const Error& error) {
    return complain(first_line(error.what()), error.exit_code());
  } catch (const std::filesystem::filesystem_error& error) {
    return complain(first_line(error.what()), static_cast<int>(ErrorKind::Computation));
  } catch (const std::bad_alloc&) {
    return complain("out of memory", static_cast<int>(ErrorKind::Computation));
  } catch (const std::exception& error) {  // LibTorch's errors carry a stack trace after their first line
    return complain(fmt::format("internal error: {}; please report it", first_line(error.what())), kInternalError);
  } catch (...) {
    return complain("internal error of unknown kind; please report it", kInternalError);
  }
}
