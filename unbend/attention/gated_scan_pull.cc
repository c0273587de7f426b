// The pull of the gated scan: gradients of all arguments, backwards over the chunks of each piece.
//
// With E the state that a chunk reads and R the one that it leaves, in its rescaled coordinates (gated_scan_chunk.h):
//   scores = lower(q k^T), out = scores v + q E, R = E + k^T v,
// and E of the next chunk is R times g = P of the last token times the decay of the next chunk's first. Backwards the
// gradient of E comes out of a chunk, and that of R, g times it, goes into the one before. A segment is first walked
// forwards for the states, which are kept transposed, as most products want them.
#include <utility>
#include <vector>

#include "unbend/attention/gated_scan_work.h"

namespace unbend::kernel {
namespace {

// What the walk over a segment leaves for the way back: E^T, and the chunk's keys, values and decays.
template <class T>
struct Entered {
  Tile<T> state, k, v, first, product, inverse;
  int64_t time = 0, n = 0;

  explicit Entered(const Problem<T>& p)
      : state(p.dv, p.dk),
        k(p.chunk, p.dk),
        v(p.chunk, p.dv),
        first(1, p.decay_width()),
        product(p.chunk, p.decay_width()),
        inverse(p.chunk, p.decay_width()) {}

  void exchange(Chunk<T>& chunk) {
    std::swap(k, chunk.k);
    std::swap(v, chunk.v);
    std::swap(first, chunk.decay.first);
    std::swap(product, chunk.decay.product);
    std::swap(inverse, chunk.decay.inverse);
    std::swap(time, chunk.time);
    std::swap(n, chunk.n);
  }
};

template <class T>
struct Pull {
  Chunk<T> chunk;
  std::vector<Entered<T>> entered;  // the chunks of a segment, and E^T of the chunk after it
  Tile<T> state, state_t, d_state, d_state_t, values, scores, d_scores, out, d_out, dq, dk, dv;
  Tile<T> next_first, factor, decay_sum;
  const Rows<T>&d_out_rows, dq_rows, dk_rows, dv_rows, d_decay_rows;
  const at::Tensor &segment_states, &d_final_state, &d_initial_state;
  Handover<T>& handover;

  Pull(const Problem<T>& p, const at::Tensor& segment_states, const Rows<T>& d_out_rows,
       const at::Tensor& d_final_state, const ScanArguments& to, Handover<T>& handover)
      : chunk(p),
        state(p.dk, p.dv),
        state_t(p.dv, p.dk),
        d_state(p.dk, p.dv),
        d_state_t(p.dv, p.dk),
        values(p.dv, p.chunk),
        scores(p.group * p.chunk, p.chunk),
        d_scores(p.group * p.chunk, p.chunk),
        out(p.group * p.chunk, p.dv),
        d_out(p.group * p.chunk, p.dv),
        dq(p.group * p.chunk, p.dk),
        dk(p.chunk, p.dk),
        dv(p.chunk, p.dv),
        next_first(1, p.decay_width()),
        factor(1, p.decay_width()),
        decay_sum(1, p.decay_width()),
        d_out_rows(d_out_rows),
        dq_rows(to.q),
        dk_rows(to.k),
        dv_rows(to.v),
        d_decay_rows(to.log_decay),
        segment_states(segment_states),
        d_final_state(d_final_state),
        d_initial_state(to.state),
        handover(handover) {}

  void operator()(const Piece& piece) {
    const Problem<T>& p = chunk.p;
    const int64_t index = piece.batch * p.kv_heads + piece.head;
    if (!handover.take(piece.cut_after, d_state, next_first)) retreat_to(piece, index);
    for (int64_t segment = (piece.end + kSegment - 1) / kSegment; segment-- > piece.begin / kSegment;) {
      chunk.direction = 1;
      const size_t chunks = open(piece, segment);
      chunk.direction = -1;
      for (size_t c = chunks; c-- > 0;) {
        entered[c].exchange(chunk);
        chunk.ahead.restart();
        chunk.load_queries();
        chunk.transpose_keys();
        pull_chunk(entered[c].state, entered[c + 1].state);
        entered[c].exchange(chunk);
      }
    }
    if (piece.begin > 0) return handover.give(piece.cut_before, d_state, next_first);
    if (p.log_decay) scale_state(d_state, next_first.data, p.axis == DecayAxis::Key, p.dk, d_state);
    store_state(d_state, d_initial_state, index);
  }

 private:
  // `last` is P of the last token of a chunk.
  const T* leaving_factor(const T* last) {
    std::copy_n(last, factor.stride, factor.data);
    scale_row(factor.data, next_first.data, factor.stride);
    return factor.data;
  }
  void step_back() { std::copy_n(chunk.decay.first.data, next_first.stride, next_first.data); }

  // From the gradient of the head's final state to that of E of the chunk after the piece.
  void retreat_to(const Piece& piece, int64_t index) {
    const Problem<T>& p = chunk.p;
    load_state(d_final_state, index, d_state);
    std::fill_n(next_first.data, next_first.stride, T(1));
    chunk.direction = -1;
    std::vector<int64_t> starts;  // of the chunks of a segment, as the thread that works on them finds them
    for (int64_t segment = p.segments(); segment-- > (piece.end + kSegment - 1) / kSegment;) {
      chunk.end = std::min((segment + 1) * kSegment, p.length);
      starts.clear();
      for (int64_t t = segment * kSegment; t < chunk.end; t += chunk.n) {
        chunk.place(piece.batch, piece.head, t);
        starts.push_back(t);
      }
      for (size_t i = starts.size(); i-- > 0;) {
        chunk.place(piece.batch, piece.head, starts[i]);
        chunk.load_queries();
        load_d_out();
        if (p.log_decay) scale_state(d_state, leaving_factor(chunk.last()), p.axis == DecayAxis::Key, p.dk, d_state);
        multiply_add(chunk.between(), p.dk, chunk.rows(), transposed(chunk.q), d_out, d_state);
        step_back();
      }
    }
  }

  // Fills `entered` and returns the number of chunks of the segment.
  size_t open(const Piece& piece, int64_t segment) {
    const Problem<T>& p = chunk.p;
    const bool by_row = p.axis == DecayAxis::Value;  // of the transposed states
    chunk.end = std::min((segment + 1) * kSegment, piece.end);
    load_state(segment_states, (piece.batch * p.kv_heads + piece.head) * p.segments() + segment, state);
    transpose(p.dk, p.dv, state.data, state.stride, state_t.data, state_t.stride);
    chunk.start_walk();
    size_t count = 0;
    const auto slot = [&]() -> Entered<T>& {
      if (entered.size() <= count) entered.emplace_back(p);
      return entered[count];
    };
    for (int64_t t = segment * kSegment; t < chunk.end;) {
      chunk.load_keys(piece.batch, piece.head, t);
      if (p.log_decay) {
        scale_state(state_t, chunk.entry(), by_row, p.dv, slot().state, &state_t);
      } else {
        std::copy_n(state_t.data, p.dv * state_t.stride, slot().state.data);
      }
      multiply_add(chunk.between(), p.dv, chunk.n, transposed(chunk.v), chunk.k, state_t);
      t += chunk.n;
      slot().exchange(chunk);
      ++count;
    }
    const Tile<T>& after = slot().state;
    if (p.log_decay) scale_state(state_t, leaving_factor(chunk.pending.data), by_row, p.dv, after);
    return count;
  }

  void load_d_out() { chunk.load_group(d_out_rows, d_out, chunk.p.decays_values() ? &chunk.decay.product : nullptr); }

  // `before` is E^T of this chunk, `after` that of the next; d_state is the gradient of the latter, then of the former.
  void pull_chunk(const Tile<T>& before, const Tile<T>& after) {
    const Problem<T>& p = chunk.p;
    const int64_t n = chunk.n, rows = chunk.rows();
    chunk.expect_group(dq_rows);
    dk_rows.expect(chunk.batch, chunk.head, chunk.time, n);
    dv_rows.expect(chunk.batch, chunk.head, chunk.time, n);
    load_d_out();
    transpose(p.dk, p.dv, d_state.data, d_state.stride, d_state_t.data, d_state_t.stride);
    if (p.log_decay) {
      start_decay_sum(after);
      const T* g = leaving_factor(chunk.last());
      scale_state(d_state, g, p.axis == DecayAxis::Key, p.dk, d_state);
      scale_state(d_state_t, g, p.axis == DecayAxis::Value, p.dv, d_state_t);
      step_back();
    }

    transpose(n, p.dv, chunk.v.data, chunk.v.stride, values.data, values.stride);
    chunk.score(chunk.q, p.dk, chunk.keys, scores);
    chunk.score(d_out, p.dv, values, d_scores);
    multiply_two(chunk.between(), n, rows, transposed(scores), d_out, p.dk, plain(chunk.k), d_state, dv);
    multiply_two(chunk.between(), rows, n, plain(d_scores), chunk.k, p.dv, plain(d_out), before, dq);
    multiply_two(chunk.between(), n, rows, transposed(d_scores), chunk.q, p.dv, plain(chunk.v), d_state_t, dk);
    multiply_add(chunk.between(), p.dk, rows, transposed(chunk.q), d_out, d_state);

    if (p.decays_keys()) store_decay(chunk.q, dq, chunk.k, dk);
    if (p.decays_values()) {
      transpose(p.dv, p.dk, before.data, before.stride, state.data, state.stride);
      multiply_two(chunk.between(), rows, n, plain(scores), chunk.v, p.dk, plain(chunk.q), state, out);
      store_decay(out, d_out, chunk.v, dv);
    }
    const ChunkDecay<T>& decay = chunk.decay;
    chunk.store_group(dq, dq_rows, p.decays_keys() ? &decay.product : nullptr);
    dk_rows.store(chunk.batch, chunk.head, chunk.time, n, dk, 0, p.decays_keys() ? &decay.inverse : nullptr);
    dv_rows.store(chunk.batch, chunk.head, chunk.time, n, dv, 0, p.decays_values() ? &decay.inverse : nullptr);
  }

  // The part of the decays' gradient that comes from after the chunk: E . its gradient, summed over the other axis.
  // (The decays in between cancel: E times the gradient of E is R times that of R.)
  void start_decay_sum(const Tile<T>& after) {
    const Lanes<T> d;
    T* sum = decay_sum.data;
    std::fill_n(sum, decay_sum.stride, T(0));
    for (int64_t m = 0; m < chunk.p.dv; ++m) {
      const T *s = after.row(m), *ds = d_state_t.row(m);
      if (chunk.p.axis == DecayAxis::Key) {
        for_lanes<T>(after.stride, [&](int64_t n) {
          hn::StoreU(hn::MulAdd(hn::LoadU(d, s + n), hn::LoadU(d, ds + n), hn::LoadU(d, sum + n)), d, sum + n);
        });
      } else {
        auto total = hn::Zero(d);
        for_lanes<T>(after.stride,
                     [&](int64_t n) { total = hn::MulAdd(hn::LoadU(d, s + n), hn::LoadU(d, ds + n), total); });
        sum[m] = hn::GetLane(hn::SumOfLanes(d, total));
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
        auto total = hn::Zero(d);  // the padding is 0
        for_lanes<T>(decay_sum.stride, [&](int64_t m) { total = hn::Add(total, hn::LoadU(d, sum + m)); });
        to[0] = alive(0) ? hn::GetLane(hn::SumOfLanes(d, total)) : T(0);
      } else {
        for (int64_t m = 0; m < decay_sum.width; ++m) to[m] = alive(m) ? sum[m] : T(0);
      }
    }
  }
};

}  // namespace

ScanArguments scan_pull(const ScanArguments& at, DecayAxis axis, int64_t chunk, const at::Tensor& d_out,
                        const at::Tensor& d_state, const at::Tensor& segment_states) {
  return for_type(at, [&]<class T>() {
    const Problem<T> p(at, axis, chunk);
    const auto like = [](const at::Tensor& x) { return x.defined() ? at::empty(x.sizes(), x.options()) : x; };
    const ScanArguments to = {like(at.q), like(at.k), like(at.v), like(at.log_decay), like(at.state)};
    at::Tensor states = segment_states;
    if (!states.defined()) scan_forward(at, axis, chunk, &states);
    const Rows<T> d_out_rows(d_out);
    const at::Tensor d_final_state = d_state.contiguous();
    for_each_piece(p, kSegment, Order::Backwards,
                   [&](Handover<T>& handover) { return Pull<T>(p, states, d_out_rows, d_final_state, to, handover); });
    return to;
  });
}

}  // namespace unbend::kernel
