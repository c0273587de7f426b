#include "unbend/lm/softmax_mixer.h"

#include <algorithm>
#include <limits>

#include "unbend/attention/window_cache.h"

namespace unbend::lm {
namespace {

/// Keys and values of all tokens, in buffers that double when full.
struct SoftmaxState : MixerState {
  at::Tensor keys, values;  // [B, Hkv, capacity, d]
  std::int64_t tokens = 0;

  std::unique_ptr<MixerState> clone() const override {
    auto copy = std::make_unique<SoftmaxState>(*this);
    copy->keys = keys.clone();
    copy->values = values.clone();
    return copy;
  }
  std::int64_t bytes() const override { return static_cast<std::int64_t>(keys.nbytes() + values.nbytes()); }

  void pretend(std::int64_t count) override {
    reserve(count);
    for (auto* buffer : {&keys, &values}) buffer->uniform_(-1, 1);
    tokens = count;
  }

  void reserve(std::int64_t needed) {
    if (needed <= keys.size(2)) return;
    const std::int64_t capacity = std::max(needed, std::min(2 * keys.size(2), needed + 1024));
    for (auto* buffer : {&keys, &values}) {
      auto shape = buffer->sizes().vec();
      shape[2] = capacity;
      auto larger = at::empty(shape, buffer->options());
      larger.narrow(2, 0, tokens).copy_(buffer->narrow(2, 0, tokens));
      *buffer = larger;
    }
  }

  void append(const at::Tensor& k, const at::Tensor& v) {
    const std::int64_t count = k.size(2);
    reserve(tokens + count);
    keys.narrow(2, tokens, count).copy_(k);
    values.narrow(2, tokens, count).copy_(v);
    tokens += count;
  }
};

class SoftmaxMixer : public Mixer {
 public:
  at::Tensor forward(const MixerInput& in, Form) const override {
    const auto [q, k, v] = in.heads();
    return window_attention(q, k, v, options(in, in.tokens())).out;
  }

  std::unique_ptr<MixerState> start(const DecoderConfig& c, std::int64_t batch,
                                    const at::TensorOptions& tensor_options) const override {
    auto state = std::make_unique<SoftmaxState>();
    state->keys = at::empty({batch, c.kv_heads, 64, c.head_dim}, tensor_options);
    state->values = at::empty_like(state->keys);
    return state;
  }

  at::Tensor extend(const MixerInput& in, MixerState& base) const override {
    auto& state = dynamic_cast<SoftmaxState&>(base);
    const auto [q, k, v] = in.heads();
    const bool fresh = state.tokens == 0;
    state.append(k, v);
    const std::int64_t total = state.tokens;
    if (fresh) return window_attention(q, k, v, options(in, total)).out;
    if (q.size(2) == 1) {  // decoding: the one query sees every key, and a group's queries share one product
      const auto grouped = q.view({q.size(0), k.size(1), q.size(1) / k.size(1), q.size(3)});
      const auto scores = at::matmul(grouped, state.keys.narrow(2, 0, total).transpose(2, 3)) * in.config.scale();
      return at::matmul(at::softmax(scores, -1), state.values.narrow(2, 0, total)).view(q.sizes());
    }
    const auto positions = at::arange(total, at::kLong);
    return window_attention_at(q, state.keys.narrow(2, 0, total), state.values.narrow(2, 0, total),
                               positions.slice(0, total - q.size(2)), positions, options(in, total))
        .out;
  }

  std::unique_ptr<Mixer> clone() const override { return std::make_unique<SoftmaxMixer>(*this); }

 private:
  static WindowOptions options(const MixerInput& in, std::int64_t tokens) {
    return {std::max<std::int64_t>(tokens, 1), 0, in.config.scale()};
  }
};

struct WindowState : MixerState {
  WindowCache cache;
  explicit WindowState(WindowCache c) : cache(std::move(c)) {}
  std::unique_ptr<MixerState> clone() const override { return std::make_unique<WindowState>(cache.clone()); }
  std::int64_t bytes() const override { return cache.bytes(); }
  void pretend(std::int64_t tokens) override { cache.pretend(tokens); }
};

class WindowMixer : public Mixer {
 public:
  WindowMixer(std::int64_t window, std::int64_t sinks) : window_(window), sinks_(sinks) {}

  at::Tensor forward(const MixerInput& in, Form) const override {
    const auto [q, k, v] = in.heads();
    return window_attention(q, k, v, {window_, sinks_, in.config.scale()}).out;
  }
  std::unique_ptr<MixerState> start(const DecoderConfig& c, std::int64_t batch,
                                    const at::TensorOptions& options) const override {
    return std::make_unique<WindowState>(
        WindowCache(batch, c.kv_heads, c.head_dim, {window_, sinks_, c.scale()}, options));
  }
  at::Tensor extend(const MixerInput& in, MixerState& state) const override {
    const auto [q, k, v] = in.heads();
    return dynamic_cast<WindowState&>(state).cache.attend(q, k, v).out;
  }
  std::unique_ptr<Mixer> clone() const override { return std::make_unique<WindowMixer>(*this); }

 private:
  std::int64_t window_, sinks_;
};

}  // namespace

std::unique_ptr<Mixer> softmax_mixer() { return std::make_unique<SoftmaxMixer>(); }

std::unique_ptr<Mixer> window_mixer(std::int64_t window, std::int64_t sinks) {
  return std::make_unique<WindowMixer>(window, sinks);
}

}  // namespace unbend::lm
