#include "unbend/lm/id_tasks.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "unbend/base/error.h"
#include "unbend/lm/corpus.h"

namespace unbend::lm {
namespace {

/// `count` different indices, one after the other, each in proportion to the weights of those that are left.
std::vector<std::int64_t> draw_distinct(std::vector<double> weights, std::int64_t count, Random& random) {
  std::vector<std::int64_t> drawn;
  for (std::int64_t i = 0; i < count; ++i) {
    double left = random.uniform() * std::accumulate(weights.begin(), weights.end(), 0.);
    std::int64_t chosen = -1;
    for (std::size_t j = 0; j < weights.size() && left >= 0; ++j) {
      if (weights[j] == 0) continue;
      chosen = static_cast<std::int64_t>(j);  // rounding may leave a little: the last one takes it
      left -= weights[j];
    }
    weights[static_cast<std::size_t>(chosen)] = 0;
    drawn.push_back(chosen);
  }
  return drawn;
}

/// `count` different numbers from [first, last), without a list of all.
std::vector<TokenId> distinct_ids(std::int64_t first, std::int64_t last, std::int64_t count, Random& random) {
  std::vector<TokenId> ids;
  while (std::ssize(ids) < count) {
    const auto id = static_cast<TokenId>(first + static_cast<std::int64_t>(random.below(last - first)));
    if (std::ranges::find(ids, id) == ids.end()) ids.push_back(id);
  }
  return ids;
}

}  // namespace

std::vector<std::int64_t> permutation(std::int64_t size, Random& random) {
  std::vector<std::int64_t> order(size);
  std::iota(order.begin(), order.end(), 0);
  shuffle(order, random);
  return order;
}

RecallBatch recall_batch(Random& random, const RecallOptions& options) {
  const auto [batch, pairs, fillers, keys, values, kinds] = options;
  require(batch > 0 && pairs > 0 && fillers >= 0 && values > 0 && kinds > 0 && pairs <= keys,
          "recall: batch {}, {} pairs, {} fillers of {} kinds, {} keys, {} values: expected positive numbers and no "
          "more pairs than keys",
          batch, pairs, fillers, kinds, keys, values);
  RecallBatch out{batch, options.length(), pairs, {}, {}, {}};
  for (std::int64_t j = 0; j < pairs; ++j) out.query_positions.push_back(2 * pairs + fillers + 2 * j);
  for (std::int64_t b = 0; b < batch; ++b) {
    const auto key = permutation(keys, random);
    std::vector<TokenId> value;
    for (std::int64_t i = 0; i < pairs; ++i) value.push_back(static_cast<TokenId>(keys + random.below(values)));
    const auto pair = [&](std::int64_t i) {
      out.tokens.insert(out.tokens.end(), {static_cast<TokenId>(key[i]), value[i]});
    };
    for (std::int64_t i = 0; i < pairs; ++i) pair(i);
    for (std::int64_t i = 0; i < fillers; ++i)
      out.tokens.push_back(static_cast<TokenId>(keys + values + random.below(kinds)));
    for (const auto i : permutation(pairs, random)) {
      pair(i);
      out.answers.push_back(value[i]);
    }
  }
  return out;
}

RecallBatch change_stored_values(const RecallBatch& batch, Random& random, const RecallOptions& options) {
  require(options.values > 1, "recall: with {} values none can change", options.values);
  auto out = batch;
  for (std::int64_t b = 0; b < batch.batch; ++b)
    for (std::int64_t i = 0; i < batch.pairs; ++i) {
      auto& token = out.tokens[b * batch.length + 2 * i + 1];
      const auto shift = 1 + static_cast<std::int64_t>(random.below(options.values - 1));
      token = static_cast<TokenId>(options.keys + (token - options.keys + shift) % options.values);
    }
  return out;
}

LabelledBatch mqar_batch(Random& random, const MqarOptions& options) {
  const auto [batch, length, pairs, vocabulary, power] = options;
  require(
      batch > 0 && pairs > 0 && length % 2 == 0 && length >= 4 * pairs && length < vocabulary && power > 0,
      "mqar: batch {}, {} pairs in {} tokens of {} kinds, power {}: expected positive numbers, an even length of at "
      "least 4 tokens per pair, and more kinds than tokens",
      batch, pairs, length, vocabulary, power);
  const std::int64_t context = 2 * pairs, slots = (length - context) / 2, middle = vocabulary / 2;
  std::vector<double> weights;
  for (std::int64_t j = 1; j <= slots; ++j) weights.push_back(std::pow(static_cast<double>(j), power - 1));
  LabelledBatch out{batch, length, {}, {}, {}};
  for (std::int64_t b = 0; b < batch; ++b) {
    const auto keys = distinct_ids(1, middle, pairs, random), values = distinct_ids(middle, vocabulary, pairs, random);
    std::vector<TokenId> row, labels(length, -1);
    for (std::int64_t i = 0; i < pairs; ++i) row.insert(row.end(), {keys[i], values[i]});
    while (std::ssize(row) < length) row.push_back(static_cast<TokenId>(random.below(vocabulary)));
    const auto chosen = draw_distinct(weights, pairs, random);
    for (std::int64_t i = 0; i < pairs; ++i) {
      row[context + 2 * chosen[i]] = keys[i];
      labels[context + 2 * chosen[i]] = values[i];
    }
    out.tokens.insert(out.tokens.end(), row.begin(), row.end());
    out.labels.insert(out.labels.end(), labels.begin(), labels.end());
    for (const auto label : labels) out.weights.push_back(label >= 0 ? 1.f : 0.f);
  }
  return out;
}

LabelledBatch passkey_batch(Random& random, const PasskeyOptions& options) {
  using O = PasskeyOptions;
  const auto [batch, length, needles] = options;
  const std::int64_t haystack = length - 1 - 3 * needles;  // places between BOS and the queries
  require(batch > 0 && needles >= 1 && needles <= O::kKinds && haystack / needles >= 3,
          "passkey: batch {}, {} needles in {} tokens: expected 1 to {} needles and 6 tokens for each after "
          "BOS",
          batch, needles, length, O::kKinds);
  LabelledBatch out{batch, length, {}, {}, {}};
  const auto kind = [&](TokenId first) { return static_cast<TokenId>(first + random.below(O::kKinds)); };
  for (std::int64_t b = 0; b < batch; ++b) {
    std::vector<TokenId> row{O::kBos};
    for (std::int64_t i = 0; i < haystack; ++i) row.push_back(kind(O::kFirstFiller));
    const auto keys = distinct_ids(O::kFirstKey, O::kFirstKey + O::kKinds, needles, random);
    std::vector<TokenId> values;
    for (std::int64_t n = 0; n < needles; ++n) {
      values.push_back(kind(O::kFirstValue));
      const std::int64_t begin = n * haystack / needles, end = (n + 1) * haystack / needles;
      const auto at = 1 + begin + static_cast<std::int64_t>(random.below(end - begin - 2));
      std::ranges::copy(std::initializer_list<TokenId>{O::kKey, keys[n], values[n]}, row.begin() + at);
    }
    std::vector<float> weights(length, 0.f);
    for (std::int64_t n = 0; n < needles; ++n) {
      const auto asked = needles == 1 ? 0 : random.below(needles);
      row.insert(row.end(), {O::kQuery, keys[asked], values[asked]});
      weights[row.size() - 2] = 1;
    }
    out.tokens.insert(out.tokens.end(), row.begin(), row.end());
    out.labels.insert(out.labels.end(), row.begin() + 1, row.end());
    out.labels.push_back(-1);
    out.weights.insert(out.weights.end(), weights.begin(), weights.end());
  }
  return out;
}

}  // namespace unbend::lm
