#include "unbend/engine/mixer_linear.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "unbend/engine/mixer_memory.h"

namespace unbend::engine {
namespace {

using Features = RecurrenceSettings::Features;
using Gate = RecurrenceSettings::Gate;
using Norm = RecurrenceSettings::Norm;

// As the mixers of unbend/lm have them: LAWCAT the first two (Lizard's features have no floor), SUPRA, ReGLA.
constexpr float kSmallestFeature = 1e-12f, kSmallestMass = 1e-10f, kGroupEps = 1e-5f, kSmallestHead = 1e-37f;

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

float largest_of(const float* x, std::int64_t n) { return *std::max_element(x, x + n); }

/// exp(x - shift).
void exponentials_of(const float* x, std::int64_t n, float shift, float* out) {
  for (std::int64_t i = 0; i < n; i += kL)
    store(hn::Exp(F32(), hn::Sub(load(x + i, n - i), hn::Set(F32(), shift))), out + i, n - i);
}

/// Decays of one head out of the logits of its gates; `refine` those of ReGLA's second one.
void decay_of(const RecurrenceSettings& s, const float* gate, const float* refine, std::int64_t n, float* out) {
  for (std::int64_t i = 0; i < n; ++i) {
    if (s.gate == Gate::Sigmoid) {
      out[i] = std::exp(log_sigmoid(gate[i]) / static_cast<float>(s.tau));
      continue;
    }
    const float g = 1 / (1 + std::exp(-gate[i])), keep = 1 / (1 + std::exp(gate[i]));
    out[i] = std::min(1.f, g * (g + 2 * keep / (1 + std::exp(-refine[i]))));
  }
}

void prepare_head(const MixerLayout& at, const MixerWeights& weights, const Slice& slice, std::byte* memory,
                  const MixerRows& rows, const MixerScratch& place, float* scratch, std::int64_t kv) {
  const auto& s = at.settings.recurrence;
  const std::int64_t d = at.width, k = at.features, channels = decays(at);
  // Those of this kv head: query heads, and recurrences, each of which one or more of these heads read.
  const std::int64_t groups = at.settings.groups, first = kv * at.heads / at.kv_heads,
                     last = (kv + 1) * at.heads / at.kv_heads, first_group = kv * groups / at.kv_heads,
                     last_group = (kv + 1) * groups / at.kv_heads;
  const auto head_rows = [&](const float* x, std::int64_t heads, std::int64_t head, std::int64_t place_in_past) {
    return HeadRows{x + (slice.first * heads + head) * d,
                    reinterpret_cast<float*>(memory + at.past) + place_in_past * d, heads * d,
                    (at.heads + 2 * at.kv_heads) * d, s.taps};
  };
  const auto taps = [&](const std::vector<float>& all, std::int64_t head) {
    return all.empty() ? nullptr : all.data() + head * s.taps * d;
  };
  const float *q = rows.raw_q ? rows.raw_q : rows.q, *raw_k = rows.raw_k ? rows.raw_k : rows.k;
  const auto keys = head_rows(raw_k, at.kv_heads, kv, at.heads + kv);
  const auto values = head_rows(rows.v, at.kv_heads, kv, at.heads + at.kv_heads + kv);
  float& largest = reinterpret_cast<float*>(memory + at.largest)[kv];
  std::vector<float> row(static_cast<std::size_t>(d));
  const auto pair = [&](const std::vector<float>& map, std::int64_t head, float* out) {
    softmax_pair(row.data(), map.data() + head * d * s.width, d, s.width, out);
    if (at.settings.kind == MixerKind::Linear)
      for (std::int64_t c = 0; c < k; ++c) out[c] = std::max(out[c], kSmallestFeature);
  };

  for (std::int64_t i = 0; i < slice.count; ++i) {
    const std::int64_t token = slice.first + i;
    convolve(values, i, taps(weights.value_taps, kv), d, s.silu,
             scratch + place.values + (token * at.kv_heads + kv) * d);
    float shrink = 1;  // of what is there, as keys are counted from a larger one
    if (s.features == Features::SafeExp) {
      const float before = slice.position + i > 0 ? largest : -std::numeric_limits<float>::infinity();
      largest = std::max(before, largest_of(keys.row(i), d));
      shrink = std::exp(before - largest);
    }
    for (std::int64_t head = first; head < last; ++head) {
      const auto queries = head_rows(q, at.heads, head, head);
      float* query = scratch + place.query_features + (token * at.heads + head) * k;
      switch (s.features) {
        case Features::SoftmaxPair:
          convolve(queries, i, taps(weights.query_taps, head), d, s.silu, row.data());
          pair(weights.query_map, head, query);
          break;
        case Features::SafeExp: exponentials_of(queries.row(i), d, largest_of(queries.row(i), d), query); break;
        case Features::Given: copy(queries.row(i), d, query);
      }
      if (s.scale != 1) scale(query, k, static_cast<float>(s.scale));
    }
    for (std::int64_t group = first_group; group < last_group; ++group) {
      const std::int64_t head = group * at.heads / groups;  // the first that reads it
      float* key = scratch + place.key_features + (token * groups + group) * k;
      switch (s.features) {
        case Features::SoftmaxPair:
          convolve(keys, i, taps(weights.key_taps, head), d, s.silu, row.data());
          pair(weights.key_map, group, key);
          break;
        case Features::SafeExp: exponentials_of(keys.row(i), d, largest, key); break;
        case Features::Given: copy(keys.row(i), d, key);
      }

      float* decay = scratch + place.decay + (token * groups + group) * channels;
      if (s.gate == Gate::None || s.gate == Gate::Fixed) {
        *decay = s.gate == Gate::None ? 1 : static_cast<float>(std::exp(-s.slopes[static_cast<std::size_t>(head)]));
      } else {
        const auto which = [&](std::int64_t g) { return g * s.gates / groups; };
        if (group > first_group && which(group) == which(group - 1)) {
          std::copy(decay - channels, decay, decay);  // it has shrunk already
          continue;
        }
        const float* logits = rows.gates + token * s.gates * channels * (s.gate == Gate::Refined ? 2 : 1);
        decay_of(s, logits + which(group) * channels, logits + (s.gates + which(group)) * channels, channels, decay);
      }
      if (shrink != 1) scale(decay, channels, shrink);
    }
  }
  keys.advance(slice.count, d);
  values.advance(slice.count, d);
  for (std::int64_t head = first; head < last; ++head) head_rows(q, at.heads, head, head).advance(slice.count, d);
}

/// Layer norm or RMS norm of a head; the latter at any scale, so what underflows in squares is scaled first.
void normalise(const RecurrenceSettings& s, const float* x, const float* gain, std::int64_t d, float* out) {
  const auto n = static_cast<float>(d);
  if (s.norm == Norm::Group) {
    float mean = 0, variance = 0;
    for (std::int64_t i = 0; i < d; ++i) mean += x[i] / n;
    for (std::int64_t i = 0; i < d; ++i) variance += (x[i] - mean) * (x[i] - mean) / n;
    const float by = 1 / std::sqrt(variance + kGroupEps);
    for (std::int64_t i = 0; i < d; ++i) out[i] = (x[i] - mean) * by;
    return;
  }
  float largest = 0, squares = 0;
  for (std::int64_t i = 0; i < d; ++i) largest = std::max(largest, std::abs(x[i]));
  if (largest <= kSmallestHead) {
    std::fill_n(out, d, 0.f);
    return;
  }
  for (std::int64_t i = 0; i < d; ++i) squares += (x[i] / largest) * (x[i] / largest) / n;
  const float by = 1 / std::sqrt(squares);
  for (std::int64_t i = 0; i < d; ++i) out[i] = x[i] / largest * by * gain[i];
}

}  // namespace

void linear_prepare(const MixerLayout& at, const MixerWeights& weights, std::span<const Slice> slices,
                    std::int64_t layer_offset, const MixerRows& rows, const MixerScratch& place, float* scratch,
                    int thread, int threads) {
  std::int64_t unit = 0;
  for (const auto& slice : slices)
    for (std::int64_t head = 0; head < at.kv_heads; ++head)
      if (unit++ % threads == thread)
        prepare_head(at, weights, slice, slice.state + layer_offset, rows, place, scratch, head);
}

void linear_finish(const MixerLayout& at, const MixerWeights& weights, const MixerScratch& place, const float* read,
                   float* out, int thread, int threads) {
  const auto& s = at.settings.recurrence;
  const std::int64_t d = at.width, rows = place.tokens * at.heads;
  for (std::int64_t row = rows * thread / threads; row < rows * (thread + 1) / threads; ++row) {
    const float* x = read + row * d;
    if (s.norm == Norm::Group || s.norm == Norm::Rms) {
      normalise(s, x, s.norm == Norm::Rms ? weights.norm_gain.data() + row % at.heads * d : nullptr, d, out + row * d);
      continue;
    }
    copy(x, d, out + row * d);
    if (s.norm == Norm::Sum) scale(out + row * d, d, 1 / (read[rows * d + row] + kSmallestMass));
  }
}

}  // namespace unbend::engine
