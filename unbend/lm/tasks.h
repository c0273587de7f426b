// Tests of memory: a synthetic recall task for small models, and three on text for real ones. Plain vectors, no
// tensors.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "unbend/base/random.h"
#include "unbend/engine/tokenizer.h"

namespace unbend::lm {

using engine::TokenId;

// ---- Recall: store key-value pairs, read fillers, answer for each key.

/// Token ids: keys from 0, then values, then fillers.
struct RecallOptions {
  std::int64_t batch = 64, pairs = 8, fillers = 32;
  std::int64_t keys = 32, values = 32, filler_kinds = 32;

  std::int64_t vocabulary() const { return keys + values + filler_kinds; }
  std::int64_t length() const { return 4 * pairs + fillers; }
};

/// Sequences `k v` * pairs, fillers, `k v` * pairs with the same pairs in another order. Keys are distinct within a
/// sequence; values and fillers are independent and uniform. A model is asked at the second keys only: chance is 1 /
/// values, and knowing merely which values occur gives more with every query (38.7 % on average at the defaults, 20.8 %
/// at the first), so accuracy belongs with its query position.
struct RecallBatch {
  std::int64_t batch, length, pairs;
  std::vector<TokenId> tokens;                ///< [batch, length]
  std::vector<std::int64_t> query_positions;  ///< [pairs], the same in every sequence; logits there predict the answer
  std::vector<TokenId> answers;               ///< [batch, pairs]
};

/// Input error for more pairs than keys, or sizes that are not positive (`fillers` may be 0).
RecallBatch recall_batch(Random& random, const RecallOptions& options);

/// The same batch with every stored value replaced by another one; queries and answers stay. What a model without a way
/// back to the pairs computes at the queries must not change at all.
RecallBatch change_stored_values(const RecallBatch& batch, Random& random, const RecallOptions& options);

// ---- On text: teacher-forced questions within one sequence of ids

/// Logits at `position` predict ids[position + 1], which is `token`; the guess is the best of `candidates` (all tokens
/// if empty).
struct Question {
  std::int64_t position;
  TokenId token;
  std::vector<TokenId> candidates;
};

struct Probe {
  std::vector<TokenId> ids;         ///< with a leading BOS where the model wants one
  std::vector<Question> questions;  ///< in order of position
};

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
