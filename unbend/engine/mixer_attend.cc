#include <algorithm>
#include <array>
#include <limits>
#include <vector>

#include "unbend/engine/mixer_linear.h"
#include "unbend/engine/mixer_memory.h"

namespace unbend::engine {
namespace {

constexpr std::int64_t kBlock = 32;  // queries of one attention tile

/// What the softmax's numerator `sum` (its weights add up to `mass`) and the recurrence give together.
void combine(const MixerLayout& at, const MixerWeights& weights, const float* sum, float mass,
             const MixerScratch& place, const float* read, std::int64_t row, std::int64_t head, float* out) {
  const auto& s = at.settings;
  const std::int64_t d = at.width;
  const float* linear = read + (row * at.heads + head) * d;
  float softmax_part = 1, linear_part = 0;
  if (s.kind == MixerKind::Lizard) {
    const auto i = static_cast<std::size_t>(head);
    softmax_part = weights.window_share[i] / mass;
    linear_part = weights.linear_share[i] / std::max(read[place.tokens * at.heads * d + row * at.heads + head],
                                                     std::numeric_limits<float>::min());
  } else if (s.kind == MixerKind::Liger) {
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
  const std::int64_t near = std::min(t + 1, w), pinned = std::clamp<std::int64_t>(s.first(t), 0, s.sinks);
  const auto scores = near + pinned + std::ssize(weights.meta);
  thread_local std::vector<float> buffer;
  buffer.resize(static_cast<std::size_t>((vectors(scores) + 2 * vectors(d)) * kL));
  float *weight = buffer.data(), *sum = weight + vectors(scores) * kL, *q = sum + vectors(d) * kL;
  copy(rows.q + (slice.first * at.heads + head) * d, d, q);
  scale(q, d, at.scale);
  for (std::int64_t i = 0; i < near; ++i)
    weight[i] = dot(q, memory.key(kv, i), d);  // slots: their order is of no matter
  for (std::int64_t j = std::max<std::int64_t>(t - w + 1, 0); j < s.first(t); ++j)
    weight[j % w] = -std::numeric_limits<float>::infinity();
  for (std::int64_t i = 0; i < pinned; ++i) weight[near + i] = dot(q, memory.sink_key(kv, i), d);
  std::ranges::copy(weights.meta, weight + near + pinned);
  const float mass = exponentials(weight, scores);
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
  const std::int64_t d = at.width, kv = head * at.kv_heads / at.heads;
  const Band band(at, slice, const_cast<float*>(scratch) + place.bands[index], kv);
  const std::int64_t count = std::min(kBlock, slice.count - from);
  const std::int64_t t0 = slice.position + from, start = slice.position - band.past;
  const std::int64_t first = std::max<std::int64_t>(0, s.first(t0) - start);  // columns of the band in reach
  const std::int64_t columns = band.past + from + count - first;
  const std::int64_t pinned = std::clamp<std::int64_t>(s.first(t0 + count - 1), 0, s.sinks);
  const auto scores = columns + pinned + std::ssize(weights.meta);
  const std::int64_t stride = vectors(scores) * kL + kL, value_stride = band.value_stride;

  thread_local std::vector<float> buffer;
  buffer.resize(static_cast<std::size_t>(kBlock * (d + stride + value_stride + 1) + 2 * (d + kL) * kL));
  float *q = buffer.data(), *weight = q + kBlock * d, *sum = weight + kBlock * stride,
        *mass = sum + kBlock * value_stride;
  for (std::int64_t i = 0; i < count; ++i) {
    copy(rows.q + ((slice.first + from + i) * at.heads + head) * d, d, q + i * d);
    scale(q + i * d, d, at.scale);
  }
  kernel::product<kernel::Into::Set, float>(count, columns, d, {q, d, 1}, band.keys + first, band.stride, weight,
                                            stride);
  const float hidden = -std::numeric_limits<float>::infinity();
  for (std::int64_t i = 0; i < count; ++i) {
    float* row = weight + i * stride;
    const std::int64_t last = band.past + from + i - first,
                       begin = std::max<std::int64_t>(0, s.first(t0 + i) - start - first);
    std::fill(row, row + begin, hidden);
    std::fill(row + last + 1, row + columns, hidden);
    const std::int64_t outside = std::clamp<std::int64_t>(s.first(t0 + i), 0, s.sinks);
    std::array<float, 1024> key;
    for (std::int64_t j = 0; j < pinned; ++j) {
      if (j >= outside) {
        row[columns + j] = hidden;
        continue;
      }
      copy(memory.sink_key(kv, j), d, key.data());
      row[columns + j] = dot(q + i * d, key.data(), d);
    }
    std::ranges::copy(weights.meta, row + columns + pinned);
    mass[i] = exponentials(row, scores);
  }
  kernel::product<kernel::Into::Set, float>(count, value_stride, columns, {weight, stride, 1},
                                            band.values + first * band.value_stride, band.value_stride, sum,
                                            value_stride);
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

void mixer_attend(const MixerLayout& at, const MixerWeights& weights, std::span<const Slice> slices,
                  std::int64_t layer_offset, const MixerRows& rows, const MixerScratch& place, const float* scratch,
                  const float* read, float* out, int thread, int threads) {
  if (at.settings.kind == MixerKind::Linear)
    linear_finish(at, weights, place, read, out, thread, threads);
  else if (at.type == CacheType::F16)
    attend<hwy::float16_t>(at, weights, slices, layer_offset, rows, place, scratch, read, out, thread, threads);
  else
    attend<float>(at, weights, slices, layer_offset, rows, place, scratch, read, out, thread, threads);
}

}  // namespace unbend::engine
