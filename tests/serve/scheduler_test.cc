// Jobs that share a batch get what each would get alone.
#include "unbend/serve/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/engine/small_model.h"
#include "tests/error_message.h"

namespace unbend::serve {
namespace {

using engine::TokenId;
using testing::HasSubstr;

/// The vocabulary is SmolLM2's, of which the small model knows the first 50 tokens (the first three end a text).
class Schedule : public testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(engine::smollm2())) GTEST_SKIP() << "the model is not there: tools/setup.sh model";
    tokenizer_ = engine::Tokenizer::load(engine::smollm2());
    model_ = engine::Model::open(engine::small_model(folder_, "hybrid", engine::kHybrid));
  }
  static engine::EngineOptions options(int sequences) {
    engine::EngineOptions o;
    o.threads = 1, o.sequences = sequences, o.batch = 16, o.cache_type = GGML_TYPE_F32, o.context = 256;
    return o;
  }
  static Job job(std::uint64_t seed) {
    Job job;
    job.prompt = engine::some_tokens(3 + static_cast<std::int64_t>(seed * 7 % 40), seed);
    job.options.max_tokens = 5 + static_cast<std::int64_t>(seed * 5 % 30);
    job.options.sampler.seed = static_cast<std::uint32_t>(seed);
    job.options.sampler.temperature = seed % 3 == 0 ? 0 : 1;
    job.options.ignore_end = seed % 2 == 0;
    return job;
  }

  engine::Folder folder_;
  std::optional<engine::Tokenizer> tokenizer_;
  std::shared_ptr<const engine::Model> model_;
};

struct Result {
  std::vector<TokenId> ids;
  std::string text, reason;
};

Result all_of(Ticket& ticket) {
  Result result;
  while (const auto piece = ticket.next()) {
    if (piece->id >= 0) result.ids.push_back(piece->id);
    result.text += piece->text;
  }
  result.reason = ticket.outcome().reason;
  return result;
}

TEST_F(Schedule, SharedBatchesGiveEveryJobItsOwnText) {
  constexpr std::uint64_t kJobs = 24;
  std::vector<engine::Generation> alone;
  engine::Engine single(model_, options(1));
  for (std::uint64_t seed = 0; seed < kJobs; ++seed) {
    const auto j = job(seed);
    alone.push_back(engine::generate(single, *tokenizer_, j.prompt, j.options));
  }
  engine::Engine shared(model_, options(5));
  Scheduler scheduler(shared, *tokenizer_, {.prompt_tokens = 7});
  std::vector<Result> results(kJobs);
  std::vector<std::thread> clients;
  for (std::uint64_t seed = 0; seed < kJobs; ++seed)
    clients.emplace_back([&, seed] { results[seed] = all_of(*scheduler.submit(job(seed))); });
  for (auto& client : clients) client.join();
  for (std::uint64_t seed = 0; seed < kJobs; ++seed) {
    EXPECT_EQ(results[seed].ids, alone[seed].ids) << seed;
    EXPECT_EQ(results[seed].text, alone[seed].text) << seed;
    EXPECT_EQ(results[seed].reason, alone[seed].reason) << seed;
  }
  const auto counts = scheduler.counts();
  EXPECT_EQ(counts.accepted, static_cast<std::int64_t>(kJobs));
  EXPECT_EQ(counts.finished, static_cast<std::int64_t>(kJobs));
}

TEST_F(Schedule, LogProbabilitiesAreOfTheDistribution) {
  engine::Engine engine(model_, options(2));
  Scheduler scheduler(engine, *tokenizer_);
  auto j = job(3);
  j.logprobs = 20, j.options.ignore_end = true;
  const auto ticket = scheduler.submit(j);
  std::int64_t pieces = 0;
  while (const auto piece = ticket->next()) {
    ++pieces;
    ASSERT_EQ(piece->likeliest.size(), 20u);
    EXPECT_EQ(piece->likeliest[0].id, piece->id);  // greedy
    EXPECT_FLOAT_EQ(piece->likeliest[0].logprob, piece->logprob);
    double sum = 0;
    for (std::size_t i = 0; i < 20; ++i) {
      sum += std::exp(piece->likeliest[i].logprob);
      if (i > 0) {
        EXPECT_LE(piece->likeliest[i].logprob, piece->likeliest[i - 1].logprob);
      }
    }
    EXPECT_LE(sum, 1 + 1e-5);
    if (pieces > 1) continue;
    engine::Engine single(model_, options(1));
    const auto logits = single.run(single.begin(), j.prompt);
    double all = 0;
    for (const float z : logits) all += std::exp(static_cast<double>(z));
    for (const auto& [id, logprob] : piece->likeliest)
      EXPECT_NEAR(logprob, logits[static_cast<std::size_t>(id)] - std::log(all), 1e-4);
  }
  EXPECT_EQ(pieces, j.options.max_tokens);
}

TEST_F(Schedule, CancelledJobsMakeRoomAndQueuesHaveAnEnd) {
  engine::Engine engine(model_, options(1));
  Scheduler scheduler(engine, *tokenizer_, {.queue = 2});
  auto endless = job(2);
  endless.options.max_tokens = 200, endless.options.ignore_end = true;
  const auto running = scheduler.submit(endless);
  ASSERT_TRUE(running->next());  // it has the only sequence
  const auto second = scheduler.submit(job(4)), third = scheduler.submit(job(6));
  ASSERT_TRUE(second && third);
  EXPECT_EQ(scheduler.submit(job(8)), nullptr);
  EXPECT_EQ(scheduler.counts().refused, 1);
  third->cancel();
  running->cancel();
  EXPECT_EQ(all_of(*running).reason, "cancelled");
  EXPECT_EQ(all_of(*second).reason, "length");
  EXPECT_EQ(all_of(*third).reason, "cancelled");
  scheduler.drain();
  EXPECT_EQ(scheduler.submit(job(2)), nullptr);
}

TEST_F(Schedule, FreeSequencesTakeJobsWithoutAQueue) {
  auto two = options(2);
  two.context = 8192;
  engine::Engine engine(model_, two);
  Scheduler scheduler(engine, *tokenizer_, {.queue = 0});
  EXPECT_EQ(scheduler.capacity(), 2U);
  auto endless = job(2);
  endless.options.max_tokens = 8000, endless.options.ignore_end = true;
  const auto first = scheduler.submit(endless), second = scheduler.submit(endless);
  ASSERT_TRUE(first && second);
  EXPECT_EQ(scheduler.submit(job(4)), nullptr);
  for (const auto& ticket : {first, second}) {
    ticket->cancel();
    EXPECT_EQ(all_of(*ticket).reason, "cancelled");
  }
  for (std::uint64_t round = 0; round < 20; ++round) {  // who has an answer may ask again at once
    const auto one = scheduler.submit(job(2)), other = scheduler.submit(job(4));
    ASSERT_TRUE(one && other) << round;
    all_of(*one), all_of(*other);
  }
}

TEST_F(Schedule, ContextAndBadJobs) {
  engine::Engine engine(model_, options(1));
  auto whole = job(2);
  whole.options.max_tokens = 10'000, whole.options.ignore_end = true;
  Scheduler scheduler(engine, *tokenizer_);
  const auto result = all_of(*scheduler.submit(whole));
  EXPECT_EQ(result.reason, "length");
  EXPECT_EQ(result.ids.size(), 256 - whole.prompt.size() + 1);
  Job bad;
  EXPECT_THAT(error_message([&] { scheduler.submit(bad); }), HasSubstr("no tokens"));
  bad.prompt = engine::some_tokens(256, 1);
  EXPECT_THAT(error_message([&] { scheduler.submit(bad); }), HasSubstr("256 tokens, the context holds 256"));
  bad.prompt = {60};
  EXPECT_THAT(error_message([&] { scheduler.submit(bad); }), HasSubstr("token id 60"));
  bad.prompt = {5}, bad.options.sampler.grammar = "root ::= (";
  EXPECT_THAT(error_message([&] { scheduler.submit(bad); }), HasSubstr("grammar"));
  std::shared_ptr<Ticket> last;
  {
    engine::Engine other(model_, options(1));
    Scheduler ended(other, *tokenizer_);
    last = ended.submit(whole);
  }
  EXPECT_EQ(all_of(*last).reason, "cancelled");
}

}  // namespace
}  // namespace unbend::serve
