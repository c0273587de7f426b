// Views of a sequence's memory and of the scratch of mixer.h.
#pragma once

#include <algorithm>

#include "unbend/engine/mixer.h"
#include "unbend/engine/mixer_rows.h"

namespace unbend::engine {

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

/// Numbers per recurrence and token that say how it decays.
inline std::int64_t decays(const MixerLayout& at) {
  const auto& s = at.settings;
  if (s.by_settings()) {
    using Gate = RecurrenceSettings::Gate;
    if (s.recurrence.gate == Gate::None || s.recurrence.gate == Gate::Fixed || s.recurrence.scalar_gate) return 1;
    return s.recurrence.decays_values ? at.width : at.features;
  }
  const bool channels =
      s.kind == MixerKind::Liger && (s.gate_form == GateForm::LogSigmoid || s.gate_form == GateForm::Exp);
  return channels ? at.features : 1;
}

/// The first token whose recurrence has something to read: nothing has left the window before.
inline std::int64_t first_read(const MixerSettings& s) { return s.kind == MixerKind::Hybrid ? s.delay() + s.sinks : 0; }

}  // namespace unbend::engine
