#include "unbend/attention/gated_scan_kernel.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "unbend/attention/gated_scan_chunk.h"
#include "unbend/base/error.h"

namespace unbend::kernel {
namespace {

template <class T>
struct Problem {
  int64_t batch, heads, kv_heads, group, length, dk, dv, chunk;
  DecayAxis axis;
  Rows<T> q, k, v, log_decay;
  at::Tensor state;

  Problem(const ScanArguments& at, DecayAxis axis, int64_t chunk)
      : batch(at.q.size(0)),
        heads(at.q.size(1)),
        kv_heads(at.k.size(1)),
        group(heads / kv_heads),
        length(at.q.size(2)),
        dk(at.k.size(3)),
        dv(at.v.size(3)),
        chunk(std::clamp<int64_t>(chunk, 1, std::max<int64_t>(length, 1))),
        // A scalar is the same on both axes; the key axis saves the output's rescaling.
        axis(at.log_decay.defined() && at.log_decay.size(3) == 1 ? DecayAxis::Key : axis),
        q(at.q),
        k(at.k),
        v(at.v),
        log_decay(at.log_decay),
        state(at.state.contiguous()) {}

  int64_t decay_width() const { return axis == DecayAxis::Key ? dk : dv; }
  bool decays_values() const { return log_decay && axis == DecayAxis::Value; }
};

template <class T>
void load_state(const at::Tensor& from, int64_t index, const Tile<T>& to) {
  const int64_t dk = from.size(2), dv = from.size(3);
  const T* source = from.data_ptr<T>() + index * dk * dv;
  for (int64_t m = 0; m < dk; ++m) std::memcpy(to.row(m), source + m * dv, dv * sizeof(T));
}

template <class T>
void store_state(const Tile<T>& from, const at::Tensor& to, int64_t index) {
  const int64_t dk = to.size(2), dv = to.size(3);
  T* target = to.data_ptr<T>() + index * dk * dv;
  for (int64_t m = 0; m < dk; ++m) std::memcpy(target + m * dv, from.row(m), dv * sizeof(T));
}

// Rows of one chunk in rescaled coordinates (see gated_scan_chunk.h); queries of a group are stacked, n rows each.
template <class T>
struct Chunk {
  const Problem<T>& p;
  Tile<T> q, k, v, keys;  // keys = k^T
  ChunkDecay<T> decay;
  int64_t batch = 0, head = 0, time = 0, n = 0;
  int64_t direction = 1;  // of the walk over time, for prefetching

  explicit Chunk(const Problem<T>& p)
      : p(p),
        q(p.group * p.chunk, p.dk),
        k(p.chunk, p.dk),
        v(p.chunk, p.dv),
        keys(p.dk, p.chunk),
        decay(p.chunk, p.decay_width()) {}

  int64_t rows() const { return p.group * n; }

  void load_keys(int64_t b, int64_t h, int64_t t) {
    batch = b, head = h, time = t;
    n = decay.load(p.log_decay, b, h, t, std::min(p.chunk, p.length - t));
    p.k.load(b, h, t, n, k, direction * n);
    p.v.load(b, h, t, n, v, direction * n);
    if (p.log_decay) scale_rows(p.axis == DecayAxis::Key ? k : v, decay.inverse, n);
  }

  void load(int64_t b, int64_t h, int64_t t) {
    load_keys(b, h, t);
    load_group(p.q, q);
    if (p.log_decay && p.axis == DecayAxis::Key) scale_rows(q, decay.product, n, p.group, n);
    transpose(n, p.dk, k.data, k.stride, keys.data, keys.stride);
  }

  void load_group(const Rows<T>& from, const Tile<T>& to) const {
    for (int64_t g = 0; g < p.group; ++g) from.load(batch, head * p.group + g, time, n, to, direction * n, g * n);
  }
  void store_group(const Tile<T>& from, const Rows<T>& to) const {
    for (int64_t g = 0; g < p.group; ++g) to.store(batch, head * p.group + g, time, n, from, g * n);
  }

  // The decay of the first token meets the incoming state; P of the last one everything in the outgoing state.
  void scale_by_first(const Tile<T>& state) const {
    if (p.log_decay) scale_state(state, decay.first.data, p.axis, p.dk);
  }
  void scale_by_last(const Tile<T>& state) const {
    if (p.log_decay && n > 1) scale_state(state, decay.product.row(n - 1), p.axis, p.dk);
  }

  // scores = lower(left right^T), or += : left is stacked by group, `right` is already transposed.
  template <bool kAdd = false>
  void score(const Tile<T>& left, int64_t inner, const Tile<T>& right, const Tile<T>& scores) const {
    product<kAdd>(rows(), n, inner, plain(left), right.data, right.stride, scores.data, scores.stride);
    mask_future(scores, n, p.group, n);
  }

  void advance(const Tile<T>& state) const {
    scale_by_first(state);
    multiply_add(p.dk, n, transposed(k), v, state);
    scale_by_last(state);
  }
};

void check_decay(bool valid) { require(valid, "gated_scan: log_decay has an entry that is positive or NaN"); }

// Runs task(batch, kv head) for all, in parallel; `make` builds the work space of one thread.
template <class T, class Make>
void for_each_head(const Problem<T>& p, Make&& make) {
  std::atomic<bool> invalid = false;
  const int64_t grain = std::max<int64_t>(1, 100000 / std::max<int64_t>(1, p.length * p.group * p.dk * p.dv));
  at::parallel_for(0, p.batch * p.kv_heads, grain, [&](int64_t begin, int64_t end) {
    auto task = make();
    for (int64_t i = begin; i < end; ++i) task(i / p.kv_heads, i % p.kv_heads);
    if (task.chunk.decay.invalid) invalid = true;
  });
  check_decay(!invalid);
}

template <class T>
struct Forward {
  Chunk<T> chunk;
  Tile<T> state, scores, out;
  const Rows<T>& to;
  const at::Tensor& final_state;

  Forward(const Problem<T>& p, const Rows<T>& to, const at::Tensor& final_state)
      : chunk(p),
        state(p.dk, p.dv),
        scores(p.group * p.chunk, p.chunk),
        out(p.group * p.chunk, p.dv),
        to(to),
        final_state(final_state) {}

  void operator()(int64_t batch, int64_t head) {
    const Problem<T>& p = chunk.p;
    load_state(p.state, batch * p.kv_heads + head, state);
    for (int64_t t = 0; t < p.length; t += chunk.n) {
      chunk.load(batch, head, t);
      chunk.score(chunk.q, p.dk, chunk.keys, scores);
      multiply(chunk.rows(), chunk.n, plain(scores), chunk.v, out);
      chunk.scale_by_first(state);
      multiply_add(chunk.rows(), p.dk, plain(chunk.q), state, out);
      multiply_add(p.dk, chunk.n, transposed(chunk.k), chunk.v, state);
      chunk.scale_by_last(state);
      if (p.decays_values()) scale_rows(out, chunk.decay.product, chunk.n, p.group, chunk.n);
      chunk.store_group(out, to);
    }
    store_state(state, final_state, batch * p.kv_heads + head);
  }
};

// One token: reads and writes the state once.
template <class T>
void step(const Problem<T>& p, const Rows<T>& out, const at::Tensor& final_state) {
  const Tile<T> decay(1, p.decay_width());
  const bool by_column = p.decays_values();
  bool valid = true;
  for (int64_t index = 0; index < p.batch * p.kv_heads; ++index) {
    const int64_t batch = index / p.kv_heads, head = index % p.kv_heads;
    if (p.log_decay) valid &= read_decay(p.log_decay.row(batch, head, 0), p.log_decay.width, decay);
    const T *key = p.k.row(batch, head, 0), *value = p.v.row(batch, head, 0);
    const T* from = p.state.template data_ptr<T>() + index * p.dk * p.dv;
    T* to = final_state.data_ptr<T>() + index * p.dk * p.dv;
    for (int64_t g = 0; g < p.group; ++g) std::fill_n(out.row(batch, head * p.group + g, 0), p.dv, T(0));
    for (int64_t m = 0; m < p.dk; ++m, from += p.dv, to += p.dv) {
      const T* HWY_RESTRICT old = from;
      const T k = key[m], a = p.log_decay && !by_column ? decay.data[m] : T(1);
      T* HWY_RESTRICT now = to;
      if (by_column) {
        for (int64_t n = 0; n < p.dv; ++n) now[n] = decay.data[n] * old[n] + k * value[n];
      } else {
        for (int64_t n = 0; n < p.dv; ++n) now[n] = a * old[n] + k * value[n];
      }
      for (int64_t g = 0; g < p.group; ++g) {
        const T q = p.q.row(batch, head * p.group + g, 0)[m];
        T* HWY_RESTRICT sum = out.row(batch, head * p.group + g, 0);
        for (int64_t n = 0; n < p.dv; ++n) sum[n] += q * now[n];
      }
    }
  }
  check_decay(valid);
}

// States at the starts of the chunks of one head: kept for every kSegment-th chunk, the others recomputed per segment.
template <class T>
class StateHistory {
 public:
  static constexpr int64_t kSegment = 16;

  explicit StateHistory(const Problem<T>& p) : state_(p.dk, p.dv), size_(p.dk * state_.stride) {}

  void record(Chunk<T>& chunk, int64_t batch, int64_t head) {
    const Problem<T>& p = chunk.p;
    starts.clear();
    kept_.clear();
    load_state(p.state, batch * p.kv_heads + head, state_);
    for (int64_t t = 0; t < p.length; t += chunk.n) {
      if (starts.size() % kSegment == 0) push(kept_);
      starts.push_back(t);
      chunk.load_keys(batch, head, t);
      chunk.advance(state_);
    }
  }

  int64_t segments() const { return int64_t(kept_.size()) / size_; }

  /// Recomputes the states at the start of every chunk of a segment, and the one after its last.
  void open(int64_t segment, Chunk<T>& chunk) {
    first_ = segment * kSegment;
    std::copy_n(kept_.data() + segment * size_, size_, state_.data);
    open_.clear();
    for (int64_t c = first_; c < last(); ++c) {
      push(open_);
      chunk.load_keys(chunk.batch, chunk.head, starts[c]);
      chunk.advance(state_);
    }
    push(open_);
  }
  int64_t last() const { return std::min<int64_t>(first_ + kSegment, starts.size()); }
  int64_t first() const { return first_; }
  const T* before(int64_t chunk) const { return open_.data() + (chunk - first_) * size_; }
  int64_t size() const { return size_; }

  std::vector<int64_t> starts;  ///< first token of every chunk

 private:
  void push(std::vector<T>& list) const { list.insert(list.end(), state_.data, state_.data + size_); }

  Tile<T> state_;
  int64_t size_, first_ = 0;
  std::vector<T> kept_, open_;
};

template <class T>
struct Pull {
  Chunk<T> chunk;
  StateHistory<T> history;
  Tile<T> state, d_state, state_t, d_state_t, values, scores, d_scores, out, d_out, dq, dk, dv, decay_sum;
  const Rows<T>&d_out_rows, dq_rows, dk_rows, dv_rows, d_decay_rows;
  const at::Tensor &d_final_state, &d_initial_state;

  Pull(const Problem<T>& p, const Rows<T>& d_out_rows, const at::Tensor& d_final_state, const ScanArguments& to)
      : chunk(p),
        history(p),
        state(p.dk, p.dv),
        d_state(p.dk, p.dv),
        state_t(p.dv, p.dk),
        d_state_t(p.dv, p.dk),
        values(p.dv, p.chunk),
        scores(p.group * p.chunk, p.chunk),
        d_scores(p.group * p.chunk, p.chunk),
        out(p.group * p.chunk, p.dv),
        d_out(p.group * p.chunk, p.dv),
        dq(p.group * p.chunk, p.dk),
        dk(p.chunk, p.dk),
        dv(p.chunk, p.dv),
        decay_sum(1, p.decay_width()),
        d_out_rows(d_out_rows),
        dq_rows(to.q),
        dk_rows(to.k),
        dv_rows(to.v),
        d_decay_rows(to.log_decay),
        d_final_state(d_final_state),
        d_initial_state(to.state) {}

  void operator()(int64_t batch, int64_t head) {
    const int64_t index = batch * chunk.p.kv_heads + head;
    chunk.direction = 1;
    history.record(chunk, batch, head);
    load_state(d_final_state, index, d_state);
    for (int64_t segment = history.segments() - 1; segment >= 0; --segment) {
      chunk.direction = 1;
      history.open(segment, chunk);
      chunk.direction = -1;
      for (int64_t c = history.last() - 1; c >= history.first(); --c) {
        chunk.load(batch, head, history.starts[c]);
        pull_chunk(history.before(c), history.before(c + 1));
      }
    }
    store_state(d_state, d_initial_state, index);
  }

 private:
  void pull_chunk(const T* before, const T* after) {
    const Problem<T>& p = chunk.p;
    const int64_t n = chunk.n, rows = chunk.rows();
    chunk.load_group(d_out_rows, d_out);
    if (p.decays_values()) scale_rows(d_out, chunk.decay.product, n, p.group, n);
    if (p.log_decay) start_decay_sum(after);
    chunk.scale_by_last(d_state);
    std::copy_n(before, history.size(), state.data);
    chunk.scale_by_first(state);

    transpose(n, p.dv, chunk.v.data, chunk.v.stride, values.data, values.stride);
    transpose(p.dk, p.dv, state.data, state.stride, state_t.data, state_t.stride);
    transpose(p.dk, p.dv, d_state.data, d_state.stride, d_state_t.data, d_state_t.stride);
    chunk.score(chunk.q, p.dk, chunk.keys, scores);
    chunk.score(d_out, p.dv, values, d_scores);
    multiply(n, rows, transposed(scores), d_out, dv);
    multiply_add(n, p.dk, plain(chunk.k), d_state, dv);
    multiply(rows, n, plain(d_scores), chunk.k, dq);
    multiply_add(rows, p.dv, plain(d_out), state_t, dq);
    multiply(n, rows, transposed(d_scores), chunk.q, dk);
    multiply_add(n, p.dv, plain(chunk.v), d_state_t, dk);
    multiply_add(p.dk, rows, transposed(chunk.q), d_out, d_state);

    if (p.log_decay) {
      if (p.axis == DecayAxis::Key) {
        store_decay(chunk.q, dq, chunk.k, dk);
        scale_rows(dq, chunk.decay.product, n, p.group, n);
        scale_rows(dk, chunk.decay.inverse, n);
      } else {
        multiply(rows, n, plain(scores), chunk.v, out);
        multiply_add(rows, p.dk, plain(chunk.q), state, out);
        store_decay(out, d_out, chunk.v, dv);
        scale_rows(dv, chunk.decay.inverse, n);
      }
      chunk.scale_by_first(d_state);
    }
    chunk.store_group(dq, dq_rows);
    dk_rows.store(chunk.batch, chunk.head, chunk.time, n, dk);
    dv_rows.store(chunk.batch, chunk.head, chunk.time, n, dv);
  }

  // The part of the decays' gradient that comes from after the chunk: state . d_state, summed over the other axis.
  void start_decay_sum(const T* after) {
    const Problem<T>& p = chunk.p;
    const Lanes<T> d;
    decay_sum.storage.zero_();
    for (int64_t m = 0; m < p.dk; ++m) {
      const T *s = after + m * state.stride, *ds = d_state.row(m);
      if (p.axis == DecayAxis::Key) {
        auto sum = hn::Zero(d);
        for_lanes<T>(state.stride,
                     [&](int64_t n) { sum = hn::MulAdd(hn::LoadU(d, s + n), hn::LoadU(d, ds + n), sum); });
        decay_sum.data[m] = hn::GetLane(hn::SumOfLanes(d, sum));
      } else {
        T* sum = decay_sum.data;
        for_lanes<T>(state.stride, [&](int64_t n) {
          hn::StoreU(hn::MulAdd(hn::LoadU(d, s + n), hn::LoadU(d, ds + n), hn::LoadU(d, sum + n)), d, sum + n);
        });
      }
    }
  }

  // d log_decay_t = sum over u >= t of (reader . its gradient - writer . its gradient)_u + decay_sum; the reader is
  // what was multiplied by P (q or the output), the writer what was divided by P (k or v).
  void store_decay(const Tile<T>& reader, const Tile<T>& d_reader, const Tile<T>& writer, const Tile<T>& d_writer) {
    const Lanes<T> d;
    T* sum = decay_sum.data;
    for (int64_t i = chunk.n - 1; i >= 0; --i) {
      for_lanes<T>(decay_sum.stride, [&](int64_t m) {
        auto x = hn::LoadU(d, sum + m);
        for (int64_t g = 0; g < chunk.p.group; ++g) {
          const int64_t row = g * chunk.n + i;
          x = hn::MulAdd(hn::LoadU(d, reader.row(row) + m), hn::LoadU(d, d_reader.row(row) + m), x);
        }
        x = hn::NegMulAdd(hn::LoadU(d, writer.row(i) + m), hn::LoadU(d, d_writer.row(i) + m), x);
        hn::StoreU(x, d, sum + m);
      });
      T* to = d_decay_rows.row(chunk.batch, chunk.head, chunk.time + i);
      const auto alive = [&](int64_t m) { return i > 0 || chunk.decay.first.data[m] > 0; };  // else exactly 0
      if (d_decay_rows.width == 1) {
        T total = 0;
        for (int64_t m = 0; m < decay_sum.width; ++m) total += sum[m];
        to[0] = alive(0) ? total : T(0);
      } else {
        for (int64_t m = 0; m < decay_sum.width; ++m) to[m] = alive(m) ? sum[m] : T(0);
      }
    }
  }
};

template <class T>
struct Push {
  Chunk<T> chunk;
  Tile<T> state, t_state, scores, t_scores, out, t_out, tq, tk, tv, t_keys, t_first, t_product;
  Rows<T> tq_rows, tk_rows, tv_rows, t_decay_rows;
  const Rows<T>& to;
  const at::Tensor &tangent_state, &final_state;

  Push(const Problem<T>& p, const ScanArguments& tangent, const Rows<T>& to, const at::Tensor& final_state)
      : chunk(p),
        state(p.dk, p.dv),
        t_state(p.dk, p.dv),
        scores(p.group * p.chunk, p.chunk),
        t_scores(p.group * p.chunk, p.chunk),
        out(p.group * p.chunk, p.dv),
        t_out(p.group * p.chunk, p.dv),
        tq(p.group * p.chunk, p.dk),
        tk(p.chunk, p.dk),
        tv(p.chunk, p.dv),
        t_keys(p.dk, p.chunk),
        t_first(1, p.decay_width()),
        t_product(p.chunk, p.decay_width()),
        tq_rows(tangent.q),
        tk_rows(tangent.k),
        tv_rows(tangent.v),
        t_decay_rows(tangent.log_decay),
        to(to),
        tangent_state(tangent.state),
        final_state(final_state) {}

  void operator()(int64_t batch, int64_t head) {
    const Problem<T>& p = chunk.p;
    const int64_t index = batch * p.kv_heads + head;
    load_state(p.state, index, state);
    load_state(tangent_state, index, t_state);
    for (int64_t t = 0; t < p.length; t += chunk.n) {
      chunk.load(batch, head, t);
      load_tangents();
      push_chunk();
      chunk.store_group(t_out, to);
    }
    store_state(t_state, final_state, index);
  }

 private:
  // Tangents in rescaled coordinates: those of P_i and 1 / P_i are P_i s_i and -s_i / P_i, with s_i = t_product the sum
  // of the tangents of the log decays of tokens 1..i.
  void load_tangents() {
    const Problem<T>& p = chunk.p;
    const int64_t n = chunk.n;
    chunk.load_group(tq_rows, tq);
    tk_rows.load(chunk.batch, chunk.head, chunk.time, n, tk, n);
    tv_rows.load(chunk.batch, chunk.head, chunk.time, n, tv, n);
    if (p.log_decay) {
      read_decay(0, t_first.data, nullptr);
      std::fill_n(t_product.data, t_product.stride, T(0));
      for (int64_t i = 1; i < n; ++i) read_decay(i, t_product.row(i), t_product.row(i - 1));
      const bool on_key = p.axis == DecayAxis::Key;
      const Tile<T>&writer = on_key ? chunk.k : chunk.v, &t_writer = on_key ? tk : tv;
      scale_rows(t_writer, chunk.decay.inverse, n);
      add_rows<true>(t_writer, writer, 1);
      if (on_key) {
        scale_rows(tq, chunk.decay.product, n, p.group, n);
        add_rows<false>(tq, chunk.q, p.group);
      }
    }
    transpose(n, p.dk, tk.data, tk.stride, t_keys.data, t_keys.stride);
  }

  void push_chunk() {
    const Problem<T>& p = chunk.p;
    const int64_t n = chunk.n, rows = chunk.rows();
    if (p.log_decay) add_state(t_first.data);  // before the decay of the first token
    chunk.scale_by_first(state);
    chunk.scale_by_first(t_state);

    chunk.score(chunk.q, p.dk, chunk.keys, scores);
    chunk.score(tq, p.dk, chunk.keys, t_scores);
    chunk.template score<true>(chunk.q, p.dk, t_keys, t_scores);
    multiply(rows, n, plain(t_scores), chunk.v, t_out);
    multiply_add(rows, n, plain(scores), tv, t_out);
    multiply_add(rows, p.dk, plain(tq), state, t_out);
    multiply_add(rows, p.dk, plain(chunk.q), t_state, t_out);
    if (p.decays_values()) {
      multiply(rows, n, plain(scores), chunk.v, out);
      multiply_add(rows, p.dk, plain(chunk.q), state, out);
      add_rows<false>(t_out, out, p.group);
      scale_rows(t_out, chunk.decay.product, n, p.group, n);
    }

    multiply_add(p.dk, n, transposed(chunk.k), chunk.v, state);
    multiply_add(p.dk, n, transposed(tk), chunk.v, t_state);
    multiply_add(p.dk, n, transposed(chunk.k), tv, t_state);
    if (p.log_decay) add_state(t_product.row(n - 1));
    chunk.scale_by_last(state);
    chunk.scale_by_last(t_state);
  }

  void read_decay(int64_t i, T* to, const T* previous) {
    const T* from = t_decay_rows.row(chunk.batch, chunk.head, chunk.time + i);
    for (int64_t m = 0; m < t_first.width; ++m) {
      to[m] = from[t_decay_rows.width == 1 ? 0 : m] + (previous ? previous[m] : T(0));
    }
  }

  // x += s y, or -= : rows of all groups.
  template <bool kSubtract>
  void add_rows(const Tile<T>& x, const Tile<T>& y, int64_t groups) const {
    const Lanes<T> d;
    for (int64_t row = 0; row < groups * chunk.n; ++row) {
      T* to = x.row(row);
      const T *from = y.row(row), *sum = t_product.row(row % chunk.n);
      for_lanes<T>(x.stride, [&](int64_t m) {
        const auto a = hn::LoadU(d, to + m), b = hn::LoadU(d, from + m), c = hn::LoadU(d, sum + m);
        hn::StoreU(kSubtract ? hn::NegMulAdd(b, c, a) : hn::MulAdd(b, c, a), d, to + m);
      });
    }
  }

  // t_state += factor . state along the axis of the decay.
  void add_state(const T* factor) const {
    const Lanes<T> d;
    for (int64_t m = 0; m < chunk.p.dk; ++m) {
      T* to = t_state.row(m);
      const T* from = state.row(m);
      const bool on_key = chunk.p.axis == DecayAxis::Key;
      const auto row_factor = hn::Set(d, factor[on_key ? m : 0]);
      for_lanes<T>(state.stride, [&](int64_t n) {
        const auto scale = on_key ? row_factor : hn::LoadU(d, factor + n);
        hn::StoreU(hn::MulAdd(hn::LoadU(d, from + n), scale, hn::LoadU(d, to + n)), d, to + n);
      });
    }
  }
};

template <class F>
auto for_type(const ScanArguments& at, F&& f) {
  return at.q.scalar_type() == at::kDouble ? f.template operator()<double>() : f.template operator()<float>();
}

}  // namespace

Scan scan_forward(const ScanArguments& at, DecayAxis axis, int64_t chunk) {
  return for_type(at, [&]<class T>() {
    const Problem<T> p(at, axis, chunk);
    Scan result = {at::empty({p.batch, p.heads, p.length, p.dv}, at.q.options()), at::empty_like(p.state)};
    const Rows<T> out(result.out);
    if (p.length == 1) {
      step(p, out, result.state);
    } else {
      for_each_head(p, [&] { return Forward<T>(p, out, result.state); });
    }
    return result;
  });
}

ScanArguments scan_pull(const ScanArguments& at, DecayAxis axis, int64_t chunk, const at::Tensor& d_out,
                        const at::Tensor& d_state) {
  return for_type(at, [&]<class T>() {
    const Problem<T> p(at, axis, chunk);
    const auto like = [](const at::Tensor& x) { return x.defined() ? at::empty(x.sizes(), x.options()) : x; };
    const ScanArguments to = {like(at.q), like(at.k), like(at.v), like(at.log_decay), like(at.state)};
    const Rows<T> d_out_rows(d_out);
    const at::Tensor d_final_state = d_state.contiguous();
    for_each_head(p, [&] { return Pull<T>(p, d_out_rows, d_final_state, to); });
    return to;
  });
}

Scan scan_push(const ScanArguments& at, DecayAxis axis, int64_t chunk, const ScanArguments& tangent) {
  return for_type(at, [&]<class T>() {
    const Problem<T> p(at, axis, chunk);
    const auto dense = [](const at::Tensor& t, const at::Tensor& x) {
      return !x.defined() ? x : t.defined() ? t : at::zeros({}, x.options()).expand(x.sizes()).contiguous();
    };
    const ScanArguments dense_tangent = {dense(tangent.q, at.q), dense(tangent.k, at.k), dense(tangent.v, at.v),
                                         dense(tangent.log_decay, at.log_decay),
                                         dense(tangent.state, at.state).contiguous()};
    Scan result = {at::empty({p.batch, p.heads, p.length, p.dv}, at.q.options()), at::empty_like(p.state)};
    const Rows<T> out(result.out);
    for_each_head(p, [&] { return Push<T>(p, dense_tangent, out, result.state); });
    return result;
  });
}

}  // namespace unbend::kernel
