#include "unbend/lm/haystack.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <sstream>

#include "unbend/base/error.h"
#include "unbend/lm/corpus.h"
#include "unbend/lm/id_tasks.h"
#include "unbend/lm/text.h"

namespace unbend::lm {
namespace {

constexpr std::string_view kNoise[] = {"Rain falls on the old roof.", "The clock in the hall ticks on.",
                                       "Grass grows beside the road.", "Birds sing before the sun is up.",
                                       "The wind turns and turns back."};
constexpr std::string_view kNeedles[] = {"amber", "basil", "cedar", "daisy", "ember", "fern",  "garnet",  "hazel",
                                         "ivory", "jade",  "lotus", "maple", "olive", "pearl", "saffron", "willow"};
constexpr std::string_view kSmallLetters = "abcdefghijklmnopqrstuvwxyz";
constexpr double kZoologyPower = .01;
constexpr std::size_t kLongestSentence = 240;

Filler counted(const engine::Tokenizer& tokenizer, std::vector<std::string> sentences, bool repeats) {
  Filler filler{std::move(sentences), {}, repeats};
  for (const auto& sentence : filler.sentences) filler.tokens.push_back(std::ssize(tokenizer.encode(" " + sentence)));
  return filler;
}

std::string random_digits(Random& random, std::int64_t count) {
  std::string digits(1, static_cast<char>('1' + random.below(9)));
  while (std::ssize(digits) < count) digits += static_cast<char>('0' + random.below(10));
  return digits;
}

std::string random_uuid(Random& random) {
  std::string uuid;
  for (const int count : {8, 4, 4, 4, 12}) {
    if (!uuid.empty()) uuid += '-';
    for (int i = 0; i < count; ++i) uuid += "0123456789abcdef"[random.below(16)];
  }
  return uuid;
}

std::size_t random_start(Random& random, const Filler& filler) {
  return filler.sentences.empty() ? 0 : static_cast<std::size_t>(random.below(filler.sentences.size()));
}

/// `head`, a blank line, the sentences with `needle` among them, a blank line, and `tail` behind which `answer` is
/// asked for.
Draft hide(const std::string& head, Sentences sentences, const std::string& needle, double depth,
           const std::string& tail, const std::string& answer) {
  std::vector<std::string_view> all(sentences.begin(), sentences.end());
  all.insert(all.begin() + static_cast<std::ptrdiff_t>(border_at(sentences, depth)), needle);
  Draft draft{fmt::format("{}\n\n{}\n\n{} {}", head, fmt::join(all, " "), tail, answer), {}};
  const auto at = draft.text.size() - answer.size();
  draft.answers = {{at, draft.text.size(), draft.text.rfind(answer, at - 1) + answer.size()}};
  return draft;
}

}  // namespace

std::int64_t Filler::total() const { return std::accumulate(tokens.begin(), tokens.end(), std::int64_t{0}); }

Filler noise_filler(const engine::Tokenizer& tokenizer) {
  return counted(tokenizer, {std::begin(kNoise), std::end(kNoise)}, true);
}

Filler prose_filler(const engine::Tokenizer& tokenizer, std::string_view text) {
  std::vector<std::string> sentences;
  std::istringstream words{std::string(text)};
  std::string sentence;
  const auto finish = [&] {
    if (!sentence.empty()) sentences.push_back(std::exchange(sentence, {}));
  };
  for (std::string word; words >> word;) {
    if (first_invalid_utf8(word) != std::string::npos) continue;
    if (!sentence.empty()) sentence += ' ';
    sentence += word;
    if (std::string_view(".?!").find(word.back()) != std::string_view::npos || sentence.size() > kLongestSentence)
      finish();
  }
  finish();
  return counted(tokenizer, std::move(sentences), false);
}

std::size_t border_at(Sentences sentences, double depth) {
  require(depth >= 0 && depth <= 1, "a needle's depth is {}, expected 0 to 1", depth);
  double bytes = 0, total = 0;
  for (const auto sentence : sentences) total += static_cast<double>(sentence.size());
  std::size_t best = 0;
  double nearest = depth * total;
  for (std::size_t i = 0; i < sentences.size(); ++i) {
    bytes += static_cast<double>(sentences[i].size());
    if (std::abs(bytes - depth * total) < nearest) nearest = std::abs(bytes - depth * total), best = i + 1;
  }
  return best;
}

Probe fit_probe(const engine::Tokenizer& tokenizer, const Filler& filler, std::size_t start, std::int64_t length,
                const std::function<Draft(Sentences)>& draft, std::span<const std::string_view> candidates) {
  const auto made = [&](Sentences sentences) {
    const auto text = draft(sentences);
    return text_probe(tokenizer, text.text, text.answers, candidates);
  };
  const auto least = std::ssize(made({}).ids);
  require(least <= length, "a length of {} tokens is too short: this text has {} without any filler", length, least);
  const std::int64_t room = length - least, available = filler.total();
  require(filler.repeats ? available > 0 : available >= room,
          "a length of {} tokens needs {} of filler, and the text has {}", length, room, available);
  // Sentences number start, start + 1, ..., of which the tokens up to each are counted.
  std::vector<std::string_view> sentences;
  std::vector<std::int64_t> used{0};
  for (auto i = start; filler.repeats || sentences.size() < filler.sentences.size(); ++i) {
    const auto which = i % filler.sentences.size();
    if (used.back() + filler.tokens[which] > room) break;
    used.push_back(used.back() + filler.tokens[which]);
    sentences.push_back(filler.sentences[which]);
  }
  for (;;) {  // sentences may take more tokens together than apart
    auto probe = made(sentences);
    const auto excess = std::ssize(probe.ids) - length;
    if (excess <= 0) return probe;
    while (!sentences.empty() && used[sentences.size()] > used.back() - excess) sentences.pop_back();
    used.resize(sentences.size() + 1);
  }
}

Probe mqar_probe(Random& random, const engine::Tokenizer& tokenizer, const Filler& noise, std::int64_t length,
                 std::int64_t pairs) {
  require(pairs >= 1 && pairs <= std::ssize(kSmallLetters), "mqar: {} pairs, expected 1 to {}", pairs,
          kSmallLetters.size());
  const auto keys = permutation(26, random), values = permutation(26, random), order = permutation(pairs, random);
  std::vector<double> places;  // of the second pairs, in [0, 1)
  for (std::int64_t i = 0; i < pairs; ++i) places.push_back(random.uniform());
  const auto pair = [&](std::int64_t i) {
    return fmt::format("\n{}: {}", static_cast<char>('A' + keys[i]), kSmallLetters[values[i]]);
  };
  const auto draft = [&](Sentences sentences) {
    std::vector<double> sums;  // slot j is after j sentences, with probability ~ (j + 1)^(power - 1)
    double sum = 0;
    for (std::size_t j = 0; j <= sentences.size(); ++j)
      sums.push_back(sum += std::pow(static_cast<double>(j + 1), kZoologyPower - 1));
    std::vector<std::vector<std::int64_t>> asked(sums.size());
    for (std::int64_t i = 0; i < pairs; ++i)
      asked[std::min<std::size_t>(std::ranges::upper_bound(sums, places[i] * sum) - sums.begin(), sentences.size())]
          .push_back(order[i]);
    Draft result{"Pairs:", {}};
    std::vector<std::size_t> told;
    for (std::int64_t i = 0; i < pairs; ++i) told.push_back((result.text += pair(i)).size());
    for (std::size_t j = 0; j < asked.size(); ++j) {
      if (j > 0) result.text += fmt::format("{}{}", j == 1 || !asked[j - 1].empty() ? '\n' : ' ', sentences[j - 1]);
      for (const auto i : asked[j]) {
        result.text += pair(i);
        result.answers.push_back({result.text.size() - 1, result.text.size(), told[i]});
      }
    }
    return result;
  };
  std::vector<std::string_view> letters;
  for (std::size_t i = 0; i < kSmallLetters.size(); ++i) letters.push_back(kSmallLetters.substr(i, 1));
  return fit_probe(tokenizer, noise, 0, length, draft, letters);
}

Probe passkey_probe(Random& random, const engine::Tokenizer& tokenizer, const Filler& noise, std::int64_t length,
                    double depth) {
  const auto key = random_digits(random, 5);
  return fit_probe(tokenizer, noise, random_start(random, noise), length, [&](Sentences sentences) {
    return hide("Somewhere in this long and dull text is a pass key. Find it and remember it.", sentences,
                fmt::format("The pass key is {}. Remember that {} is the pass key.", key, key), depth,
                "What was the pass key? The pass key is", key);
  });
}

Probe niah_probe(Random& random, const engine::Tokenizer& tokenizer, const Filler& haystack, Needle needle,
                 std::int64_t length, double depth, std::int64_t digits) {
  require(digits >= 3 && digits <= 100, "niah: a number of 3 to 100 digits is hidden, not of {}", digits);
  const auto found = [&](const std::string& value) {
    return std::ranges::any_of(haystack.sentences, [&](const auto& s) { return s.find(value) != std::string::npos; });
  };
  std::string value;
  int tries = 0;
  do {
    require(++tries <= 1000, "niah: the text holds nearly every number of {} digits: hide a longer one", digits);
    value = needle == Needle::Number ? random_digits(random, digits) : random_uuid(random);
  } while (found(value));
  const auto name = kNeedles[random.below(std::size(kNeedles))];
  const std::string what = needle == Needle::Number ? "number" : "code";
  return fit_probe(tokenizer, haystack, random_start(random, haystack), length, [&](Sentences sentences) {
    return hide(fmt::format("This text hides a magic {}. Remember it: you will be asked for it.", what), sentences,
                fmt::format("The magic {} for {} is {}.", what, name, value), depth,
                fmt::format("What was the magic {} for {}? The magic {} for {} is", what, name, what, name), value);
  });
}

}  // namespace unbend::lm
