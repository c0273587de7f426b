// Tests of memory on text for real models: copy, codes and words. Longer ones are in haystack.h and facts.h, those on
// ids in id_tasks.h.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "unbend/base/random.h"
#include "unbend/engine/tokenizer.h"
#include "unbend/lm/id_tasks.h"
#include "unbend/lm/probe.h"

namespace unbend::lm {

/// `text`, `gap`, `text` again: the questions are all tokens of the second copy but its first, the distance is
/// text.size() + gap.size(). `bos` of -1 adds none.
Probe copy_probe(std::span<const TokenId> text, std::span<const TokenId> gap, TokenId bos = -1);

/// Lines `Anna's code is 4831.` for `stored` names, a blank line, `filler`, a blank line, then `asked` of the lines in
/// another order. The questions are the digits of these, in turn; candidates are the ten digits (chance 0.1).
/// Input error if the tokenizer has no token of its own for each digit, or too few names are known (24).
Probe codes_probe(Random& random, const engine::Tokenizer& tokenizer, std::string_view filler, int stored = 6,
                  int asked = 4);

/// `Words: w1 w2 ... .`, a blank line, `filler`, a blank line, and the same line again. The questions are the words of
/// the second line; candidates are the words of the line (chance 1 / count). Input error if fewer than `count` of our
/// words are single tokens.
Probe words_probe(Random& random, const engine::Tokenizer& tokenizer, std::string_view filler, int count = 24);

}  // namespace unbend::lm
