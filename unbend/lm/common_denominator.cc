#include "unbend/lm/common_denominator.h"

#include <cmath>

#include "unbend/attention/feature_map.h"
#include "unbend/attention/gated_scan.h"
#include "unbend/attention/window_cache.h"
#include "unbend/base/error.h"

namespace unbend::lm {
namespace {

struct DenominatorState : MixerState {
  WindowCache window;
  at::Tensor log_decay;  // [B, G, w]: gates of the last w tokens, oldest first
  at::Tensor scan;       // [B, G, d, d + 1]: features to values and their sum

  DenominatorState(WindowCache cache, at::Tensor gates, at::Tensor state)
      : window(std::move(cache)), log_decay(std::move(gates)), scan(std::move(state)) {}
  std::unique_ptr<MixerState> clone() const override {
    return std::make_unique<DenominatorState>(window.clone(), log_decay.clone(), scan.clone());
  }
  std::int64_t bytes() const override {
    return window.bytes() + static_cast<std::int64_t>(log_decay.nbytes() + scan.nbytes());
  }
  void pretend(std::int64_t tokens) override {
    window.pretend(tokens);
    log_decay.fill_(-.01);
    scan.uniform_(0, 1);
  }
};

class CommonDenominatorMixer : public Mixer {
 public:
  CommonDenominatorMixer(const DecoderConfig& c, const CommonDenominator& settings) : settings_(settings) {
    query_map_ = softmax_pair_map_start(c.heads, c.head_dim);
    key_map_ = softmax_pair_map_start(settings.states, c.head_dim);
    if (settings.gate_bias) {
      gate_weight_ = at::zeros({settings.states, c.hidden});
      gate_bias_ = at::full({settings.states}, *settings.gate_bias);
    }
    weight_ = at::full({c.heads}, settings.weight_start);
  }

  at::Tensor forward(const MixerInput& in, Form form) const override {
    const auto [q, k, v] = in.heads();
    const auto window = window_attention(q, k, v, window_options(in));
    const std::int64_t tokens = in.tokens();
    if (!settings_.linear || tokens <= settings_.window) return window.out;
    // Keys enter the state when they leave the window: shift them by w.
    const auto delayed = [&](const at::Tensor& x) {
      return at::constant_pad_nd(x.slice(2, 0, tokens - settings_.window), {0, 0, settings_.window, 0});
    };
    auto valid = at::zeros({tokens}, q.options());
    if (tokens > settings_.window + settings_.sinks) valid.slice(0, settings_.window + settings_.sinks).fill_(1);
    const auto gates = log_decay(in);
    const auto past = at::constant_pad_nd(gates, {settings_.window, 0});
    return combine(window, linear(q, delayed(k), delayed(v), valid, gates, past, {}, form).out);
  }

  std::unique_ptr<MixerState> start(const DecoderConfig& c, std::int64_t batch,
                                    const at::TensorOptions& options) const override {
    const std::int64_t groups = settings_.states;
    return std::make_unique<DenominatorState>(
        WindowCache(batch, c.kv_heads, c.head_dim, {settings_.window, settings_.sinks, c.scale()}, options),
        at::zeros({batch, groups, settings_.window}, options),
        at::zeros({batch, groups, c.head_dim, c.head_dim + 1}, options));
  }

  at::Tensor extend(const MixerInput& in, MixerState& base) const override {
    auto& state = dynamic_cast<DenominatorState&>(base);
    const auto [q, k, v] = in.heads();
    const auto leaving = state.window.leaving(k, v);
    const auto gates = log_decay(in);
    const auto past = at::cat({state.log_decay, gates}, 2);
    const auto window = state.window.attend(q, k, v);
    state.log_decay = past.slice(2, past.size(2) - settings_.window).contiguous();
    const auto scan = linear(q, leaving.keys, leaving.values, leaving.valid, gates, past, state.scan,
                             in.tokens() == 1 ? Form::Recurrent : Form::Chunked);
    state.scan = scan.state;
    return settings_.linear ? combine(window, scan.out) : window.out;
  }

  std::vector<Parameter> parameters() override {
    std::vector<Parameter> all{{"query_map", &query_map_}, {"key_map", &key_map_}};
    if (gate_bias_.defined()) all.insert(all.end(), {{"gate_weight", &gate_weight_}, {"gate_bias", &gate_bias_}});
    all.push_back({settings_.weight == CommonDenominator::Weight::LogScale ? "log_scale" : "window_factor", &weight_});
    return all;
  }

  std::unique_ptr<Mixer> clone() const override {
    auto copy = std::make_unique<CommonDenominatorMixer>(*this);
    for (const auto& parameter : copy->parameters()) *parameter.tensor = parameter.tensor->detach().clone();
    return copy;
  }

 private:
  WindowOptions window_options(const MixerInput& in) const {
    return {settings_.window, settings_.sinks, in.config.scale()};
  }

  /// log gamma [B, G, T].
  at::Tensor log_decay(const MixerInput& in) const {
    if (!settings_.gate) return at::zeros({in.batch(), settings_.states, in.tokens()}, weight_.options());
    const auto z = at::linear(in.x.to(gate_weight_.scalar_type()), gate_weight_, gate_bias_);
    return at::log_sigmoid(z).transpose(1, 2);
  }

  /// Numerator and denominator [B, H, T, d+1] of the linear part. k, v [B, Hkv, T, d] are the tokens that leave the
  /// window at each step; `past` [B, G, w+T] holds the gates of the w tokens before the first one too.
  Scan linear(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& valid,
              const at::Tensor& gates, const at::Tensor& past, const at::Tensor& initial, Form form) const {
    const std::int64_t tokens = q.size(2), groups = settings_.states, repeat = groups / k.size(1);
    const auto share = [&](const at::Tensor& x) { return repeat == 1 ? x : x.repeat_interleave(repeat, 1); };
    // A token that leaves now was written w steps ago: it has already decayed by the gates of the last w tokens.
    const auto sums = at::constant_pad_nd(past.to(at::kDouble).cumsum(2), {1, 0});
    const auto decayed =
        (sums.slice(2, settings_.window + 1) - sums.slice(2, 1, tokens + 1)).to(q.scalar_type()).exp() * valid;
    const auto keys = softmax_pair_map(share(k), key_map_) * decayed.unsqueeze(-1);
    const auto values = at::constant_pad_nd(share(v), {0, 1}, 1);  // the ones column sums the weights
    ScanOptions options;
    options.form = form;
    return gated_scan(softmax_pair_map(q, query_map_), keys, values, gates.unsqueeze(-1), initial, options);
  }

  at::Tensor combine(const Partial& window, const at::Tensor& linear) const {
    const auto mass = (window.lse - window.max).exp().unsqueeze(-1);
    // 1 / sigmoid(a) = 1 + e^-a.
    const auto scale =
        settings_.weight == CommonDenominator::Weight::LogScale ? weight_.exp() : 1 + weight_.neg().exp();
    const auto weighted = linear * scale.view({1, -1, 1, 1});
    const std::int64_t d = linear.size(-1) - 1;
    return (window.out * mass + weighted.narrow(-1, 0, d)) / (mass + weighted.narrow(-1, d, 1));
  }

  CommonDenominator settings_;
  at::Tensor query_map_, key_map_;      // [H, d, d/2], [G, d, d/2]
  at::Tensor gate_weight_, gate_bias_;  // [G, hidden], [G]
  at::Tensor weight_;                   // [H]
};

}  // namespace

std::unique_ptr<Mixer> common_denominator_mixer(const DecoderConfig& config, const CommonDenominator& settings) {
  return std::make_unique<CommonDenominatorMixer>(config, settings);
}

}  // namespace unbend::lm
