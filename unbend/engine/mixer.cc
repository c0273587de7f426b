#include "unbend/engine/mixer.h"

#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "unbend/base/simd_tile.h"

namespace unbend::engine {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using F32 = hn::ScalableTag<float>;
using Vector = hn::Vec<F32>;
constexpr std::int64_t kL = hn::MaxLanes(F32());
constexpr std::int64_t kBlock = 32;  // queries of one attention tile
static_assert(hn::MaxLanes(F32()) == kernel::kLanes<float>);

std::int64_t vectors(std::int64_t n) { return (n + kL - 1) / kL; }

// ---- Numbers of either cache type, and rows whose length need not be a whole number of vectors

Vector load(const float* p, std::int64_t n) {
  if (n >= kL) return hn::LoadU(F32(), p);
  float all[kL] = {};
  std::memcpy(all, p, static_cast<std::size_t>(n) * sizeof(float));
  return hn::LoadU(F32(), all);
}
Vector load(const hwy::float16_t* p, std::int64_t n) {
  const hn::Rebind<hwy::float16_t, F32> half;
  if (n >= kL) return hn::PromoteTo(F32(), hn::LoadU(half, p));
  hwy::float16_t all[kL] = {};
  std::memcpy(static_cast<void*>(all), p, static_cast<std::size_t>(n) * sizeof(*p));
  return hn::PromoteTo(F32(), hn::LoadU(half, all));
}
void store(Vector v, float* p, std::int64_t n) {
  if (n >= kL) return hn::StoreU(v, F32(), p);
  float all[kL];
  hn::StoreU(v, F32(), all);
  std::memcpy(p, all, static_cast<std::size_t>(n) * sizeof(float));
}
void store(Vector v, hwy::float16_t* p, std::int64_t n) {
  const hn::Rebind<hwy::float16_t, F32> half;
  if (n >= kL) return hn::StoreU(hn::DemoteTo(half, v), half, p);
  hwy::float16_t all[kL];
  hn::StoreU(hn::DemoteTo(half, v), half, all);
  std::memcpy(static_cast<void*>(p), all, static_cast<std::size_t>(n) * sizeof(*p));
}
float sum_of(Vector v) { return hn::GetLane(hn::SumOfLanes(F32(), v)); }

template <class From, class To>
void copy(const From* from, std::int64_t n, To* to) {
  for (std::int64_t i = 0; i < n; i += kL) store(load(from + i, n - i), to + i, n - i);
}

template <class T>
float dot(const float* a, const T* b, std::int64_t n) {
  auto sum = hn::Zero(F32());
  for (std::int64_t i = 0; i < n; i += kL) sum = hn::MulAdd(load(a + i, n - i), load(b + i, n - i), sum);
  return sum_of(sum);
}

float log_sigmoid(float z) { return std::min(z, 0.f) - std::log1p(std::exp(-std::abs(z))); }
float softplus(float z) { return std::max(z, 0.f) + std::log1p(std::exp(-std::abs(z))); }

/// exp(x - max x) in place; returns their sum.
float exponentials(float* x, std::int64_t n) {
  float max = -std::numeric_limits<float>::infinity();
  for (std::int64_t i = 0; i < n; ++i) max = std::max(max, x[i]);
  auto sum = hn::Zero(F32());
  const auto shift = hn::Set(F32(), max);
  for (std::int64_t i = 0; i < n; i += kL) {
    auto e = hn::Exp(F32(), hn::Sub(load(x + i, n - i), shift));
    if (n - i < kL) e = hn::IfThenElseZero(hn::FirstN(F32(), n - i), e);
    store(e, x + i, n - i);
    sum = hn::Add(sum, e);
  }
  return sum_of(sum);
}

void scale(float* x, std::int64_t n, float by) {
  for (std::int64_t i = 0; i < n; ++i) x[i] *= by;
}

void softmax(const float* x, std::int64_t n, float* out) {
  copy(x, n, out);
  scale(out, n, 1 / exponentials(out, n));
}

/// [softmax(x M), softmax(-x M)] with M [d][d/2].
void softmax_pair(const float* x, const float* map, std::int64_t d, float* out) {
  const std::int64_t f = d / 2;
  for (std::int64_t j = 0; j < f; j += kL) {
    auto sum = hn::Zero(F32());
    for (std::int64_t i = 0; i < d; ++i) sum = hn::MulAdd(hn::Set(F32(), x[i]), load(map + i * f + j, f - j), sum);
    store(sum, out + j, f - j);
    store(hn::Neg(sum), out + f + j, f - j);
  }
  for (float* half : {out, out + f}) scale(half, f, 1 / exponentials(half, f));
}

// ---- Views of a sequence's memory and of the scratch

template <class T>
struct Memory {
  const MixerLayout& at;
  std::byte* base;
  T* at_byte(std::int64_t offset) const { return reinterpret_cast<T*>(base + offset); }
  T* key(std::int64_t head, std::int64_t token) const { return slot(at.keys, head, token); }
  T* value(std::int64_t head, std::int64_t token) const { return slot(at.values, head, token); }
  T* sink_key(std::int64_t head, std::int64_t i) const { return sink(at.sink_keys, head, i); }
  T* sink_value(std::int64_t head, std::int64_t i) const { return sink(at.sink_values, head, i); }
  double* clock(std::int64_t group) const {
    return reinterpret_cast<double*>(base + at.clock) + group * (at.settings.window + 1);
  }

 private:
  T* slot(std::int64_t offset, std::int64_t head, std::int64_t token) const {
    const auto w = at.settings.window;
    return at_byte(offset) + (head * w + token % w) * at.width;
  }
  T* sink(std::int64_t offset, std::int64_t head, std::int64_t i) const {
    return at_byte(offset) + (head * at.settings.sinks + i) * at.width;
  }
};

/// Keys (transposed) and values of the last w tokens before a slice and of the slice itself, for one kv head.
struct Band {
  std::int64_t past = 0, tokens = 0, stride = 0, value_stride = 0;
  float *keys = nullptr, *values = nullptr;  // [d][stride], [tokens][value_stride]

  Band(const MixerLayout& at, const Slice& slice, float* base, std::int64_t head) {
    past = std::min(slice.position, at.settings.window);
    tokens = past + slice.count;
    stride = (vectors(tokens) + 1) * kL;  // products read whole vectors from any column on
    value_stride = vectors(at.width) * kL;
    keys = base + head * floats(at, slice);
    values = keys + at.width * stride;
  }
  static std::int64_t floats(const MixerLayout& at, const Slice& slice) {
    const std::int64_t n = std::min(slice.position, at.settings.window) + slice.count;
    return at.width * (vectors(n) + 1) * kL + n * vectors(at.width) * kL;
  }
};

bool decay_per_channel(const MixerSettings& s) {
  return s.kind == MixerKind::Liger && (s.gate_form == GateForm::LogSigmoid || s.gate_form == GateForm::Exp);
}

void liger_decay(const MixerSettings& s, const float* logits, std::int64_t d, float* out) {
  if (decay_per_channel(s)) {
    for (std::int64_t i = 0; i < d; ++i)
      out[i] = s.gate_form == GateForm::Exp ? std::exp(-std::exp(logits[i]))
                                            : std::exp(log_sigmoid(logits[i]) / static_cast<float>(s.gate_normalizer));
    return;
  }
  float mean = 0;
  for (std::int64_t i = 0; i < d; ++i) mean += logits[i] / static_cast<float>(d);
  switch (s.gate_form) {
    case GateForm::MeanSoftplus: *out = std::exp(-softplus(mean)); break;
    case GateForm::MeanLogSigmoid: *out = 1 / (1 + std::exp(-mean)); break;
    default: *out = 1;
  }
}

template <class T>
void prepare_head(const MixerLayout& at, const MixerWeights& weights, const Slice& slice, Memory<T> memory,
                  const MixerRows& rows, const MixerScratch& place, std::size_t index, float* scratch,
                  std::int64_t head) {
  const auto& s = at.settings;
  const std::int64_t d = at.width, hkv = at.kv_heads, w = s.window;
  const auto key = [&](std::int64_t i) { return rows.k + ((slice.first + i) * hkv + head) * d; };
  const auto value = [&](std::int64_t i) { return rows.v + ((slice.first + i) * hkv + head) * d; };

  if (s.recurrent()) {
    const std::int64_t repeat = s.groups / hkv;
    std::vector<float> leaving(static_cast<std::size_t>(d));
    for (std::int64_t i = 0; i < slice.count; ++i) {
      const std::int64_t t = slice.position + i, row = slice.first + i;
      float* values = scratch + place.values + (row * hkv + head) * d;
      for (std::int64_t g = head * repeat; g < (head + 1) * repeat; ++g) {
        float* features = scratch + place.key_features + (row * s.groups + g) * d;
        float* decay = scratch + place.decay + (row * s.groups + g) * (decay_per_channel(s) ? d : 1);
        if (s.kind == MixerKind::Liger) {
          const float* raw = rows.raw_k + (row * hkv + head) * d;
          softmax(raw, d, features);
          liger_decay(s, raw, d, decay);
          continue;
        }
        // A key enters the recurrence when it leaves the window, decayed by the gates since it came.
        double* clock = memory.clock(g);
        const float log_decay = s.gate ? log_sigmoid(rows.gates[row * s.groups + g]) : 0;
        const double before = clock[t % w];
        clock[w] += log_decay;
        clock[t % w] = clock[w];
        *decay = std::exp(log_decay);
        if (t < w + s.sinks) {
          std::fill_n(features, d, 0.f);
          continue;
        }
        if (i >= w)
          copy(key(i - w), d, leaving.data());
        else
          copy(memory.key(head, t), d, leaving.data());
        softmax_pair(leaving.data(), weights.key_map.data() + g * d * (d / 2), d, features);
        scale(features, d, static_cast<float>(std::exp(clock[w] - before)));
      }
      if (s.kind == MixerKind::Liger || i >= w)
        copy(s.kind == MixerKind::Liger ? value(i) : value(i - w), d, values);
      else if (t >= w)
        copy(memory.value(head, t), d, values);
      else
        std::fill_n(values, d, 0.f);
    }
  }

  if (slice.count > 1) {
    const Band band(at, slice, scratch + place.bands[index], head);
    const auto put = [&](std::int64_t column, const auto* k, const auto* v) {
      std::array<float, 1024> row;
      copy(k, d, row.data());
      for (std::int64_t c = 0; c < d; ++c) band.keys[c * band.stride + column] = row[static_cast<std::size_t>(c)];
      float* out = band.values + column * band.value_stride;
      copy(v, d, out);
      std::fill(out + d, out + band.value_stride, 0.f);
    };
    for (std::int64_t i = 0; i < band.past; ++i) {
      const std::int64_t t = slice.position - band.past + i;
      put(i, memory.key(head, t), memory.value(head, t));
    }
    for (std::int64_t i = 0; i < slice.count; ++i) put(band.past + i, key(i), value(i));
    for (std::int64_t c = 0; c < d; ++c)
      std::fill(band.keys + c * band.stride + band.tokens, band.keys + (c + 1) * band.stride, 0.f);
  }

  for (std::int64_t i = 0; i < slice.count; ++i) {
    const std::int64_t t = slice.position + i;
    if (t < s.sinks) {
      copy(key(i), d, memory.sink_key(head, t));
      copy(value(i), d, memory.sink_value(head, t));
    }
    if (i + w < slice.count) continue;  // overwritten within this slice
    copy(key(i), d, memory.key(head, t));
    copy(value(i), d, memory.value(head, t));
  }
}

template <class T>
void prepare(const MixerLayout& at, const MixerWeights& weights, std::span<const Slice> slices,
             std::int64_t layer_offset, const MixerRows& rows, const MixerScratch& place, float* scratch, int thread,
             int threads) {
  const auto& s = at.settings;
  const std::int64_t d = at.width;
  std::int64_t unit = 0;
  const auto mine = [&] { return unit++ % threads == thread; };
  for (std::size_t i = 0; i < slices.size(); ++i)
    for (std::int64_t head = 0; head < at.kv_heads; ++head)
      if (mine())
        prepare_head<T>(at, weights, slices[i], {at, slices[i].state + layer_offset}, rows, place, i, scratch, head);
  if (!s.recurrent()) return;
  for (const auto& slice : slices)
    for (std::int64_t i = 0; i < slice.count; ++i) {
      // Nothing is read while nothing has left the window.
      if (s.kind == MixerKind::Hybrid && slice.position + i < s.window + s.sinks) continue;
      for (std::int64_t head = 0; head < at.heads; ++head) {
        if (!mine()) continue;
        const std::int64_t row = (slice.first + i) * at.heads + head;
        float* features = scratch + place.query_features + row * d;
        if (s.kind == MixerKind::Liger)
          softmax(rows.raw_q + row * d, d, features);
        else
          softmax_pair(rows.q + row * d, weights.query_map.data() + head * d * (d / 2), d, features);
      }
    }
}

// ---- The recurrence

/// One block of value channels: S [d][lanes], read by up to kReads query heads at once.
template <int kReads, bool kUpdate>
void scan_step(std::int64_t d, float* state, const float* features, const float* decay, bool per_channel, Vector value,
               const float* const* queries, Vector* reads) {
  const F32 tag;
  auto scalar = hn::Set(tag, *decay);
  for (std::int64_t f = 0; f < d; ++f) {
    auto row = hn::LoadU(tag, state + f * kL);
    if constexpr (kUpdate) {
      if (per_channel) scalar = hn::Set(tag, decay[f]);
      row = hn::MulAdd(hn::Set(tag, features[f]), value, hn::Mul(row, scalar));
      hn::StoreU(row, tag, state + f * kL);
    }
    for (int r = 0; r < kReads; ++r) reads[r] = hn::MulAdd(hn::Set(tag, queries[r][f]), row, reads[r]);
  }
}

void scan_slice(const MixerLayout& at, const Slice& slice, float* state, std::int64_t group, std::int64_t block,
                const MixerScratch& place, const float* scratch, float* read) {
  const auto& s = at.settings;
  const std::int64_t d = at.width, repeat = at.heads / s.groups, kv = group * at.kv_heads / s.groups;
  const std::int64_t left = std::min(kL, d - block * kL);
  const bool channels = decay_per_channel(s);
  for (std::int64_t i = 0; i < slice.count; ++i) {
    const std::int64_t row = slice.first + i;
    float* out = read + (row * at.heads + group * repeat) * d + block * kL;
    if (s.kind == MixerKind::Hybrid && slice.position + i < s.window + s.sinks) {
      for (std::int64_t r = 0; r < repeat; ++r) store(hn::Zero(F32()), out + r * d, left);
      continue;
    }
    const float* features = scratch + place.key_features + (row * s.groups + group) * d;
    const float* decay = scratch + place.decay + (row * s.groups + group) * (channels ? d : 1);
    const auto value = load(scratch + place.values + (row * at.kv_heads + kv) * d + block * kL, left);
    const float* query = scratch + place.query_features + (row * at.heads + group * repeat) * d;
    for (std::int64_t r = 0; r < repeat;) {
      const auto reads = [&]<int kReads>() {
        const float* queries[kReads];
        Vector sums[kReads];
        for (int j = 0; j < kReads; ++j) queries[j] = query + (r + j) * d, sums[j] = hn::Zero(F32());
        if (r == 0)
          scan_step<kReads, true>(d, state, features, decay, channels, value, queries, sums);
        else
          scan_step<kReads, false>(d, state, features, decay, channels, value, queries, sums);
        for (int j = 0; j < kReads; ++j) store(sums[j], out + (r + j) * d, left);
        r += kReads;
      };
      switch (std::min<std::int64_t>(repeat - r, 4)) {
        case 4: reads.template operator()<4>(); break;
        case 3: reads.template operator()<3>(); break;
        case 2: reads.template operator()<2>(); break;
        default: reads.template operator()<1>();
      }
    }
  }
}

void scan_mass(const MixerLayout& at, const Slice& slice, float* mass, std::int64_t group, const MixerScratch& place,
               const float* scratch, float* read) {
  const auto& s = at.settings;
  const std::int64_t d = at.width, repeat = at.heads / s.groups;
  for (std::int64_t i = 0; i < slice.count; ++i) {
    const std::int64_t row = slice.first + i;
    float* out = read + place.tokens * at.heads * d + row * at.heads + group * repeat;
    if (slice.position + i < s.window + s.sinks) {
      std::fill_n(out, repeat, 0.f);
      continue;
    }
    const float* features = scratch + place.key_features + (row * s.groups + group) * d;
    const auto decay = hn::Set(F32(), scratch[place.decay + row * s.groups + group]);
    for (std::int64_t f = 0; f < d; f += kL)
      store(hn::MulAdd(load(mass + f, d - f), decay, load(features + f, d - f)), mass + f, d - f);
    for (std::int64_t r = 0; r < repeat; ++r)
      out[r] = dot(scratch + place.query_features + (row * at.heads + group * repeat + r) * d, mass, d);
  }
}

// ---- Window and sinks

/// What the softmax's numerator `sum` (its weights add up to `mass`) and the recurrence give together.
void combine(const MixerLayout& at, const MixerWeights& weights, const float* sum, float mass,
             const MixerScratch& place, const float* read, std::int64_t row, std::int64_t head, float* out) {
  const auto& s = at.settings;
  const std::int64_t d = at.width;
  const float* linear = read + (row * at.heads + head) * d;
  float softmax_part = 1, linear_part = 0;
  if (s.kind == MixerKind::Liger) {
    softmax_part = static_cast<float>(s.mix_window) / mass;
    linear_part = static_cast<float>(s.mix_linear);
  } else if (s.recurrent()) {
    const float e = weights.scale[static_cast<std::size_t>(head)];
    softmax_part = 1 / (mass + e * read[place.tokens * at.heads * d + row * at.heads + head]);
    linear_part = e * softmax_part;
  } else {
    softmax_part = 1 / mass;
  }
  for (std::int64_t i = 0; i < d; i += kL) {
    auto y = hn::Mul(load(sum + i, d - i), hn::Set(F32(), softmax_part));
    if (linear_part != 0) y = hn::MulAdd(load(linear + i, d - i), hn::Set(F32(), linear_part), y);
    store(y, out + (row * at.heads + head) * d + i, d - i);
  }
}

template <class T>
void attend_one(const MixerLayout& at, const MixerWeights& weights, const Slice& slice, Memory<T> memory,
                const MixerRows& rows, const MixerScratch& place, const float* read, float* out, std::int64_t head) {
  const auto& s = at.settings;
  const std::int64_t d = at.width, t = slice.position, w = s.window, kv = head * at.kv_heads / at.heads;
  const std::int64_t near = std::min(t + 1, w), pinned = std::clamp<std::int64_t>(t - w + 1, 0, s.sinks);
  thread_local std::vector<float> buffer;
  buffer.resize(static_cast<std::size_t>((vectors(near + pinned) + 2 * vectors(d)) * kL));
  float *weight = buffer.data(), *sum = weight + vectors(near + pinned) * kL, *q = sum + vectors(d) * kL;
  copy(rows.q + (slice.first * at.heads + head) * d, d, q);
  scale(q, d, at.scale);
  for (std::int64_t i = 0; i < near; ++i)
    weight[i] = dot(q, memory.key(kv, i), d);  // slots: their order is of no matter
  for (std::int64_t i = 0; i < pinned; ++i) weight[near + i] = dot(q, memory.sink_key(kv, i), d);
  const float mass = exponentials(weight, near + pinned);
  for (std::int64_t c = 0; c < d; c += kL) {
    auto total = hn::Zero(F32());
    for (std::int64_t i = 0; i < near; ++i)
      total = hn::MulAdd(hn::Set(F32(), weight[i]), load(memory.value(kv, i) + c, d - c), total);
    for (std::int64_t i = 0; i < pinned; ++i)
      total = hn::MulAdd(hn::Set(F32(), weight[near + i]), load(memory.sink_value(kv, i) + c, d - c), total);
    store(total, sum + c, d - c);
  }
  combine(at, weights, sum, mass, place, read, slice.first, head, out);
}

template <class T>
void attend_block(const MixerLayout& at, const MixerWeights& weights, const Slice& slice, Memory<T> memory,
                  const MixerRows& rows, const MixerScratch& place, std::size_t index, const float* scratch,
                  const float* read, float* out, std::int64_t head, std::int64_t from) {
  const auto& s = at.settings;
  const std::int64_t d = at.width, w = s.window, kv = head * at.kv_heads / at.heads;
  const Band band(at, slice, const_cast<float*>(scratch) + place.bands[index], kv);
  const std::int64_t count = std::min(kBlock, slice.count - from);
  const std::int64_t first = std::max<std::int64_t>(0, band.past + from - w + 1);  // columns of the band in reach
  const std::int64_t columns = band.past + from + count - first;
  const std::int64_t t0 = slice.position + from;
  const std::int64_t pinned = std::clamp<std::int64_t>(t0 + count - w, 0, s.sinks);
  const std::int64_t stride = vectors(columns + pinned) * kL + kL, value_stride = band.value_stride;

  thread_local std::vector<float> buffer;
  buffer.resize(static_cast<std::size_t>(kBlock * (d + stride + value_stride + 1) + 2 * (d + kL) * kL));
  float *q = buffer.data(), *weight = q + kBlock * d, *sum = weight + kBlock * stride,
        *mass = sum + kBlock * value_stride;
  for (std::int64_t i = 0; i < count; ++i) {
    copy(rows.q + ((slice.first + from + i) * at.heads + head) * d, d, q + i * d);
    scale(q + i * d, d, at.scale);
  }
  kernel::product<false, float>(count, columns, d, {q, d, 1}, band.keys + first, band.stride, weight, stride);
  const float hidden = -std::numeric_limits<float>::infinity();
  for (std::int64_t i = 0; i < count; ++i) {
    float* row = weight + i * stride;
    const std::int64_t last = band.past + from + i - first, begin = std::max<std::int64_t>(0, last - w + 1);
    std::fill(row, row + begin, hidden);
    std::fill(row + last + 1, row + columns, hidden);
    const std::int64_t outside = std::clamp<std::int64_t>(t0 + i - w + 1, 0, s.sinks);
    std::array<float, 1024> key;
    for (std::int64_t j = 0; j < pinned; ++j) {
      if (j >= outside) {
        row[columns + j] = hidden;
        continue;
      }
      copy(memory.sink_key(kv, j), d, key.data());
      row[columns + j] = dot(q + i * d, key.data(), d);
    }
    mass[i] = exponentials(row, columns + pinned);
  }
  kernel::product<false, float>(count, value_stride, columns, {weight, stride, 1},
                                band.values + first * band.value_stride, band.value_stride, sum, value_stride);
  for (std::int64_t i = 0; i < count; ++i) {
    for (std::int64_t j = 0; j < pinned; ++j) {
      const auto p = hn::Set(F32(), weight[i * stride + columns + j]);
      float* total = sum + i * value_stride;
      for (std::int64_t c = 0; c < d; c += kL)
        store(hn::MulAdd(p, load(memory.sink_value(kv, j) + c, d - c), load(total + c, d - c)), total + c, d - c);
    }
    combine(at, weights, sum + i * value_stride, mass[i], place, read, slice.first + from + i, head, out);
  }
}

template <class T>
void attend(const MixerLayout& at, const MixerWeights& weights, std::span<const Slice> slices,
            std::int64_t layer_offset, const MixerRows& rows, const MixerScratch& place, const float* scratch,
            const float* read, float* out, int thread, int threads) {
  std::int64_t unit = 0;
  const auto mine = [&] { return unit++ % threads == thread; };
  for (std::size_t i = 0; i < slices.size(); ++i) {
    const auto& slice = slices[i];
    const Memory<T> memory{at, slice.state + layer_offset};
    for (std::int64_t head = 0; head < at.heads; ++head) {
      if (slice.count == 1) {
        if (mine()) attend_one<T>(at, weights, slice, memory, rows, place, read, out, head);
        continue;
      }
      for (std::int64_t from = 0; from < slice.count; from += kBlock)
        if (mine()) attend_block<T>(at, weights, slice, memory, rows, place, i, scratch, read, out, head, from);
    }
  }
}

}  // namespace

std::int64_t state_lanes() { return kL; }

MixerLayout::MixerLayout(const DecoderConfig& c, const MixerSettings& s, CacheType cache)
    : heads(c.heads),
      kv_heads(c.kv_heads),
      width(c.head_dim),
      settings(s),
      type(cache),
      scale(static_cast<float>(c.scale())) {
  const std::int64_t number = cache == CacheType::F16 ? 2 : 4;
  const auto take = [&](std::int64_t size) {
    const std::int64_t start = bytes;
    bytes += (size + 63) / 64 * 64;
    return start;
  };
  keys = take(kv_heads * s.window * width * number);
  values = take(kv_heads * s.window * width * number);
  sink_keys = take(kv_heads * s.sinks * width * number);
  sink_values = take(kv_heads * s.sinks * width * number);
  if (!s.recurrent()) return;
  state = take(s.groups * vectors(width) * width * kL * 4);
  if (s.kind != MixerKind::Hybrid) return;
  mass = take(s.groups * width * 4);
  clock = take(s.groups * (s.window + 1) * 8);
}

MixerScratch::MixerScratch(const MixerLayout& at, std::span<const Slice> slices) {
  for (const auto& slice : slices) tokens += slice.count;
  const auto take = [&](std::int64_t count) {
    const std::int64_t start = floats;
    floats += vectors(count) * kL;
    return start;
  };
  const auto& s = at.settings;
  if (s.recurrent()) {
    query_features = take(tokens * at.heads * at.width);
    key_features = take(tokens * s.groups * at.width);
    values = take(tokens * at.kv_heads * at.width);
    decay = take(tokens * s.groups * (decay_per_channel(s) ? at.width : 1));
  }
  for (const auto& slice : slices) bands.push_back(slice.count > 1 ? take(at.kv_heads * Band::floats(at, slice)) : -1);
}

void mixer_prepare(const MixerLayout& at, const MixerWeights& weights, std::span<const Slice> slices,
                   std::int64_t layer_offset, const MixerRows& rows, const MixerScratch& place, float* scratch,
                   int thread, int threads) {
  if (at.type == CacheType::F16)
    prepare<hwy::float16_t>(at, weights, slices, layer_offset, rows, place, scratch, thread, threads);
  else
    prepare<float>(at, weights, slices, layer_offset, rows, place, scratch, thread, threads);
}

void mixer_scan(const MixerLayout& at, std::span<const Slice> slices, std::int64_t layer_offset,
                const MixerScratch& place, const float* scratch, float* read, int thread, int threads) {
  const auto& s = at.settings;
  const std::int64_t blocks = vectors(at.width);
  std::int64_t unit = 0;
  const auto mine = [&] { return unit++ % threads == thread; };
  for (const auto& slice : slices)
    for (std::int64_t group = 0; group < s.groups; ++group) {
      auto* state = reinterpret_cast<float*>(slice.state + layer_offset + at.state);
      for (std::int64_t block = 0; block < blocks; ++block)
        if (mine())
          scan_slice(at, slice, state + (group * blocks + block) * at.width * kL, group, block, place, scratch, read);
      if (s.kind == MixerKind::Hybrid && mine())
        scan_mass(at, slice, reinterpret_cast<float*>(slice.state + layer_offset + at.mass) + group * at.width, group,
                  place, scratch, read);
    }
}

void mixer_attend(const MixerLayout& at, const MixerWeights& weights, std::span<const Slice> slices,
                  std::int64_t layer_offset, const MixerRows& rows, const MixerScratch& place, const float* scratch,
                  const float* read, float* out, int thread, int threads) {
  if (at.type == CacheType::F16)
    attend<hwy::float16_t>(at, weights, slices, layer_offset, rows, place, scratch, read, out, thread, threads);
  else
    attend<float>(at, weights, slices, layer_offset, rows, place, scratch, read, out, thread, threads);
}

}  // namespace unbend::engine
