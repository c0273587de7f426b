#include "unbend/lm/hybrid.h"

#include <cmath>

#include "unbend/attention/feature_map.h"
#include "unbend/attention/gated_scan.h"
#include "unbend/attention/window_cache.h"
#include "unbend/base/error.h"

namespace unbend::lm {
namespace {

struct HybridState : MixerState {
  WindowCache window;
  at::Tensor log_decay;  // [B, G, w]: gates of the last w tokens, oldest first
  at::Tensor scan;       // [B, G, d, d + 1]: features to values and their sum

  HybridState(WindowCache cache, at::Tensor gates, at::Tensor state)
      : window(std::move(cache)), log_decay(std::move(gates)), scan(std::move(state)) {}
  std::unique_ptr<MixerState> clone() const override {
    return std::make_unique<HybridState>(window.clone(), log_decay.clone(), scan.clone());
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

class HybridMixer : public Mixer {
 public:
  HybridMixer(const DecoderConfig& c, const Json& options) {
    window_ = options.at("window").get<std::int64_t>();
    sinks_ = options.at("sinks").get<std::int64_t>();
    gated_ = options.at("gate").get<bool>();
    linear_ = options.at("linear").get<bool>();
    const auto state_heads = options.at("state_heads").get<std::string>();
    require(state_heads == "kv" || state_heads == "query", "hybrid: state_heads must be kv or query, not '{}'",
            state_heads);
    const std::int64_t groups = state_heads == "kv" ? c.kv_heads : c.heads;
    query_map_ = softmax_pair_map_start(c.heads, c.head_dim);
    key_map_ = softmax_pair_map_start(groups, c.head_dim);
    gate_weight_ = at::zeros({groups, c.hidden});
    gate_bias_ = at::full({groups}, options.at("gate_bias").get<double>());
    log_scale_ = at::full({c.heads}, options.at("log_scale").get<double>());
  }

  at::Tensor forward(const MixerInput& in, Form form) const override {
    const auto [q, k, v] = in.heads();
    const auto window = window_attention(q, k, v, window_options(in));
    const std::int64_t tokens = in.tokens();
    if (!linear_ || tokens <= window_) return window.out;
    // Keys enter the state when they leave the window: shift them by w.
    const auto delayed = [&](const at::Tensor& x) {
      return at::constant_pad_nd(x.slice(2, 0, tokens - window_), {0, 0, window_, 0});
    };
    auto valid = at::zeros({tokens}, q.options());
    if (tokens > window_ + sinks_) valid.slice(0, window_ + sinks_).fill_(1);
    const auto gates = log_decay(in);
    const auto past = at::constant_pad_nd(gates, {window_, 0});
    return combine(window, linear(q, delayed(k), delayed(v), valid, gates, past, {}, form).out);
  }

  std::unique_ptr<MixerState> start(const DecoderConfig& c, std::int64_t batch,
                                    const at::TensorOptions& options) const override {
    const std::int64_t groups = gate_bias_.size(0);
    return std::make_unique<HybridState>(
        WindowCache(batch, c.kv_heads, c.head_dim, {window_, sinks_, c.scale()}, options),
        at::zeros({batch, groups, window_}, options), at::zeros({batch, groups, c.head_dim, c.head_dim + 1}, options));
  }

  at::Tensor extend(const MixerInput& in, MixerState& base) const override {
    auto& state = dynamic_cast<HybridState&>(base);
    const auto [q, k, v] = in.heads();
    const auto leaving = state.window.leaving(k, v);
    const auto gates = log_decay(in);
    const auto past = at::cat({state.log_decay, gates}, 2);
    const auto window = state.window.attend(q, k, v);
    state.log_decay = past.slice(2, past.size(2) - window_).contiguous();
    const auto scan = linear(q, leaving.keys, leaving.values, leaving.valid, gates, past, state.scan,
                             in.tokens() == 1 ? Form::Recurrent : Form::Chunked);
    state.scan = scan.state;
    return linear_ ? combine(window, scan.out) : window.out;
  }

  std::vector<Parameter> parameters() override {
    return {{"query_map", &query_map_},
            {"key_map", &key_map_},
            {"gate_weight", &gate_weight_},
            {"gate_bias", &gate_bias_},
            {"log_scale", &log_scale_}};
  }

  std::unique_ptr<Mixer> clone() const override {
    auto copy = std::make_unique<HybridMixer>(*this);
    for (const auto& parameter : copy->parameters()) *parameter.tensor = parameter.tensor->detach().clone();
    return copy;
  }

 private:
  WindowOptions window_options(const MixerInput& in) const { return {window_, sinks_, in.config.scale()}; }

  /// log gamma [B, G, T].
  at::Tensor log_decay(const MixerInput& in) const {
    if (!gated_) return at::zeros({in.batch(), gate_bias_.size(0), in.tokens()}, gate_bias_.options());
    const auto z = at::linear(in.x.to(gate_weight_.scalar_type()), gate_weight_, gate_bias_);
    return at::log_sigmoid(z).transpose(1, 2);
  }

  /// Numerator and denominator [B, H, T, d+1] of the linear part. k, v [B, Hkv, T, d] are the tokens that leave the
  /// window at each step; `past` [B, G, w+T] holds the gates of the w tokens before the first one too.
  Scan linear(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& valid,
              const at::Tensor& gates, const at::Tensor& past, const at::Tensor& initial, Form form) const {
    const std::int64_t tokens = q.size(2), groups = gate_bias_.size(0), repeat = groups / k.size(1);
    const auto share = [&](const at::Tensor& x) { return repeat == 1 ? x : x.repeat_interleave(repeat, 1); };
    // A token that leaves now was written w steps ago: it has already decayed by the gates of the last w tokens.
    const auto sums = at::constant_pad_nd(past.to(at::kDouble).cumsum(2), {1, 0});
    const auto decayed = (sums.slice(2, window_ + 1) - sums.slice(2, 1, tokens + 1)).to(q.scalar_type()).exp() * valid;
    const auto keys = softmax_pair_map(share(k), key_map_) * decayed.unsqueeze(-1);
    const auto values = at::constant_pad_nd(share(v), {0, 1}, 1);  // the ones column sums the weights
    ScanOptions options;
    options.form = form;
    return gated_scan(softmax_pair_map(q, query_map_), keys, values, gates.unsqueeze(-1), initial, options);
  }

  at::Tensor combine(const Partial& window, const at::Tensor& linear) const {
    const auto mass = (window.lse - window.max).exp().unsqueeze(-1);
    const auto weighted = linear * log_scale_.exp().view({1, -1, 1, 1});
    const std::int64_t d = linear.size(-1) - 1;
    return (window.out * mass + weighted.narrow(-1, 0, d)) / (mass + weighted.narrow(-1, d, 1));
  }

  std::int64_t window_, sinks_;
  bool gated_, linear_;
  at::Tensor query_map_, key_map_;      // [H, d, d/2], [G, d, d/2]
  at::Tensor gate_weight_, gate_bias_;  // [G, hidden], [G]
  at::Tensor log_scale_;                // [H]: c
};

}  // namespace

Recipe hybrid_recipe() {
  Recipe recipe;
  recipe.name = "hybrid";
  recipe.title = "window + sinks + gated linear attention under one denominator";
  recipe.source = "this project";
  recipe.defaults = common_options(256, 4);
  recipe.defaults.update(
      {{"state_heads", "kv"}, {"gate", true}, {"gate_bias", 5.0}, {"log_scale", std::log(.02)}, {"linear", true}});
  recipe.mixer = [](const DecoderConfig& config, const Json& options, std::int64_t, Random&) -> std::unique_ptr<Mixer> {
    return std::make_unique<HybridMixer>(config, options);
  };
  recipe.stages = [](const Json&) {
    Stage transfer;
    transfer.kind = Stage::Kind::Transfer;
    transfer.name = "transfer";
    transfer.tokens = 32768;
    transfer.mixer_learning_rate = 3e-3;
    transfer.beta2 = .99;
    Stage lora;
    lora.name = "lora";
    lora.tokens = 65536;
    lora.mixer_learning_rate = 3e-3;
    lora.kl = .9;
    lora.cross_entropy = .1;
    return std::vector<Stage>{transfer, lora};
  };
  return recipe;
}

}  // namespace unbend::lm
