// Counters of a server in Prometheus' text format. Thread-safe.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>

namespace unbend::serve {

/// What the scheduler and the connections say at the moment of a scrape.
struct Gauges {
  std::int64_t active = 0, waiting = 0, connections = 0;
};

class Metrics {
 public:
  using Clock = std::chrono::steady_clock;

  void request(const std::string& route, int status);
  void prompt(std::int64_t tokens);
  void token(Clock::time_point now = Clock::now());
  void first_token(double seconds);  ///< after its request came
  std::string text(const Gauges& gauges, Clock::time_point now = Clock::now()) const;

 private:
  static constexpr std::array kBounds = {.01, .025, .05, .1, .25, .5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0};
  static constexpr std::int64_t kWindow = 10;  // seconds over which the rate is taken

  struct Second {
    std::int64_t at = -1, tokens = 0;
  };

  mutable std::mutex mutex_;
  std::map<std::pair<std::string, int>, std::int64_t> requests_;
  std::int64_t prompt_tokens_ = 0, tokens_ = 0;
  std::array<std::int64_t, kBounds.size() + 1> first_{};
  double first_sum_ = 0;
  std::array<Second, kWindow + 1> recent_{};
};

}  // namespace unbend::serve
