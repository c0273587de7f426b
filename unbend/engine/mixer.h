// Token mixers of a converted decoder in constant memory, on plain float arrays: an exact softmax over a window and
// pinned sinks, and a gated linear recurrence, combined as recipes `window`, `hybrid`, `lolcats` and `liger`
// (unbend/lm) say, or the recurrence alone (`lawcat`, `supra`, `regla`).
//
// One layer's step over a batch runs in three phases, each split over threads by units that do not depend on each
// other:
//   prepare  features of queries, of the keys that enter the recurrence, and their decays; rings take the new tokens
//   scan     the recurrence S <- decay S + key value^T and what queries read from it
//   attend   softmax over window and sinks, combined with what was read; or what was read, normalised
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "unbend/engine/config.h"
#include "unbend/engine/gguf.h"

namespace unbend::engine {

enum class MixerKind { Softmax, Window, Hybrid, Liger, Linear, Lizard };

/// How Liger's gate logits z become log-decays.
enum class GateForm {
  LogSigmoid,      ///< log sigmoid(z) / normalizer, per key channel (GLA)
  MeanSoftplus,    ///< -softplus(mean z) per head (Mamba2)
  MeanLogSigmoid,  ///< log sigmoid(mean z) per head (mLSTM)
  Exp,             ///< -exp(z), per key channel (RWKV6)
  None
};

/// A recurrence over all tokens: alone in `lawcat`, `supra` and `regla`, beside a window in `lizard`.
struct RecurrenceSettings {
  enum class Features {
    SoftmaxPair,  ///< [softmax(x M), softmax(-x M)], M [d, f]
    SafeExp,      ///< exp(q - max q); exp(k - the largest entry of any key so far)
    Given         ///< the graph has computed them
  };
  enum class Gate { None, Fixed, Sigmoid, Refined };  ///< Refined: ReGLA's g (g + 2 r (1 - g))
  enum class Norm { None, Sum, Group, Rms };          ///< of a head: as it is, by the sum of weights, layer norm, RMS
  Features features = Features::SoftmaxPair;
  Gate gate = Gate::None;
  Norm norm = Norm::Sum;
  bool decays_values = false;  ///< the gate is over channels of values, not of keys
  bool scalar_gate = false;    ///< one number for all channels
  bool rotated = false;        ///< queries and keys have positions (Lizard: those of its window, not of its features)
  bool silu = false;           ///< after a convolution
  double rope_base = 0;        ///< of those positions; 0 = the model's
  std::int64_t gates = 1;      ///< per token, shared by consecutive heads
  std::int64_t width = 0;      ///< f
  std::int64_t taps = 0;       ///< tokens that convolutions see; 0 = there are none
  double tau = 1;              ///< log-decay = log sigmoid(z) / tau
  double scale = 1;            ///< of the queries' features
  std::vector<double> slopes;  ///< Fixed: head h decays by exp(-slope)
};

/// What a layer does; the learned numbers are in MixerWeights.
struct MixerSettings {
  MixerKind kind = MixerKind::Softmax;
  std::int64_t window = 0, sinks = 0;
  /// Hybrid without a gate: above 1, the window's lower edge moves in blocks of so many tokens (LoLCATs' terraced
  /// window: a token's own block and the one before), and `window` is two blocks.
  std::int64_t step = 1;
  std::int64_t groups = 0;                    ///< recurrences: one per kv head, or per query head
  bool linear = true;                         ///< Hybrid: false leaves window and sinks
  bool gate = true;                           ///< Hybrid
  bool window_factor = false;                 ///< Hybrid: the file has a of 1 / sigmoid(a), not c of e^c (LoLCATs)
  GateForm gate_form = GateForm::LogSigmoid;  ///< Liger
  double gate_normalizer = 16;                ///< Liger
  double mix_linear = .5, mix_window = .5;    ///< Liger
  RecurrenceSettings recurrence;              ///< Linear, Lizard
  bool convex = false;                        ///< Lizard
  double alpha = 1;                           ///< Lizard: where the file has none

  /// The first token of the window at position t.
  std::int64_t first(std::int64_t t) const { return step == 1 ? t - window + 1 : t / step * step - step; }
  /// Tokens after which a key enters the recurrence; where step > 1, it waits there until its block has left the
  /// window.
  std::int64_t delay() const { return step == 1 ? window : step; }
  bool by_settings() const { return kind == MixerKind::Linear || kind == MixerKind::Lizard; }
  bool recurrent() const {
    return by_settings() || (kind == MixerKind::Hybrid && linear) || (kind == MixerKind::Liger && mix_linear != 0);
  }
};

/// Learned numbers of one Hybrid, Linear or Lizard layer. Maps are [heads or groups][d][d/2 or f], applied to queries
/// and keys in the order in which the file stores their channels.
struct MixerWeights {
  std::vector<float> query_map, key_map;
  std::vector<float> scale;                             ///< Hybrid, [heads]: e^c
  std::vector<float> query_taps, key_taps, value_taps;  ///< Linear, [heads][taps][d], the last of kv heads; or empty
  std::vector<float> norm_gain;                         ///< Linear, Rms: [heads][d]
  std::vector<float> meta;                              ///< Lizard: scores of sinks without keys and values
  std::vector<float> linear_share, window_share;        ///< Lizard, [heads]: factors of the two means
};

/// Number types of the rings (recurrences are float always).
enum class CacheType { F16, F32 };

/// Offsets, in bytes, of one layer's memory of one sequence.
struct MixerLayout {
  MixerLayout() = default;
  MixerLayout(const DecoderConfig& config, const MixerSettings& settings, CacheType type);

  std::int64_t heads = 0, kv_heads = 0, width = 0;  ///< H, Hkv, d
  std::int64_t features = 0;                        ///< k: channels of a recurrence's queries and keys
  MixerSettings settings;
  CacheType type = CacheType::F16;
  float scale = 1;
  std::int64_t keys = 0, values = 0;            ///< [Hkv][w][d] rings: token t in slot t mod w
  std::int64_t sink_keys = 0, sink_values = 0;  ///< [Hkv][s][d]
  std::int64_t clock = 0;    ///< double [groups][w + 1]: sum of log-decays up to each slot's token; now
  std::int64_t state = 0;    ///< float [groups][d / lanes][k][lanes]; behind it, if step > 1, the same of what waits
  std::int64_t mass = -1;    ///< float [groups][k]; likewise; -1: none is kept
  std::int64_t past = 0;     ///< float [taps - 1][H + 2 Hkv][d]: the rows that convolutions need again
  std::int64_t largest = 0;  ///< float [Hkv]: of any key so far (SafeExp)
  std::int64_t bytes = 0;
};

/// Value channels side by side in a recurrence's memory: the width of this machine's vectors.
std::int64_t state_lanes();

/// Consecutive tokens of one sequence in a batch.
struct Slice {
  std::int64_t first = 0, count = 0;  ///< rows of the batch
  std::int64_t position = 0;          ///< of the first one in its sequence
  std::byte* state = nullptr;         ///< the sequence's memory, all layers
};

/// Where the phases put what they hand on, in floats, for a batch of `tokens` rows.
struct MixerScratch {
  MixerScratch() = default;
  MixerScratch(const MixerLayout& layout, std::span<const Slice> slices);

  std::int64_t tokens = 0;
  std::int64_t query_features = 0;  ///< [tokens][H][k]
  std::int64_t key_features = 0;    ///< [tokens][groups][k]
  std::int64_t values = 0;          ///< [tokens][Hkv][d]
  std::int64_t decay = 0;           ///< [tokens][groups], [tokens][groups][k] or [tokens][groups][d]
  std::vector<std::int64_t> bands;  ///< per slice of more than one token: past and new keys and values
  std::int64_t floats = 0;
};

/// Inputs of a layer: rows of the batch. Rotated q [tokens][H][d] and k, v [tokens][Hkv][d]; Hybrid: `gates`
/// [tokens][groups], the logits; Liger: q and k before rotation. Linear: q and k as it takes them, and `gates`
/// [tokens][gates][channels], twice as many for Refined: those of g, then those of r. Lizard: all of these, q and k for
/// the window, raw_q and raw_k for the features.
struct MixerRows {
  const float *q = nullptr, *k = nullptr, *v = nullptr, *gates = nullptr, *raw_q = nullptr, *raw_k = nullptr;
};

void mixer_prepare(const MixerLayout& layout, const MixerWeights& weights, std::span<const Slice> slices,
                   std::int64_t layer_offset, const MixerRows& rows, const MixerScratch& at, float* scratch, int thread,
                   int threads);
/// `read`: [tokens][H][d] numerators, then [tokens][H] denominators.
void mixer_scan(const MixerLayout& layout, std::span<const Slice> slices, std::int64_t layer_offset,
                const MixerScratch& at, const float* scratch, float* read, int thread, int threads);
/// `out`: [tokens][H][d].
void mixer_attend(const MixerLayout& layout, const MixerWeights& weights, std::span<const Slice> slices,
                  std::int64_t layer_offset, const MixerRows& rows, const MixerScratch& at, const float* scratch,
                  const float* read, float* out, int thread, int threads);

}  // namespace unbend::engine
