// Synthetic tests of memory for small models, as token ids. Plain vectors, no tensors.
#pragma once

#include <cstdint>
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

// ---- Tasks whose sequences differ in where they ask

/// Sequences with what is wanted at each position.
struct LabelledBatch {
  std::int64_t batch, length;
  std::vector<TokenId> tokens;  ///< [batch, length]
  std::vector<TokenId> labels;  ///< [batch, length]: what logits there should predict, -1 where there is nothing
  std::vector<float> weights;   ///< [batch, length]: 1 where the task asks, 0 elsewhere
};

/// Multi-query associative recall. A quarter of `length` at most are pairs.
struct MqarOptions {
  std::int64_t batch = 64, length = 64, pairs = 8, vocabulary = 256;
  double power = .01;  ///< small: most queries come soon after the pairs
};

/// Zoology's task (Arora et al., "Zoology: Measuring and Improving Recall in Efficient Language Models", ICLR 2024):
/// `k v` * pairs with distinct keys from [1, V/2) and distinct values from [V/2, V), then length - 2 * pairs tokens.
/// Each key comes there once more, at 2 g, where the g are distinct and drawn from the (length - 2 * pairs) / 2 slots j
/// with probability ~ (j + 1)^(power - 1); all other tokens are uniform over V (stray keys and values among them). The
/// label at the second key is its value; the sequence does not show it. Nothing else is labelled. Chance is 1 / V.
/// Input error if `length` is odd, shorter than 4 * pairs, or not below the vocabulary.
LabelledBatch mqar_batch(Random& random, const MqarOptions& options);

/// A pass key among fillers. Token ids: KEY, QUERY, BOS, an unused one, values, keys, fillers.
struct PasskeyOptions {
  static constexpr TokenId kKey = 0, kQuery = 1, kBos = 2, kFirstValue = 4, kFirstKey = 24, kFirstFiller = 44;
  static constexpr std::int64_t kKinds = 20, kVocabulary = 64;  ///< kinds of values, of keys and of fillers
  std::int64_t batch = 64, length = 64;
  std::int64_t needles = 1;
};

/// BOS, fillers, and at the end `QUERY k v` for each needle `KEY k v` hidden among the fillers: one, at a uniform
/// place; or several with distinct keys, one in each equal part, and as many queries with keys drawn with replacement
/// (so that none can be answered by elimination). Values and fillers are uniform. Labels are the next tokens; weights
/// mark the values of the queries: chance is 1 / 20. (The passkey task of LAWCAT, arXiv 2509.18467, in small.)
/// Input error unless 1 <= needles <= 20 and the parts have 3 places.
LabelledBatch passkey_batch(Random& random, const PasskeyOptions& options);

/// 0 .. size - 1 in random order.
std::vector<std::int64_t> permutation(std::int64_t size, Random& random);

}  // namespace unbend::lm
