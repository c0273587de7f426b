// What the gated scan's forward, pull and push share: the problem, the chunk that is being worked on, and the division
// of the work among threads.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "unbend/attention/gated_scan_chunk.h"
#include "unbend/attention/gated_scan_kernel.h"
#include "unbend/base/error.h"

namespace unbend::kernel {

/// No chunk crosses a multiple of so many tokens, so there is a state before each, which the forward keeps for the
/// pull.
constexpr int64_t kSegment = 256;

/// Cache lines that are asked for at a time: as many as a processor has outstanding. Measured: Sapphire Rapids, Zen 5.
inline int64_t lines_between() {
#if defined(__x86_64__)
  static const bool amd = __builtin_cpu_is("amd") != 0;
  return amd ? 32 : 12;
#else
  return 12;
#endif
}

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
        chunk(std::clamp<int64_t>(chunk, 1, std::clamp<int64_t>(length, 1, kSegment))),
        // A scalar is the same on both axes; the key axis saves the output's rescaling.
        axis(at.log_decay.defined() && at.log_decay.size(3) == 1 ? DecayAxis::Key : axis),
        q(at.q),
        k(at.k),
        v(at.v),
        log_decay(at.log_decay),
        state(at.state.contiguous()) {}

  int64_t decay_width() const { return axis == DecayAxis::Key ? dk : dv; }
  bool decays_keys() const { return log_decay && axis == DecayAxis::Key; }
  bool decays_values() const { return log_decay && axis == DecayAxis::Value; }
  int64_t segments() const { return (length + kSegment - 1) / kSegment; }
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
//
// A walk over chunks scales the state once per chunk: what it holds between two chunks lacks the last factor, P of the
// last token of the chunk before ("pending"), which the next chunk applies together with the decay of its first token.
template <class T>
struct Chunk {
  const Problem<T>& p;
  Tile<T> q, k, v, keys;  // keys = k^T
  ChunkDecay<T> decay;
  Tile<T> pending, factor;
  int64_t batch = 0, head = 0, time = 0, n = 0;
  int64_t end = 0;        // of the tokens to walk over; no chunk crosses it
  int64_t direction = 1;  // of the walk over time
  Ahead ahead;            // rows of the chunk that comes next

  explicit Chunk(const Problem<T>& p)
      : p(p),
        q(p.group * p.chunk, p.dk),
        k(p.chunk, p.dk),
        v(p.chunk, p.dv),
        keys(p.dk, p.chunk),
        decay(p.chunk, p.decay_width()),
        pending(1, p.decay_width()),
        factor(1, p.decay_width()) {}

  int64_t rows() const { return p.group * n; }

  /// For the products: a part of the next chunk's rows.
  auto between() {
    return [this] { ahead.fetch(lines_between()); };
  }

  void place(int64_t b, int64_t h, int64_t t) {
    batch = b, head = h, time = t;
    ahead.restart();
    const int64_t border = std::min(end, (t / kSegment + 1) * kSegment);
    n = decay.load(p.log_decay, b, h, t, std::min(p.chunk, border - t));
    if (p.log_decay && p.log_decay.width > 1) p.log_decay.announce(b, h, t + direction * n, n, ahead);
  }
  void load_keys(int64_t b, int64_t h, int64_t t) {
    place(b, h, t);
    load_head(p.k, k, p.decays_keys() ? &decay.inverse : nullptr);
    load_head(p.v, v, p.decays_values() ? &decay.inverse : nullptr);
  }
  void load_queries() { load_group(p.q, q, p.decays_keys() ? &decay.product : nullptr); }
  void load(int64_t b, int64_t h, int64_t t) {
    load_keys(b, h, t);
    load_queries();
    transpose_keys();
  }
  void transpose_keys() const { transpose(n, p.dk, k.data, k.stride, keys.data, keys.stride); }

  void load_head(const Rows<T>& from, const Tile<T>& to, const Tile<T>* scale = nullptr) {
    from.load(batch, head, time, n, to, 0, scale);
    from.announce(batch, head, time + direction * n, n, ahead);
  }
  void load_group(const Rows<T>& from, const Tile<T>& to, const Tile<T>* scale = nullptr) {
    for (int64_t g = 0; g < p.group; ++g) {
      from.load(batch, head * p.group + g, time, n, to, g * n, scale);
      from.announce(batch, head * p.group + g, time + direction * n, n, ahead);
    }
  }
  void store_group(const Tile<T>& from, const Rows<T>& to, const Tile<T>* scale = nullptr) const {
    for (int64_t g = 0; g < p.group; ++g) to.store(batch, head * p.group + g, time, n, from, g * n, scale);
  }
  void expect_group(const Rows<T>& to) const {
    for (int64_t g = 0; g < p.group; ++g) to.expect(batch, head * p.group + g, time, n);
  }

  const T* last() const { return decay.product.row(n - 1); }

  // The walk over states: the factor that turns the state in hand into what this chunk reads, and what is pending then.
  void start_walk() { std::fill_n(pending.data, pending.stride, T(1)); }
  const T* entry() {
    std::copy_n(pending.data, pending.stride, factor.data);
    scale_row(factor.data, decay.first.data, factor.stride);
    std::copy_n(last(), pending.stride, pending.data);
    return factor.data;
  }
  void enter(const Tile<T>& state) {
    if (p.log_decay) scale_state(state, entry(), p.axis == DecayAxis::Key, p.dk, state);
  }
  void settle(const Tile<T>& state) {
    if (p.log_decay) scale_state(state, pending.data, p.axis == DecayAxis::Key, p.dk, state);
    start_walk();
  }

  // Without a walk, for Push: the decay of the first token meets the incoming state, P of the last one everything in
  // the outgoing state.
  void scale_by_first(const Tile<T>& state) const {
    if (p.log_decay) scale_state(state, decay.first.data, p.axis == DecayAxis::Key, p.dk, state);
  }
  void scale_by_last(const Tile<T>& state) const {
    if (p.log_decay && n > 1) scale_state(state, last(), p.axis == DecayAxis::Key, p.dk, state);
  }

  // scores = lower(left right^T), or += : left is stacked by group, `right` is already transposed.
  template <bool kAdd = false>
  void score(const Tile<T>& left, int64_t inner, const Tile<T>& right, const Tile<T>& scores) {
    sum_of_products<kAdd ? Into::Add : Into::Set>(between(), rows(), n, scores.data, scores.stride,
                                                  Term<T>{inner, plain(left), right.data, right.stride});
    mask_future(scores, n, p.group, n);
  }
};

/// Tokens [begin, end) of one kv head, and the names of the cuts there, where the head goes on in another piece.
struct Piece {
  int64_t batch, head, begin, end;
  int64_t cut_before = -1, cut_after = -1;
};

/// States where heads are cut, from the thread that comes to a cut first to the one that goes on from there. Nobody
/// waits: who does not find one yet walks to it, and gets the same numbers, bit by bit.
template <class T>
class Handover {
 public:
  Handover(const Problem<T>& p, int64_t cuts) : ready_(static_cast<size_t>(cuts)) {
    for (int64_t i = 0; i < cuts; ++i) states_.emplace_back(p.dk, p.dv), decays_.emplace_back(1, p.decay_width());
  }
  void give(int64_t cut, const Tile<T>& state, const Tile<T>& decay) {
    const auto i = static_cast<size_t>(cut);
    copy(state, states_[i]), copy(decay, decays_[i]);
    ready_[i].store(true, std::memory_order_release);
  }
  bool take(int64_t cut, const Tile<T>& state, const Tile<T>& decay) const {
    const auto i = static_cast<size_t>(cut);
    if (cut < 0 || !ready_[i].load(std::memory_order_acquire)) return false;
    copy(states_[i], state), copy(decays_[i], decay);
    return true;
  }

 private:
  static void copy(const Tile<T>& from, const Tile<T>& to) { std::copy_n(from.data, from.storage.numel(), to.data); }
  std::vector<Tile<T>> states_, decays_;
  std::vector<std::atomic<bool>> ready_;
};

enum class Order { Forwards, Backwards };

/// Runs task(piece) over all tokens of all heads; `make(handover)` builds the work space of one thread. Threads get
/// equal shares of the tokens, so a head may be cut, at a multiple of `unit` tokens: whoever works on a piece that does
/// not begin (or, backwards, end) with its head must find the state there. Such a piece comes last of its thread, and
/// the one that leads to it first of the other, so that the state is there when it is needed. (Three heads undivided
/// keep two threads busy for the time of two heads each.)
template <class T, class Make>
void for_each_piece(const Problem<T>& p, int64_t unit, Order order, Make&& make) {
  const int64_t heads = p.batch * p.kv_heads, length = std::max<int64_t>(p.length, 1);
  const int64_t most = heads * length * p.group * p.dk * p.dv / 100000;  // below that a thread does not pay
  const int64_t threads = at::in_parallel_region() ? 1 : std::clamp<int64_t>(most, 1, at::get_num_threads());
  const auto border = [&](int64_t thread) {
    const int64_t token = heads * length * thread / threads, head = token / length;
    return std::min(head * length + (token % length + unit / 2) / unit * unit, (head + 1) * length);
  };
  std::atomic<bool> invalid = false;
  Handover<T> handover(p, threads > 1 ? threads : 0);
  at::parallel_for(0, threads, 1, [&](int64_t first, int64_t last) {
    auto task = make(handover);
    std::vector<Piece> pieces;
    const int64_t end = border(last);
    for (int64_t token = border(first); token < end;) {
      const int64_t head = token / length, begin = token % length, stop = std::min(end - head * length, length);
      pieces.push_back({head / p.kv_heads, head % p.kv_heads, begin, std::min(stop, p.length), begin > 0 ? first : -1,
                        stop < length ? last : -1});
      token = head * length + stop;
    }
    if (order == Order::Forwards) std::ranges::reverse(pieces);
    for (const Piece& piece : pieces) task(piece);
    if (task.chunk.decay.invalid) invalid = true;
    hwy::FlushStream();
  });
  require(!invalid, "gated_scan: log_decay has an entry that is positive or NaN");
}

/// By the type of the arguments: f.operator()<float> or <double>.
template <class F>
auto for_type(const ScanArguments& at, F&& f) {
  return at.q.scalar_type() == at::kDouble ? f.template operator()<double>() : f.template operator()<float>();
}

}  // namespace unbend::kernel
