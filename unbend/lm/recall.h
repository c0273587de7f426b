// The tests of memory by name (docs/tasks.md): made for a model's tokenizer, and put to a model.
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "unbend/engine/engine.h"
#include "unbend/engine/tokenizer.h"
#include "unbend/lm/decoder.h"
#include "unbend/lm/haystack.h"
#include "unbend/lm/probe.h"

namespace unbend::lm {

struct TaskOptions {
  std::int64_t size = 0;    ///< tokens, of what Task::measure says; 0 = Task::size
  std::int64_t count = 8;   ///< texts
  std::int64_t pairs = 8;   ///< mqar and its kin
  double depth = -1;        ///< of a needle, 0 to 1; exactly -1: from 0 to 1 in even steps over the texts
  std::int64_t digits = 7;  ///< of the number of niah1 and niah2
  std::uint64_t seed = 0;
};

/// What the texts of tasks are made of.
struct TaskText {
  engine::Tokenizer tokenizer;
  std::vector<TokenId> stream;  ///< the user's text, may be empty
  Filler noise, prose;          ///< the latter is the user's text too
};

/// `windows` [N, T] of token ids: the user's text; undefined for none.
TaskText task_text(const engine::Tokenizer& tokenizer, const at::Tensor& windows = {});

struct Task {
  enum class Measure { Distance, Length };  ///< size: tokens between fact and recall, or of the whole text
  std::string_view name, description;
  Measure measure;
  std::int64_t size;  ///< default
  bool needs_text;
  /// See make_probe(), which checks and completes the options.
  Probe (*build)(Random& random, const TaskText& text, const TaskOptions& options, std::int64_t index);
  std::string_view options = "";  ///< of TaskOptions beside size, count and seed that it has: "depth digits"
  bool pieces = false;            ///< its texts are pieces of the user's and nothing else
  bool distinct = false;          ///< its texts have fewer tokens than the vocabulary
};

std::span<const Task> tasks();

/// Usage error that lists the tasks if there is none of that name.
const Task& find_task(std::string_view name);

/// Usage error for options out of range, and for those `given` by name ("pairs", "depth", "digits") that the task has
/// not; null: no task at all, which has none.
void check_options(const Task* task, const TaskOptions& options, const std::vector<std::string>& given);

/// The size at which a task asks for what a window of `window` tokens has lost: a distance of two windows, or a length
/// of four if that is more than the task's own and fits into `context` tokens (0: any). The task's own for no window.
std::int64_t size_beyond(const Task& task, std::int64_t window, std::int64_t context, std::int64_t vocabulary);

/// Text number `index` of options.count. Input error if the task needs a text and there is none or too little of it.
Probe make_probe(const Task& task, Random& random, const TaskText& text, const TaskOptions& options,
                 std::int64_t index);

/// All of them; fewer where the user's text has no room for options.count pieces that do not overlap.
std::vector<Probe> make_probes(const Task& task, const TaskText& text, const TaskOptions& options);

/// make_probes() for a distance (0: the task's own) by name.
std::vector<Probe> recall_probes(std::string_view task, const engine::Tokenizer& tokenizer, const at::Tensor& windows,
                                 std::int64_t count, std::int64_t distance, std::uint64_t seed);

/// The share of questions whose answer the last `window` tokens tell in full or in part; none if a probe does not say
/// where its facts lie.
std::optional<double> share_within(const std::vector<Probe>& probes, std::int64_t window);

/// How a model did. Errors are standard errors over texts.
struct Recall {
  std::int64_t questions = 0, answers = 0;
  double accuracy = 0, accuracy_error = 0;  ///< share of tokens that were guessed right, all before being given
  double chance = 0;                        ///< of a token; of a text told twice, what the model guessed the first time
  double exact = 0, exact_error = 0;        ///< share of answers of which every token was guessed right
  double nats = 0;                          ///< mean -log probability of the right token, over the whole vocabulary
};

/// Answers of a model to the questions of several texts.
Recall ask(const Decoder& decoder, const std::vector<Probe>& probes);
/// Input error unless the engine has a free sequence and a context that holds the longest text.
Recall ask(engine::Engine& engine, const std::vector<Probe>& probes);

}  // namespace unbend::lm
