#include <algorithm>

#include "unbend/engine/mixer_memory.h"

namespace unbend::engine {
namespace {

/// One block of value channels: S [k][lanes], read by up to kReads query heads at once. It decays by `decay`, of each
/// value channel, or by `key_decay` if there is one.
template <int kReads, bool kUpdate>
void scan_step(std::int64_t k, float* state, const float* features, Vector decay, const float* key_decay, Vector value,
               const float* const* queries, Vector* reads) {
  const F32 tag;
  for (std::int64_t f = 0; f < k; ++f) {
    auto row = hn::LoadU(tag, state + f * kL);
    if constexpr (kUpdate) {
      if (key_decay) decay = hn::Set(tag, key_decay[f]);
      row = hn::MulAdd(hn::Set(tag, features[f]), value, hn::Mul(row, decay));
      hn::StoreU(row, tag, state + f * kL);
    }
    for (int r = 0; r < kReads; ++r) reads[r] = hn::MulAdd(hn::Set(tag, queries[r][f]), row, reads[r]);
  }
}

/// What waited enters the state.
void admit(float* waiting, std::int64_t n, float* state) {
  for (std::int64_t f = 0; f < n; ++f) state[f] += waiting[f];
  std::fill_n(waiting, n, 0.f);
}

void scan_slice(const MixerLayout& at, const Slice& slice, float* state, std::int64_t group, std::int64_t block,
                const MixerScratch& place, const float* scratch, float* read) {
  const auto& s = at.settings;
  const std::int64_t d = at.width, k = at.features, repeat = at.heads / s.groups, kv = group * at.kv_heads / s.groups;
  const std::int64_t left = std::min(kL, d - block * kL);
  const std::int64_t per_token = decays(at);
  const bool of_values = s.by_settings() && s.recurrence.decays_values && per_token > 1;
  float* waiting = s.step > 1 ? state + s.groups * vectors(d) * k * kL : nullptr;
  for (std::int64_t i = 0; i < slice.count; ++i) {
    const std::int64_t row = slice.first + i;
    float* out = read + (row * at.heads + group * repeat) * d + block * kL;
    if (slice.position + i < first_read(s)) {
      for (std::int64_t r = 0; r < repeat; ++r) store(hn::Zero(F32()), out + r * d, left);
      continue;
    }
    const float* features = scratch + place.key_features + (row * s.groups + group) * k;
    const float* decays = scratch + place.decay + (row * s.groups + group) * per_token;
    const auto decay = of_values ? load(decays + block * kL, left) : hn::Set(F32(), *decays);
    const float* key_decay = per_token > 1 && !of_values ? decays : nullptr;
    const auto value = load(scratch + place.values + (row * at.kv_heads + kv) * d + block * kL, left);
    const float* query = scratch + place.query_features + (row * at.heads + group * repeat) * k;
    if (waiting != nullptr) {
      if ((slice.position + i) % s.step == 0) admit(waiting, k * kL, state);
      scan_step<0, true>(k, waiting, features, decay, key_decay, value, nullptr, nullptr);
    }
    for (std::int64_t r = 0; r < repeat;) {
      const auto reads = [&]<int kReads>() {
        const float* queries[kReads];
        Vector sums[kReads];
        for (int j = 0; j < kReads; ++j) queries[j] = query + (r + j) * k, sums[j] = hn::Zero(F32());
        if (r == 0 && waiting == nullptr)
          scan_step<kReads, true>(k, state, features, decay, key_decay, value, queries, sums);
        else
          scan_step<kReads, false>(k, state, features, decay, key_decay, value, queries, sums);
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
  const std::int64_t k = at.features, repeat = at.heads / s.groups, per_token = decays(at);
  float* waiting = s.step > 1 ? mass + s.groups * k : nullptr;
  for (std::int64_t i = 0; i < slice.count; ++i) {
    const std::int64_t row = slice.first + i;
    float* out = read + place.tokens * at.heads * at.width + row * at.heads + group * repeat;
    if (slice.position + i < first_read(s)) {
      std::fill_n(out, repeat, 0.f);
      continue;
    }
    const float* features = scratch + place.key_features + (row * s.groups + group) * k;
    const float* decay = scratch + place.decay + (row * s.groups + group) * per_token;
    if (waiting != nullptr && (slice.position + i) % s.step == 0) admit(waiting, k, mass);
    float* sum = waiting != nullptr ? waiting : mass;
    for (std::int64_t f = 0; f < k; f += kL) {
      const auto by = per_token > 1 ? load(decay + f, k - f) : hn::Set(F32(), *decay);
      store(hn::MulAdd(load(sum + f, k - f), by, load(features + f, k - f)), sum + f, k - f);
    }
    for (std::int64_t r = 0; r < repeat; ++r)
      out[r] = dot(scratch + place.query_features + (row * at.heads + group * repeat + r) * k, mass, k);
  }
}

}  // namespace

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
          scan_slice(at, slice, state + (group * blocks + block) * at.features * kL, group, block, place, scratch,
                     read);
      if (at.mass >= 0 && mine())
        scan_mass(at, slice, reinterpret_cast<float*>(slice.state + layer_offset + at.mass) + group * at.features,
                  group, place, scratch, read);
    }
}

}  // namespace unbend::engine
