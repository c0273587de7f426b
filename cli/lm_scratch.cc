// `unbend lm train`.
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <torch/types.h>

#include <cmath>

#include "cli/device.h"
#include "cli/lm_common.h"
#include "cli/verbs.h"
#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/base/interrupt.h"
#include "unbend/engine/byte_vocabulary.h"
#include "unbend/engine/gguf_write.h"
#include "unbend/lm/batch_source.h"
#include "unbend/lm/evaluate.h"
#include "unbend/lm/export.h"
#include "unbend/lm/task_source.h"

namespace unbend::cli {
namespace {

struct ScratchArguments {
  RunOptions run;
  TextOptions text;
  lm::TaskOptions task_options;
  lm::DecoderConfig config;
  lm::Stage stage;
  std::string out, task, head, tokenizer = "bytes", name, device = "cpu";
  double embedding_std = -1, residual_gain = -1, held_out = 0;
  std::uint64_t seed = 0;
  int threads = 0;
  bool json = false;
  std::vector<const CLI::Option*> of_some_tasks;  ///< options that not every task has

  ScratchArguments() {
    run.rows = 0;
    config.layers = 2, config.hidden = 64, config.heads = 2, config.context = 4096;
    stage.name = "scratch";
    stage.tokens = 4'000'000;
    stage.learning_rate = 3e-3;
    stage.weight_decay = .1;
  }
};

/// A tokenizer to train with, and its metadata entries for the new model's file.
struct Vocabulary {
  engine::Gguf file;
  engine::Tokenizer tokenizer;
  std::vector<std::string> entries;
};

Vocabulary open_vocabulary(const std::string& name, std::int64_t size) {
  if (name == "bytes") {
    if (size != 0 && (size < 257 || size > 1'000'000))
      fail_usage("--vocabulary {}: bytes and the end of a text are 257 tokens", size);
    const TemporaryFolder folder;
    const auto path = folder.path() / "bytes.gguf";
    const auto entries = engine::byte_vocabulary(size == 0 ? 257 : static_cast<int>(size));
    auto all = entries;
    all.push_back(engine::encode_entry("general.architecture", "llama"));
    engine::write_gguf(path, all, {});
    return {engine::Gguf::open(path), engine::Tokenizer::load(path), entries};
  }
  Vocabulary vocabulary{engine::Gguf::open(name), engine::Tokenizer::load(name), {}};
  if (size != 0 && size != vocabulary.tokenizer.size())
    fail_usage("--vocabulary {}: the tokenizer of {} has {} tokens", size, name, vocabulary.tokenizer.size());
  for (const auto& [key, value] : vocabulary.file.metadata()) {
    if (!key.starts_with("tokenizer.")) continue;
    const auto stored = vocabulary.file.encoded(key);
    vocabulary.entries.emplace_back(reinterpret_cast<const char*>(stored.data()), stored.size());
  }
  return vocabulary;
}

/// Where batches come from, and what tells this data from other data.
struct Data {
  std::unique_ptr<lm::BatchSource> source;
  at::Tensor held_out;  ///< windows, undefined without
  Json description;
};

Data task_data(const ScratchArguments& a, const Vocabulary& vocabulary) {
  const auto& task = lm::find_task(a.task);
  if (a.held_out != 0) fail_usage("--held-out is for training on text; measure a task by `unbend lm eval --task`");
  auto options = a.task_options;
  options.seed = a.seed + 1;
  Data data;
  data.description = {{"task", a.task},
                      {"size", options.size},
                      {"pairs", options.pairs},
                      {"depth", options.depth},
                      {"digits", options.digits}};
  at::Tensor text;
  if (task.needs_text) {
    const auto tokens = a.text.open(vocabulary.file, vocabulary.tokenizer, a.run.quiet || a.json);
    text = lm::window_tensor({tokens->ids});
    for (const auto& s : tokens->sources) data.description["sources"].push_back(s.sha256);
  } else if (!a.text.texts.empty() || !a.text.tokens.empty()) {
    fail_usage("task {} needs no text", a.task);
  }
  data.source = lm::task_source(task, lm::task_text(vocabulary.tokenizer, text), options, a.run.rows);
  return data;
}

Data text_data(const ScratchArguments& a, const Vocabulary& vocabulary) {
  if (!(a.held_out >= 0 && a.held_out < 1)) fail_usage("--held-out {}: expected a share from 0 to 1", a.held_out);
  lm::BatchOptions batch;
  batch.length = a.task_options.size > 0 ? a.task_options.size : 256;
  batch.rows = a.run.rows;
  batch.least = std::min(batch.length - 1, batch.least);
  batch.seed = a.seed + 1;
  if (vocabulary.tokenizer.adds_bos()) batch.bos = vocabulary.tokenizer.bos();
  auto tokens = a.text.open(vocabulary.file, vocabulary.tokenizer, a.run.quiet || a.json);
  Data data;
  data.description = {{"length", batch.length}, {"held_out", a.held_out}};
  for (const auto& s : tokens->sources) data.description["sources"].push_back(s.sha256);
  if (a.held_out > 0) {
    auto [training, rest] = lm::split_tail(*tokens, a.held_out);
    data.held_out =
        lm::behind_bos(lm::spread_windows(rest, batch.length, a.run.validation_windows), vocabulary.tokenizer);
    tokens = std::make_shared<lm::TokenFile>(std::move(training));
  }
  data.source = lm::batch_source(tokens, batch);
  return data;
}

/// The shape with what was left open filled in.
lm::DecoderConfig complete_config(const ScratchArguments& a, const Vocabulary& vocabulary) {
  auto c = a.config;
  if (c.kv_heads == 0) c.kv_heads = c.heads;
  if (c.head_dim == 0 && c.heads > 0) c.head_dim = c.hidden / c.heads;
  if (c.ffn == 0) c.ffn = 3 * c.hidden;
  c.vocab = vocabulary.tokenizer.size();
  c.tied = a.head.empty() ? a.task.empty() : a.head == "tied";
  return c;
}

void check_options(const ScratchArguments& a) {
  lm::check_options(a.task.empty() ? nullptr : &lm::find_task(a.task), a.task_options, given(a.of_some_tasks));
  if (a.task_options.size < 0) fail_usage("--length must be 0 or more, not {}", a.task_options.size);
  for (const auto& [name, value] :
       {std::pair{"--embedding-std", a.embedding_std}, {"--residual-gain", a.residual_gain}})
    if (value != -1 && !(value >= 0 && std::isfinite(value)))
      fail_usage("{} {}: expected a number of 0 or more, or -1", name, value);
}

/// Whether the model says anything: the last step may have spoilt it without a loss to tell.
bool computes(const lm::Decoder& decoder, const at::Tensor& ids) {
  const at::NoGradGuard no_grad;
  return at::isfinite(decoder.logits(decoder.hidden(ids))).all().item<bool>();
}

void train(ScratchArguments a) {
  if (a.run.rows == 0) a.run.rows = a.task.empty() ? 16 : 64;
  check_output(a.out, {a.text.tokens, a.tokenizer, a.run.log});
  check_folder(a.run.checkpoints);
  check_options(a);
  if (a.run.validate_every > 0 && a.held_out == 0) fail_usage("--validate-every needs text to validate on: --held-out");
  auto options = a.run.train_options();
  options.title = "train";
  if (a.stage.tokens < 1) fail_usage("--tokens must be at least 1, not {}", a.stage.tokens);
  ModelOptions threads;
  threads.threads = a.threads;
  at::set_num_threads(thread_count(threads));
  const auto device = device_named(a.device);
  const auto vocabulary = open_vocabulary(a.tokenizer, a.config.vocab);
  const auto config = complete_config(a, vocabulary);
  const auto data = a.task.empty() ? text_data(a, vocabulary) : task_data(a, vocabulary);

  // Text: layers that begin as the identity. Tasks: tokens that can be told apart from the start
  // (small embeddings do not learn to recall).
  const double embedding_std = a.embedding_std >= 0 ? a.embedding_std : config.tied ? .02 : 1;
  const double residual_gain = a.residual_gain >= 0 ? a.residual_gain : a.task.empty() ? 0 : .5;
  Random random(a.seed);
  auto decoder = lm::random_decoder(config, embedding_std, residual_gain, random).to(device, at::kFloat);

  Json settings{{"config", engine::to_json(config)},
                {"data", data.description},
                {"tokens", a.stage.tokens},
                {"rows", a.run.rows},
                {"accumulate", a.run.accumulate},
                {"learning_rate", a.stage.learning_rate},
                {"weight_decay", a.stage.weight_decay},
                {"warmup", a.stage.warmup},
                {"floor", a.stage.floor},
                {"clip", a.stage.clip},
                {"embedding_std", embedding_std},
                {"residual_gain", residual_gain},
                {"seed", a.seed}};
  const auto identity = settings.dump() + lm::tokenizer_hash(vocabulary.file);
  options.identity = sha256(std::as_bytes(std::span(identity)));
  options.also = {""};  // every weight
  if (data.held_out.defined()) {
    options.validate_every = a.run.validate_every > 0 ? a.run.validate_every : 20;
    options.validate = [&](const lm::Decoder& d) { return lm::mean_nats(d, data.held_out); };
  }
  catch_interrupts();
  const auto report = lm::train(decoder, decoder, {a.stage}, *data.source, options);
  const bool lost = report.steps > 0 && !std::isfinite(report.loss);
  if (lost || !computes(decoder, data.source->next().ids.slice(0, 0, 1)))
    fail_computation("train: after {} steps, {} of them skipped, the loss is not finite: lower the learning rate{}",
                     report.steps, report.skipped,
                     a.run.checkpoints.empty() ? "" : "; earlier checkpoints are in " + a.run.checkpoints);

  // Nothing about time in the file: the same run gives the same bytes.
  auto made = settings;
  made.update({{"done", report.tokens}, {"steps", report.steps}, {"loss", report.loss}});
  auto entries = vocabulary.entries;
  const auto name = a.name.empty() ? std::filesystem::path(a.out).stem().string() : a.name;
  entries.push_back(engine::encode_entry("general.name", name));
  entries.push_back(engine::encode_entry("unbend.training", made.dump()));
  lm::export_decoder(decoder.to(at::kCPU, at::kFloat), entries, a.out);

  std::int64_t weights = 0;
  for (const auto& p : lm::weights(decoder)) weights += p.tensor->numel();
  if (a.json) {
    auto json = settings;
    json.update(to_json(report));
    json.update({{"out", a.out}, {"weights", weights}});
    if (data.held_out.defined()) json["validation_nats"] = lm::mean_nats(decoder, data.held_out);
    print_json(json);
  } else {
    fmt::print("{}: {} weights, {}\n", a.out, weights, summary(report, a.run));
    if (data.held_out.defined())
      fmt::print("held-out text: {:.4f} nats per token\n", lm::mean_nats(decoder, data.held_out));
  }
  if (report.interrupted) throw CLI::RuntimeError(static_cast<int>(ErrorKind::Computation));
}

}  // namespace

void add_lm_scratch_verb(CLI::App& lm) {
  auto* verb = lm.add_subcommand("train", "a small model from scratch, on text or on a task (docs/tasks.md)");
  auto a = std::make_shared<ScratchArguments>();
  verb->add_option("--out", a->out, "GGUF file to write")->required();
  a->text.add_to(*verb);
  verb->add_option("--task", a->task,
                   "train on this task's answers instead of text; `unbend lm eval --help` lists tasks");
  verb->add_option("--length", a->task_options.size, "tokens per sequence; 0 = 256, or the task's own size")
      ->capture_default_str();
  verb->add_option("--pairs", a->task_options.pairs, "of mqar and its kin")->capture_default_str();
  verb->add_option("--depth", a->task_options.depth, "of a needle, 0 to 1; -1 = anywhere")->capture_default_str();
  verb->add_option("--digits", a->task_options.digits, "of the number of niah1 and niah2")->capture_default_str();
  for (const auto* name : {"--pairs", "--depth", "--digits"}) a->of_some_tasks.push_back(verb->get_option(name));
  verb->add_option("--tokenizer", a->tokenizer, "bytes, or a GGUF file whose tokenizer is taken")
      ->capture_default_str();
  verb->add_option("--vocabulary", a->config.vocab, "tokens; 0 = the tokenizer's (bytes may have more, unused)")
      ->capture_default_str();
  verb->add_option("--layers", a->config.layers)->capture_default_str();
  verb->add_option("--hidden", a->config.hidden, "width")->capture_default_str();
  verb->add_option("--heads", a->config.heads, "of queries")->capture_default_str();
  verb->add_option("--kv-heads", a->config.kv_heads, "0 = as many")->capture_default_str();
  verb->add_option("--head-dim", a->config.head_dim, "0 = width / heads")->capture_default_str();
  verb->add_option("--ffn", a->config.ffn, "0 = 3 times the width")->capture_default_str();
  verb->add_option("--context", a->config.context, "tokens that the file says the model was made for")
      ->capture_default_str();
  verb->add_option("--rope-base", a->config.rope_base)->capture_default_str();
  verb->add_option("--head", a->head, "tied (to the embedding; the default on text) or own (on tasks)")
      ->check(CLI::IsMember({"tied", "own"}));
  verb->add_option("--embedding-std", a->embedding_std, "at the start; -1 = .02 if tied, otherwise 1")
      ->capture_default_str();
  verb->add_option("--residual-gain", a->residual_gain, "of what layers add at the start; -1 = 0 on text, .5 on tasks")
      ->capture_default_str();
  verb->add_option("--tokens", a->stage.tokens, "to train on, padding included")->capture_default_str();
  verb->add_option("--learning-rate", a->stage.learning_rate)->capture_default_str();
  verb->add_option("--weight-decay", a->stage.weight_decay, "of matrices")->capture_default_str();
  verb->add_option("--warmup", a->stage.warmup, "share of the training")->capture_default_str();
  verb->add_option("--floor", a->stage.floor, "of the rate at the end, as a share")->capture_default_str();
  verb->add_option("--clip", a->stage.clip, "norm of the gradient; 0 = none")->capture_default_str();
  a->run.add_to(*verb);
  verb->get_option("--rows")->description("sequences per batch; 0 = 16 of text, 64 of a task");
  verb->add_option("--held-out", a->held_out, "share of the text, at its end, to validate on")->capture_default_str();
  verb->add_option("--name", a->name, "in the file; the file's own without");
  verb->add_option("--seed", a->seed, "of the start and of the data")->capture_default_str();
  add_device_option(*verb, a->device);
  verb->add_option("--threads", a->threads, "0 = one per core")->capture_default_str();
  verb->add_flag("--json", a->json, "print JSON");
  verb->footer(
      "Examples:\n  unbend lm train --text docs/ --layers 4 --hidden 128 --heads 4 --kv-heads 2 --held-out 0.05 "
      "--checkpoints run1/ --out small.gguf\n"
      "  unbend lm train --task mqar --length 128 --tokens 4000000 --out mqar.gguf\n"
      "  unbend lm train --task passkey-ids --seconds 600 --out passkey.gguf --json\n"
      "  unbend lm train --text docs/ --tokenizer model.gguf --out small.gguf");
  verb->callback([a] { train(*a); });
}

}  // namespace unbend::cli
