#include "unbend/engine/mixer_lawcat.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "unbend/engine/mixer_memory.h"

namespace unbend::engine {
namespace {

constexpr float kSmallestFeature = 1e-12f, kSmallestMass = 1e-10f;  // as unbend/lm/lawcat.cc has them

/// The rows of one head: of a slice's tokens, and of the taps - 1 tokens before it.
struct HeadRows {
  const float* now;
  float* past;  // token -1 is the last one
  std::int64_t now_stride, past_stride, taps;

  const float* row(std::int64_t i) const { return i >= 0 ? now + i * now_stride : past + (i + taps - 1) * past_stride; }
  /// Keeps what the next slice needs. In place: a row moves to an earlier one only.
  void advance(std::int64_t count, std::int64_t d) const {
    for (std::int64_t j = 0; j + 1 < taps; ++j) {
      const float* from = row(count - (taps - 1) + j);
      std::copy(from, from + d, past + j * past_stride);
    }
  }
};

/// Causal convolution at token i with taps [taps][d]; the row itself if there are none.
void convolve(const HeadRows& rows, std::int64_t i, const float* taps, std::int64_t d, bool silu, float* out) {
  if (!taps) return copy(rows.row(i), d, out);
  for (std::int64_t c = 0; c < d; c += kL) {
    auto sum = hn::Zero(F32());
    for (std::int64_t j = 0; j < rows.taps; ++j)
      sum = hn::MulAdd(load(taps + j * d + c, d - c), load(rows.row(i - rows.taps + 1 + j) + c, d - c), sum);
    if (silu) sum = hn::Div(sum, hn::Add(hn::Set(F32(), 1), hn::Exp(F32(), hn::Neg(sum))));
    store(sum, out + c, d - c);
  }
}

void prepare_head(const MixerLayout& at, const MixerWeights& weights, const Slice& slice, float* past,
                  const MixerRows& rows, const MixerScratch& place, float* scratch, std::int64_t kv) {
  const auto& s = at.settings;
  const std::int64_t d = at.width, k = at.features, f = s.features, repeat = at.heads / at.kv_heads;
  const auto head_rows = [&](const float* x, std::int64_t heads, std::int64_t head, std::int64_t place_in_past) {
    return HeadRows{x + (slice.first * heads + head) * d, past + place_in_past * d, heads * d,
                    (at.heads + 2 * at.kv_heads) * d, s.taps};
  };
  const auto taps = [&](const std::vector<float>& all, std::int64_t head) {
    return all.empty() ? nullptr : all.data() + head * s.taps * d;
  };
  const auto keys = head_rows(rows.k, at.kv_heads, kv, at.heads + kv);
  const auto values = head_rows(rows.v, at.kv_heads, kv, at.heads + at.kv_heads + kv);
  std::vector<float> convolved(static_cast<std::size_t>(d));
  const auto features = [&](const HeadRows& from, std::int64_t i, const float* with, const std::vector<float>& map,
                            std::int64_t head, float* out) {
    convolve(from, i, with, d, s.silu, convolved.data());
    softmax_pair(convolved.data(), map.data() + head * d * f, d, f, out);
    for (std::int64_t c = 0; c < k; ++c) out[c] = std::max(out[c], kSmallestFeature);
  };

  for (std::int64_t i = 0; i < slice.count; ++i) {
    const std::int64_t row = slice.first + i;
    convolve(values, i, taps(weights.value_taps, kv), d, s.silu, scratch + place.values + (row * at.kv_heads + kv) * d);
    for (std::int64_t head = kv * repeat; head < (kv + 1) * repeat; ++head) {
      const auto queries = head_rows(rows.q, at.heads, head, head);
      features(queries, i, taps(weights.query_taps, head), weights.query_map, head,
               scratch + place.query_features + (row * at.heads + head) * k);
      features(keys, i, taps(weights.key_taps, head), weights.key_map, head,
               scratch + place.key_features + (row * at.heads + head) * k);
      float* decay = scratch + place.decay + (row * at.heads + head) * decays(at);
      if (!s.gate) {
        *decay = 1;
      } else if (head > kv * repeat) {
        std::copy(decay - k, decay, decay);
      } else {
        const float* logits = rows.gates + (row * at.kv_heads + kv) * k;
        for (std::int64_t c = 0; c < k; ++c)
          decay[c] = std::exp(log_sigmoid(logits[c]) / static_cast<float>(s.gate_normalizer));
      }
    }
  }
  keys.advance(slice.count, d);
  values.advance(slice.count, d);
  for (std::int64_t head = kv * repeat; head < (kv + 1) * repeat; ++head)
    head_rows(rows.q, at.heads, head, head).advance(slice.count, d);
}

}  // namespace

void lawcat_prepare(const MixerLayout& at, const MixerWeights& weights, std::span<const Slice> slices,
                    std::int64_t layer_offset, const MixerRows& rows, const MixerScratch& place, float* scratch,
                    int thread, int threads) {
  std::int64_t unit = 0;
  for (const auto& slice : slices)
    for (std::int64_t head = 0; head < at.kv_heads; ++head)
      if (unit++ % threads == thread)
        prepare_head(at, weights, slice, reinterpret_cast<float*>(slice.state + layer_offset + at.past), rows, place,
                     scratch, head);
}

void lawcat_finish(const MixerLayout& at, const MixerScratch& place, const float* read, float* out, int thread,
                   int threads) {
  const std::int64_t d = at.width, rows = place.tokens * at.heads;
  for (std::int64_t row = rows * thread / threads; row < rows * (thread + 1) / threads; ++row) {
    const float by =
        at.settings.normalised ? 1 / (read[rows * d + row] + kSmallestMass) : 1 / std::sqrt(static_cast<float>(d));
    copy(read + row * d, d, out + row * d);
    scale(out + row * d, d, by);
  }
}

}  // namespace unbend::engine
