// Progress of long work on standard error: a line that is rewritten on a terminal, plain lines (at most one every ten
// seconds) elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace unbend {

/// Shows `label`, done/total, rate, time left and a note. Not thread-safe; finish() (or the destructor) ends the line.
class Progress {
 public:
  /// `unit` names what is counted ("tokens"); total 0 means unknown. `quiet` shows nothing.
  Progress(std::string label, std::int64_t total, std::string unit, bool quiet = false);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// `done` counts from the very beginning. Resumed work says first how much was done before: the rate leaves it out.
  void update(std::int64_t done, std::string_view note = {});
  void finish(std::string_view note = {});
  double seconds() const;  ///< since construction

 private:
  void show(std::string_view note, bool last);
  std::string label_, unit_;
  std::int64_t total_, done_ = 0, first_ = -1;
  bool quiet_, terminal_, finished_ = false;
  std::chrono::steady_clock::time_point start_, first_time_, shown_;
};

/// "850", "12.3K", "4.1M"; "1m 05s", "2h 10m".
std::string format_count(double count);
std::string format_duration(double seconds);

}  // namespace unbend
