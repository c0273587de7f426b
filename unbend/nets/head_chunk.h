// Logits are computed transposed, a panel of the vocabulary (rows) times a chunk of tokens (columns): the weight is
// then an operand as it lies in memory, and everything per token is a vector along a row. The vocabulary is cut into a
// fixed number of slices that threads share, and their sums are merged in order, so results do not depend on the number
// of threads.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "unbend/attention/simd.h"
#include "unbend/base/error.h"
#include "unbend/nets/head.h"

namespace unbend::chunked {

using namespace simd;

constexpr int64_t kTokens = 128;               // tokens (columns) in a chunk
constexpr int64_t kPanel = 512;                // vocabulary rows whose gradient is multiplied back at once
constexpr int64_t kPanelStride = kPanel + 32;  // spreads the rows of a transposed panel over the cache's sets
constexpr int64_t kTile = 128;                 // vocabulary rows whose logits are reduced while they are in the cache
constexpr int64_t kBlock = 32;  // vocabulary rows that share one maximum, for finding the likeliest tokens
constexpr int64_t kSlices = 16;
constexpr int64_t kColumns = 16;  // columns are padded to a multiple of this

template <class C>
constexpr C kLowest = -std::numeric_limits<C>::infinity();

inline int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// Per token, over the logits seen so far.
template <class C>
struct Stats {
  std::vector<C> max, sum, best;
  explicit Stats(int64_t n) : max(n, kLowest<C>), sum(n, 0), best(n, 0) {}
};

// Adds the logits [rows, n] of the vocabulary from `first` on. `block_max`, if given, gets a row of maxima per kBlock
// rows.
template <class C>
void accumulate(const C* logits, int64_t rows, int64_t n, int64_t first, Stats<C>& stats, C* block_max) {
  const hn::ScalableTag<C> d;
  const int64_t lanes = hn::Lanes(d);
  for (int64_t c = 0; c < n; c += lanes) {
    const auto old_max = load(d, &stats.max[c]);
    auto max = old_max, best = load(d, &stats.best[c]);
    for (int64_t block = 0; block < rows; block += kBlock) {
      auto highest = hn::Set(d, kLowest<C>);
      for (int64_t r = block; r < std::min(rows, block + kBlock); ++r) {
        const auto z = load(d, logits + r * n + c);
        best = hn::IfThenElse(hn::Gt(z, hn::Max(max, highest)), hn::Set(d, static_cast<C>(first + r)), best);
        highest = hn::Max(highest, z);
      }
      if (block_max) store(d, highest, block_max + block / kBlock * n + c);
      max = hn::Max(max, highest);
    }
    // A column of which everything was set aside has no finite maximum yet.
    const auto shift = hn::IfThenElse(hn::Eq(max, hn::Set(d, kLowest<C>)), hn::Zero(d), max);
    auto sum = hn::Mul(load(d, &stats.sum[c]), hn::Exp(d, hn::Sub(old_max, shift)));
    for (int64_t r = 0; r < rows; ++r) sum = hn::Add(sum, hn::Exp(d, hn::Sub(load(d, logits + r * n + c), shift)));
    store(d, max, &stats.max[c]), store(d, sum, &stats.sum[c]), store(d, best, &stats.best[c]);
  }
}

template <class C>
void merge(const Stats<C>& from, Stats<C>& to) {
  for (size_t i = 0; i < to.max.size(); ++i) {
    const C max = std::max(to.max[i], from.max[i]);
    if (from.max[i] > to.max[i]) to.best[i] = from.best[i];
    if (max == kLowest<C>) continue;
    to.sum[i] = to.sum[i] * std::exp(to.max[i] - max) + from.sum[i] * std::exp(from.max[i] - max);
    to.max[i] = max;
  }
}

// One chunk of tokens in front of a head of elements T.
template <class T>
struct Chunk {
  using C = Compute<T>;
  const FrozenHead& head;
  int64_t n;               // columns, padded
  at::Tensor hidden_held;  // operand [M, n]
  const T* hidden_t;

  Chunk(const FrozenHead& head, const at::Tensor& hidden, int64_t first, int64_t count)
      : head(head), n(round_up(count, kColumns)) {
    const auto rows = hidden.narrow(0, first, count).to(head.weight.scalar_type()).contiguous();
    hidden_held = at::zeros({head.width() * n}, rows.options());
    T* const packed = hidden_held.template data_ptr<T>();
    pack_transposed(rows.template const_data_ptr<T>(), count, head.width(), head.width(), packed, n);
    hidden_t = packed;
  }

  int64_t panels() const { return round_up(head.vocabulary(), kPanel) / kPanel; }

  // step(slice, first vocabulary row, end) for the panels' slices, in parallel.
  template <class Step>
  void for_slices(const Step& step) const {
    const int64_t slices = std::min(kSlices, panels());
    at::parallel_for(0, slices, 1, [&](int64_t begin, int64_t end) {
      for (int64_t s = begin; s < end; ++s) {
        step(s, s * panels() / slices * kPanel, std::min((s + 1) * panels() / slices * kPanel, head.vocabulary()));
      }
    });
  }

  // Logits [rows, n] of the vocabulary from `first` on.
  void logits(int64_t first, int64_t rows, C* to) const {
    multiply(rows, n, head.width(), head.weight.template const_data_ptr<T>() + first * head.width(), head.width(),
             hidden_t, n, to, n, false);
  }
};

// A logit that is wanted by itself: of `column`'s `k`-th teacher token, or of its next token if k is the teacher's
// count.
struct Wanted {
  int64_t row, column, k;
  bool operator<(const Wanted& other) const { return row < other.row; }
};

// The next tokens of columns `next` to `next + count`, in the order of rows; -1 is none.
inline std::vector<Wanted> wanted_next(const int64_t* next, int64_t count) {
  std::vector<Wanted> wanted;
  for (int64_t c = 0; c < count; ++c) {
    if (next[c] >= 0) wanted.push_back({next[c], c, 0});
  }
  std::sort(wanted.begin(), wanted.end());
  return wanted;
}

// The wanted entries of rows [first, end).
inline std::pair<const Wanted*, const Wanted*> within(const std::vector<Wanted>& sorted, int64_t first, int64_t end) {
  const auto lower = [&](int64_t row) { return std::lower_bound(sorted.begin(), sorted.end(), Wanted{row, 0, 0}); };
  return {sorted.data() + (lower(first) - sorted.begin()), sorted.data() + (lower(end) - sorted.begin())};
}

inline void check_hidden(const char* function, const at::Tensor& hidden, const FrozenHead& head) {
  require(hidden.dim() == 2 && hidden.size(1) == head.width() && at::isFloatingType(hidden.scalar_type()),
          "{}: hidden must be floating [N, {}], not {} {}", function, head.width(), c10::toString(hidden.scalar_type()),
          hidden.sizes());
}

inline void check_next(const char* function, const at::Tensor& next, int64_t tokens, int64_t vocabulary) {
  require(next.dim() == 1 && next.size(0) == tokens && next.scalar_type() == at::kLong,
          "{}: next tokens must be int64 [{}], not {} {}", function, tokens, c10::toString(next.scalar_type()),
          next.sizes());
  if (tokens == 0) return;
  const auto low = next.min().item<int64_t>(), high = next.max().item<int64_t>();
  require(low >= -1 && high < vocabulary, "{}: next tokens from {} to {} are not within -1 to {}", function, low, high,
          vocabulary - 1);
}

template <class Kernel>
auto dispatch(const FrozenHead& head, const Kernel& kernel) {
  switch (head.weight.scalar_type()) {
    case at::kDouble: return kernel(double());
    case at::kFloat: return kernel(float());
    default: return kernel(c10::BFloat16());
  }
}

}  // namespace unbend::chunked
