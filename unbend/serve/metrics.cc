#include "unbend/serve/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

namespace unbend::serve {
namespace {

std::int64_t whole_seconds(Metrics::Clock::time_point time) {
  return std::chrono::duration_cast<std::chrono::seconds>(time.time_since_epoch()).count();
}

void head(std::string& out, std::string_view name, std::string_view type, std::string_view help) {
  fmt::format_to(std::back_inserter(out), "# HELP unbend_{0} {2}\n# TYPE unbend_{0} {1}\n", name, type, help);
}

template <class Value>
void one(std::string& out, std::string_view name, std::string_view type, std::string_view help, Value value) {
  head(out, name, type, help);
  fmt::format_to(std::back_inserter(out), "unbend_{} {}\n", name, value);
}

}  // namespace

void Metrics::request(const std::string& route, int status) {
  const std::lock_guard lock(mutex_);
  ++requests_[{route, status}];
}

void Metrics::prompt(std::int64_t tokens) {
  const std::lock_guard lock(mutex_);
  prompt_tokens_ += tokens;
}

void Metrics::token(Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  ++tokens_;
  const std::int64_t second = whole_seconds(now);
  Second& slot = recent_[static_cast<std::size_t>(second) % recent_.size()];
  if (slot.at != second) slot = {second, 0};
  ++slot.tokens;
}

void Metrics::first_token(double seconds) {
  const std::lock_guard lock(mutex_);
  const auto bucket = std::ranges::lower_bound(kBounds, seconds) - kBounds.begin();
  ++first_[static_cast<std::size_t>(bucket)];
  first_sum_ += seconds;
}

std::string Metrics::text(const Gauges& gauges, Clock::time_point now) const {
  const std::lock_guard lock(mutex_);
  std::string out;
  head(out, "requests_total", "counter", "Requests by route and status.");
  for (const auto& [key, count] : requests_)
    fmt::format_to(std::back_inserter(out), "unbend_requests_total{{route=\"{}\",code=\"{}\"}} {}\n", key.first,
                   key.second, count);
  one(out, "sequences_active", "gauge", "Sequences in the batch.", gauges.active);
  one(out, "queue_length", "gauge", "Jobs that wait for a sequence.", gauges.waiting);
  one(out, "connections", "gauge", "Open connections.", gauges.connections);
  one(out, "prompt_tokens_total", "counter", "Tokens of accepted prompts.", prompt_tokens_);
  one(out, "generated_tokens_total", "counter", "Tokens handed to clients.", tokens_);
  const std::int64_t second = whole_seconds(now);
  std::int64_t recent = 0;
  for (const Second& slot : recent_)
    if (slot.at >= second - kWindow && slot.at < second) recent += slot.tokens;
  one(out, "tokens_per_second", "gauge", "Generated tokens per second over the last 10 whole seconds.",
      static_cast<double>(recent) / kWindow);
  head(out, "time_to_first_token_seconds", "histogram", "From a request to the first token of its answer.");
  std::int64_t below = 0;
  for (std::size_t i = 0; i < first_.size(); ++i) {
    below += first_[i];
    const std::string bound = i < kBounds.size() ? fmt::format("{}", kBounds[i]) : "+Inf";
    fmt::format_to(std::back_inserter(out), "unbend_time_to_first_token_seconds_bucket{{le=\"{}\"}} {}\n", bound,
                   below);
  }
  fmt::format_to(std::back_inserter(out),
                 "unbend_time_to_first_token_seconds_sum {}\nunbend_time_to_first_token_seconds_count {}\n", first_sum_,
                 below);
  return out;
}

}  // namespace unbend::serve
