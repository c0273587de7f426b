// Tiles of queries against their band of keys (FlashAttention, Dao 2023, arXiv 2307.08691, cut to a band). The forward
// works on rows of queries; the backward on the transposed scores, where everything per query is a vector along a row
// and the products for dk and dv run over all query heads of a kv head at once.
#include "unbend/attention/window_kernel.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "unbend/attention/simd.h"

namespace unbend {
namespace {

using namespace simd;

struct Shape {
  int64_t batch, heads, kv_heads, group, tokens, d, dv;
  WindowOptions options;  // window, sinks and step cut to the sequence's length
  int64_t tile;           // queries in a tile, a multiple of 16
  int64_t tiles;          // per sequence
  int64_t padded;         // tokens rounded up to whole tiles

  // The first query that no longer has key j in its window.
  int64_t left(int64_t j) const { return ((j + options.window - 1) / options.step + 1) * options.step; }
};

Shape shape_of(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const WindowOptions& options) {
  Shape s;
  s.batch = q.size(0), s.heads = q.size(1), s.kv_heads = k.size(1), s.group = s.heads / s.kv_heads;
  s.tokens = q.size(2), s.d = q.size(3), s.dv = v.size(3);
  const int64_t longest = std::max<int64_t>(s.tokens, 1);
  s.options = {.window = std::min(options.window, longest),
               .sinks = std::min(options.sinks, s.tokens),
               .scale = options.scale,
               .step = std::min(options.step, longest)};
  // A tile of n queries multiplies n - 1 keys outside the window of each: small windows want small tiles.
  s.tile = s.options.span() <= 96 ? 16 : s.options.span() <= 512 ? 32 : 64;
  s.tiles = (s.tokens + s.tile - 1) / s.tile;
  s.padded = s.tiles * s.tile;
  return s;
}

// Keys [begin, end) of one product, both even, as pairs of bfloat16 rows want it. Query t sees those in [first, last)
// that are <= t and, if windowed, in its window.
struct Piece {
  int64_t begin, end, first, last;
  bool windowed;
  int64_t count() const { return end - begin; }
};

// What the queries [t0, t0 + tile) see, sinks first, in pieces of at most `longest` keys (even).
std::vector<Piece> pieces_of(const Shape& s, int64_t t0, int64_t longest) {
  std::vector<Piece> pieces;
  const int64_t t1 = t0 + s.tile;
  const auto add = [&](int64_t first, int64_t last, bool windowed) {
    const int64_t all_end = (last + 1) / 2 * 2;
    for (int64_t begin = first / 2 * 2; begin < all_end; begin += longest) {
      const int64_t end = std::min(begin + longest, all_end);
      pieces.push_back({begin, end, std::max(first, begin), std::min(last, end), windowed});
    }
  };
  const int64_t sinks = std::min(s.options.sinks, t1);
  if (sinks > 0) add(0, sinks, false);
  // The window's lower edge; a sink inside it is already counted.
  const int64_t band = std::max(sinks, s.options.first(t0));
  if (band < t1) add(band, t1, true);
  return pieces;
}

template <class T>
T* allocate(std::vector<at::Tensor>& owner, int64_t count) {
  owner.push_back(at::empty({static_cast<int64_t>(count * sizeof(T))}, at::TensorOptions().dtype(at::kByte)));
  return reinterpret_cast<T*>(owner.back().data_ptr());
}

// A view whose last dimension is contiguous.
at::Tensor rows_of(const at::Tensor& x) { return x.size(-1) <= 1 || x.stride(-1) == 1 ? x : x.contiguous(); }

// Copies of one kind per (batch, kv head), so that every product has operands it can read: see the callers.
template <class T, class Fill>
T* per_kv_head(std::vector<at::Tensor>& owner, const Shape& s, int64_t size, const Fill& fill) {
  T* all = allocate<T>(owner, s.batch * s.kv_heads * size);
  at::parallel_for(0, s.batch * s.kv_heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      std::fill_n(all + i * size, size, T(0));
      fill(i / s.kv_heads, i % s.kv_heads, all + i * size);
    }
  });
  return all;
}

template <class T>
const T* row(const at::Tensor& x, int64_t b, int64_t h, int64_t t) {
  return x.const_data_ptr<T>() + b * x.stride(0) + h * x.stride(1) + t * x.stride(2);
}

// Keys in one softmax pass of the forward: a tile's scores stay in the second-level cache.
constexpr int64_t kForwardKeys = 512;
// Keys in one pass of the backward, which holds five tiles of this many rows for all heads of a group.
int64_t backward_keys(const Shape& s) { return 8192 / s.tile; }

// Softmax statistics of one query over what was seen so far.
template <class C>
struct Row {
  C max = -std::numeric_limits<C>::infinity();
  C sum = 0;
  int64_t largest = 0;
};

// Turns the scores of one query into unnormalised weights: visible columns [lo, hi) of [0, count), zero elsewhere.
template <class T, class C>
void find_max(const C* scores, int64_t lo, int64_t hi, C scale, int64_t first_key, Row<C>& row) {
  const hn::ScalableTag<C> d;
  const int64_t lanes = hn::Lanes(d);
  const auto factor = hn::Set(d, scale);
  auto max = hn::Set(d, -std::numeric_limits<C>::infinity());
  int64_t i = lo;
  for (; i + lanes <= hi; i += lanes) max = hn::Max(max, hn::Mul(factor, hn::LoadU(d, scores + i)));
  C best = hn::GetLane(hn::MaxOfLanes(d, max));
  for (; i < hi; ++i) best = std::max(best, scale * scores[i]);
  if (!(best > row.max)) return;
  row.max = best;
  const auto wanted = hn::Set(d, best);
  for (i = lo; i + lanes <= hi; i += lanes) {
    const auto found = hn::FindFirstTrue(d, hn::Eq(hn::Mul(factor, hn::LoadU(d, scores + i)), wanted));
    if (found >= 0) {
      row.largest = first_key + i + found;
      return;
    }
  }
  while (i < hi - 1 && scale * scores[i] != best) ++i;
  row.largest = first_key + i;
}

template <class T, class C>
C exponentiate(const C* scores, int64_t lo, int64_t hi, int64_t count, C scale, C max, T* weights) {
  const hn::ScalableTag<C> d;
  const int64_t lanes = hn::Lanes(d);
  const auto factor = hn::Set(d, scale), shift = hn::Set(d, max);
  auto sum = hn::Zero(d);
  const auto weight = [&](int64_t i) { return hn::Exp(d, hn::MulSub(factor, hn::LoadU(d, scores + i), shift)); };
  // Rows of scores and weights are padded to whole vectors, so the edges are masked vectors.
  std::memset(static_cast<void*>(weights), 0, count * sizeof(T));
  int64_t i = lo / lanes * lanes;
  for (; i < hi; i += lanes) {
    auto w = weight(i);
    if (i < lo) w = hn::IfThenZeroElse(hn::FirstN(d, lo - i), w);
    if (i + lanes > hi) w = hn::IfThenElseZero(hn::FirstN(d, hi - i), w);
    sum = hn::Add(sum, w);
    store(d, w, weights + i);
  }
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

template <class T>
WindowForward forward_kernel(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Shape& s) {
  using C = Compute<T>;
  const auto options = q.options().dtype(c10::CppTypeToScalarType<C>::value);
  WindowForward result;
  result.out = at::empty({s.batch, s.tokens, s.heads, s.dv}, options).transpose(1, 2);
  result.max = at::empty({s.batch, s.heads, s.tokens}, options);
  result.lse = at::empty({s.batch, s.heads, s.tokens}, options);
  result.largest = at::empty({s.batch, s.heads, s.tokens}, q.options().dtype(at::kLong));
  C* const out = result.out.template data_ptr<C>();
  C* const max = result.max.template data_ptr<C>();
  C* const lse = result.lse.template data_ptr<C>();
  int64_t* const largest = result.largest.template data_ptr<int64_t>();

  std::vector<at::Tensor> owner;
  const T* const keys_t = per_kv_head<T>(owner, s, s.d * s.padded, [&](int64_t b, int64_t h, T* to) {
    pack_transposed(row<T>(k, b, h, 0), s.tokens, s.d, k.stride(2), to, s.padded);
  });
  const T* const values = per_kv_head<T>(owner, s, s.padded * s.dv, [&](int64_t b, int64_t h, T* to) {
    pack_rows(row<T>(v, b, h, 0), s.tokens, s.dv, v.stride(2), to);
  });

  const C scale = static_cast<C>(s.options.scale);
  at::parallel_for(0, s.batch * s.kv_heads * s.tiles, 1, [&](int64_t begin, int64_t end) {
    std::vector<at::Tensor> scratch;
    const int64_t widest = std::min(kForwardKeys, s.padded) + 2;
    const int64_t ld = (widest + 63) / 64 * 64;
    C* const scores = allocate<C>(scratch, s.tile * ld + 64);  // whole vectors may reach over the last row's end
    T* const weights = allocate<T>(scratch, s.tile * ld + 64);
    C* const sum = allocate<C>(scratch, s.tile * s.dv);
    std::vector<Row<C>> rows(s.tile);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t kv = task / s.tiles, b = kv / s.kv_heads, t0 = task % s.tiles * s.tile;
      const int64_t count = std::min(s.tile, s.tokens - t0);
      const auto pieces = pieces_of(s, t0, kForwardKeys);
      for (int64_t g = 0; g < s.group; ++g) {
        const int64_t h = kv % s.kv_heads * s.group + g;
        std::fill(rows.begin(), rows.end(), Row<C>{});
        bool first = true;
        for (auto next = pieces.begin(); next != pieces.end();) {
          // As many pieces as fit share one softmax pass, so that a few sinks cost no rescaling.
          auto last = next;
          int64_t columns = 0;
          for (; last != pieces.end() && columns + last->count() <= ld; ++last) {
            multiply(count, last->count(), s.d, row<T>(q, b, h, t0), q.stride(2),
                     keys_t + kv * s.d * s.padded + last->begin * kGroup<T>, s.padded, scores + columns, ld, false);
            columns += last->count();
          }
          for (int64_t r = 0; r < count; ++r) {
            const auto visible = [&](const Piece& p) {
              const int64_t t = t0 + r, lo = p.windowed ? std::max(p.first, s.options.first(t)) : p.first;
              return std::pair{lo - p.begin, std::min(t + 1, p.last) - p.begin};
            };
            Row<C>& state = rows[r];
            const C before = state.max;
            int64_t column = r * ld;
            for (auto p = next; p != last; column += p->count(), ++p) {
              const auto [lo, hi] = visible(*p);
              if (lo < hi) find_max<T>(scores + column, lo, hi, scale, p->begin, state);
            }
            if (!first && state.max > before) {
              const C factor = std::exp(before - state.max);
              state.sum *= factor;
              for (int64_t c = 0; c < s.dv; ++c) sum[r * s.dv + c] *= factor;
            }
            column = r * ld;
            for (auto p = next; p != last; column += p->count(), ++p) {
              const auto [lo, hi] = visible(*p);
              if (lo < hi) {
                state.sum += exponentiate(scores + column, lo, hi, p->count(), scale, state.max, weights + column);
              } else {
                std::memset(static_cast<void*>(weights + column), 0, p->count() * sizeof(T));
              }
            }
          }
          columns = 0;
          for (; next != last; columns += next->count(), ++next) {
            multiply(count, s.dv, next->count(), weights + columns, ld, values + (kv * s.padded + next->begin) * s.dv,
                     s.dv, sum, s.dv, !first);
            first = false;
          }
        }
        for (int64_t r = 0; r < count; ++r) {
          const int64_t index = (b * s.heads + h) * s.tokens + t0 + r;
          C* const to = out + ((b * s.tokens + t0 + r) * s.heads + h) * s.dv;
          const C inverse = 1 / rows[r].sum;
          for (int64_t c = 0; c < s.dv; ++c) to[c] = sum[r * s.dv + c] * inverse;
          max[index] = rows[r].max;
          lse[index] = rows[r].max + std::log(rows[r].sum);
          largest[index] = rows[r].largest;
        }
      }
    }
  });
  return result;
}
// What the backward knows of the queries of a tile, one entry per query and head of the group, column by column.
template <class C>
struct Columns {
  std::vector<C> lse, shift, d_max;  // shift = out . d_out - d_lse
  std::vector<C> largest;            // as numbers of type C: exact below 2^24 and 2^53
};

// One key's row of the transposed scores: p = exp(scale s - lse), ds = scale (p (dp - shift) + d_max at the largest).
// lo, hi: columns in which each head sees the key. Writes zeros elsewhere.
template <class C>
struct KeyRow {
  C key;
  int64_t lo, hi;
};

template <class D, class C>
HWY_INLINE void score_gradient(D d, const C* scores, const C* d_weights, const Columns<C>& columns,
                               const KeyRow<C>& key, int64_t n, int64_t in_head, C scale, bool with_max, hn::Vec<D>& p,
                               hn::Vec<D>& ds) {
  const int64_t lanes = hn::Lanes(d);
  if (in_head + lanes <= key.lo || in_head >= key.hi) {
    p = ds = hn::Zero(d);
    return;
  }
  const auto factor = hn::Set(d, scale);
  p = hn::Exp(d, hn::MulSub(factor, hn::LoadU(d, scores + n), hn::LoadU(d, &columns.lse[n])));
  ds = hn::Mul(p, hn::Sub(hn::LoadU(d, d_weights + n), hn::LoadU(d, &columns.shift[n])));
  if (with_max) {
    const auto here = hn::Eq(hn::LoadU(d, &columns.largest[n]), hn::Set(d, key.key));
    ds = hn::Add(ds, hn::IfThenElseZero(here, hn::LoadU(d, &columns.d_max[n])));
  }
  ds = hn::Mul(factor, ds);
  if (in_head < key.lo) {
    const auto hidden = hn::FirstN(d, key.lo - in_head);
    p = hn::IfThenZeroElse(hidden, p), ds = hn::IfThenZeroElse(hidden, ds);
  }
  if (in_head + lanes > key.hi) {
    const auto seen = hn::FirstN(d, key.hi - in_head);
    p = hn::IfThenElseZero(seen, p), ds = hn::IfThenElseZero(seen, ds);
  }
}

template <class T>
WindowPull pull_kernel(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const WindowForward& forward,
                       const at::Tensor& d_out, const at::Tensor& d_max_or_none, const at::Tensor& d_lse_or_none,
                       const Shape& s) {
  using C = Compute<T>;
  const at::Tensor held[] = {forward.lse.contiguous(), forward.largest.contiguous(),
                             d_max_or_none.defined() ? d_max_or_none.contiguous() : d_max_or_none,
                             d_lse_or_none.defined() ? d_lse_or_none.contiguous() : d_lse_or_none};
  const C* const lse = held[0].template const_data_ptr<C>();
  const int64_t* const largest = held[1].template const_data_ptr<int64_t>();
  const C* const d_max = held[2].defined() ? held[2].template const_data_ptr<C>() : nullptr;
  const C* const d_lse = held[3].defined() ? held[3].template const_data_ptr<C>() : nullptr;
  const int64_t n = s.group * s.tile;  // columns: the queries of a tile, head after head

  std::vector<at::Tensor> owner;
  const T* const keys = per_kv_head<T>(owner, s, s.padded * s.d, [&](int64_t b, int64_t h, T* to) {
    const T* const from = row<T>(k, b, h, 0);
    for (int64_t t = 0; t < s.tokens; ++t) std::copy_n(from + t * k.stride(2), s.d, to + t * s.d);
  });
  const T* const values = per_kv_head<T>(owner, s, s.padded * s.dv, [&](int64_t b, int64_t h, T* to) {
    const T* const from = row<T>(v, b, h, 0);
    for (int64_t t = 0; t < s.tokens; ++t) std::copy_n(from + t * v.stride(2), s.dv, to + t * s.dv);
  });
  const T* const keys_t = per_kv_head<T>(owner, s, s.d * s.padded, [&](int64_t b, int64_t h, T* to) {
    const T* const from = row<T>(k, b, h, 0);
    for (int64_t c = 0; c < s.d; ++c) {
      for (int64_t t = 0; t < s.tokens; ++t) to[c * s.padded + t] = from[t * k.stride(2) + c];
    }
  });

  // Neighbouring tiles add to the same keys, so a sequence is cut into few segments with sums of their own.
  const int64_t sequences = s.batch * s.kv_heads;
  const int64_t segments = std::clamp<int64_t>(
      (2 * at::get_num_threads() + sequences - 1) / std::max<int64_t>(sequences, 1), 1, std::max<int64_t>(s.tiles, 1));
  const auto options = q.options().dtype(c10::CppTypeToScalarType<C>::value);
  const auto dk = at::zeros({segments, s.batch, s.kv_heads, s.padded, s.d}, options);
  const auto dv = at::zeros({segments, s.batch, s.kv_heads, s.padded, s.dv}, options);
  const auto dq = at::empty({s.batch, s.heads, s.tokens, s.d}, q.options());

  const C scale = static_cast<C>(s.options.scale);
  const bool with_max = d_max != nullptr;
  at::parallel_for(0, segments * sequences, 1, [&](int64_t begin, int64_t end) {
    std::vector<at::Tensor> scratch;
    const int64_t widest = std::min(backward_keys(s), s.padded);
    C* const scores = allocate<C>(scratch, widest * n);
    C* const d_weights = allocate<C>(scratch, widest * n);
    T* const weights = allocate<T>(scratch, widest * n);
    T* const d_scores = allocate<T>(scratch, widest * n);
    T* const d_scores_pairs = kGroup<T> == 2 ? allocate<T>(scratch, widest * n) : d_scores;
    T* const q_t = allocate<T>(scratch, s.d * n);
    T* const q_rows = allocate<T>(scratch, s.d * n);
    T* const d_out_t = allocate<T>(scratch, s.dv * n);
    T* const d_out_rows = allocate<T>(scratch, s.dv * n);
    T* const d_out_tile = allocate<T>(scratch, s.dv * s.tile);
    C* const dq_t = allocate<C>(scratch, s.d * n);
    Columns<C> columns{std::vector<C>(n), std::vector<C>(n), std::vector<C>(n), std::vector<C>(n)};
    const hn::ScalableTag<C> d;
    const int64_t lanes = hn::Lanes(d);

    for (int64_t task = begin; task < end; ++task) {
      const int64_t segment = task / sequences, kv = task % sequences, b = kv / s.kv_heads;
      C* const dk_sum = dk.template data_ptr<C>() + task * s.padded * s.d;
      C* const dv_sum = dv.template data_ptr<C>() + task * s.padded * s.dv;
      for (int64_t tile = segment * s.tiles / segments; tile < (segment + 1) * s.tiles / segments; ++tile) {
        const int64_t t0 = tile * s.tile, count = std::min(s.tile, s.tokens - t0);
        const int64_t h0 = kv % s.kv_heads * s.group;
        for (T* x : {q_t, q_rows}) std::memset(static_cast<void*>(x), 0, s.d * n * sizeof(T));
        for (T* x : {d_out_t, d_out_rows}) std::memset(static_cast<void*>(x), 0, s.dv * n * sizeof(T));
        for (int64_t g = 0; g < s.group; ++g) {
          const int64_t column = g * s.tile;
          const T* const q_rows_in = row<T>(q, b, h0 + g, t0);
          pack_transposed(q_rows_in, count, s.d, q.stride(2), q_t + column * kGroup<T>, n);
          pack_rows(q_rows_in, count, s.d, q.stride(2), q_rows + column * s.d);
          if (d_out.defined()) {
            for (int64_t r = 0; r < count; ++r) {
              const C* const from = row<C>(d_out, b, h0 + g, t0 + r);
              for (int64_t c = 0; c < s.dv; ++c) d_out_tile[r * s.dv + c] = from[c];
            }
            pack_transposed(d_out_tile, count, s.dv, s.dv, d_out_t + column * kGroup<T>, n);
            pack_rows(d_out_tile, count, s.dv, s.dv, d_out_rows + column * s.dv);
          }
          for (int64_t r = 0; r < s.tile; ++r) {
            const int64_t i = column + r;
            columns.lse[i] = columns.shift[i] = columns.d_max[i] = 0, columns.largest[i] = -1;
            if (r >= count) continue;
            const int64_t index = (b * s.heads + h0 + g) * s.tokens + t0 + r;
            columns.lse[i] = lse[index];
            if (d_out.defined()) {
              const C *x = row<C>(forward.out, b, h0 + g, t0 + r), *y = row<C>(d_out, b, h0 + g, t0 + r);
              for (int64_t c = 0; c < s.dv; ++c) columns.shift[i] += x[c] * y[c];
            }
            if (d_lse) columns.shift[i] -= d_lse[index];
            if (d_max) columns.d_max[i] = d_max[index], columns.largest[i] = static_cast<C>(largest[index]);
          }
        }
        bool first = true;
        for (const Piece& piece : pieces_of(s, t0, backward_keys(s))) {
          const int64_t rows = piece.count(), base = kv * s.padded + piece.begin;
          multiply(rows, n, s.d, keys + base * s.d, s.d, q_t, n, scores, n, false);
          multiply(rows, n, s.dv, values + base * s.dv, s.dv, d_out_t, n, d_weights, n, false);
          for (int64_t r = 0; r < rows; r += 2) {
            KeyRow<C> key[2];
            for (int64_t i = 0; i < 2; ++i) {
              const int64_t j = piece.begin + r + i;
              key[i].key = static_cast<C>(j);
              key[i].lo = std::max<int64_t>(j - t0, 0);
              key[i].hi = piece.windowed ? std::min(s.left(j) - t0, s.tile) : s.tile;
              if (j < piece.first || j >= std::min(piece.last, s.tokens)) key[i].hi = key[i].lo;
            }
            for (int64_t g = 0; g < s.group; ++g) {
              for (int64_t in_head = 0; in_head < s.tile; in_head += lanes) {
                const int64_t i = g * s.tile + in_head, even = r * n + i, odd = even + n;
                auto p0 = hn::Zero(d), p1 = p0, ds0 = p0, ds1 = p0;
                score_gradient(d, scores + r * n, d_weights + r * n, columns, key[0], i, in_head, scale, with_max, p0,
                               ds0);
                score_gradient(d, scores + (r + 1) * n, d_weights + (r + 1) * n, columns, key[1], i, in_head, scale,
                               with_max, p1, ds1);
                store(d, p0, weights + even), store(d, p1, weights + odd);
                store(d, ds0, d_scores + even), store(d, ds1, d_scores + odd);
                if constexpr (kGroup<T> == 2) store_pairs(d, ds0, ds1, d_scores_pairs + r * n + 2 * i);
              }
            }
          }
          multiply(rows, s.dv, n, weights, n, d_out_rows, s.dv, dv_sum + piece.begin * s.dv, s.dv, true);
          multiply(rows, s.d, n, d_scores, n, q_rows, s.d, dk_sum + piece.begin * s.d, s.d, true);
          multiply(s.d, n, rows, keys_t + kv * s.d * s.padded + piece.begin, s.padded, d_scores_pairs, n, dq_t, n,
                   !first);
          first = false;
        }
        for (int64_t g = 0; g < s.group; ++g) {
          for (int64_t r = 0; r < count; ++r) {
            T* const to = dq.template data_ptr<T>() + ((b * s.heads + h0 + g) * s.tokens + t0 + r) * s.d;
            for (int64_t c = 0; c < s.d; ++c) to[c] = dq_t[c * n + g * s.tile + r];
          }
        }
      }
    }
  });
  const auto finish = [&](const at::Tensor& sums, const at::Tensor& like) {
    const auto sum = segments == 1 ? sums[0] : sums.sum(0);
    return sum.narrow(2, 0, s.tokens).to(like.scalar_type());
  };
  return {dq, finish(dk, k), finish(dv, v)};
}

// Runs `kernel` with the type of the tensors; bfloat16 that the products cannot take becomes float32.
template <class Kernel>
auto dispatch(at::ScalarType dtype, const Kernel& kernel) {
  switch (dtype) {
    case at::kDouble: return kernel(double());
    case at::kFloat: return kernel(float());
    default: return kernel(c10::BFloat16());
  }
}

bool needs_float(const at::Tensor& q, const at::Tensor& v) {
  return q.scalar_type() == at::kBFloat16 && (!simd::kHasBFloat16Products || q.size(3) % 2 != 0 || v.size(3) % 2 != 0);
}

}  // namespace

WindowForward window_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                             const WindowOptions& options) {
  if (needs_float(q, v)) return window_forward(q.to(at::kFloat), k.to(at::kFloat), v.to(at::kFloat), options);
  return dispatch(q.scalar_type(), [&](auto type) {
    return forward_kernel<decltype(type)>(rows_of(q), rows_of(k), rows_of(v), shape_of(q, k, v, options));
  });
}

WindowPull window_pull(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const WindowForward& forward,
                       const at::Tensor& d_out, const at::Tensor& d_max, const at::Tensor& d_lse,
                       const WindowOptions& options) {
  if (needs_float(q, v)) {
    const auto pull =
        window_pull(q.to(at::kFloat), k.to(at::kFloat), v.to(at::kFloat), forward, d_out, d_max, d_lse, options);
    return {pull.q.to(at::kBFloat16), pull.k.to(at::kBFloat16), pull.v.to(at::kBFloat16)};
  }
  return dispatch(q.scalar_type(), [&](auto type) {
    return pull_kernel<decltype(type)>(rows_of(q), rows_of(k), rows_of(v), forward,
                                       d_out.defined() ? rows_of(d_out) : d_out, d_max, d_lse,
                                       shape_of(q, k, v, options));
  });
}

}  // namespace unbend
