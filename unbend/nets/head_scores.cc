// Scores and comparisons on the output head, without gradients.
#include "unbend/nets/head_chunk.h"

namespace unbend {
namespace {

using namespace chunked;

// The `top` largest logits of each of `count` columns, largest first, the lower id first among equals. At least `top`
// rows of `block_max` [blocks, n], if there are as many, reach the top-th largest of them, so a logit below that one
// cannot be among the largest: one pass leaves few candidates.
template <class C>
void select_top(const C* logits, int64_t rows, int64_t n, const C* block_max, int64_t blocks, int64_t count,
                int64_t top, int32_t* ids, C* values) {
  at::parallel_for(0, count, 8, [&](int64_t begin, int64_t end) {
    const int64_t columns = end - begin;
    std::vector<C> threshold(columns, kLowest<C>), maxima(blocks);
    for (int64_t c = 0; c < columns; ++c) {
      if (blocks < top) continue;
      for (int64_t b = 0; b < blocks; ++b) maxima[b] = block_max[b * n + begin + c];
      std::nth_element(maxima.begin(), maxima.begin() + top - 1, maxima.end(), std::greater<C>());
      threshold[c] = maxima[top - 1];
    }
    std::vector<std::vector<std::pair<C, int32_t>>> candidates(columns);
    for (int64_t r = 0; r < rows; ++r) {
      if (blocks >= top && r % kBlock == 0) {
        // Most blocks hold no candidate of most columns.
        bool any = false;
        for (int64_t c = 0; c < columns; ++c) any |= block_max[r / kBlock * n + begin + c] >= threshold[c];
        if (!any) {
          r += kBlock - 1;
          continue;
        }
      }
      const C* const z = logits + r * n + begin;
      for (int64_t c = 0; c < columns; ++c) {
        if (z[c] >= threshold[c]) candidates[c].emplace_back(z[c], static_cast<int32_t>(r));
      }
    }
    for (int64_t c = 0; c < columns; ++c) {
      auto& list = candidates[c];
      // Fewer candidates than wanted happen only where logits are not numbers.
      list.resize(std::max<size_t>(list.size(), top), {std::numeric_limits<C>::quiet_NaN(), 0});
      std::partial_sort(list.begin(), list.begin() + top, list.end(), [](const auto& a, const auto& b) {
        return a.first > b.first || (a.first == b.first && a.second < b.second);
      });
      for (int64_t k = 0; k < top; ++k) {
        ids[(begin + c) * top + k] = list[k].second;
        values[(begin + c) * top + k] = list[k].first;
      }
    }
  });
}

template <class T>
TokenScores score(const at::Tensor& hidden, const FrozenHead& head, const at::Tensor& next_tensor, int64_t top) {
  using C = Compute<T>;
  const int64_t tokens = hidden.size(0), vocabulary = head.vocabulary();
  const auto options = hidden.options().dtype(c10::CppTypeToScalarType<C>::value);
  const int64_t* const next = next_tensor.const_data_ptr<int64_t>();
  TokenScores scores{at::zeros({tokens}, options), at::empty({tokens}, options.dtype(at::kLong)),
                     at::empty({tokens}, options), at::empty({tokens, top}, options.dtype(at::kInt)),
                     at::empty({tokens, top}, options)};
  const int64_t blocks = round_up(vocabulary, kBlock) / kBlock;
  at::Tensor kept, block_max;
  for (int64_t first = 0; first < tokens; first += kTokens) {
    const int64_t count = std::min(kTokens, tokens - first);
    const Chunk<T> chunk(head, hidden, first, count);
    const int64_t n = chunk.n;
    if (top > 0 && !kept.defined())
      kept = at::empty({vocabulary * n}, options), block_max = at::empty({blocks * n}, options);
    C* const all_logits = top > 0 ? kept.template data_ptr<C>() : nullptr;
    C* const all_maxima = top > 0 ? block_max.template data_ptr<C>() : nullptr;
    std::vector<Wanted> wanted;
    for (int64_t c = 0; c < count; ++c) {
      if (next[first + c] >= 0) wanted.push_back({next[first + c], c, 0});
    }
    std::sort(wanted.begin(), wanted.end());
    std::vector<C> picked(n, 0);
    std::vector<Stats<C>> slices(kSlices, Stats<C>(n));
    chunk.for_slices([&](int64_t slice, int64_t begin, int64_t end) {
      std::vector<C> tile(all_logits ? 0 : kTile * n);
      for (int64_t row = begin; row < end; row += kTile) {
        const int64_t rows = std::min(kTile, end - row);
        C* const z = all_logits ? all_logits + row * n : tile.data();
        chunk.logits(row, rows, z);
        const auto [from, to] = within(wanted, row, row + rows);
        for (auto w = from; w != to; ++w) picked[w->column] = z[(w->row - row) * n + w->column];
        accumulate<C>(z, rows, n, row, slices[slice], all_maxima ? all_maxima + row / kBlock * n : nullptr);
      }
    });
    Stats<C> all(n);
    for (const auto& slice : slices) merge(slice, all);
    C* const lse = scores.lse.template data_ptr<C>() + first;
    C* const log_prob = scores.log_prob.template data_ptr<C>() + first;
    for (int64_t c = 0; c < count; ++c) {
      lse[c] = all.max[c] + std::log(all.sum[c]);
      scores.best.template data_ptr<int64_t>()[first + c] = static_cast<int64_t>(all.best[c]);
      if (next[first + c] >= 0) log_prob[c] = picked[c] - lse[c];
    }
    if (top > 0) {
      C* const values = scores.top_log_probs.template data_ptr<C>() + first * top;
      select_top(all_logits, vocabulary, n, all_maxima, blocks, count, top,
                 scores.top_ids.template data_ptr<int32_t>() + first * top, values);
      for (int64_t c = 0; c < count; ++c) {
        for (int64_t k = 0; k < top; ++k) values[c * top + k] -= lse[c];
      }
    }
  }
  return scores;
}

// Running sums of two distributions: with p = exp(teacher - max), sum of p and of p (teacher - student), and of
// exp(student - its max).
template <class C>
struct PairStats {
  Stats<C> teacher, student;
  std::vector<C> product;
  explicit PairStats(int64_t n) : teacher(n), student(n), product(n, 0) {}
};

template <class C>
void accumulate_pair(const C* teacher, const C* student, int64_t rows, int64_t n, PairStats<C>& stats) {
  const hn::ScalableTag<C> d;
  const int64_t lanes = hn::Lanes(d);
  accumulate<C>(student, rows, n, 0, stats.student, nullptr);
  const auto old_max = stats.teacher.max;
  accumulate<C>(teacher, rows, n, 0, stats.teacher, nullptr);
  for (int64_t c = 0; c < n; c += lanes) {
    const auto max = load(d, &stats.teacher.max[c]);
    auto product = hn::Mul(load(d, &stats.product[c]), hn::Exp(d, hn::Sub(load(d, &old_max[c]), max)));
    for (int64_t r = 0; r < rows; ++r) {
      const auto z = load(d, teacher + r * n + c);
      product = hn::MulAdd(hn::Exp(d, hn::Sub(z, max)), hn::Sub(z, load(d, student + r * n + c)), product);
    }
    store(d, product, &stats.product[c]);
  }
}

template <class T>
at::Tensor divergence(const at::Tensor& teacher_hidden, const FrozenHead& teacher, const at::Tensor& student_hidden,
                      const FrozenHead& student) {
  using C = Compute<T>;
  const int64_t tokens = teacher_hidden.size(0);
  auto result = at::empty({tokens}, teacher_hidden.options().dtype(c10::CppTypeToScalarType<C>::value));
  for (int64_t first = 0; first < tokens; first += kTokens) {
    const int64_t count = std::min(kTokens, tokens - first);
    const Chunk<T> of_teacher(teacher, teacher_hidden, first, count), of_student(student, student_hidden, first, count);
    const int64_t n = of_teacher.n;
    std::vector<PairStats<C>> slices(kSlices, PairStats<C>(n));
    of_teacher.for_slices([&](int64_t slice, int64_t begin, int64_t end) {
      std::vector<C> z(kTile * n), y(kTile * n);
      for (int64_t row = begin; row < end; row += kTile) {
        const int64_t rows = std::min(kTile, end - row);
        of_teacher.logits(row, rows, z.data());
        of_student.logits(row, rows, y.data());
        accumulate_pair<C>(z.data(), y.data(), rows, n, slices[slice]);
      }
    });
    PairStats<C> all(n);
    for (const auto& slice : slices) {
      const auto before = all.teacher.max;
      merge(slice.teacher, all.teacher);
      merge(slice.student, all.student);
      for (int64_t c = 0; c < n; ++c) {
        all.product[c] = all.product[c] * std::exp(before[c] - all.teacher.max[c]) +
                         slice.product[c] * std::exp(slice.teacher.max[c] - all.teacher.max[c]);
      }
    }
    for (int64_t c = 0; c < count; ++c) {
      const C teacher_lse = all.teacher.max[c] + std::log(all.teacher.sum[c]);
      const C student_lse = all.student.max[c] + std::log(all.student.sum[c]);
      result.template data_ptr<C>()[first + c] = all.product[c] / all.teacher.sum[c] - teacher_lse + student_lse;
    }
  }
  return result;
}

}  // namespace

TokenScores next_token_scores(const at::Tensor& hidden, const FrozenHead& head, const at::Tensor& next, int64_t top) {
  check_hidden("next_token_scores", hidden, head);
  check_next("next_token_scores", next, hidden.size(0), head.vocabulary());
  require(top >= 0 && top <= head.vocabulary(), "next_token_scores: top must be within 0 and {}, not {}",
          head.vocabulary(), top);
  const at::NoGradGuard no_gradients;
  return dispatch(head,
                  [&](auto type) { return score<decltype(type)>(hidden.detach(), head, next.contiguous(), top); });
}

at::Tensor full_divergence(const at::Tensor& teacher_hidden, const FrozenHead& teacher,
                           const at::Tensor& student_hidden, const FrozenHead& student) {
  check_hidden("full_divergence", teacher_hidden, teacher);
  check_hidden("full_divergence", student_hidden, student);
  require(teacher.vocabulary() == student.vocabulary() && teacher.weight.scalar_type() == student.weight.scalar_type(),
          "full_divergence: heads {} {} and {} {} must agree in vocabulary and dtype",
          c10::toString(teacher.weight.scalar_type()), teacher.weight.sizes(),
          c10::toString(student.weight.scalar_type()), student.weight.sizes());
  require(teacher_hidden.size(0) == student_hidden.size(0),
          "full_divergence: hidden {} and {} must have the same length", teacher_hidden.sizes(),
          student_hidden.sizes());
  const at::NoGradGuard no_gradients;
  return dispatch(teacher, [&](auto type) {
    return divergence<decltype(type)>(teacher_hidden.detach(), teacher, student_hidden.detach(), student);
  });
}

}  // namespace unbend
