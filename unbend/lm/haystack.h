// Long texts of a wanted length with something to remember in them: `mqar`, `passkey`, `niah1` to `niah3`. They work
// with any tokenizer. docs/tasks.md has the texts and the chance levels.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "unbend/base/random.h"
#include "unbend/engine/tokenizer.h"
#include "unbend/lm/probe.h"

namespace unbend::lm {

/// Sentences to hide something among.
struct Filler {
  std::vector<std::string> sentences;
  std::vector<std::int64_t> tokens;  ///< of each, with a space before it
  bool repeats = false;              ///< whether a text may hold a sentence more than once

  std::int64_t total() const;  ///< tokens of all sentences
};

/// Five sentences that say nothing, to be repeated as often as needed.
Filler noise_filler(const engine::Tokenizer& tokenizer);

/// A text cut after full stops, question and exclamation marks, and in any case after 240 bytes; white space becomes
/// one space, words that are not UTF-8 are left out. Empty for an empty text.
Filler prose_filler(const engine::Tokenizer& tokenizer, std::string_view text);

/// A text with marked answers and what tells them, to be made with the filler sentences that there is room for.
struct Draft {
  std::string text;
  std::vector<Span> answers;
};
using Sentences = std::span<const std::string_view>;

/// The probe of a draft with as many sentences of `filler`, from number `start` on and round at its end, as keep it
/// within `length` tokens (BOS included). Input error if the draft without filler is longer, or if the filler is too
/// short to reach the length.
Probe fit_probe(const engine::Tokenizer& tokenizer, const Filler& filler, std::size_t start, std::int64_t length,
                const std::function<Draft(Sentences sentences)>& draft,
                std::span<const std::string_view> candidates = {});

/// Index in [0, sentences.size()] of the sentence border whose share of the bytes before it is nearest to `depth`.
std::size_t border_at(Sentences sentences, double depth);

/// Multi-query associative recall as text: lines `A: q`, then noise, among which each of them comes once more.
/// The slots of the second pairs are independent and drawn from Zoology's law over the borders of noise sentences,
/// power .01 (see mqar_batch). Keys are distinct capitals, values distinct small letters; asked are the second values,
/// among the 26 small letters. Input error for more than 26 pairs.
Probe mqar_probe(Random& random, const engine::Tokenizer& tokenizer, const Filler& noise, std::int64_t length,
                 std::int64_t pairs);

/// Mohtashami and Jaggi's pass key: a number of five digits, named twice in one place `depth` (0 to 1) of the way
/// through noise, and asked for at the end. All tokens compete.
Probe passkey_probe(Random& random, const engine::Tokenizer& tokenizer, const Filler& noise, std::int64_t length,
                    double depth);

/// What is hidden by the needles in a haystack.
enum class Needle { Number, Uuid };

/// RULER's single needle in a haystack (Hsieh et al. 2024): a sentence that gives a named magic number of `digits`
/// (or a UUID), `depth` of the way through `haystack`, and asked for by name at the end. All tokens compete. The value
/// is nowhere else in the text. Input error for fewer than 3 digits or more than 100, and where the text holds them
/// all.
Probe niah_probe(Random& random, const engine::Tokenizer& tokenizer, const Filler& haystack, Needle needle,
                 std::int64_t length, double depth, std::int64_t digits = 7);

}  // namespace unbend::lm
