// What mixes tokens in a decoder layer, between the q/k/v projection and the output projection.
#pragma once

#include <ATen/ATen.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "unbend/attention/form.h"
#include "unbend/engine/config.h"
#include "unbend/lm/rope.h"
#include "unbend/tensor/parameter.h"

namespace unbend::lm {

struct Heads {
  at::Tensor q, k, v;  ///< [B, H, T, d], [B, Hkv, T, d], [B, Hkv, T, d]; float32 or float64
};

/// What a mixer gets for T consecutive tokens of B sequences. Heads are cut from the projection on demand.
struct MixerInput {
  const DecoderConfig& config;
  const RopeTable& rope;  ///< angles of these T positions
  at::Tensor x;           ///< [B, T, hidden], the normed input of the layer
  at::Tensor qkv;         ///< [B, T, (H + 2 Hkv) d], projected
  std::int64_t position;  ///< of the first token

  std::int64_t batch() const { return qkv.size(0); }
  std::int64_t tokens() const { return qkv.size(1); }
  Heads heads() const;  ///< q and k rotated
  Heads unrotated() const;
  std::pair<Heads, Heads> both() const;  ///< {rotated, unrotated}, in one pass over the projection; v is shared
};

/// What a mixer remembers of the tokens it has seen.
class MixerState {
 public:
  virtual ~MixerState() = default;
  virtual std::unique_ptr<MixerState> clone() const = 0;
  virtual std::int64_t bytes() const = 0;  ///< of memory held for all sequences of the batch

  /// Looks from now on as if `tokens` tokens had been seen, with random contents: what decoding costs depends on the
  /// length only.
  virtual void pretend(std::int64_t tokens) = 0;
};

/// A number that says whether a mixer does its part, and what is wrong with it if something is.
struct Gauge {
  std::string name;
  double value;
  std::string warning;
};

/// One mixer of one layer. Immutable while it runs; the parameters are what training changes.
class Mixer {
 public:
  virtual ~Mixer() = default;

  /// Whole sequences from position 0; differentiable. Returns heads [B, H, T, d] before the output projection.
  virtual at::Tensor forward(const MixerInput& input, Form form) const = 0;

  virtual std::unique_ptr<MixerState> start(const DecoderConfig& config, std::int64_t batch,
                                            const at::TensorOptions& options) const = 0;

  /// The next T >= 1 tokens after those in `state`, without gradients; equal to the same rows of forward().
  virtual at::Tensor extend(const MixerInput& input, MixerState& state) const = 0;

  virtual std::vector<Parameter> parameters() { return {}; }

  /// How its gates and branches stand on whole sequences from position 0.
  virtual std::vector<Gauge> gauges(const MixerInput&) const { return {}; }

  /// A copy with its own parameters.
  virtual std::unique_ptr<Mixer> clone() const = 0;
};

}  // namespace unbend::lm
