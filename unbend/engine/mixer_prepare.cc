#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "unbend/engine/mixer_linear.h"
#include "unbend/engine/mixer_memory.h"

namespace unbend::engine {
namespace {

void liger_decay(const MixerSettings& s, const float* logits, std::int64_t d, float* out) {
  if (s.gate_form == GateForm::LogSigmoid || s.gate_form == GateForm::Exp) {
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
  const std::int64_t d = at.width, hkv = at.kv_heads, w = s.window, delay = s.delay();
  const auto key = [&](std::int64_t i) { return rows.k + ((slice.first + i) * hkv + head) * d; };
  const auto value = [&](std::int64_t i) { return rows.v + ((slice.first + i) * hkv + head) * d; };

  if (s.recurrent() && !s.by_settings()) {
    const std::int64_t repeat = s.groups / hkv;
    std::vector<float> leaving(static_cast<std::size_t>(d));
    for (std::int64_t i = 0; i < slice.count; ++i) {
      const std::int64_t t = slice.position + i, row = slice.first + i;
      float* values = scratch + place.values + (row * hkv + head) * d;
      for (std::int64_t g = head * repeat; g < (head + 1) * repeat; ++g) {
        float* features = scratch + place.key_features + (row * s.groups + g) * d;
        float* decay = scratch + place.decay + (row * s.groups + g) * decays(at);
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
        if (t < delay + s.sinks) {
          std::fill_n(features, d, 0.f);
          continue;
        }
        if (i >= delay)
          copy(key(i - delay), d, leaving.data());
        else
          copy(memory.key(head, t - delay), d, leaving.data());
        softmax_pair(leaving.data(), weights.key_map.data() + g * d * (d / 2), d, d / 2, features);
        scale(features, d, static_cast<float>(std::exp(clock[w] - before)));
      }
      if (s.kind == MixerKind::Liger || i >= delay)
        copy(s.kind == MixerKind::Liger ? value(i) : value(i - delay), d, values);
      else if (t >= delay)
        copy(memory.value(head, t - delay), d, values);
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
  if (!s.recurrent() || s.by_settings()) return;
  for (const auto& slice : slices)
    for (std::int64_t i = 0; i < slice.count; ++i) {
      if (slice.position + i < first_read(s)) continue;
      for (std::int64_t head = 0; head < at.heads; ++head) {
        if (!mine()) continue;
        const std::int64_t row = (slice.first + i) * at.heads + head;
        float* features = scratch + place.query_features + row * d;
        if (s.kind == MixerKind::Liger)
          softmax(rows.raw_q + row * d, d, features);
        else
          softmax_pair(rows.q + row * d, weights.query_map.data() + head * d * (d / 2), d, d / 2, features);
      }
    }
}

}  // namespace

void mixer_prepare(const MixerLayout& at, const MixerWeights& weights, std::span<const Slice> slices,
                   std::int64_t layer_offset, const MixerRows& rows, const MixerScratch& place, float* scratch,
                   int thread, int threads) {
  if (at.settings.by_settings())
    linear_prepare(at, weights, slices, layer_offset, rows, place, scratch, thread, threads);
  if (at.settings.kind == MixerKind::Linear) return;
  if (at.type == CacheType::F16)
    prepare<hwy::float16_t>(at, weights, slices, layer_offset, rows, place, scratch, thread, threads);
  else
    prepare<float>(at, weights, slices, layer_offset, rows, place, scratch, thread, threads);
}

}  // namespace unbend::engine
