#include "unbend/base/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <utility>

namespace unbend {
namespace {

constexpr auto kTerminalInterval = std::chrono::milliseconds(200);
constexpr auto kPlainInterval = std::chrono::seconds(10);

double seconds_between(std::chrono::steady_clock::time_point from, std::chrono::steady_clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace

Progress::Progress(std::string label, std::int64_t total, std::string unit, bool quiet)
    : label_(std::move(label)),
      unit_(std::move(unit)),
      total_(total),
      quiet_(quiet),
      terminal_(::isatty(STDERR_FILENO) == 1),
      start_(std::chrono::steady_clock::now()),
      shown_(start_) {
  // A terminal shows at once that something began; elsewhere the first line waits for its interval.
  if (!quiet_ && terminal_) show({}, false);
}

Progress::~Progress() { finish(); }

void Progress::update(std::int64_t done, std::string_view note) {
  if (first_ < 0) {
    first_ = done;
    first_time_ = std::chrono::steady_clock::now();
  }
  done_ = done;
  if (quiet_ || finished_) return;
  const auto interval = terminal_ ? std::chrono::duration_cast<std::chrono::milliseconds>(kTerminalInterval)
                                  : std::chrono::duration_cast<std::chrono::milliseconds>(kPlainInterval);
  if (std::chrono::steady_clock::now() - shown_ >= interval) show(note, false);
}

void Progress::finish(std::string_view note) {
  if (std::exchange(finished_, true) || quiet_) return;
  show(note, true);
}

double Progress::seconds() const { return seconds_between(start_, std::chrono::steady_clock::now()); }

void Progress::show(std::string_view note, bool last) {
  shown_ = std::chrono::steady_clock::now();
  const double elapsed = seconds();
  // The rate counts from the first update, before which there may have been set-up or another run's work.
  double rate = 0;
  if (first_ >= 0 && done_ > first_) {
    rate = static_cast<double>(done_ - first_) / seconds_between(first_time_, shown_);
  } else if (last && elapsed > 0) {
    rate = static_cast<double>(done_) / elapsed;
  }

  std::string line = label_ + ":";
  line += total_ > 0 ? fmt::format(" {}/{} {}", format_count(static_cast<double>(done_)),
                                   format_count(static_cast<double>(total_)), unit_)
                     : fmt::format(" {} {}", format_count(static_cast<double>(done_)), unit_);
  if (rate > 0) line += fmt::format(", {} {}/s", format_count(rate), unit_);
  if (last) {
    line += fmt::format(", {}", format_duration(elapsed));
  } else if (total_ > done_ && rate > 0) {
    line += fmt::format(", {} left", format_duration(static_cast<double>(total_ - done_) / rate));
  }
  if (!note.empty()) line += fmt::format(", {}", note);
  fmt::print(stderr, "{}{}{}", terminal_ ? "\r\x1b[K" : "", line, last || !terminal_ ? "\n" : "");
  std::fflush(stderr);
}

std::string format_count(double count) {
  constexpr std::array<std::pair<double, const char*>, 4> kScales{{{1e12, "T"}, {1e9, "G"}, {1e6, "M"}, {1e3, "K"}}};
  for (const auto& [scale, suffix] : kScales) {
    // What rounds up to the scale belongs to it: 999,960 is 1.0M, not 1000.0K.
    if (std::abs(count) < scale * 0.99995) continue;
    const double scaled = count / scale;
    return fmt::format("{:.{}f}{}", scaled, std::abs(scaled) < 99.95 ? 1 : 0, suffix);
  }
  return fmt::format("{:.{}f}", count, count == std::floor(count) || std::abs(count) >= 100 ? 0 : 1);
}

std::string format_duration(double seconds) {
  if (seconds < 9.95) return fmt::format("{:.1f}s", seconds);
  const auto whole = static_cast<long long>(std::llround(seconds));
  if (whole < 60) return fmt::format("{}s", whole);
  if (whole < 3600) return fmt::format("{}m {:02}s", whole / 60, whole % 60);
  const long long minutes = (whole + 30) / 60;
  return fmt::format("{}h {:02}m", minutes / 60, minutes % 60);
}

}  // namespace unbend
