#include "unbend/lm/recall.h"

#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <span>

#include "unbend/base/error.h"
#include "unbend/lm/facts.h"
#include "unbend/lm/id_tasks.h"
#include "unbend/lm/independent.h"
#include "unbend/lm/tasks.h"
#include "unbend/lm/text.h"

namespace unbend::lm {
namespace {

bool told_twice(const Probe& probe) { return probe.questions[0].first >= 0; }

/// Where logits are needed: at the first times, then at the questions.
std::vector<std::int64_t> positions_of(const Probe& probe) {
  std::vector<std::int64_t> positions;
  if (told_twice(probe))
    for (const auto& q : probe.questions) positions.push_back(q.first);
  for (const auto& q : probe.questions) positions.push_back(q.position);
  return positions;
}

/// Sums over the questions of one text, from logits [positions, vocabulary].
Recall judge(const Probe& probe, const at::Tensor& logits) {
  Recall sums;
  const auto asked = std::ssize(probe.questions);
  const auto log_probs = at::log_softmax(logits.slice(0, logits.size(0) - asked), -1);
  const auto first_guesses = logits.slice(0, 0, asked).argmax(-1);
  std::map<std::int64_t, bool> exact;
  for (std::size_t i = 0; i < probe.questions.size(); ++i) {
    const auto& q = probe.questions[i];
    const auto row = log_probs[static_cast<std::int64_t>(i)];
    sums.nats -= row[q.token].item<double>();
    bool right = false;
    if (q.candidates.empty()) {
      right = row.argmax().item<std::int64_t>() == q.token;
      sums.chance += told_twice(probe) ? first_guesses[static_cast<std::int64_t>(i)].item<std::int64_t>() == q.token
                                       : 1. / static_cast<double>(row.numel());
    } else {
      const auto among = row.index_select(0, at::tensor(at::ArrayRef<TokenId>(q.candidates), at::kInt).to(at::kLong));
      right = q.candidates[among.argmax().item<std::int64_t>()] == q.token;
      sums.chance += 1. / static_cast<double>(q.candidates.size());
    }
    sums.accuracy += right;
    const auto [answer, first] = exact.emplace(q.answer, right);
    if (!first) answer->second &= right;
  }
  sums.questions = std::ssize(probe.questions);
  sums.answers = std::ssize(exact);
  for (const auto& [answer, right] : exact) sums.exact += right;
  return sums;
}

/// Standard error of the mean of independent values; 0 for one.
double standard_error(const std::vector<double>& values) {
  const auto count = static_cast<double>(values.size());
  double mean = 0, squares = 0;
  for (const double v : values) mean += v / count;
  for (const double v : values) squares += (v - mean) * (v - mean);
  return count > 1 ? std::sqrt(squares / (count - 1) / count) : 0;
}

Recall mean_of(const std::vector<Recall>& texts) {
  require(!texts.empty(), "recall: no questions");
  Recall result;
  std::vector<double> accuracies, exact;
  for (const auto& one : texts) {
    result.questions += one.questions, result.answers += one.answers;
    result.accuracy += one.accuracy, result.chance += one.chance, result.nats += one.nats, result.exact += one.exact;
    accuracies.push_back(one.accuracy / static_cast<double>(one.questions));
    exact.push_back(one.exact / static_cast<double>(one.answers));
  }
  const auto n = static_cast<double>(result.questions);
  result.accuracy /= n, result.chance /= n, result.nats /= n;
  result.exact /= static_cast<double>(result.answers);
  result.accuracy_error = standard_error(accuracies);
  result.exact_error = standard_error(exact);
  return result;
}

void check(const std::vector<Probe>& probes) {
  for (const auto& probe : probes) require(!probe.questions.empty(), "recall: a text without questions");
}

/// A piece of the user's text for text `index`: options.size tokens, the pieces spread over all of it.
std::span<const TokenId> piece(const TaskText& text, const TaskOptions& options, std::int64_t index) {
  const auto tokens = std::ssize(text.stream);
  require(tokens >= options.size, "{} tokens of text are too few for a distance of {}", tokens, options.size);
  const std::int64_t at = (tokens - options.size) * index / std::max<std::int64_t>(1, options.count - 1);
  return std::span(text.stream).subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(options.size));
}

/// The same as text, without the parts of characters at its ends.
std::string piece_text(const TaskText& text, const TaskOptions& options, std::int64_t index) {
  auto all = text.tokenizer.decode(piece(text, options, index));
  std::size_t begin = 0;
  while (begin < all.size() && (all[begin] & 0xc0) == 0x80) ++begin;
  all.erase(0, begin);
  const auto bad = first_invalid_utf8(all);
  if (bad != std::string::npos && all.size() - bad < 4) all.erase(bad);
  return all;
}

bool valid_depth(double depth) { return depth == -1 || (depth >= 0 && depth <= 1); }

double depth_of(const TaskOptions& options, std::int64_t index) {
  if (options.depth >= 0) return options.depth;
  return options.count > 1 ? static_cast<double>(index) / static_cast<double>(options.count - 1) : .5;
}

std::vector<TokenId> id_range(std::int64_t first, std::int64_t last) {
  std::vector<TokenId> ids(last - first);
  std::iota(ids.begin(), ids.end(), static_cast<TokenId>(first));
  return ids;
}

void check_vocabulary(const TaskText& text, std::string_view task, std::int64_t needed) {
  require(text.tokenizer.size() >= needed, "task {} uses {} token ids, the vocabulary has {}", task, needed,
          text.tokenizer.size());
}

/// Where the value of the key at `position` was told: behind the first time that the key stands in the text.
std::int64_t told_at(const std::vector<TokenId>& ids, std::int64_t position) {
  return std::ranges::find(ids, ids[static_cast<std::size_t>(position)]) - ids.begin() + 1;
}

/// The first sequence of a batch, with a question where it has weight.
Probe labelled_probe(const LabelledBatch& batch, const std::vector<TokenId>& candidates) {
  Probe probe;
  probe.ids.assign(batch.tokens.begin(), batch.tokens.begin() + batch.length);
  for (std::int64_t t = 0; t < batch.length; ++t)
    if (batch.weights[t] > 0)
      probe.questions.push_back(
          {t, batch.labels[t], candidates, std::ssize(probe.questions), -1, told_at(probe.ids, t)});
  return probe;
}

/// The same by chance: anywhere in the text's part number `index` of options.count, so that the pieces do not overlap,
/// or, if the parts are too short for that (as in training, which takes as many as it wants), anywhere at all.
std::span<const TokenId> random_piece(Random& random, const TaskText& text, const TaskOptions& options,
                                      std::int64_t index) {
  const auto tokens = std::ssize(text.stream), size = options.size;
  require(tokens >= size, "{} tokens of text are too few for a distance of {}", tokens, size);
  const bool fits = tokens / options.count >= size;
  const auto begin = fits ? tokens * index / options.count : 0;
  const auto end = fits ? tokens * (index + 1) / options.count : tokens;
  const auto at = begin + static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(end - begin - size + 1)));
  return std::span(text.stream).subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(size));
}

Probe copy(Random& random, const TaskText& text, const TaskOptions& o, std::int64_t index) {
  const auto tokens = random_piece(random, text, o, index);
  const auto repeated = static_cast<std::size_t>(std::min<std::int64_t>(256, o.size));
  const auto& tokenizer = text.tokenizer;
  return copy_probe(tokens.first(repeated), tokens.subspan(repeated), tokenizer.adds_bos() ? tokenizer.bos() : -1);
}

Probe codes(Random& random, const TaskText& text, const TaskOptions& o, std::int64_t index) {
  return codes_probe(random, text.tokenizer, piece_text(text, o, index));
}

Probe words(Random& random, const TaskText& text, const TaskOptions& o, std::int64_t index) {
  return words_probe(random, text.tokenizer, piece_text(text, o, index));
}

Probe mqar(Random& random, const TaskText& text, const TaskOptions& o, std::int64_t) {
  return mqar_probe(random, text.tokenizer, text.noise, o.size, o.pairs);
}

Probe passkey(Random& random, const TaskText& text, const TaskOptions& o, std::int64_t index) {
  return passkey_probe(random, text.tokenizer, text.noise, o.size, depth_of(o, index));
}

Probe niah1(Random& random, const TaskText& text, const TaskOptions& o, std::int64_t index) {
  return niah_probe(random, text.tokenizer, text.noise, Needle::Number, o.size, depth_of(o, index), o.digits);
}

Probe niah2(Random& random, const TaskText& text, const TaskOptions& o, std::int64_t index) {
  return niah_probe(random, text.tokenizer, text.prose, Needle::Number, o.size, depth_of(o, index), o.digits);
}

Probe niah3(Random& random, const TaskText& text, const TaskOptions& o, std::int64_t index) {
  return niah_probe(random, text.tokenizer, text.prose, Needle::Uuid, o.size, depth_of(o, index));
}

template <int supports>
Probe qa(Random& random, const TaskText& text, const TaskOptions& o, std::int64_t) {
  return qa_probe(random, text.tokenizer, text.prose, supports, o.size);
}

Probe recall_ids(Random& random, const TaskText& text, const TaskOptions& o, std::int64_t) {
  RecallOptions options;
  options.batch = 1, options.pairs = o.pairs, options.fillers = o.size - 4 * o.pairs;
  check_vocabulary(text, "recall-ids", options.vocabulary());
  const auto batch = recall_batch(random, options);
  Probe probe{batch.tokens, {}};
  const auto values = id_range(options.keys, options.keys + options.values);
  for (std::int64_t j = 0; j < batch.pairs; ++j) {
    const auto at = batch.query_positions[j];
    probe.questions.push_back({at, batch.answers[j], values, j, -1, told_at(probe.ids, at)});
  }
  return probe;
}

Probe mqar_ids(Random& random, const TaskText& text, const TaskOptions& o, std::int64_t) {
  MqarOptions options;
  options.batch = 1, options.length = o.size, options.pairs = o.pairs, options.vocabulary = text.tokenizer.size();
  return labelled_probe(mqar_batch(random, options), {});
}

Probe passkey_ids(Random& random, const TaskText& text, const TaskOptions& o, std::int64_t) {
  using O = PasskeyOptions;
  O options;
  options.batch = 1, options.length = o.size;
  check_vocabulary(text, "passkey-ids", O::kVocabulary);
  return labelled_probe(passkey_batch(random, options), id_range(O::kFirstValue, O::kFirstValue + O::kKinds));
}

constexpr auto kDistance = Task::Measure::Distance, kLength = Task::Measure::Length;
constexpr Task kTasks[] = {
    {"copy", "a piece of the text again, 256 tokens at most", kDistance, 512, true, copy, "", true},
    {"codes", "the digits of people's codes", kDistance, 512, true, codes},
    {"words", "a list of words again", kDistance, 512, true, words},
    {"mqar", "values of letters, asked for among noise", kLength, 512, false, mqar, "pairs"},
    {"passkey", "a number of five digits in noise", kLength, 1024, false, passkey, "depth"},
    {"niah1", "a named number in noise", kLength, 1024, false, niah1, "depth digits"},
    {"niah2", "a named number in the text", kLength, 1024, true, niah2, "depth digits"},
    {"niah3", "a named UUID in the text", kLength, 1024, true, niah3, "depth"},
    {"qa1", "where somebody is: one fact among others in the text", kLength, 1024, true, qa<1>},
    {"qa2", "where a thing is: two facts", kLength, 1024, true, qa<2>},
    {"qa3", "where a thing was before: three facts", kLength, 1024, true, qa<3>},
    {"recall-ids", "values of keys, as token ids without meaning", kLength, 64, false, recall_ids, "pairs"},
    {"mqar-ids", "Zoology's task over the whole vocabulary", kLength, 64, false, mqar_ids, "pairs", false, true},
    {"passkey-ids", "a key's value among fillers", kLength, 64, false, passkey_ids}};

}  // namespace

Recall ask(const Decoder& decoder, const std::vector<Probe>& probes) {
  std::vector<Recall> of_texts(probes.size());
  check(probes);
  for_each_independent(std::ssize(probes), decoder.embedding.device(), [&](std::int64_t i) {
    const auto ids = at::tensor(at::ArrayRef<TokenId>(probes[i].ids), at::kInt).to(at::kLong).unsqueeze(0);
    const auto hidden = decoder.hidden(ids)[0];
    const auto asked = hidden.index_select(0, at::tensor(positions_of(probes[i]), at::kLong).to(hidden.device()));
    of_texts[i] = judge(probes[i], decoder.logits(asked).to(at::kCPU));
  });
  return mean_of(of_texts);
}

Recall ask(engine::Engine& engine, const std::vector<Probe>& probes) {
  std::vector<Recall> of_texts;
  check(probes);
  constexpr std::int64_t kPart = 512;  // tokens whose logits are kept at a time
  for (const auto& probe : probes) {
    const engine::SequenceScope sequence(engine);
    std::vector<at::Tensor> asked;
    const auto positions = positions_of(probe);
    auto position = positions.begin();
    for (std::int64_t first = 0; first < std::ssize(probe.ids); first += kPart) {
      const std::int64_t last = std::min(first + kPart, std::ssize(probe.ids));
      const bool any = position != positions.end() && *position < last;
      const std::int64_t rows = any ? last - *position : 0;
      const auto part =
          std::span(probe.ids).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(last - first));
      const auto values = engine.run(sequence.id(), part, rows);
      const auto width = engine.model().config().vocab;
      for (; position != positions.end() && *position < last; ++position)
        asked.push_back(at::tensor(
            at::ArrayRef<float>(values.data() + (*position - (last - rows)) * width, static_cast<std::size_t>(width))));
    }
    of_texts.push_back(judge(probe, at::stack(asked)));
  }
  return mean_of(of_texts);
}

TaskText task_text(const engine::Tokenizer& tokenizer, const at::Tensor& windows) {
  TaskText text{tokenizer, {}, noise_filler(tokenizer), {}};
  if (!windows.defined()) return text;
  const auto ids = windows.to(at::kInt).contiguous();
  text.stream.assign(ids.const_data_ptr<TokenId>(), ids.const_data_ptr<TokenId>() + ids.numel());
  std::string prose;
  for (std::int64_t row = 0; row < ids.size(0); ++row)
    prose += tokenizer.decode(std::span(text.stream).subspan(row * ids.size(1), ids.size(1))) + "\n";
  text.prose = prose_filler(tokenizer, prose);
  return text;
}

std::span<const Task> tasks() { return kTasks; }

const Task& find_task(std::string_view name) {
  std::vector<std::string_view> names;
  for (const auto& task : kTasks) {
    if (task.name == name) return task;
    names.push_back(task.name);
  }
  fail_usage("no task '{}': there are {}", name, fmt::join(names, ", "));
}

void check_options(const Task* task, const TaskOptions& options, const std::vector<std::string>& given) {
  for (const auto& name : given) {
    if (!task) fail_usage("--{} is of a --task, and none is given", name);
    if (task->options.find(name) == std::string_view::npos) fail_usage("task {} has no --{}", task->name, name);
  }
  if (!valid_depth(options.depth)) fail_usage("--depth {}: expected 0 to 1, or -1", options.depth);
}

std::int64_t size_beyond(const Task& task, std::int64_t window, std::int64_t context, std::int64_t vocabulary) {
  if (window <= 0) return task.size;
  if (task.measure == Task::Measure::Distance) return 2 * window;
  auto length = 4 * window;
  if (context > 0) length = std::min(length, context);
  if (task.distinct) length = std::min(length, vocabulary - 1) / 2 * 2;  // whole pairs
  return std::max(task.size, length);
}

Probe make_probe(const Task& task, Random& random, const TaskText& text, const TaskOptions& options,
                 std::int64_t index) {
  require(options.count > 0, "task {}: {} texts", task.name, options.count);
  require(options.size >= 0, "task {}: a size of {} tokens", task.name, options.size);
  require(valid_depth(options.depth), "task {}: a depth of {}, expected 0 to 1, or -1", task.name, options.depth);
  require(!task.needs_text || !text.stream.empty(), "task {} needs a text to hide things in", task.name);
  auto completed = options;
  if (completed.size == 0) completed.size = task.size;
  try {
    return task.build(random, text, completed, index);
  } catch (const Error& error) {
    throw Error(error.kind(), fmt::format("task {}: {}", task.name, error.what()));
  }
}

std::vector<Probe> make_probes(const Task& task, const TaskText& text, const TaskOptions& options) {
  Random random(options.seed);
  std::vector<Probe> probes;
  auto fitting = options;
  const auto size = options.size > 0 ? options.size : task.size;
  if (task.pieces && options.count > 0)  // the same text twice would say nothing new
    fitting.count = std::clamp<std::int64_t>(std::ssize(text.stream) / size, 1, options.count);
  for (std::int64_t i = 0; i < fitting.count; ++i) probes.push_back(make_probe(task, random, text, fitting, i));
  require(!probes.empty(), "task {}: {} texts", task.name, options.count);
  return probes;
}

std::optional<double> share_within(const std::vector<Probe>& probes, std::int64_t window) {
  std::int64_t within = 0, questions = 0;
  for (const auto& probe : probes)
    for (const auto& q : probe.questions) {
      if (q.told < 0) return {};
      within += q.position - q.told < window;
      ++questions;
    }
  require(questions > 0, "recall: no questions");
  return static_cast<double>(within) / static_cast<double>(questions);
}

std::vector<Probe> recall_probes(std::string_view task, const engine::Tokenizer& tokenizer, const at::Tensor& windows,
                                 std::int64_t count, std::int64_t distance, std::uint64_t seed) {
  TaskOptions options;
  options.size = distance, options.count = count, options.seed = seed;
  return make_probes(find_task(task), task_text(tokenizer, windows), options);
}

}  // namespace unbend::lm
