// Many generations at once on one engine: sequences join and leave the batch between tokens (continuous batching).
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "unbend/engine/engine.h"
#include "unbend/engine/generate.h"
#include "unbend/engine/tokenizer.h"

namespace unbend::serve {

/// What a client wants generated.
struct Job {
  std::vector<engine::TokenId> prompt;
  engine::GenerateOptions options;
  int logprobs = -1;  ///< likeliest alternatives to tell per token; -1 = no log-probabilities at all
};

struct TokenLogprob {
  engine::TokenId id = 0;
  float logprob = 0;
};

/// What one step of the batch brought a job.
struct Piece {
  std::string text;  ///< certain text; may be empty while a stop text or a character is undecided
  engine::TokenId id = -1;
  float logprob = 0;  ///< of `id`, with Job::logprobs >= 0
  std::vector<TokenLogprob> likeliest;
};

struct Outcome {
  std::string reason;  ///< "end", "stop", "length", "cancelled", "failed"
  std::string error;   ///< of "failed"
  std::int64_t prompt_tokens = 0, completion_tokens = 0;
};

/// Rings when a ticket that it was given to has news; for one waiter over several tickets.
class Bell {
 public:
  void ring();
  /// Until it has rung since the last call, at most `patience`.
  void wait(std::chrono::milliseconds patience);

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool rung_ = false;
};

/// A client's side of a job. Thread-safe.
class Ticket {
 public:
  explicit Ticket(std::shared_ptr<Bell> bell = nullptr) : bell_(std::move(bell)) {}
  /// The next piece, as soon as there is one; nothing when the job is over.
  std::optional<Piece> next();
  /// The next piece if there is one now. False when the job is over and nothing is left.
  bool poll(std::optional<Piece>& piece);
  /// Valid when next() gave nothing.
  Outcome outcome() const;
  /// The client is gone: the job ends at the next step.
  void cancel() { cancelled_ = true; }

 private:
  friend class Scheduler;
  void put(Piece piece);
  void finish(Outcome outcome);

  std::shared_ptr<Bell> bell_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Piece> pieces_;
  std::optional<Outcome> outcome_;
  std::atomic<bool> cancelled_ = false;
};

struct SchedulerOptions {
  std::size_t queue = 256;           ///< jobs that may wait while all sequences are busy; more are refused
  std::int64_t prompt_tokens = 256;  ///< of prompts per step while others are being answered: bounds their wait
};

struct SchedulerCounts {
  std::int64_t accepted = 0, refused = 0, finished = 0, prompt_tokens = 0, completion_tokens = 0, steps = 0;
  std::int64_t active = 0, waiting = 0;
};

class Scheduler {
 public:
  /// Engine and tokenizer outlive the scheduler, and nothing else uses the engine meanwhile.
  Scheduler(engine::Engine& engine, const engine::Tokenizer& tokenizer, const SchedulerOptions& options = {});
  /// stop(), and waits for it.
  ~Scheduler();

  /// Jobs that there may be at a time, running and waiting.
  std::size_t capacity() const;
  /// Null if there are as many as capacity() or drain() was called. Input error for a job that can never run (no
  /// prompt, one that is longer than the context, options out of range). `bell` rings for every piece and for the end.
  std::shared_ptr<Ticket> submit(Job job, std::shared_ptr<Bell> bell = nullptr);
  /// Takes no more jobs and returns when all are over.
  void drain();
  /// Takes no more jobs and ends all there are ("cancelled") at the next step.
  void stop();
  SchedulerCounts counts() const;

 private:
  struct Active;
  void work();
  void drop_cancelled();
  bool step(std::vector<std::unique_ptr<Active>>& active);
  void take(Active& job, std::span<const float> logits);
  void finish(Active& job, const std::string& reason, const std::string& error = {});

  engine::Engine& engine_;
  const engine::Tokenizer& tokenizer_;
  const SchedulerOptions options_;
  mutable std::mutex mutex_;
  std::condition_variable changed_, idle_;
  std::deque<std::unique_ptr<Active>> waiting_;
  SchedulerCounts counts_;
  bool draining_ = false, stopping_ = false;
  std::thread thread_;
};

}  // namespace unbend::serve
