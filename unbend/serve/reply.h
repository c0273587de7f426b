// A request under way: the jobs that answer it, and their pieces as parts of choices.
#pragma once

#include <chrono>
#include <memory>
#include <span>
#include <vector>

#include "unbend/serve/answers.h"
#include "unbend/serve/metrics.h"
#include "unbend/serve/openai.h"
#include "unbend/serve/scheduler.h"

namespace unbend::serve {

/// What requests are answered with.
struct TextService {
  Scheduler& scheduler;
  const engine::Tokenizer& tokenizer;
  Metrics& metrics;
  std::int64_t context = 0;      ///< tokens of prompt and answer together
  std::size_t token_bytes = 16;  ///< of the longest token
};

class Reply {
 public:
  /// Starts the jobs. ApiError 400 for what cannot be generated and for more answers than ever fit, 429 if there is no
  /// room for them now, 503 when draining.
  Reply(TextService service, const TextRequest& request, bool chat);
  ~Reply();  ///< cancels what still runs
  Reply(const Reply&) = delete;
  Reply& operator=(const Reply&) = delete;

  /// New parts of choices, waited for at most `patience`. ApiError if a job failed.
  std::vector<Choice> wait(std::chrono::milliseconds patience);
  bool over() const;
  std::int64_t choices() const { return static_cast<std::int64_t>(jobs_.size()); }
  Usage usage() const { return usage_; }

 private:
  struct Running {
    std::shared_ptr<Ticket> ticket;
    std::string echo;         // the prompt, where the answer is to begin with it
    std::int64_t offset = 0;  // characters so far
    bool over = false;
  };
  void submit(const TextRequest& request, std::vector<engine::TokenId> prompt, const std::string& echo);
  Choice part(std::size_t index, Piece piece);
  void end(Running& job, Choice& last);

  TextService service_;
  Metrics::Clock::time_point started_ = Metrics::Clock::now();
  bool begun_ = false;  // a token has come
  std::string grammar_;
  std::uint64_t seed_ = 0;
  std::shared_ptr<Bell> bell_ = std::make_shared<Bell>();
  std::vector<Running> jobs_;
  Usage usage_;
};

}  // namespace unbend::serve
