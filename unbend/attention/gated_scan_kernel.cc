#include "unbend/attention/gated_scan_kernel.h"

#include "unbend/attention/gated_scan_work.h"

namespace unbend::kernel {
namespace {

template <class T>
struct Forward {
  Chunk<T> chunk;
  Tile<T> state, scores, out;
  const Rows<T>& to;
  const at::Tensor &final_state, &segment_states;  // the latter may be undefined
  Handover<T>& handover;

  Forward(const Problem<T>& p, const Rows<T>& to, const at::Tensor& final_state, const at::Tensor& segment_states,
          Handover<T>& handover)
      : chunk(p),
        state(p.dk, p.dv),
        scores(p.group * p.chunk, p.chunk),
        out(p.group * p.chunk, p.dv),
        to(to),
        final_state(final_state),
        segment_states(segment_states),
        handover(handover) {}

  void operator()(const Piece& piece) {
    const Problem<T>& p = chunk.p;
    const int64_t index = piece.batch * p.kv_heads + piece.head;
    if (!handover.take(piece.cut_before, state, chunk.pending)) walk_to(piece, index);
    chunk.end = piece.end;
    for (int64_t t = piece.begin; t < piece.end; t += chunk.n) {
      if (t % kSegment == 0) {
        chunk.settle(state);
        if (segment_states.defined()) store_state(state, segment_states, index * p.segments() + t / kSegment);
      }
      chunk.load(piece.batch, piece.head, t);
      chunk.expect_group(to);
      chunk.score(chunk.q, p.dk, chunk.keys, scores);
      chunk.enter(state);
      read_out();
      multiply_add(chunk.between(), p.dk, chunk.n, transposed(chunk.k), chunk.v, state);
    }
    if (piece.end < p.length) return handover.give(piece.cut_after, state, chunk.pending);
    chunk.settle(state);
    store_state(state, final_state, index);
  }

 private:
  // Over what another thread works on: the state alone.
  void walk_to(const Piece& piece, int64_t index) {
    const Problem<T>& p = chunk.p;
    load_state(p.state, index, state);
    chunk.start_walk();
    chunk.end = piece.begin;
    for (int64_t t = 0; t < piece.begin; t += chunk.n) {
      if (t % kSegment == 0) chunk.settle(state);
      chunk.load_keys(piece.batch, piece.head, t);
      chunk.enter(state);
      multiply_add(chunk.between(), p.dk, chunk.n, transposed(chunk.k), chunk.v, state);
    }
  }

  // Out = scores v + q state, straight to where it belongs if rows are whole vectors and nothing is left to be done.
  void read_out() {
    const Problem<T>& p = chunk.p;
    const Term<T> local{chunk.n, plain(scores), chunk.v.data, chunk.v.stride};
    const Term<T> distant{p.dk, plain(chunk.q), state.data, state.stride};
    if (p.decays_values() || p.dv % kLanes<T> != 0) {
      sum_of_products<Into::Set>(chunk.between(), chunk.rows(), p.dv, out.data, out.stride, local, distant);
      return chunk.store_group(out, to, p.decays_values() ? &chunk.decay.product : nullptr);
    }
    const auto write = [&]<Into kInto>(int64_t g) {
      Term<T> a = local, b = distant;
      a.a.data = scores.row(g * chunk.n), b.a.data = chunk.q.row(g * chunk.n);
      sum_of_products<kInto>(chunk.between(), chunk.n, p.dv, to.row(chunk.batch, chunk.head * p.group + g, chunk.time),
                             to.time_stride(), a, b);
    };
    for (int64_t g = 0; g < p.group; ++g)
      to.streams() ? write.template operator()<Into::Stream>(g) : write.template operator()<Into::Set>(g);
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
  require(valid, "gated_scan: log_decay has an entry that is positive or NaN");
}

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

  void operator()(const Piece& piece) {  // a whole head
    const Problem<T>& p = chunk.p;
    const int64_t index = piece.batch * p.kv_heads + piece.head;
    load_state(p.state, index, state);
    load_state(tangent_state, index, t_state);
    chunk.end = piece.end;
    for (int64_t t = 0; t < p.length; t += chunk.n) {
      chunk.load(piece.batch, piece.head, t);
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
    chunk.load_head(tk_rows, tk);
    chunk.load_head(tv_rows, tv);
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
    multiply(chunk.between(), rows, n, plain(t_scores), chunk.v, t_out);
    multiply_add(chunk.between(), rows, n, plain(scores), tv, t_out);
    multiply_add(chunk.between(), rows, p.dk, plain(tq), state, t_out);
    multiply_add(chunk.between(), rows, p.dk, plain(chunk.q), t_state, t_out);
    if (p.decays_values()) {
      multiply(chunk.between(), rows, n, plain(scores), chunk.v, out);
      multiply_add(chunk.between(), rows, p.dk, plain(chunk.q), state, out);
      add_rows<false>(t_out, out, p.group);
      scale_rows(t_out, chunk.decay.product, n, p.group, n);
    }

    multiply_add(chunk.between(), p.dk, n, transposed(chunk.k), chunk.v, state);
    multiply_add(chunk.between(), p.dk, n, transposed(tk), chunk.v, t_state);
    multiply_add(chunk.between(), p.dk, n, transposed(chunk.k), tv, t_state);
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

}  // namespace

Scan scan_forward(const ScanArguments& at, DecayAxis axis, int64_t chunk, at::Tensor* segment_states) {
  return for_type(at, [&]<class T>() {
    const Problem<T> p(at, axis, chunk);
    Scan result = {at::empty({p.batch, p.heads, p.length, p.dv}, at.q.options()), at::empty_like(p.state)};
    const Rows<T> out(result.out);
    at::Tensor states;
    if (segment_states) {
      states = *segment_states = at::empty({p.batch * p.kv_heads, p.segments(), p.dk, p.dv}, p.state.options());
    }
    if (p.length == 1 && !segment_states) {
      step(p, out, result.state);
    } else {
      for_each_piece(p, kSegment, Order::Forwards,
                     [&](Handover<T>& handover) { return Forward<T>(p, out, result.state, states, handover); });
    }
    return result;
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
    for_each_piece(p, std::max<int64_t>(p.length, 1), Order::Forwards,
                   [&](Handover<T>&) { return Push<T>(p, dense_tangent, out, result.state); });
    return result;
  });
}

}  // namespace unbend::kernel
