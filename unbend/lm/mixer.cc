#include "unbend/lm/mixer.h"

#include "unbend/nets/fused.h"

namespace unbend::lm {
namespace {

std::vector<at::Tensor> split(const MixerInput& in, const std::vector<HeadRange>& ranges) {
  const auto type = in.qkv.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return split_heads(in.qkv, in.config.head_dim, ranges, Rotary{in.rope.cos, in.rope.sin}, type);
}

}  // namespace

Heads MixerInput::heads() const {
  const auto h = config.heads, kv = config.kv_heads;
  const auto parts = split(*this, {{0, h, true}, {h, kv, true}, {h + kv, kv}});
  return {parts[0], parts[1], parts[2]};
}

Heads MixerInput::unrotated() const {
  const auto h = config.heads, kv = config.kv_heads;
  const auto parts = split(*this, {{0, h}, {h, kv}, {h + kv, kv}});
  return {parts[0], parts[1], parts[2]};
}

std::pair<Heads, Heads> MixerInput::both() const {
  const auto h = config.heads, kv = config.kv_heads;
  const auto parts = split(*this, {{0, h, true}, {h, kv, true}, {0, h}, {h, kv}, {h + kv, kv}});
  return {{parts[0], parts[1], parts[4]}, {parts[2], parts[3], parts[4]}};
}

}  // namespace unbend::lm
