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
  at::Tensor log_decay;  // [B, G, w]: gates of the last w tokens, oldest first; terraced: [B, G, 0]
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
    const auto options = window_options(in.config);
    const auto window = window_attention(q, k, v, options);
    const std::int64_t gone = options.first(in.tokens() - 1);
    if (!settings_.linear || gone <= 0) return window.out;
    // Keys enter the state when they leave the window: nothing does so at first.
    const std::int64_t delay = -options.first(-1);
    const auto delayed = [&](const at::Tensor& x) {
      return at::constant_pad_nd(x.slice(2, 0, gone), {0, 0, delay, 0});
    };
    auto valid = at::zeros({delay + gone}, q.options());
    if (gone > settings_.sinks) valid.slice(0, delay + settings_.sinks).fill_(1);
    if (settings_.terraced) return combine(window, in_blocks(q, delayed(k), delayed(v), valid, {}, 0).out);
    const auto gates = log_decay(in);
    const auto past = at::constant_pad_nd(gates, {settings_.window, 0});
    return combine(window, linear(q, delayed(k), delayed(v), valid, gates, past, {}, form).out);
  }

  std::unique_ptr<MixerState> start(const DecoderConfig& c, std::int64_t batch,
                                    const at::TensorOptions& options) const override {
    const std::int64_t groups = settings_.states;
    return std::make_unique<DenominatorState>(
        WindowCache(batch, c.kv_heads, c.head_dim, window_options(c), options),
        at::zeros({batch, groups, settings_.terraced ? 0 : settings_.window}, options),
        at::zeros({batch, groups, c.head_dim, c.head_dim + 1}, options));
  }

  at::Tensor extend(const MixerInput& in, MixerState& base) const override {
    auto& state = dynamic_cast<DenominatorState&>(base);
    const auto [q, k, v] = in.heads();
    const auto leaving = state.window.leaving(k, v);
    if (settings_.terraced) {
      const auto scan = in_blocks(q, leaving.keys, leaving.values, leaving.valid, state.scan, in.position);
      const auto window = state.window.attend(q, k, v);
      state.scan = scan.state;
      return settings_.linear ? combine(window, scan.out) : window.out;
    }
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
  WindowOptions window_options(const DecoderConfig& c) const {
    const std::int64_t step = settings_.terraced ? settings_.window : 1;
    return {settings_.window + (settings_.terraced ? 1 : 0), settings_.sinks, c.scale(), step};
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
    const std::int64_t tokens = q.size(2);
    // A token that leaves now was written w steps ago: it has already decayed by the gates of the last w tokens.
    const auto sums = at::constant_pad_nd(past.to(at::kDouble).cumsum(2), {1, 0});
    const auto decayed =
        (sums.slice(2, settings_.window + 1) - sums.slice(2, 1, tokens + 1)).to(q.scalar_type()).exp() * valid;
    ScanOptions options;
    options.form = form;
    return gated_scan(softmax_pair_map(q, query_map_), keys(k) * decayed.unsqueeze(-1), values(v), gates.unsqueeze(-1),
                      initial, options);
  }

  /// The same for a terraced window, whose blocks of w tokens enter the state whole: k, v [B, Hkv, n w, d] are the
  /// blocks that leave, one as each block of queries begins. `position` is that of the first query. All forms are this
  /// one.
  Scan in_blocks(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& valid,
                 const at::Tensor& initial, std::int64_t position) const {
    const std::int64_t w = settings_.window, tokens = q.size(2), begun = position % w;
    const std::int64_t blocks = (begun + tokens + w - 1) / w;
    const auto cut = [&](const at::Tensor& x) { return x.unflatten(2, {x.size(2) / w, w}); };
    auto sums = at::matmul(cut(keys(k) * valid.unsqueeze(-1)).transpose(-1, -2), cut(values(v)));
    if (begun > 0) sums = at::constant_pad_nd(sums, {0, 0, 0, 0, 1, 0});  // nothing left for a block that had begun
    auto states = sums.cumsum(2);                                         // [B, G, blocks, d, d + 1]
    if (initial.defined()) states = states + initial.unsqueeze(2);
    auto queries = softmax_pair_map(q, query_map_);
    if (blocks == 1)
      queries = queries.unsqueeze(2);
    else
      queries = cut(at::constant_pad_nd(queries, {0, 0, begun, blocks * w - begun - tokens}));
    const std::int64_t group = q.size(1) / settings_.states;
    const auto out = at::matmul(queries.unflatten(1, {settings_.states, group}), states.unsqueeze(2)).flatten(1, 2);
    return {out.flatten(2, 3).narrow(2, blocks == 1 ? 0 : begun, tokens), states.select(2, blocks - 1).contiguous()};
  }

  /// What the state takes of keys and values of kv heads: one each per recurrence.
  at::Tensor keys(const at::Tensor& k) const { return softmax_pair_map(shared(k), key_map_); }
  at::Tensor values(const at::Tensor& v) const {
    return at::constant_pad_nd(shared(v), {0, 1}, 1);  // the ones column sums the weights
  }
  at::Tensor shared(const at::Tensor& x) const {
    const std::int64_t repeat = settings_.states / x.size(1);
    return repeat == 1 ? x : x.repeat_interleave(repeat, 1);
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
