#include "unbend/serve/scheduler.h"

#include <algorithm>
#include <cmath>

#include "unbend/base/error.h"

namespace unbend::serve {

void Bell::ring() {
  const std::lock_guard lock(mutex_);
  rung_ = true;
  changed_.notify_all();
}

void Bell::wait(std::chrono::milliseconds patience) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, patience, [&] { return rung_; });
  rung_ = false;
}

std::optional<Piece> Ticket::next() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return !pieces_.empty() || outcome_; });
  if (pieces_.empty()) return {};
  auto piece = std::move(pieces_.front());
  pieces_.pop_front();
  return piece;
}

bool Ticket::poll(std::optional<Piece>& piece) {
  const std::lock_guard lock(mutex_);
  piece.reset();
  if (pieces_.empty()) return !outcome_;
  piece = std::move(pieces_.front());
  pieces_.pop_front();
  return true;
}

Outcome Ticket::outcome() const {
  const std::lock_guard lock(mutex_);
  return outcome_.value_or(Outcome{});
}

void Ticket::put(Piece piece) {
  {
    const std::lock_guard lock(mutex_);
    pieces_.push_back(std::move(piece));
    changed_.notify_all();
  }
  if (bell_) bell_->ring();
}

void Ticket::finish(Outcome outcome) {
  {
    const std::lock_guard lock(mutex_);
    outcome_ = std::move(outcome);
    changed_.notify_all();
  }
  if (bell_) bell_->ring();
}

struct Scheduler::Active {
  Job job;
  std::shared_ptr<Ticket> ticket;
  engine::Sampler sampler;
  engine::StopFilter filter;
  int sequence = -1;
  std::int64_t read = 0;  // prompt tokens that the engine has seen
  std::int64_t generated = 0;
  engine::TokenId last = -1;  // generated, not yet seen by the engine
  bool over = false;

  Active(Job j, const engine::Tokenizer& tokenizer, std::shared_ptr<Bell> bell)
      : job(std::move(j)),
        ticket(std::make_shared<Ticket>(std::move(bell))),
        sampler(job.options.sampler, &tokenizer),
        filter(job.options.stop) {}
  std::int64_t unread() const { return static_cast<std::int64_t>(job.prompt.size()) - read; }
};

Scheduler::Scheduler(engine::Engine& engine, const engine::Tokenizer& tokenizer, const SchedulerOptions& options)
    : engine_(engine), tokenizer_(tokenizer), options_(options), thread_([this] { work(); }) {}

Scheduler::~Scheduler() {
  stop();
  thread_.join();
}

void Scheduler::stop() {
  const std::lock_guard lock(mutex_);
  draining_ = stopping_ = true;
  changed_.notify_all();
}

std::size_t Scheduler::capacity() const {
  return options_.queue + static_cast<std::size_t>(engine_.options().sequences);
}

std::shared_ptr<Ticket> Scheduler::submit(Job job, std::shared_ptr<Bell> bell) {
  require(!job.prompt.empty(), "the prompt has no tokens");
  const auto context = engine_.options().context;
  require(static_cast<std::int64_t>(job.prompt.size()) < context, "the prompt has {} tokens, the context holds {}",
          job.prompt.size(), context);
  require(job.options.max_tokens >= 1, "at least one token must be allowed, not {}", job.options.max_tokens);
  const auto vocab = engine_.model().config().vocab;
  for (const auto id : job.prompt) require(id >= 0 && id < vocab, "token id {} is not in the vocabulary", id);
  require(job.logprobs <= 20, "log-probabilities of at most 20 alternatives, not {}", job.logprobs);
  auto active = std::make_unique<Active>(std::move(job), tokenizer_, std::move(bell));
  auto ticket = active->ticket;
  const std::lock_guard lock(mutex_);
  if (draining_ || waiting_.size() + static_cast<std::size_t>(counts_.active) >= capacity()) {
    ++counts_.refused;
    return nullptr;
  }
  ++counts_.accepted;
  waiting_.push_back(std::move(active));
  changed_.notify_all();
  return ticket;
}

void Scheduler::drain() {
  std::unique_lock lock(mutex_);
  draining_ = true;
  changed_.notify_all();
  idle_.wait(lock, [&] { return waiting_.empty() && counts_.active == 0; });
}

SchedulerCounts Scheduler::counts() const {
  const std::lock_guard lock(mutex_);
  auto counts = counts_;
  counts.waiting = static_cast<std::int64_t>(waiting_.size());
  return counts;
}

/// Jobs that nobody waits for any more leave the queue.
void Scheduler::drop_cancelled() {
  std::erase_if(waiting_, [&](const auto& job) {
    if (!job->ticket->cancelled_) return false;
    job->ticket->finish({"cancelled", {}, static_cast<std::int64_t>(job->job.prompt.size()), 0});
    ++counts_.finished;
    return true;
  });
}

void Scheduler::work() {
  std::vector<std::unique_ptr<Active>> active;
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return stopping_ || !waiting_.empty() || !active.empty(); });
      if (stopping_) {
        for (auto& job : waiting_) active.push_back(std::move(job));
        waiting_.clear();
      }
      drop_cancelled();
      while (!stopping_ && !waiting_.empty() && static_cast<int>(active.size()) < engine_.options().sequences) {
        active.push_back(std::move(waiting_.front()));
        waiting_.pop_front();
      }
      counts_.active = static_cast<std::int64_t>(active.size());
      if (stopping_) {
        for (auto& job : active) {
          if (job->sequence >= 0) engine_.end(job->sequence);
          job->ticket->finish({"cancelled", {}, static_cast<std::int64_t>(job->job.prompt.size()), job->generated});
        }
        counts_.active = 0;
        idle_.notify_all();
        return;
      }
    }
    try {
      step(active);
    } catch (const std::exception& error) {
      for (auto& job : active)
        if (!job->over) finish(*job, "failed", error.what());
    }
    std::erase_if(active, [](const auto& job) { return job->over; });
    const std::lock_guard lock(mutex_);
    counts_.active = static_cast<std::int64_t>(active.size());
    ++counts_.steps;
    if (active.empty() && waiting_.empty()) idle_.notify_all();
  }
}

/// One batch: a token of every job that is being answered, and parts of prompts in the order of arrival.
bool Scheduler::step(std::vector<std::unique_ptr<Active>>& active) {
  std::vector<engine::Feed> feeds;
  std::vector<Active*> owners;
  bool answering = false;
  for (auto& job : active) {
    if (job->ticket->cancelled_) {
      finish(*job, "cancelled");
      continue;
    }
    if (job->sequence < 0) job->sequence = engine_.begin();
    if (job->last < 0) continue;
    answering = true;
    feeds.push_back({job->sequence, {&job->last, 1}, 1});
    owners.push_back(job.get());
  }
  std::int64_t room = answering ? options_.prompt_tokens : engine_.options().batch;
  for (auto& job : active) {
    if (job->over || job->last >= 0 || room == 0) continue;
    const std::int64_t count = std::min(room, job->unread());
    const std::span<const engine::TokenId> part(job->job.prompt.data() + job->read, static_cast<std::size_t>(count));
    job->read += count;
    room -= count;
    feeds.push_back({job->sequence, part, job->unread() == 0 ? 1 : 0});
    owners.push_back(job.get());
  }
  if (feeds.empty()) return false;
  const auto logits = engine_.run(feeds);
  const auto vocab = static_cast<std::size_t>(engine_.model().config().vocab);
  std::size_t row = 0;
  for (std::size_t i = 0; i < feeds.size(); ++i)
    if (feeds[i].logits > 0) {
      try {
        take(*owners[i], logits.subspan(vocab * row++, vocab));
      } catch (const std::exception& error) {  // a grammar that led nowhere: the others go on
        finish(*owners[i], "failed", error.what());
      }
    }
  return true;
}

/// The next token of a job.
void Scheduler::take(Active& job, std::span<const float> logits) {
  logits = logits.first(std::min(logits.size(), static_cast<std::size_t>(tokenizer_.size())));  // some are padding
  const auto id = job.sampler.next(logits);
  const auto& options = job.job.options;
  if (tokenizer_.is_end(id) && !options.ignore_end) return finish(job, "end");
  Piece piece;
  piece.id = id;
  piece.text = job.filter.add(tokenizer_.decode({&id, 1}));
  if (job.job.logprobs >= 0) {
    const float max = *std::ranges::max_element(logits);
    double sum = 0;
    for (const float z : logits) sum += std::exp(z - max);
    const float lse = max + static_cast<float>(std::log(sum));
    piece.logprob = logits[static_cast<std::size_t>(id)] - lse;
    std::vector<engine::TokenId> order(logits.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<engine::TokenId>(i);
    const auto best = order.begin() + std::min<std::ptrdiff_t>(job.job.logprobs, std::ssize(order));
    std::partial_sort(order.begin(), best, order.end(), [&](auto a, auto b) { return logits[a] > logits[b]; });
    for (auto at = order.begin(); at != best; ++at) piece.likeliest.push_back({*at, logits[*at] - lse});
  }
  job.last = id;
  ++job.generated;
  const bool stopped = job.filter.stopped();
  const bool full = job.generated >= options.max_tokens || engine_.length(job.sequence) + 1 > engine_.options().context;
  if (!stopped && full) piece.text += job.filter.flush();
  job.ticket->put(std::move(piece));
  if (stopped) return finish(job, "stop");
  if (full) finish(job, "length");
}

void Scheduler::finish(Active& job, const std::string& reason, const std::string& error) {
  if (reason == "end") {
    if (auto rest = job.filter.flush(); !rest.empty()) job.ticket->put({.text = std::move(rest), .likeliest = {}});
  }
  if (job.sequence >= 0) engine_.end(job.sequence);
  job.over = true;
  {
    const std::lock_guard lock(mutex_);
    ++counts_.finished;
    --counts_.active;  // before the client hears of it and comes again
    counts_.prompt_tokens += job.read;
    counts_.completion_tokens += job.generated;
    job.ticket->finish({reason, error, static_cast<std::int64_t>(job.job.prompt.size()), job.generated});
  }
}

}  // namespace unbend::serve
