// The gated scan on CUDA: one pass over time with the state in registers.
//
// A block of threads takes one head, up to 128 columns of the values, and a stretch of time; each of its warps keeps 16
// columns of the state, transposed, in the accumulators of its tensor cores, and they share the queries and keys. Time
// goes in tiles, which are fetched while the one before is worked on, and in a tile in blocks of 16 tokens, which are
// products: scores = mask(q k^T), out = scores v + q S, S += k^T v. So every number is read and written once, and what
// bounds the kernel is memory.
//
// Inside a block decays become factors of the rows, measured from token 7: exp(c_t - c_7) for the queries and its
// inverse for the keys, c the sum of the log decays after token 0, and the state gets exp(g_0 + c_7) before and
// exp(c_15 - c_7) after (backwards in time the other way round). A scalar's go into the rows of products, and the state
// gets both at once. Where a sum over eight tokens is below kStrong the whole tile goes token by token instead: strong
// decays cost speed and never accuracy.
#pragma once

#include <cstdint>

#include "unbend/attention/cuda/fragments.cuh"
#include "unbend/attention/cuda/scan_memory.cuh"
#include "unbend/attention/cuda/scan_start.h"

namespace unbend::cuda {

constexpr float kStrong = -60;
constexpr int kMostWarps = 8;  // of a block of threads

template <class Math, int kKeys, Decays kDecays, bool kBackwards>
struct Scan {
  using T = typename Math::T;
  using Places = Layout<Math, kKeys, kDecays>;
  static constexpr int kTile = Places::kTile, kBlocks = Places::kBlocks, kStages = Places::kStages;
  static constexpr int kKeyStride = Places::kKeyStride;

  const ScanStart& a;
  const Places at;
  char* const memory;
  const int warp = threadIdx.x / 32, batch = blockIdx.x / a.segments / a.heads,
            head = blockIdx.x / a.segments % a.heads, segment = blockIdx.x % a.segments;
  const int column0 = blockIdx.y * a.warps * kBlock;  // of the values, the first of these warps
  const int column = column0 + warp * kBlock;         // the first of this warp
  const int begin = segment * a.segment, end = min(begin + a.segment, a.length);
  const T *const q = of_head<T>(a.q), *const k = of_head<T>(a.k), *const v = of_head<T>(a.v);  // this head's token 0
  const float* const log_decay = of_head<float>(a.log_decay);
  float state[kKeys / 8][4];  // transposed: 16 columns of the values by all of the keys

  __device__ Scan(const ScanStart& a, char* memory) : a(a), at(a.warps), memory(memory) {}

  __device__ T* queries(int stage) const { return reinterpret_cast<T*>(memory + stage * at.stage); }
  __device__ T* keys(int stage) const { return reinterpret_cast<T*>(memory + stage * at.stage + at.k); }
  __device__ T* values(int stage) const { return reinterpret_cast<T*>(memory + stage * at.stage + at.v); }
  __device__ float* decays(int stage) const { return reinterpret_cast<float*>(memory + stage * at.stage + at.decay); }
  __device__ float* pre() const { return reinterpret_cast<float*>(memory + at.pre); }
  __device__ float* post() const { return reinterpret_cast<float*>(memory + at.post); }
  __device__ float* sums() const { return reinterpret_cast<float*>(memory + at.sums); }

  // ---- Rows from memory

  template <class U>
  __device__ U* of_head(const Rows& rows) const {
    return static_cast<U*>(rows.data) + batch * rows.batch + (head / rows.group) * rows.head;
  }

  // From token `time` of a head on; zeros outside of the tensor. 2^shift lanes share a row, 16 bytes each.
  template <class U>
  __device__ void fetch_rows(const U* rows, const Rows& of, int time, int first, int columns, int shift, U* tile,
                             int stride) const {
    const int first_row = threadIdx.x >> shift, step = (32 * a.warps) >> shift,
              x = (threadIdx.x & ((1 << shift) - 1)) * int(16 / sizeof(U));
    if (x >= columns) return;
    const bool inside = first + x < of.width;
    rows += int64_t(time + first_row) * of.time + first + x, tile += first_row * stride + x;
#pragma unroll 1
    for (int row = first_row; row < kTile; row += step) {
      copy_async_16(tile, rows, inside && time + row < end);
      rows += int64_t(step) * of.time, tile += step * stride;
    }
  }
  // All of the keys' columns.
  template <class U>
  __device__ void fetch_keys(const U* rows, const Rows& of, int time, U* tile, int stride) const {
    constexpr int kEach = 16 / sizeof(U), kLanes = kKeys / kEach < 32 ? kKeys / kEach : 32;
    constexpr int kShift = kLanes == 32 ? 5 : kLanes == 16 ? 4 : kLanes == 8 ? 3 : 2;
#pragma unroll
    for (int first = 0; first < kKeys; first += kLanes * kEach)
      fetch_rows(rows, of, time, first, kLanes * kEach, kShift, tile + first, stride);
  }
  // The columns of the values of these warps.
  template <class U>
  __device__ void fetch_values(const U* rows, const Rows& of, int time, U* tile, int stride) const {
    const int lanes = a.warps * (kBlock * int(sizeof(U)) / 16);
    fetch_rows(rows, of, time, column0, a.warps * kBlock, 32 - __clz(lanes - 1), tile, stride);
  }
  __device__ void fetch(int tile, int stage) const {
    const int time = begin + tile * kTile;
    if (a.q.data) fetch_keys(q, a.q, time, queries(stage), kKeyStride);
    fetch_keys(k, a.k, time, keys(stage), kKeyStride);
    fetch_values(v, a.v, time, values(stage), at.value_stride);
    if constexpr (kDecays == Decays::Key) fetch_keys(log_decay, a.log_decay, time, decays(stage), at.decay_width);
    if constexpr (kDecays == Decays::Value) fetch_values(log_decay, a.log_decay, time, decays(stage), at.decay_width);
    if constexpr (kDecays == Decays::Scalar) {
      for (int row = threadIdx.x; row < kTile; row += blockDim.x)
        copy_async_4(decays(stage) + row, log_decay + int64_t(time + row) * a.log_decay.time, time + row < end);
    }
  }

  // ---- States

  template <class F>
  __device__ void each_entry(F&& f) {
    const int r = lane_row(), c = 2 * lane_column();
#pragma unroll
    for (int t = 0; t < kKeys / 8; ++t) {
#pragma unroll
      for (int i = 0; i < 4; ++i) f(state[t][i], 8 * t + c + (i & 1), column + r + (i & 2) * 4);
    }
  }
  __device__ bool inside(int m, int n) const { return m < a.dk && n < a.dv; }
  __device__ float* state_of(const States& states, int count, int which) const {
    return states.data +
           ((int64_t(batch) * (a.heads / states.group) + head / states.group) * count + which) * a.dk * a.dv;
  }
  __device__ bool takes(const States& states) const {
    return states.data && !(states.first_only && head % states.group != 0);
  }
  __device__ void load_state() {
    const States& states = a.entering.data ? a.entering : a.initial;
    const bool some = takes(states), entering = a.entering.data;
    const float* from = some ? state_of(states, entering ? a.segments : 1, entering ? segment : 0) : nullptr;
    each_entry(
        [&](float& x, int m, int n) { x = some && inside(m, n) ? from[m * states.row + n * states.column] : 0.f; });
  }
  __device__ void store_state() {
    if (a.leaving) {
      float* to = a.leaving + ((int64_t(batch) * a.heads + head) * a.segments + segment) * a.dk * a.dv;
      each_entry([&](float& x, int m, int n) {
        if (inside(m, n)) to[m * a.dv + n] = x;
      });
    }
    if (takes(a.final) && segment == (kBackwards ? 0 : a.segments - 1)) {
      float* to = state_of(a.final, 1, 0);
      each_entry([&](float& x, int m, int n) {
        if (inside(m, n)) to[m * a.final.row + n * a.final.column] = x;
      });
    }
  }

  // Boundaries keep a warp's registers as they are, 16 bytes of each lane side by side.
  __device__ uint4* boundary(int time) const {
    const int group = a.boundary_group, count = (a.length + kBoundary - 1) / kBoundary,
              slices = (a.dv + kBlock - 1) / kBlock;
    const int64_t index =
        ((int64_t(batch) * (a.heads / group) + head / group) * count + time / kBoundary) * slices + column / kBlock;
    return static_cast<uint4*>(a.boundaries) + index * (kKeys * kBlock * int(sizeof(T)) / 16) + threadIdx.x % 32;
  }
  __device__ void store_boundary(int time) {
    if (head % a.boundary_group != 0 || column >= a.dv) return;
    uint4* to = boundary(time);
    if constexpr (sizeof(T) == 2) {
#pragma unroll
      for (int t = 0; t < kKeys / 8; t += 2)
        to[t / 2 * 32] =
            make_uint4(Math::pack(state[t][0], state[t][1]), Math::pack(state[t][2], state[t][3]),
                       Math::pack(state[t + 1][0], state[t + 1][1]), Math::pack(state[t + 1][2], state[t + 1][3]));
    } else {
#pragma unroll
      for (int t = 0; t < kKeys / 8; ++t)
        to[t * 32] = make_uint4(__float_as_uint(state[t][0]), __float_as_uint(state[t][1]),
                                __float_as_uint(state[t][2]), __float_as_uint(state[t][3]));
    }
  }
  __device__ void cross_boundary(int time) {
    if (column >= a.dv) return;
    const uint4* from = boundary(time);
    float upper = 0, lower = 0;
    if constexpr (sizeof(T) == 2) {
      const auto low = [](uint32_t x) { return __uint_as_float(x << 16); };
      const auto high = [](uint32_t x) { return __uint_as_float(x & 0xffff0000u); };
#pragma unroll
      for (int t = 0; t < kKeys / 8; t += 2) {
        const uint4 x = from[t / 2 * 32];
        upper +=
            state[t][0] * low(x.x) + state[t][1] * high(x.x) + state[t + 1][0] * low(x.z) + state[t + 1][1] * high(x.z);
        lower +=
            state[t][2] * low(x.y) + state[t][3] * high(x.y) + state[t + 1][2] * low(x.w) + state[t + 1][3] * high(x.w);
      }
    } else {
#pragma unroll
      for (int t = 0; t < kKeys / 8; ++t) {
        const uint4 x = from[t * 32];
        upper += state[t][0] * __uint_as_float(x.x) + state[t][1] * __uint_as_float(x.y);
        lower += state[t][2] * __uint_as_float(x.z) + state[t][3] * __uint_as_float(x.w);
      }
    }
    upper = sum_of_row(upper), lower = sum_of_row(lower);
    if (lane_column() != 0) return;
    const int count = (a.length + kBoundary - 1) / kBoundary;
    float* to =
        a.crossings + ((int64_t(batch) * a.heads + head) * count + time / kBoundary) * a.dv + column + lane_row();
    if (column + lane_row() < a.dv) to[0] = upper;
    if (column + lane_row() + 8 < a.dv) to[8] = lower;
  }
  // Over the four lanes of a row.
  __device__ static float sum_of_row(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
  }

  __device__ void scale_state(float f) {
#pragma unroll
    for (int t = 0; t < kKeys / 8; ++t) {
#pragma unroll
      for (int i = 0; i < 4; ++i) state[t][i] *= f;
    }
  }
  // By the factors of a block, which belong to the decays' columns.
  __device__ void scale_state(const float* factors) {
    if constexpr (kDecays == Decays::Key) {
#pragma unroll
      for (int t = 0; t < kKeys / 8; ++t) {
        const float2 f = *reinterpret_cast<const float2*>(factors + 8 * t + 2 * lane_column());
        state[t][0] *= f.x, state[t][1] *= f.y, state[t][2] *= f.x, state[t][3] *= f.y;
      }
    } else {
      const float upper = factors[warp * kBlock + lane_row()], lower = factors[warp * kBlock + lane_row() + 8];
#pragma unroll
      for (int t = 0; t < kKeys / 8; ++t)
        state[t][0] *= upper, state[t][1] *= upper, state[t][2] *= lower, state[t][3] *= lower;
    }
  }

  // ---- Decays

  // Turns the tile's vectors of decays into factors; true where it must go token by token, and then nothing has
  // changed. Every thread gets the same answer.
  __device__ bool apply_vectors(int stage) const {
    const bool tokens = __syncthreads_or(strong(stage));
    if (!tokens) {
      apply_vector(stage);
      __syncthreads();
    }
    return tokens;
  }

  // Factors of a tile's scalar decays, lane by token. Every warp makes its own: that takes less than waiting for one.
  struct Factors {
    bool tokens = false;         // it must go token by token
    float out = 0, in = 0;       // of a token's query and key
    float before = 0, rest = 0;  // of the state, before the middle of the token's block and after it
  };
  __device__ Factors scalar_factors(int stage) const {
    Factors f;
    const int lane = threadIdx.x % 32, t = lane % kBlock;
    const float g = lane < kTile ? decays(stage)[lane] : 0;
    if (!(g <= 0)) *a.invalid = 1;
    float c = t == 0 ? 0 : g;  // the sum of the decays after token 0
#pragma unroll
    for (int step = 1; step < kBlock; step *= 2) {
      const float before = __shfl_up_sync(0xffffffffu, c, step, kBlock);
      if (t >= step) c += before;
    }
    const float middle = __shfl_sync(0xffffffffu, c, kBlock / 2 - 1, kBlock),
                last = __shfl_sync(0xffffffffu, c, kBlock - 1, kBlock), after = last - middle,
                first = __shfl_sync(0xffffffffu, g, 0, kBlock);
    f.tokens = __any_sync(0xffffffffu, a.recurrent || !(middle >= kStrong && after >= kStrong));
    const float x = kBackwards ? middle - c : c - middle, begun = __expf(first + middle), left = __expf(after);
    f.out = __expf(x), f.in = __expf(-x);
    f.before = kBackwards ? left : begun, f.rest = kBackwards ? begun : left;
    if (a.decay_sums && warp == 0 && t == 0 && lane < kTile)
      atomicAdd(sums(), first + last);  // where the middle is -inf, after is NaN
    return f;
  }

  // Work on vectors of decays is shared out by halves of blocks and pairs of columns: token 7 is in the middle.
  template <class F>
  __device__ void each_half(F&& f) const {
    const int pairs = at.decay_width / 2;
    for (int i = threadIdx.x; i < 2 * kBlocks * pairs; i += blockDim.x) {
      const int half = i / pairs;
      f(half / 2, half % 2, 2 * (i - half * pairs));
    }
  }
  __device__ float2 log_decays(int stage, int row, int x) const {
    return *reinterpret_cast<const float2*>(decays(stage) + row * at.decay_width + x);
  }
  __device__ bool strong(int stage) const {
    bool any = a.recurrent, wrong = false;
    each_half([&](int block, int half, int x) {
      float2 sum = {}, first = {};
#pragma unroll
      for (int u = 0; u < kBlock / 2; ++u) {
        const float2 g = log_decays(stage, block * kBlock + half * (kBlock / 2) + u, x);
        wrong |= !(g.x <= 0 && g.y <= 0);
        if (u == 0 && half == 0)
          first = g;
        else
          sum.x += g.x, sum.y += g.y;
      }
      any |= !(sum.x >= kStrong && sum.y >= kStrong);
      if (a.decay_sums) atomicAdd(sums() + x, first.x + sum.x), atomicAdd(sums() + x + 1, first.y + sum.y);
    });
    if (wrong) *a.invalid = 1;
    return any;
  }
  __device__ static void scale_pair(T* at, float x, float y) {
    if constexpr (sizeof(T) == 2) {
      auto* const pair = reinterpret_cast<__nv_bfloat162*>(at);
      const float2 v = __bfloat1622float2(*pair);
      *pair = __floats2bfloat162_rn(v.x * x, v.y * y);
    } else {
      auto* const pair = reinterpret_cast<float2*>(at);
      *pair = make_float2(pair->x * x, pair->y * y);
    }
  }
  // Decays into factors of the rows, in place.
  __device__ void apply_vector(int stage) const {
    each_half([&](int block, int half, int x) {
      float2 c = {};  // from token 7
#pragma unroll
      for (int u = 0; u < kBlock / 2; ++u) {
        const int row = block * kBlock + (half ? kBlock / 2 + u : kBlock / 2 - 1 - u);
        const float2 g = log_decays(stage, row, x);
        if (half) c.x += g.x, c.y += g.y;
        const float2 side = kBackwards ? make_float2(-c.x, -c.y) : c;
        if (!half) c.x -= g.x, c.y -= g.y;
        const float2 out_side = make_float2(__expf(side.x), __expf(side.y)),
                     in_side = make_float2(__expf(-side.x), __expf(-side.y));
        if constexpr (kDecays == Decays::Key) {
          scale_pair(keys(stage) + row * kKeyStride + x, in_side.x, in_side.y);
          if (a.q.data) scale_pair(queries(stage) + row * kKeyStride + x, out_side.x, out_side.y);
        } else {
          scale_pair(values(stage) + row * at.value_stride + x, in_side.x, in_side.y);
          *reinterpret_cast<float2*>(decays(stage) + row * at.decay_width + x) = out_side;
        }
      }
      float* const to = ((half == 1) != kBackwards ? post() : pre()) + block * at.decay_width + x;
      to[0] = __expf(half ? c.x : -c.x), to[1] = __expf(half ? c.y : -c.y);
    });
  }

  // ---- Tokens

  __device__ int64_t out_place(int time) const {
    return batch * a.out.batch + head * a.out.head + int64_t(time) * a.out.time;
  }

  __device__ static void add_product(float (&sum)[4], const typename Math::A& x, const typename Math::B& y) {
    if constexpr (Math::kAddsExactly) return Math::multiply(sum, x, y);
    float product[4] = {};
    Math::multiply(product, x, y);
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[i] += product[i];
  }

  __device__ void by_blocks(int tile, int stage, const Factors& factors) {
    constexpr bool kScalar = kDecays == Decays::Scalar, kVectors = kDecays != Decays::None && !kScalar;
    const int r = lane_row(), c = 2 * lane_column();
#pragma unroll(kKeys <= 64 ? kBlocks : 1)
    for (int step = 0; step < kBlocks; ++step) {
      const int block = kBackwards ? kBlocks - 1 - step : step, row = block * kBlock, time = begin + tile * kTile + row;
      if (time >= end) continue;
      const T *q = queries(stage) + row * kKeyStride, *k = keys(stage) + row * kKeyStride,
              *v = values(stage) + row * at.value_stride + warp * kBlock;
      const auto of = [&](float factor, int token) { return __shfl_sync(0xffffffffu, factor, row + token); };
      float before, rest;
      if constexpr (kScalar) before = of(factors.before, 0), rest = of(factors.rest, 0);
      if constexpr (kVectors) scale_state(pre() + block * at.decay_width);
      if (a.out.data) {
        float scores[2][4] = {}, out[2][4] = {};
#pragma unroll
        for (int x = 0; x < kKeys / 16; ++x) {
          const auto query = Math::a(q + 16 * x, kKeyStride);
          typename Math::B low, high;
          Math::b_transposed(low, high, k + 16 * x, kKeyStride);
          Math::multiply(scores[0], query, low);
          Math::multiply(scores[1], query, high);
          Math::b(low, high, state[2 * x], state[2 * x + 1]);
          Math::multiply(out[0], query, low);
          Math::multiply(out[1], query, high);
        }
        if constexpr (kScalar) {
          const float upper = of(factors.out, r), lower = of(factors.out, r + 8), old_upper = before * upper,
                      old_lower = before * lower;
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const float even = of(factors.in, 8 * h + c), odd = of(factors.in, 8 * h + c + 1);
            scores[h][0] *= upper * even, scores[h][1] *= upper * odd;
            scores[h][2] *= lower * even, scores[h][3] *= lower * odd;
            out[h][0] *= old_upper, out[h][1] *= old_upper, out[h][2] *= old_lower, out[h][3] *= old_lower;
          }
        }
#pragma unroll
        for (int h = 0; h < 2; ++h) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int query = r + (i & 2) * 4, key = 8 * h + c + (i & 1);
            if (kBackwards ? key < query : key > query) scores[h][i] = 0;
          }
        }
        typename Math::B low, high;
        Math::template b<Besides::Accumulators>(low, high, v, at.value_stride);
        const auto weights = Math::a(scores[0], scores[1]);
        Math::multiply(out[0], weights, low);
        Math::multiply(out[1], weights, high);
        const int64_t place = out_place(time + r) + column + c;
#pragma unroll
        for (int i = 0; i < 2; ++i) {  // rows r and r + 8
          const int token = r + 8 * i;
          if (time + token >= end) continue;
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            float x = out[h][2 * i], y = out[h][2 * i + 1];
            if constexpr (kDecays == Decays::Value) {
              const float2 f = *reinterpret_cast<const float2*>(decays(stage) + (row + token) * at.decay_width +
                                                                warp * kBlock + 8 * h + c);
              x *= f.x, y *= f.y;
            }
            if (column + 8 * h < a.dv)  // rows of results have multiples of 8 columns
              store_two<T>(a.out.data, a.out_float32, place + i * (8 * int64_t(a.out.time)) + 8 * h, x, y);
          }
        }
      }
      auto columns = Math::a_transposed(v, at.value_stride);
      if constexpr (kScalar) {
        Math::scale_columns(columns, [&](int token) { return rest * of(factors.in, token); });
        scale_state(before * rest);
      }
#pragma unroll
      for (int x = 0; x < kKeys / 16; ++x) {
        typename Math::B low, high;
        Math::template b<Besides::Tile>(low, high, k + 16 * x, kKeyStride);
        add_product(state[2 * x], columns, low);
        add_product(state[2 * x + 1], columns, high);
      }
      if constexpr (kVectors) scale_state(post() + block * at.decay_width);
    }
  }

  __device__ void decay_state(int stage, int row) {
    const int r = lane_row(), c = 2 * lane_column();
    const float* g = decays(stage) + row * at.decay_width;
    if constexpr (kDecays == Decays::Key) {
#pragma unroll
      for (int t = 0; t < kKeys / 8; ++t) {
        const float x = expf(g[8 * t + c]), y = expf(g[8 * t + c + 1]);
        state[t][0] *= x, state[t][1] *= y, state[t][2] *= x, state[t][3] *= y;
      }
    } else if constexpr (kDecays != Decays::None) {
      const bool scalar = kDecays == Decays::Scalar;
      const float x = expf(g[scalar ? 0 : warp * kBlock + r]), y = expf(g[scalar ? 0 : warp * kBlock + r + 8]);
#pragma unroll
      for (int t = 0; t < kKeys / 8; ++t) state[t][0] *= x, state[t][1] *= x, state[t][2] *= y, state[t][3] *= y;
    }
  }

  __device__ void by_tokens(int tile, int stage) {
    const int r = lane_row(), c = 2 * lane_column(), time = begin + tile * kTile, count = min(kTile, end - time);
#pragma unroll 1
    for (int step = 0; step < count; ++step) {
      const int row = kBackwards ? count - 1 - step : step;
      const T *q = queries(stage) + row * kKeyStride, *k = keys(stage) + row * kKeyStride,
              *v = values(stage) + row * at.value_stride + warp * kBlock;
      if (!kBackwards) decay_state(stage, row);
      const float upper = to_float(v[r]), lower = to_float(v[r + 8]);
      float out_upper = 0, out_lower = 0;
#pragma unroll
      for (int t = 0; t < kKeys / 8; ++t) {
        const float k0 = to_float(k[8 * t + c]), k1 = to_float(k[8 * t + c + 1]);
        state[t][0] += upper * k0, state[t][1] += upper * k1, state[t][2] += lower * k0, state[t][3] += lower * k1;
        if (a.out.data) {
          const float q0 = to_float(q[8 * t + c]), q1 = to_float(q[8 * t + c + 1]);
          out_upper += q0 * state[t][0] + q1 * state[t][1], out_lower += q0 * state[t][2] + q1 * state[t][3];
        }
      }
      if (kBackwards) decay_state(stage, row);
      if (!a.out.data) continue;
      out_upper = sum_of_row(out_upper), out_lower = sum_of_row(out_lower);
      if (c != 0) continue;
      const auto store = [&](int n, float x) {
        if (n >= a.dv) return;
        const int64_t place = out_place(time + row) + n;
        if (sizeof(T) == 2 && !a.out_float32)
          static_cast<__nv_bfloat16*>(a.out.data)[place] = __float2bfloat16(x);
        else
          static_cast<float*>(a.out.data)[place] = x;
      };
      store(column + r, out_upper), store(column + r + 8, out_lower);
    }
  }

  __device__ void run() {
    if (kDecays != Decays::None && a.decay_sums) {
      for (int x = threadIdx.x; x < at.decay_width; x += blockDim.x) sums()[x] = 0;
    }
    const int tiles = (end - begin + kTile - 1) / kTile;
    const auto tile_at = [&](int step) { return kBackwards ? tiles - 1 - step : step; };
    const auto fetch_step = [&](int step) {  // a group of copies, empty at the end
      if (step < tiles) fetch(tile_at(step), step % kStages);
      commit_copies();
    };
    for (int step = 0; step < kStages - 1; ++step) fetch_step(step);
    load_state();
#pragma unroll 1
    for (int step = 0; step < tiles; ++step) {
      const int stage = step % kStages, tile = tile_at(step), time = begin + tile * kTile;
      const bool at_boundary = a.boundaries && time % kBoundary == 0;
      wait_for_copies<kStages - 2>();
      __syncthreads();
      fetch_step(step + kStages - 1);
      if (at_boundary && !a.crosses) store_boundary(time);
      Factors factors{.tokens = a.recurrent};
      if constexpr (kDecays == Decays::Scalar) factors = scalar_factors(stage);
      if constexpr (kDecays == Decays::Key || kDecays == Decays::Value) factors.tokens = apply_vectors(stage);
      if (factors.tokens)
        by_tokens(tile, stage);
      else
        by_blocks(tile, stage, factors);
      if (at_boundary && a.crosses) cross_boundary(time);
    }
    store_state();
    if constexpr (kDecays != Decays::None) {
      if (!a.decay_sums || (kDecays != Decays::Value && blockIdx.y > 0)) return;
      __syncthreads();
      const int width = a.log_decay.width, first = kDecays == Decays::Value ? column0 : 0;
      float* to = a.decay_sums + ((int64_t(batch) * a.heads + head) * a.segments + segment) * width;
      for (int x = threadIdx.x; x < at.decay_width && first + x < width; x += blockDim.x) to[first + x] = sums()[x];
    }
  }
};

template <class Math, int kKeys, Decays kDecays, bool kBackwards>
__global__ void __launch_bounds__(kMostWarps * 32, kKeys <= 64 ? 2 : 1)
    scan_kernel(const __grid_constant__ ScanStart a) {
  extern __shared__ __align__(16) char memory[];
  Scan<Math, kKeys, kDecays, kBackwards>(a, memory).run();
}

template <class Math, int kKeys, Decays kDecays, bool kBackwards>
void start_scan(const ScanStart& a, cudaStream_t stream) {
  const auto kernel = scan_kernel<Math, kKeys, kDecays, kBackwards>;
  const int bytes = Layout<Math, kKeys, kDecays>(a.warps).bytes;
  if (bytes > 48 * 1024) cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  const int columns = a.warps * kBlock;
  const dim3 grid(a.batch * a.heads * a.segments, (a.dv + columns - 1) / columns);
  kernel<<<grid, 32 * a.warps, bytes, stream>>>(a);
}

template <class Math, int kKeys>
void start_scan(const ScanStart& a, cudaStream_t stream) {
  const auto start = [&]<Decays kDecays>() {
    a.backwards ? start_scan<Math, kKeys, kDecays, true>(a, stream)
                : start_scan<Math, kKeys, kDecays, false>(a, stream);
  };
  switch (a.decays) {
    case Decays::None: return start.template operator()<Decays::None>();
    case Decays::Scalar: return start.template operator()<Decays::Scalar>();
    case Decays::Key: return start.template operator()<Decays::Key>();
    case Decays::Value: return start.template operator()<Decays::Value>();
  }
}

}  // namespace unbend::cuda
