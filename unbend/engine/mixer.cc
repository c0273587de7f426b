#include <algorithm>

#include "unbend/engine/mixer_memory.h"

namespace unbend::engine {

std::int64_t state_lanes() { return kL; }

MixerLayout::MixerLayout(const DecoderConfig& c, const MixerSettings& s, CacheType cache)
    : heads(c.heads),
      kv_heads(c.kv_heads),
      width(c.head_dim),
      features(s.by_settings() && s.recurrence.features == RecurrenceSettings::Features::SoftmaxPair
                   ? 2 * s.recurrence.width
                   : c.head_dim),
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
  const std::int64_t copies = s.step > 1 ? 2 : 1;
  state = take(copies * s.groups * vectors(width) * features * kL * 4);
  if (s.kind == MixerKind::Hybrid || (s.by_settings() && s.recurrence.norm == RecurrenceSettings::Norm::Sum))
    mass = take(copies * s.groups * features * 4);
  if (s.kind == MixerKind::Hybrid) clock = take(s.groups * (s.window + 1) * 8);
  if (!s.by_settings()) return;
  past = take(std::max<std::int64_t>(s.recurrence.taps - 1, 0) * (heads + 2 * kv_heads) * width * 4);
  largest = take(kv_heads * 4);
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
    query_features = take(tokens * at.heads * at.features);
    key_features = take(tokens * s.groups * at.features);
    values = take(tokens * at.kv_heads * at.width);
    decay = take(tokens * s.groups * decays(at));
  }
  if (s.kind == MixerKind::Linear) return;
  for (const auto& slice : slices) bands.push_back(slice.count > 1 ? take(at.kv_heads * Band::floats(at, slice)) : -1);
}

}  // namespace unbend::engine
