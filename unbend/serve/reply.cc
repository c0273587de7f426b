#include "unbend/serve/reply.h"

#include <algorithm>
#include <random>
#include <utility>

#include "unbend/base/error.h"
#include "unbend/serve/grammar.h"
#include "unbend/serve/schema.h"

namespace unbend::serve {
namespace {

using engine::TokenId;

[[noreturn]] void too_long(std::string_view length, std::int64_t context) {
  throw ApiError(400, fmt::format("the prompt is too long: {}, but the context holds {} tokens", length, context),
                 "context_length_exceeded", "messages");
}

std::vector<TokenId> encode(const TextService& service, const std::string& text, bool special) {
  if (text.size() > service.token_bytes * static_cast<std::size_t>(service.context))  // before time is spent on it
    too_long(fmt::format("{} bytes", text.size()), service.context);
  auto ids = service.tokenizer.encode(text, special);
  if (service.tokenizer.adds_bos()) ids.insert(ids.begin(), service.tokenizer.bos());
  return ids;
}

std::vector<TokenId> chat_prompt(const TextService& service, const std::vector<Message>& messages) {
  std::vector<engine::ChatMessage> turns;
  for (const Message& message : messages) turns.push_back({message.role, message.content});
  return encode(service, service.tokenizer.chat(turns), true);
}

std::uint64_t random_seed() {
  std::random_device random;
  return (static_cast<std::uint64_t>(random()) << 32) | random();
}

Job make_job(const TextRequest& request, std::vector<TokenId> prompt, std::int64_t context) {
  Job job;
  const std::int64_t room = context - static_cast<std::int64_t>(prompt.size());
  job.prompt = std::move(prompt);
  job.options.max_tokens = std::min(request.max_tokens.value_or(room), room);
  job.options.stop = request.stop;
  job.options.sampler.temperature = request.temperature;
  job.options.sampler.top_p = request.top_p;
  job.options.sampler.top_k = static_cast<int>(request.top_k);
  job.options.sampler.repeat_penalty = request.repeat_penalty;
  job.logprobs = static_cast<int>(request.logprobs);
  return job;
}

}  // namespace

Reply::Reply(TextService service, const TextRequest& request, bool chat) : service_(service) {
  const std::int64_t answers = (chat ? 1 : std::ssize(request.prompts)) * request.n,
                     most = static_cast<std::int64_t>(service_.scheduler.capacity());
  if (answers > most)
    throw ApiError(400,
                   fmt::format("this server gives at most {} answers at a time, and {} are asked for", most, answers),
                   "invalid_value", request.n > 1 ? "n" : "prompt");
  grammar_ = request.schema ? schema_grammar(*request.schema) : request.grammar;
  if (!grammar_.empty()) check_grammar(grammar_, service_.tokenizer);
  seed_ = request.seed ? static_cast<std::uint64_t>(*request.seed) : random_seed();
  try {
    std::vector<std::vector<TokenId>> prompts;
    std::vector<std::string> echoes;
    if (chat) prompts.push_back(chat_prompt(service_, request.messages));
    for (const Prompt& prompt : request.prompts) {
      const auto* text = std::get_if<std::string>(&prompt);
      prompts.push_back(text ? encode(service_, *text, false) : std::get<std::vector<TokenId>>(prompt));
      const bool known =
          std::ranges::all_of(prompts.back(), [&](TokenId id) { return id < service_.tokenizer.size(); });
      if (request.echo && known) echoes.push_back(text ? *text : service_.tokenizer.decode(prompts.back()));
    }
    echoes.resize(prompts.size());
    for (const auto& prompt : prompts)
      if (std::ssize(prompt) >= service_.context) too_long(fmt::format("{} tokens", prompt.size()), service_.context);
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      usage_.prompt_tokens += std::ssize(prompts[i]);
      for (std::int64_t n = 0; n < request.n; ++n) submit(request, prompts[i], echoes[i]);
    }
  } catch (const Error& error) {
    for (const Running& job : jobs_) job.ticket->cancel();
    throw ApiError(400, error.what(), "invalid_value");
  } catch (...) {
    for (const Running& job : jobs_) job.ticket->cancel();
    throw;
  }
  service_.metrics.prompt(usage_.prompt_tokens);
}

Reply::~Reply() {
  for (const Running& job : jobs_) job.ticket->cancel();
}

void Reply::submit(const TextRequest& request, std::vector<TokenId> prompt, const std::string& echo) {
  Job job = make_job(request, std::move(prompt), service_.context);
  job.options.sampler.grammar = grammar_;
  // Answers to one prompt differ by their seeds.
  const std::uint64_t seed = seed_ + jobs_.size();
  job.options.sampler.seed = static_cast<std::uint32_t>(seed ^ (seed >> 32));
  auto ticket = service_.scheduler.submit(std::move(job), bell_);
  if (!ticket) throw ApiError(429, "too many requests wait already, try later", "queue_full");
  jobs_.push_back({std::move(ticket), echo, characters(echo), false});
}

std::vector<Choice> Reply::wait(std::chrono::milliseconds patience) {
  bell_->wait(patience);
  std::vector<Choice> parts;
  for (std::size_t i = 0; i < jobs_.size(); ++i) {
    while (!jobs_[i].over) {
      std::optional<Piece> piece;
      const bool more = jobs_[i].ticket->poll(piece);
      if (piece) {
        parts.push_back(part(i, std::move(*piece)));
      } else if (!more) {
        Choice last;
        last.index = static_cast<std::int64_t>(i);
        end(jobs_[i], last);
        parts.push_back(std::move(last));
      } else {
        break;
      }
    }
  }
  return parts;
}

Choice Reply::part(std::size_t index, Piece piece) {
  Running& job = jobs_[index];
  Choice choice;
  choice.index = static_cast<std::int64_t>(index);
  choice.text = std::exchange(job.echo, {}) + piece.text;
  choice.offset = job.offset;
  if (piece.id < 0) return choice;
  service_.metrics.token();
  if (!std::exchange(begun_, true))
    service_.metrics.first_token(std::chrono::duration<double>(Metrics::Clock::now() - started_).count());
  ScoredToken token{service_.tokenizer.decode({&piece.id, 1}), piece.logprob, {}};
  job.offset += characters(token.bytes);
  for (const auto& [id, logprob] : piece.likeliest)
    token.likeliest.emplace_back(service_.tokenizer.decode({&id, 1}, true), logprob);
  choice.tokens.push_back(std::move(token));
  return choice;
}

void Reply::end(Running& job, Choice& last) {
  job.over = true;
  last.text = std::exchange(job.echo, {});
  const Outcome outcome = job.ticket->outcome();
  usage_.completion_tokens += outcome.completion_tokens;
  if (outcome.reason == "failed") throw ApiError(500, outcome.error, "generation_failed");
  if (outcome.reason == "cancelled") throw ApiError(503, "the server is shutting down", "shutting_down");
  last.finish = outcome.reason == "length" ? "length" : "stop";
}

bool Reply::over() const {
  return std::ranges::all_of(jobs_, [](const Running& job) { return job.over; });
}

}  // namespace unbend::serve
