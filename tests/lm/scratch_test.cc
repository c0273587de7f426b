// Small models from scratch: training on tasks, the files they become, and what reads those.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "tests/error_message.h"
#include "tests/lm/tokenizers.h"
#include "unbend/engine/byte_vocabulary.h"
#include "unbend/engine/gguf_write.h"
#include "unbend/engine/reference.h"
#include "unbend/lm/evaluate.h"
#include "unbend/lm/export.h"
#include "unbend/lm/recipe.h"
#include "unbend/lm/task_source.h"
#include "unbend/lm/tasks.h"

namespace unbend::lm {
namespace {

DecoderConfig small_config(bool tied) {
  DecoderConfig c;
  c.layers = 2, c.hidden = 48, c.heads = 4, c.kv_heads = 2, c.head_dim = 16, c.ffn = 80, c.vocab = 257, c.context = 512;
  c.rope_base = 5000, c.rms_eps = 1e-6F, c.tied = tied;
  return c;
}

/// A decoder whose norms are not 1 any more.
Decoder some_decoder(bool tied) {
  Random random(2);
  auto decoder = random_decoder(small_config(tied), tied ? .3 : 1, .7, random);
  for (const auto& p : weights(decoder))
    if (p.tensor->dim() == 1) p.tensor->add_(random_normal(p.tensor->sizes(), .1, random));
  return decoder;
}

void write(const Decoder& decoder, const std::filesystem::path& path) {
  auto entries = engine::byte_vocabulary();
  entries.push_back(engine::encode_entry("general.name", "small"));
  export_decoder(decoder, entries, path);
}

engine::EngineOptions float_options() {
  engine::EngineOptions o;
  o.cache_type = 0, o.context = 1024;
  return o;
}

TEST(ExportDecoder, ThreeProgramsReadTheSameModel) {
  const at::NoGradGuard no_grad;
  for (const bool tied : {false, true}) {
    const TemporaryFolder folder;
    const auto path = folder.path() / "small.gguf";
    auto decoder = some_decoder(tied);
    write(decoder, path);
    const auto file = engine::Gguf::open(path);
    auto read = load_decoder(file, at::kFloat);
    EXPECT_EQ(engine::to_json(read.config), engine::to_json(decoder.config));
    const auto mine = weights(decoder), theirs = weights(read);
    ASSERT_EQ(mine.size(), theirs.size());
    for (std::size_t i = 0; i < mine.size(); ++i)
      EXPECT_TRUE(at::equal(*mine[i].tensor, *theirs[i].tensor)) << mine[i].name;

    std::vector<TokenId> ids;
    Random random(5);
    for (int i = 0; i < 70; ++i) ids.push_back(static_cast<TokenId>(random.below(257)));
    const auto expected =
        decoder.logits(decoder.hidden(at::tensor(at::ArrayRef<TokenId>(ids), at::kInt).to(at::kLong).unsqueeze(0)))[0];
    engine::Engine engine(engine::Model::open(path), float_options());
    EXPECT_LT((logits_of(engine, ids) - expected).abs().max().item<double>(), 1e-3);
    const auto llama = engine::llama_logits(path, ids, 1);
    const auto reference = at::from_blob(const_cast<float*>(llama.data()), expected.sizes(), at::kFloat);
    EXPECT_LT((reference - expected).abs().max().item<double>(), 1e-3);
  }
}

TEST(ExportDecoder, RefusesWhatIsNoPlainLlama) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "small.gguf";
  const auto decoder = some_decoder(false);
  for (const char* name : {"window", "hybrid"}) {
    const auto& recipe = find_recipe(name);
    for (const int rank : {0, 4}) {
      const auto student = convert(decoder, recipe, recipe_options(recipe, {{"window", 8}, {"lora_rank", rank}}), 1);
      EXPECT_THAT(error_message([&] { write(student.decoder, path); }), testing::HasSubstr("as a student"));
    }
  }
  auto biased = decoder;
  biased.config.qkv_bias = true;
  EXPECT_THROW(write(biased, path), Error);
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(Tasks, TheTableIsComplete) {
  const auto text = task_text(*test_tokenizer("bytes"), at::randint(97, 123, {1, 20000}, at::kLong));
  const auto empty = task_text(*test_tokenizer("bytes"));
  std::set<std::string_view> names;
  for (const auto& task : tasks()) {
    SCOPED_TRACE(task.name);
    EXPECT_EQ(&find_task(task.name), &task);
    EXPECT_TRUE(names.insert(task.name).second);
    TaskOptions options;
    options.count = 3;
    if (task.name == "words") continue;  // needs words that are tokens
    const auto probes = make_probes(task, text, options);
    ASSERT_EQ(probes.size(), 3);
    for (const auto& probe : probes) {
      EXPECT_FALSE(probe.questions.empty());
      for (const auto& q : probe.questions) {
        ASSERT_LT(q.position, std::ssize(probe.ids));
        EXPECT_TRUE(q.candidates.empty() || std::ranges::count(q.candidates, q.token) == 1);
      }
      if (task.measure == Task::Measure::Length) {
        EXPECT_LE(std::ssize(probe.ids), task.size);
      }
    }
    EXPECT_EQ(make_probes(task, text, options)[2].ids, probes[2].ids);
    EXPECT_NE(probes[0].ids, probes[2].ids);
    options.count = 0;
    EXPECT_THROW(make_probes(task, text, options), Error);
    options.count = 1;
    if (task.needs_text)
      EXPECT_THAT(error_message([&] { make_probes(task, empty, options); }), testing::HasSubstr("needs a text"));
    else
      EXPECT_EQ(make_probes(task, empty, options).size(), 1);
  }
  EXPECT_THAT(error_message([] { find_task("niah9"); }, ErrorKind::Usage), testing::HasSubstr("niah1, niah2"));
}

/// Random weights on LibTorch and in the engine.
struct SmallModel {
  Decoder decoder = some_decoder(false);
  TemporaryFolder folder;
  engine::Engine engine{open(), float_options()};

  std::shared_ptr<const engine::Model> open() {
    write(decoder, folder.path() / "small.gguf");
    return engine::Model::open(folder.path() / "small.gguf");
  }
};

/// By chance a text that is told twice is guessed as often as the first time.
TEST(Ask, ChanceOfACopyIsMeasured) {
  const at::NoGradGuard no_grad;
  SmallModel model;
  const auto& decoder = model.decoder;
  Random random(4);
  std::vector<TokenId> text{65};
  double guessed = 0;
  for (int i = 1; i < 40; ++i) {
    const auto ids = at::tensor(at::ArrayRef<TokenId>(text), at::kInt).to(at::kLong).unsqueeze(0);
    const auto best = static_cast<TokenId>(decoder.logits(decoder.hidden(ids))[0][-1].argmax().item<std::int64_t>());
    text.push_back(random.uniform() < .4 ? best : static_cast<TokenId>(random.below(200)));
    guessed += text.back() == best;
  }
  ASSERT_GT(guessed, 5);
  const std::vector<Probe> probes{copy_probe(text, std::vector<TokenId>(600, 66))};  // over parts of the engine's
  for (const auto& r : {ask(decoder, probes), ask(model.engine, probes)}) {
    EXPECT_EQ(r.questions, 39);
    EXPECT_NEAR(r.chance, guessed / 39, 1e-9);
  }
}

/// Accuracy and exact answers by their definitions.
TEST(Ask, CountsTokensAndWholeAnswers) {
  const at::NoGradGuard no_grad;
  SmallModel model;
  const auto& decoder = model.decoder;
  auto& engine = model.engine;
  const auto text = task_text(*test_tokenizer("bytes"));
  TaskOptions options;
  options.count = 6, options.pairs = 4, options.size = 700;
  auto probes = make_probes(find_task("mqar"), text, options);
  // Right tokens are rare with random weights: ask for what the model says, sometimes.
  Random random(3);
  std::map<std::pair<std::size_t, std::int64_t>, bool> exact;
  std::vector<double> share(probes.size()), exact_share(probes.size());
  double right = 0, total = 0, nats = 0, chance = 0;
  for (std::size_t p = 0; p < probes.size(); ++p) {
    const auto ids = at::tensor(at::ArrayRef<TokenId>(probes[p].ids), at::kInt).to(at::kLong).unsqueeze(0);
    const auto logits = decoder.logits(decoder.hidden(ids))[0];
    double mine = 0;
    for (auto& q : probes[p].questions) {
      const auto row = logits[q.position];
      TokenId best = q.candidates[0];
      for (const auto c : q.candidates)
        if (row[c].item<float>() > row[best].item<float>()) best = c;
      if (random.uniform() < .7) q.token = best;
      q.answer /= 2;  // answers of two tokens
      const auto key = std::pair(p, q.answer);
      exact.emplace(key, true);
      exact[key] = exact[key] && q.token == best;
      mine += q.token == best;
      ++total;
      chance += 1. / static_cast<double>(q.candidates.size());
      nats -= at::log_softmax(row, 0)[q.token].item<double>();
    }
    right += mine;
    share[p] = mine / static_cast<double>(probes[p].questions.size());
  }
  double all = 0;
  for (const auto& [key, good] : exact) all += good, exact_share[key.first] += good / 2.;
  const auto error = [](const std::vector<double>& v) {
    const auto t = at::tensor(v, at::kDouble);
    return t.std().item<double>() / std::sqrt(static_cast<double>(v.size()));
  };
  for (const auto& r : {ask(decoder, probes), ask(engine, probes)}) {
    EXPECT_EQ(r.questions, 24);
    EXPECT_EQ(r.answers, 12);
    EXPECT_NEAR(r.accuracy, right / total, 1e-9);
    EXPECT_NEAR(r.exact, all / 12, 1e-9);
    EXPECT_NEAR(r.accuracy_error, error(share), 1e-9);
    EXPECT_NEAR(r.exact_error, error(exact_share), 1e-9);
    EXPECT_NEAR(r.chance, chance / total, 1e-9);
    EXPECT_NEAR(r.nats, nats / total, 1e-4);
    EXPECT_GT(r.accuracy, r.exact);
  }
  probes[0].questions.clear();
  EXPECT_THROW(ask(decoder, probes), Error);
  EXPECT_THROW(ask(engine, probes), Error);
}

TEST(TaskSource, GivesTheTasksQuestionsAsTargetsAndGoesOnWhereItWas) {
  const auto text = task_text(*test_tokenizer("bytes"));
  TaskOptions options;
  options.seed = 4, options.size = 500;
  const auto& task = find_task("passkey");
  const auto source = task_source(task, text, options, 5);
  const auto batch = source->next();
  ASSERT_EQ(batch.ids.size(0), 5);
  EXPECT_EQ(batch.targets.sizes(), batch.ids.sizes());
  std::set<std::int64_t> needles;
  for (std::int64_t i = 0; i < 5; ++i) {
    std::string row, wanted;
    for (std::int64_t t = 0; t < batch.ids.size(1); ++t) {
      const auto target = batch.targets[i][t].item<std::int64_t>();
      if (target >= 0) wanted += static_cast<char>(target);
      if (const auto id = batch.ids[i][t].item<std::int64_t>()) row += static_cast<char>(id);
    }
    EXPECT_TRUE(row.ends_with("The pass key is " + wanted)) << row;
    EXPECT_EQ(wanted.size(), 5);
    needles.insert(static_cast<std::int64_t>(row.find(wanted)));
  }
  EXPECT_GT(needles.size(), 2) << "needles lie anywhere";
  const auto state = source->state();
  const auto expected = source->next();
  const auto other = task_source(task, text, options, 5);
  other->restore(state);
  EXPECT_TRUE(at::equal(other->next().ids, expected.ids));
  EXPECT_THROW(task_source(task, text, options, 0), Error);
}

TEST(TaskSource, AModelLearnsFromIt) {
  DecoderConfig config = small_config(false);
  Random random(1);
  auto decoder = random_decoder(config, 1, .5, random);
  TaskOptions options;
  options.size = 16;
  const auto& task = find_task("passkey-ids");
  const auto text = task_text(*test_tokenizer("bytes"));
  const auto source = task_source(task, text, options, 64);
  Stage stage;
  stage.steps = 120, stage.learning_rate = 3e-3, stage.weight_decay = .1;
  TrainOptions train_options;
  train_options.also = {""}, train_options.quiet = true;
  options.count = 50, options.seed = 77;
  const auto probes = make_probes(task, text, options);
  EXPECT_LT(ask(decoder, probes).accuracy, .2);
  train(decoder, decoder, {stage}, *source, train_options);
  EXPECT_GT(ask(decoder, probes).accuracy, .9);
}

}  // namespace
}  // namespace unbend::lm
