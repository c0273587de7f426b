#include "unbend/lm/mixer.h"

#include "unbend/lm/stopgap.h"

namespace unbend::lm {
namespace {

at::Tensor heads_of(const MixerInput& in, std::int64_t first, std::int64_t count, bool rotated) {
  const auto type = in.qkv.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const auto none = at::Tensor();
  return split_heads_rope(in.qkv, in.config.head_dim, first, count, rotated ? in.rope.cos : none, rotated ? in.rope.sin : none, type);
}

}  // namespace

at::Tensor MixerInput::query(bool rotated) const { return heads_of(*this, 0, config.heads, rotated); }
at::Tensor MixerInput::key(bool rotated) const { return heads_of(*this, config.heads, config.kv_heads, rotated); }
at::Tensor MixerInput::value() const { return heads_of(*this, config.heads + config.kv_heads, config.kv_heads, false); }

}  // namespace unbend::lm
