// Rows, decays and boundaries of the chunks that the gated scan's kernel works on.
//
// Inside a chunk the scan is computed in rescaled coordinates. With P_i the product of the decays of tokens 1..i of the
// chunk (P_0 = 1, the decay of token 0 goes to the incoming state), decay on the key axis turns into plain causal
// linear attention of q_i P_i, k_j / P_j and v_j, and decay on the value axis into that of q, k and v_j / P_j with
// outputs times P_i. Every term carries exp(b_i - b_j) <= 1 as the quotient P_i / P_j, to a few roundings, as long as P
// does not underflow; so a chunk ends where P would fall below kSmallest. A chunk of one token always fits, even with
// decay 0: strong decays cost speed and never accuracy.
#pragma once

#include <hwy/contrib/math/math-inl.h>

#include <cmath>
#include <cstring>

#include "unbend/attention/gated_scan.h"
#include "unbend/attention/gated_scan_tile.h"

namespace unbend::kernel {

/// A [batch, heads, time, width] tensor with contiguous rows.
template <class T>
struct Rows {
  at::Tensor storage;
  T* data = nullptr;
  int64_t width = 0;

  Rows() = default;
  explicit Rows(const at::Tensor& x)
      : storage(!x.defined() || x.stride(-1) == 1 || x.size(-1) == 1 ? x : x.contiguous()) {
    if (!storage.defined()) return;
    data = storage.data_ptr<T>();
    width = storage.size(3);
    batch_ = storage.stride(0), head_ = storage.stride(1), time_ = storage.stride(2);
    const auto whole = [](int64_t elements) { return elements * int64_t(sizeof(T)) % kLine == 0; };
    streams_ = storage.numel() * int64_t(sizeof(T)) >= kStreamed &&
               reinterpret_cast<std::uintptr_t>(data) % kLine == 0 && whole(width) && whole(batch_) && whole(head_) &&
               whole(time_);
  }
  explicit operator bool() const { return data != nullptr; }
  T* row(int64_t batch, int64_t head, int64_t time) const {
    return data + batch * batch_ + head * head_ + time * time_;
  }

  int64_t time_stride() const { return time_; }
  bool streams() const { return streams_; }  ///< results go past the caches
  /// Copies n rows to a tile, times the rows of `factor` if there is one.
  void load(int64_t batch, int64_t head, int64_t time, int64_t n, const Tile<T>& to, int64_t first_row = 0,
            const Tile<T>* factor = nullptr) const {
    const Lanes<T> d;
    for (int64_t i = 0; i < n; ++i) {
      const T* from = row(batch, head, time + i);
      T* HWY_RESTRICT target = to.row(first_row + i);
      const T* scale = factor ? factor->row(i) : nullptr;
      for (int64_t m = 0; m < width; m += kLanes<T>) {
        const auto x = width - m >= kLanes<T> ? hn::LoadU(d, from + m) : load_first(from + m, width - m);
        hn::StoreU(scale ? hn::Mul(x, hn::LoadU(d, scale + m)) : x, d, target + m);
      }
    }
  }
  /// Leaves n rows from a time on, which may lie outside of the tensor, to be asked for.
  void announce(int64_t batch, int64_t head, int64_t time, int64_t n, Ahead& ahead) const {
    const auto first = reinterpret_cast<std::uintptr_t>(row(batch, head, 0)) + time * time_ * int64_t(sizeof(T));
    ahead.add(first, time_ * int64_t(sizeof(T)), n, width * int64_t(sizeof(T)));
  }
  /// Copies n rows of a tile back, times the rows of `factor` if there is one. What is larger than the caches goes past
  /// them: it is not read first, and pushes nothing out.
  void store(int64_t batch, int64_t head, int64_t time, int64_t n, const Tile<T>& from, int64_t first_row = 0,
             const Tile<T>* factor = nullptr) const {
    const Lanes<T> d;
    for (int64_t i = 0; i < n; ++i) {
      T* HWY_RESTRICT to = row(batch, head, time + i);
      const T *source = from.row(first_row + i), *scale = factor ? factor->row(i) : nullptr;
      for (int64_t m = 0; m < width; m += kLanes<T>) {
        const auto x = hn::LoadU(d, source + m), y = scale ? hn::Mul(x, hn::LoadU(d, scale + m)) : x;
        if (streams_)  // then rows are whole vectors
          hn::Stream(y, d, to + m);
        else if (width - m >= kLanes<T>)
          hn::StoreU(y, d, to + m);
        else
          store_first(y, to + m, width - m);
      }
    }
  }
  /// Asks for n rows that are going to be written, unless they go past the caches.
  void expect(int64_t batch, int64_t head, int64_t time, int64_t n) const {
    if (streams_) return;
    for (int64_t i = 0; i < n; ++i) {
      const T* at = row(batch, head, time + i);
      for (int64_t m = 0; m < width; m += 64 / int64_t(sizeof(T))) __builtin_prefetch(at + m, /*rw=*/1);
    }
  }

 private:
  static constexpr int64_t kLine = 64, kStreamed = int64_t{4} << 20;
  int64_t batch_ = 0, head_ = 0, time_ = 0;
  bool streams_ = false;
};

// Element-wise work on whole padded rows.
template <class T, class F>
HWY_INLINE void for_lanes(int64_t width, F&& f) {
  for (int64_t m = 0; m < width; m += kLanes<T>) f(m);
}

/// x *= y, element by element.
template <class T>
void scale_row(T* x, const T* y, int64_t width) {
  const Lanes<T> d;
  for_lanes<T>(width, [&](int64_t m) { hn::StoreU(hn::Mul(hn::LoadU(d, x + m), hn::LoadU(d, y + m)), d, x + m); });
}

/// Row i of x times row i of y, or, with one row of y for `group` rows of x, the rows of all query heads of a group.
template <class T>
void scale_rows(const Tile<T>& x, const Tile<T>& y, int64_t n, int64_t groups = 1, int64_t group_rows = 0) {
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t i = 0; i < n; ++i) scale_row(x.row(g * group_rows + i), y.row(i), x.stride);
  }
}

/// to = from times one factor per row (a state on the key axis) or per column (the value axis, or the transposed of the
/// former); `from` and `to` may be the same, and `copy`, if there is one, gets the same.
template <class T>
void scale_state(const Tile<T>& from, const T* factor, bool by_row, int64_t rows, const Tile<T>& to,
                 const Tile<T>* copy = nullptr) {
  const Lanes<T> d;
  for (int64_t m = 0; m < rows; ++m) {
    const auto of_row = hn::Set(d, by_row ? factor[m] : T(1));
    const T* source = from.row(m);
    T *target = to.row(m), *second = copy ? copy->row(m) : nullptr;
    for_lanes<T>(from.stride, [&](int64_t n) {
      const auto x = hn::Mul(hn::LoadU(d, source + n), by_row ? of_row : hn::LoadU(d, factor + n));
      hn::StoreU(x, d, target + n);
      if (second) hn::StoreU(x, d, second + n);
    });
  }
}

/// exp of a row of log decays, a single one repeated, in whole vectors. Returns whether all are <= 0.
template <class T>
bool read_decay(const T* log_decay, int64_t width, const Tile<T>& to) {
  const Lanes<T> d;
  if (width == 1) {
    const auto decay = hn::Set(d, std::exp(log_decay[0]));
    for_lanes<T>(to.stride, [&](int64_t m) { hn::StoreU(decay, d, to.data + m); });
    return log_decay[0] <= 0;
  }
  bool valid = true;
  std::memcpy(to.data, log_decay, width * sizeof(T));
  std::fill(to.data + width, to.data + to.stride, T(0));
  for_lanes<T>(to.stride, [&](int64_t m) {
    const auto x = hn::LoadU(d, to.data + m);
    valid &= hn::AllTrue(d, hn::Le(x, hn::Zero(d)));
    hn::StoreU(hn::Exp(d, x), d, to.data + m);
  });
  return valid;
}

/// Decays of one chunk: of its first token, and from there on P_i and 1 / P_i.
template <class T>
struct ChunkDecay {
  static constexpr T kSmallest = T(8.673617379884035e-19);  // 2^-60

  Tile<T> gate, first, product, inverse;
  bool invalid = false;  ///< a log decay was positive or NaN

  ChunkDecay(int64_t chunk, int64_t width)
      : gate(1, width), first(1, width), product(chunk, width), inverse(chunk, width) {}

  /// Reads the decays of at most n tokens and returns how many the chunk takes.
  int64_t load(const Rows<T>& log_decay, int64_t batch, int64_t head, int64_t time, int64_t n) {
    if (!log_decay) return n;
    if (log_decay.width == 1) return load_scalars(log_decay, batch, head, time, n);
    const Lanes<T> d;
    const auto one = hn::Set(d, T(1));
    invalid |= !read_decay(log_decay.row(batch, head, time), log_decay.width, first);
    for_lanes<T>(first.stride, [&](int64_t m) {
      hn::StoreU(one, d, product.row(0) + m);
      hn::StoreU(one, d, inverse.row(0) + m);
    });
    for (int64_t i = 1; i < n; ++i) {
      invalid |= !read_decay(log_decay.row(batch, head, time + i), log_decay.width, gate);
      auto smallest = one;
      for_lanes<T>(gate.stride, [&](int64_t m) {
        const auto p = hn::Mul(hn::LoadU(d, product.row(i - 1) + m), hn::LoadU(d, gate.data + m));
        smallest = hn::Min(smallest, p);
        hn::StoreU(p, d, product.row(i) + m);
        hn::StoreU(hn::Div(one, p), d, inverse.row(i) + m);
      });
      if (!hn::AllTrue(d, hn::Ge(smallest, hn::Set(d, kSmallest)))) return i;
    }
    return n;
  }

 private:
  int64_t load_scalars(const Rows<T>& log_decay, int64_t batch, int64_t head, int64_t time, int64_t n) {
    const Lanes<T> d;
    const auto fill = [&](T* row, T x) {
      for_lanes<T>(gate.stride, [&](int64_t m) { hn::StoreU(hn::Set(d, x), d, row + m); });
    };
    T p = 1;
    for (int64_t i = 0; i < n; ++i) {
      const T x = *log_decay.row(batch, head, time + i);
      invalid |= !(x <= 0);
      if (i == 0) {
        fill(first.data, std::exp(x));
      } else {
        p *= std::exp(x);
      }
      fill(product.row(i), p);
      fill(inverse.row(i), 1 / p);
      if (!(p >= kSmallest)) return i;
    }
    return n;
  }
};

/// Keeps j <= i of the scores [groups * group_rows, n].
template <class T>
void mask_future(const Tile<T>& scores, int64_t n, int64_t groups, int64_t group_rows) {
  const Lanes<T> d;
  for (int64_t i = 0; i < n; ++i) {
    for_lanes<T>(scores.stride, [&](int64_t m) {
      if (m + kLanes<T> <= i + 1) return;
      const auto past = hn::FirstN(d, static_cast<size_t>(std::max<int64_t>(i + 1 - m, 0)));
      for (int64_t g = 0; g < groups; ++g) {
        T* at = scores.row(g * group_rows + i) + m;
        hn::StoreU(hn::IfThenElseZero(past, hn::LoadU(d, at)), d, at);
      }
    });
  }
}

}  // namespace unbend::kernel
