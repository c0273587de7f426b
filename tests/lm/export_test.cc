// The engine against libllama on the same file, and against the LibTorch decoder on students that were exported.
#include "unbend/lm/export.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>
#include <cstdlib>

#include "unbend/base/files.h"
#include "unbend/engine/engine.h"
#include "unbend/engine/generate.h"
#include "unbend/engine/gguf_write.h"
#include "unbend/engine/reference.h"
#include "unbend/lm/batch_source.h"
#include "unbend/lm/corpus.h"
#include "unbend/lm/delta.h"
#include "unbend/lm/evaluate.h"
#include "unbend/lm/recall.h"

namespace unbend::lm {
namespace {

using engine::TokenId;

const std::string kSource = UNBEND_SOURCE_DIR;

class Export : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    const auto path = kSource + "/build/models/SmolLM2-135M-Instruct.Q4_1.gguf";
    if (!std::filesystem::exists(path)) return;
    file_ = new engine::Gguf(engine::Gguf::open(path));
    tokenizer_ = new engine::Tokenizer(engine::Tokenizer::load(path));
    decoder_ = new Decoder(load_decoder(*file_, at::kFloat));
  }
  void SetUp() override {
    if (!file_) GTEST_SKIP() << "the model is not there: tools/setup.sh model";
  }
  static void TearDownTestSuite() {
    delete decoder_;
    delete tokenizer_;
    delete file_;
  }

  /// A converted decoder whose mixers and corrections were moved away from their start.
  static Student student(const std::string& name, const Json& changes) {
    const auto& recipe = find_recipe(name);
    auto student = convert(*decoder_, recipe, recipe_options(recipe, changes), 1);
    Random random(3);
    for (const auto& p : adapter(student.decoder)) p.tensor->add_(random_normal(p.tensor->sizes(), .02, random));
    return student;
  }

  static engine::EngineOptions options(int cache_type = 0) {
    engine::EngineOptions o;
    o.threads = 2, o.cache_type = cache_type, o.context = 1024;
    return o;
  }

  static inline engine::Gguf* file_ = nullptr;
  static inline engine::Tokenizer* tokenizer_ = nullptr;
  static inline Decoder* decoder_ = nullptr;
};

at::Tensor logits_of(engine::Engine& engine, int sequence, std::span<const TokenId> ids) {
  const auto values = engine.run(sequence, ids, static_cast<std::int64_t>(ids.size()));
  const auto n = static_cast<std::int64_t>(ids.size());
  return at::from_blob(const_cast<float*>(values.data()), {n, static_cast<std::int64_t>(values.size()) / n}, at::kFloat)
      .clone();
}

TEST_F(Export, EngineEqualsLibllamaInFloat32) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "f32.gguf";
  engine::rewrite_as_f32(*file_, path);
  std::string text;
  for (int i = 0; i < 40; ++i) text += "Item " + std::to_string(i * 37 % 101) + " depends on the one before it.\n";
  const auto ids = tokenizer_->encode(text);
  const auto theirs = engine::llama_logits(path, ids, 2);
  engine::Engine mine(engine::Model::open(path), options());
  const auto logits = logits_of(mine, mine.begin(), ids);
  const auto expected = at::from_blob(const_cast<float*>(theirs.data()), logits.sizes(), at::kFloat);
  EXPECT_LT((logits - expected).abs().max().item<double>(), 1e-3);
}

TEST_F(Export, GreedyTextIsLibllamas) {
  const char* const prompts[] = {"What is a kernel?",
                                 "Name three colours.",
                                 "Write a haiku about rain.",
                                 "Why is the sky blue?",
                                 "Explain recursion.",
                                 "Give me a recipe for soup.",
                                 "Who was Ada Lovelace?",
                                 "Translate 'good morning' into French.",
                                 "List the planets.",
                                 "What does TCP do?",
                                 "How do magnets work?",
                                 "Write a limerick.",
                                 "What is 17 times 23?",
                                 "Summarise the French Revolution.",
                                 "How do I sort a list in Python?",
                                 "What is photosynthesis?",
                                 "Tell me a joke.",
                                 "Describe a black hole.",
                                 "What is a monad?",
                                 "Plan a picnic."};
  const bool full = std::getenv("UNBEND_FULL_TESTS") != nullptr;
  engine::Engine mine(engine::Model::open(file_->path()), options(engine::type_number("F16")));
  engine::GenerateOptions generation;
  generation.sampler.temperature = 0, generation.ignore_end = true, generation.max_tokens = full ? 256 : 48;
  for (const auto* prompt : prompts) {
    const auto ids = tokenizer_->encode(tokenizer_->chat({{"user", prompt}}), true);
    const auto theirs = engine::llama_greedy(file_->path(), ids, static_cast<int>(generation.max_tokens), 2);
    EXPECT_EQ(engine::generate(mine, *tokenizer_, ids, generation).ids, theirs) << prompt;
  }
}

TEST_F(Export, EngineEqualsTheDecoderInFloat32) {
  const at::NoGradGuard no_grad;
  const auto ids = tokenizer_->encode(
      "A window of thirty-two tokens, a few sinks, and everything older in a state of constant size: that is the whole "
      "trick, and it has to give the same numbers whether a text comes at once, in pieces, or word by word, as it does "
      "when a model writes. Two programs that share no line of arithmetic compute it here, and they have to agree.");
  ASSERT_GT(ids.size(), 75u);
  const auto tokens = at::tensor(at::ArrayRef<TokenId>(ids), at::kInt).to(at::kLong).unsqueeze(0);
  const std::vector<std::pair<std::string, Json>> cases{
      {"window", {{"window", 32}, {"sinks", 4}}},
      {"hybrid", {{"window", 32}, {"sinks", 4}, {"lora_targets", {"q", "k", "v", "o", "gate", "up", "down"}}}},
      {"hybrid", {{"window", 20}, {"sinks", 0}, {"state_heads", "query"}, {"keep_every", 3}}},
      {"hybrid", {{"window", 32}, {"gate", false}}},
      {"lolcats", {{"window", 32}, {"window_factor", -1.5}}},
      {"liger", {{"window", 32}}},
      {"liger", {{"window", 32}, {"sinks", 3}, {"variant", "mamba2"}, {"mix_linear", .1}, {"mix_window", .9}}}};
  for (const auto& [recipe, changes] : cases) {
    const TemporaryFolder folder;
    const auto path = folder.path() / "student.gguf";
    const auto s = student(recipe, changes);
    export_student(*file_, s, path, "f32");
    // In float64: windows without sinks amplify what two float32 programs round differently.
    const auto exact = s.decoder.to(at::kCPU, at::kDouble);
    const auto expected = exact.logits(exact.hidden(tokens))[0];
    engine::Engine mine(engine::Model::open(path), options());
    const auto whole = logits_of(mine, mine.begin(), ids);
    EXPECT_LT((whole - expected).abs().max().item<double>(), 1e-3) << recipe << changes;
    mine.end(0);
    const int sequence = mine.begin();
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const auto row = logits_of(mine, sequence, {ids.data() + i, 1});
      ASSERT_LT((row[0] - expected[static_cast<std::int64_t>(i)]).abs().max().item<double>(), 1e-3)
          << recipe << changes << " token " << i;
    }
    EXPECT_THROW(load_decoder(engine::Gguf::open(path), at::kFloat), Error) << "read as a softmax model";
  }
}

TEST_F(Export, EvaluationIsTheSameByBoth) {
  const TemporaryFolder folder;
  engine::rewrite_as_f32(*file_, folder.path() / "teacher.gguf");
  const auto s = student("hybrid", {{"window", 64}});
  export_student(*file_, s, folder.path() / "student.gguf", "f32");
  engine::Engine teacher(engine::Model::open(folder.path() / "teacher.gguf"), options());
  engine::Engine mine(engine::Model::open(folder.path() / "student.gguf"), options());
  const auto windows =
      window_tensor(load_windows(kSource + "/data/heldout_docs.safetensors", tokenizer_hash(*file_)).at("docs_512"))
          .slice(0, 0, 2)
          .slice(1, 0, 300);
  const auto expected = evaluate({decoder_, &s.decoder}, windows);
  const auto scores = evaluate_on_engines({&teacher, &mine}, windows);
  for (std::size_t m = 0; m < 2; ++m) {
    EXPECT_LT((scores[m].nats - expected[m].nats).abs().max().item<double>(), 1e-3);
    EXPECT_LT((scores[m].kl - expected[m].kl).abs().max().item<double>(), 1e-3);
    EXPECT_GT((scores[m].agreement == expected[m].agreement).to(at::kFloat).mean().item<double>(), .99);
  }
  const auto probes = recall_probes("words", *tokenizer_, windows, 2, 100, 1);
  const auto told = ask(mine, probes), right = ask(s.decoder, probes);
  EXPECT_EQ(told.questions, right.questions);
  EXPECT_NEAR(told.nats, right.nats, 1e-3);
  EXPECT_EQ(teacher.begin(), 0) << "a sequence was left open";
}

TEST_F(Export, QuantisedStudentsKeepTheirPerplexity) {
  const at::NoGradGuard no_grad;
  const auto windows =
      window_tensor(load_windows(kSource + "/data/heldout_docs.safetensors", tokenizer_hash(*file_)).at("docs_512"))
          .slice(0, 0, 4);
  const auto s = load_delta(kSource + "/data/adapters/smollm2-135m-hybrid.safetensors", *decoder_, *file_);
  const double expected = mean_nats(s.decoder, windows);
  for (const char* type : {"base", "q8_0"}) {
    const TemporaryFolder folder;
    const auto path = folder.path() / "student.gguf";
    export_student(*file_, s, path, type);
    engine::Engine mine(engine::Model::open(path), options(engine::type_number("F16")));
    const double nats = evaluate_on_engines({&mine}, windows)[0].nats.mean().item<double>();
    const double ratio = std::exp(nats - expected);
    EXPECT_NEAR(ratio, 1, .01) << type;
    RecordProperty(std::string("ratio_") + type, std::to_string(ratio));
  }
}

}  // namespace
}  // namespace unbend::lm
