#include "unbend/lm/tasks.h"

#include <algorithm>
#include <string>

#include "unbend/base/error.h"
#include "unbend/lm/corpus.h"

namespace unbend::lm {
namespace {

constexpr std::string_view kNames[] = {"Anna",  "Peter",  "Maria", "David",  "Laura", "James", "Sarah", "Robert",
                                       "Emma",  "Daniel", "Julia", "Thomas", "Alice", "Henry", "Grace", "Oliver",
                                       "Clara", "Martin", "Helen", "George", "Lucy",  "Simon", "Nina",  "Victor"};
constexpr std::string_view kWords[] = {
    "apple",  "river",   "stone",  "garden", "window", "horse",  "paper",  "silver", "bridge", "cloud",   "forest",
    "island", "kitchen", "lemon",  "mirror", "ocean",  "pencil", "rabbit", "shadow", "table",  "village", "winter",
    "yellow", "bread",   "candle", "doctor", "engine", "flower", "guitar", "hammer", "jacket", "knife",   "ladder",
    "market", "needle",  "orange", "planet", "queen",  "rocket", "sugar",  "temple", "uncle",  "valley",  "wagon",
    "bottle", "camera",  "desert", "eagle",  "farmer", "glass",  "honey",  "iron",   "jungle", "king",    "letter",
    "money",  "night",   "onion",  "piano",  "road",   "school", "tiger",  "tower",  "water"};

}  // namespace

Probe copy_probe(std::span<const TokenId> text, std::span<const TokenId> gap, TokenId bos) {
  require(text.size() > 1, "copy: the text has {} tokens, expected at least 2", text.size());
  Probe probe;
  if (bos >= 0) probe.ids.push_back(bos);
  for (const auto part : {text, gap, text}) probe.ids.insert(probe.ids.end(), part.begin(), part.end());
  const auto first = std::ssize(probe.ids) - std::ssize(text), distance = std::ssize(text) + std::ssize(gap);
  for (auto i = first + 1; i < std::ssize(probe.ids); ++i)
    probe.questions.push_back({i - 1, probe.ids[static_cast<std::size_t>(i)], {}, 0, i - 1 - distance, i - distance});
  return probe;
}

Probe codes_probe(Random& random, const engine::Tokenizer& tokenizer, std::string_view filler, int stored, int asked) {
  constexpr int kDigits = 4;
  require(stored > 0 && stored <= static_cast<int>(std::size(kNames)) && asked > 0 && asked <= stored,
          "codes: {} names stored and {} asked: expected at most {} and no more asked than stored", stored, asked,
          std::size(kNames));
  std::vector<std::string> lines;
  const auto names = permutation(std::size(kNames), random);
  for (int i = 0; i < stored; ++i) {
    lines.push_back(fmt::format("{}'s code is ", kNames[names[i]]));
    for (int d = 0; d < kDigits; ++d) lines.back() += static_cast<char>('0' + random.below(10));
    lines.back() += ".";
  }
  auto text = fmt::format("{}\n\n{}\n\n", fmt::join(lines, "\n"), filler);
  auto order = permutation(stored, random);
  while (asked > 1 && std::ranges::is_sorted(order.begin(), order.begin() + asked)) order = permutation(stored, random);
  std::vector<std::size_t> places, told;  // of the asked digits in the text; where the same ones end when stored
  for (int i = 0; i < asked; ++i) {
    const auto& line = lines[order[i]];
    const auto stored_end = text.find(line) + line.size() - 1;
    text += line + "\n";
    for (int d = 0; d < kDigits; ++d) {
      told.push_back(stored_end - kDigits + d + 1);
      places.push_back(text.size() - 2 - kDigits + d);
    }
  }
  text.pop_back();

  std::vector<TokenId> digits;
  const auto all = encode_text(tokenizer, "code is 0123456789");
  for (int d = 0; d < 10; ++d) {
    const auto at = all.find(9 + d, std::string(1, static_cast<char>('0' + d)));
    // A first digit that takes its space along would be another token than the same digit later in the code.
    require(at >= 0 && all.pieces[at].size() == 1, "codes: the tokenizer has no token of its own for each digit");
    digits.push_back(all.ids[at]);
  }
  const auto encoded = encode_text(tokenizer, text);
  auto probe = start_probe(encoded, tokenizer);
  const auto lead = static_cast<std::int64_t>(probe.ids.size() - encoded.ids.size());
  for (std::size_t i = 0; i < places.size(); ++i) {
    const auto digit = std::string_view(text).substr(places[i], 1);
    const auto at = encoded.find(places[i] + 1, digit), first = encoded.find(told[i], digit);
    require(at > 0 && first > 0, "codes: the tokenizer has no token of its own for each digit");
    const auto answer = std::ssize(probe.questions) / std::int64_t{kDigits};
    probe.questions.push_back({lead + at - 1, encoded.ids[at], digits, answer, -1, lead + first});
  }
  return probe;
}

Probe words_probe(Random& random, const engine::Tokenizer& tokenizer, std::string_view filler, int count) {
  std::vector<std::string_view> usable;
  for (const auto word : kWords) {
    const auto text = fmt::format("Words: {}", word);
    if (encode_text(tokenizer, text).find(text.size(), word) >= 0) usable.push_back(word);
  }
  require(count > 1, "words: {} words were asked for, expected 2 or more", count);
  require(
      count <= std::ssize(usable),
      "words: {} words are needed, and {} of ours are single tokens here: this task needs a tokenizer with tokens of "
      "whole words",
      count, usable.size());
  shuffle(usable, random);
  usable.resize(count);
  const auto line = fmt::format("Words: {}.", fmt::join(usable, " "));
  const auto text = fmt::format("{}\n\n{}\n\n{}", line, filler, line);
  const auto encoded = encode_text(tokenizer, text);
  auto probe = start_probe(encoded, tokenizer);
  const auto lead = static_cast<std::int64_t>(probe.ids.size() - encoded.ids.size());
  const auto second = text.size() - line.size();  // where the line stands again
  auto end = std::string_view("Words:").size();
  std::vector<TokenId> candidates;
  for (const auto word : usable) {
    end += 1 + word.size();
    const auto first = encoded.find(end, word), at = encoded.find(second + end, word);
    require(first > 0 && at > 0, "words: the tokenizer splits '{}'", word);
    probe.questions.push_back({lead + at - 1, encoded.ids[at], {}, std::ssize(probe.questions), -1, lead + first});
    candidates.push_back(encoded.ids[at]);
  }
  for (auto& question : probe.questions) question.candidates = candidates;
  return probe;
}

}  // namespace unbend::lm
