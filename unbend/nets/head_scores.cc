// Scores and comparisons on the output head, without gradients.
#include "unbend/nets/head_chunk.h"
#include "unbend/nets/head_plain.h"

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
    const auto wanted = wanted_next(next + first, count);
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

// Running sums of a student beside the teacher: with p = exp(teacher - its max), the sum of p (teacher - student).
template <class C>
struct StudentStats {
  Stats<C> own;
  std::vector<C> product;
  explicit StudentStats(int64_t n) : own(n), product(n, 0) {}
};

// Adds the sum of p (teacher - student) over `rows`; the teacher's maximum was `old_max` before them and is `max` now.
template <class C>
void accumulate_product(const C* teacher, const C* student, int64_t rows, int64_t n, const std::vector<C>& old_max,
                        const std::vector<C>& new_max, std::vector<C>& products) {
  const hn::ScalableTag<C> d;
  const int64_t lanes = hn::Lanes(d);
  for (int64_t c = 0; c < n; c += lanes) {
    const auto max = load(d, &new_max[c]);
    auto product = hn::Mul(load(d, &products[c]), hn::Exp(d, hn::Sub(load(d, &old_max[c]), max)));
    for (int64_t r = 0; r < rows; ++r) {
      const auto z = load(d, teacher + r * n + c);
      product = hn::MulAdd(hn::Exp(d, hn::Sub(z, max)), hn::Sub(z, load(d, student + r * n + c)), product);
    }
    store(d, product, &products[c]);
  }
}

template <class T>
std::vector<ComparedScores> compare(const std::vector<at::Tensor>& hidden, const std::vector<FrozenHead>& heads,
                                    const at::Tensor& next_tensor) {
  using C = Compute<T>;
  const std::size_t models = hidden.size(), students = models - 1;
  const int64_t tokens = hidden[0].size(0);
  const auto options = hidden[0].options().dtype(c10::CppTypeToScalarType<C>::value);
  const int64_t* const next = next_tensor.const_data_ptr<int64_t>();
  std::vector<ComparedScores> results;
  for (std::size_t m = 0; m < models; ++m)
    results.push_back(
        {at::zeros({tokens}, options), at::empty({tokens}, options.dtype(at::kLong)), at::zeros({tokens}, options)});
  for (int64_t first = 0; first < tokens; first += kTokens) {
    const int64_t count = std::min(kTokens, tokens - first);
    std::vector<Chunk<T>> chunks;
    for (std::size_t m = 0; m < models; ++m) chunks.emplace_back(heads[m], hidden[m], first, count);
    const int64_t n = chunks[0].n;
    const auto wanted = wanted_next(next + first, count);
    std::vector<std::vector<C>> picked(models, std::vector<C>(n, 0));
    std::vector<Stats<C>> of_teacher(kSlices, Stats<C>(n));
    std::vector<std::vector<StudentStats<C>>> of_students(students, {kSlices, StudentStats<C>(n)});
    chunks[0].for_slices([&](int64_t slice, int64_t begin, int64_t end) {
      std::vector<C> z(kTile * n), y(kTile * n);
      for (int64_t row = begin; row < end; row += kTile) {
        const int64_t rows = std::min(kTile, end - row);
        const auto [from, to] = within(wanted, row, row + rows);
        const auto pick = [&](std::size_t m, const std::vector<C>& logits) {
          for (auto w = from; w != to; ++w) picked[m][w->column] = logits[(w->row - row) * n + w->column];
        };
        const auto old_max = of_teacher[slice].max;
        chunks[0].logits(row, rows, z.data());
        pick(0, z);
        accumulate<C>(z.data(), rows, n, row, of_teacher[slice], nullptr);
        for (std::size_t s = 0; s < students; ++s) {
          auto& stats = of_students[s][slice];
          chunks[s + 1].logits(row, rows, y.data());
          pick(s + 1, y);
          accumulate<C>(y.data(), rows, n, row, stats.own, nullptr);
          accumulate_product<C>(z.data(), y.data(), rows, n, old_max, of_teacher[slice].max, stats.product);
        }
      }
    });
    Stats<C> teacher(n);
    for (const auto& slice : of_teacher) merge(slice, teacher);
    const auto finish = [&](std::size_t m, const Stats<C>& stats) {
      for (int64_t c = 0; c < count; ++c) {
        const int64_t t = first + c;
        results[m].best.template data_ptr<int64_t>()[t] = static_cast<int64_t>(stats.best[c]);
        if (next[t] >= 0)
          results[m].log_prob.template data_ptr<C>()[t] = picked[m][c] - stats.max[c] - std::log(stats.sum[c]);
      }
    };
    finish(0, teacher);
    for (std::size_t s = 0; s < students; ++s) {
      Stats<C> own(n);
      std::vector<C> product(n, 0);
      for (int64_t i = 0; i < kSlices; ++i) {
        const auto& slice = of_students[s][i];
        merge(slice.own, own);
        for (int64_t c = 0; c < n; ++c)
          if (of_teacher[i].max[c] != kLowest<C>)
            product[c] += slice.product[c] * std::exp(of_teacher[i].max[c] - teacher.max[c]);
      }
      finish(s + 1, own);
      for (int64_t c = 0; c < count; ++c)
        results[s + 1].divergence.template data_ptr<C>()[first + c] =
            product[c] / teacher.sum[c] - teacher.max[c] - std::log(teacher.sum[c]) + own.max[c] + std::log(own.sum[c]);
    }
  }
  return results;
}

}  // namespace

TokenScores next_token_scores(const at::Tensor& hidden, const FrozenHead& head, const at::Tensor& next, int64_t top) {
  check_hidden("next_token_scores", hidden, head);
  check_next("next_token_scores", next, hidden.size(0), head.vocabulary());
  require(top >= 0 && top <= head.vocabulary(), "next_token_scores: top must be within 0 and {}, not {}",
          head.vocabulary(), top);
  const at::NoGradGuard no_gradients;
  if (!hidden.is_cpu()) return plain::next_token_scores(hidden, head, next, top);
  return dispatch(head,
                  [&](auto type) { return score<decltype(type)>(hidden.detach(), head, next.contiguous(), top); });
}

std::vector<ComparedScores> compare_scores(const std::vector<at::Tensor>& hidden, const std::vector<FrozenHead>& heads,
                                           const at::Tensor& next) {
  require(!hidden.empty() && hidden.size() == heads.size(), "compare_scores: {} hidden states for {} heads",
          hidden.size(), heads.size());
  for (std::size_t m = 0; m < hidden.size(); ++m) {
    check_hidden("compare_scores", hidden[m], heads[m]);
    require(heads[m].vocabulary() == heads[0].vocabulary() &&
                heads[m].weight.scalar_type() == heads[0].weight.scalar_type(),
            "compare_scores: heads {} {} and {} {} must agree in vocabulary and dtype",
            c10::toString(heads[0].weight.scalar_type()), heads[0].weight.sizes(),
            c10::toString(heads[m].weight.scalar_type()), heads[m].weight.sizes());
    require(hidden[m].size(0) == hidden[0].size(0), "compare_scores: hidden {} and {} must have the same length",
            hidden[0].sizes(), hidden[m].sizes());
  }
  check_next("compare_scores", next, hidden[0].size(0), heads[0].vocabulary());
  const at::NoGradGuard no_gradients;
  if (!hidden[0].is_cpu()) return plain::compare_scores(hidden, heads, next);
  return dispatch(heads[0], [&](auto type) { return compare<decltype(type)>(hidden, heads, next.contiguous()); });
}

}  // namespace unbend
