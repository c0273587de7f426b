#include "unbend/lm/liger.h"

#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "unbend/attention/feature_map.h"
#include "unbend/attention/recurrences.h"
#include "unbend/attention/window_cache.h"
#include "unbend/base/error.h"

namespace unbend::lm {
namespace {

/// A variant of table 1: how gates and features become a recurrence.
struct Variant {
  bool scalar_gate = false;  // one gate per head and token
  std::function<at::Tensor(const at::Tensor& z, double normalizer)> log_decay;
};

at::Tensor log_sigmoid_over(const at::Tensor& z, double normalizer) { return at::log_sigmoid(z) / normalizer; }

const std::map<std::string, Variant>& variants() {
  static const std::map<std::string, Variant> all{
      {"gla", {false, log_sigmoid_over}},
      {"hgrn2", {false, [](const at::Tensor& z, double) { return at::log_sigmoid(z); }}},
      {"gsa", {false, log_sigmoid_over}},
      {"mamba2", {true, [](const at::Tensor& z, double) { return -at::softplus(z); }}},
      {"mlstm", {true, [](const at::Tensor& z, double) { return at::log_sigmoid(z); }}},
      {"rwkv6", {false, [](const at::Tensor& z, double) { return -at::exp(z); }}},
      {"gated_deltanet", {true, log_sigmoid_over}},
  };
  return all;
}

struct LigerState : MixerState {
  WindowCache window;
  std::vector<at::Tensor> recurrent;
  LigerState(WindowCache cache, std::vector<at::Tensor> states)
      : window(std::move(cache)), recurrent(std::move(states)) {}
  std::unique_ptr<MixerState> clone() const override {
    auto copy = std::make_unique<LigerState>(window.clone(), recurrent);
    for (auto& state : copy->recurrent) state = state.clone();
    return copy;
  }
  std::int64_t bytes() const override {
    std::int64_t total = window.bytes();
    for (const auto& state : recurrent) total += static_cast<std::int64_t>(state.nbytes());
    return total;
  }
  void pretend(std::int64_t tokens) override {
    window.pretend(tokens);
    for (auto& state : recurrent) state.uniform_(-1, 1);
  }
};

class LigerMixer : public Mixer {
 public:
  LigerMixer(const DecoderConfig& c, const Json& o, Random& random) {
    window_ = o.at("window").get<std::int64_t>();
    sinks_ = o.at("sinks").get<std::int64_t>();
    name_ = o.at("variant").get<std::string>();
    const auto found = variants().find(name_);
    require(found != variants().end(),
            "liger: variant '{}' is not one of gla, hgrn2, gsa, mamba2, mlstm, rwkv6, gated_deltanet", name_);
    variant_ = &found->second;
    source_ = o.at("gate_source").get<std::string>();
    require(source_ == "k" || source_ == "q" || source_ == "v" || source_ == "projection",
            "liger: gate_source must be k, q, v or projection, not '{}'", source_);
    gated_ = o.at("gate").get<bool>();
    require(gated_ || (name_ != "hgrn2" && name_ != "gsa"),
            "liger: variant {} writes with 1 - alpha, so that gate false (alpha = 1) would leave its state 0 forever",
            name_);
    normalizer_ = o.at("gate_logit_normalizer").get<double>();
    require(normalizer_ > 0 && std::isfinite(normalizer_), "liger: gate_logit_normalizer must be above 0, not {}",
            normalizer_);
    pool_ = o.at("pool_size").get<std::int64_t>();
    const std::int64_t width = (source_ == "q" ? c.heads : c.kv_heads) * c.head_dim;
    require(pool_ >= 1 && width % pool_ == 0, "liger: pool_size {} does not divide the gate source's width {}", pool_,
            width);
    slots_ = o.at("slots").get<std::int64_t>();
    require(slots_ >= 0, "liger: slots must be 0 (the head width) or more, not {}", slots_);
    if (slots_ == 0) slots_ = c.head_dim;
    mix_linear_ = o.at("mix_linear").get<double>();
    mix_window_ = o.at("mix_window").get<double>();
    require(std::isfinite(mix_linear_) && std::isfinite(mix_window_),
            "liger: mix_linear {} and mix_window {} must be finite", mix_linear_, mix_window_);
    const auto map = o.at("feature_map").get<std::string>();
    require(map == "softmax" || map == "learned", "liger: feature_map must be softmax or learned, not '{}'", map);
    require(map == "softmax" || name_ != "gsa",
            "liger: variant gsa has no features: its feature_map must be softmax, not '{}'", map);
    if (map == "learned") {
      query_map_ = softmax_pair_map_start(c.heads, c.head_dim);
      key_map_ = softmax_pair_map_start(c.kv_heads, c.head_dim);
    }
    if (source_ == "projection") {
      const double bound = 1 / std::sqrt(static_cast<double>(c.hidden));
      gate_weight_ = random_uniform({c.kv_heads * c.head_dim, c.hidden}, -bound, bound, random);
      gate_bias_ = random_uniform({c.kv_heads * c.head_dim}, -bound, bound, random);
    }
  }

  at::Tensor forward(const MixerInput& in, Form form) const override {
    const auto [rotated, raw] = in.both();
    if (mix_linear_ == 0)
      return window_attention(rotated.q, rotated.k, rotated.v, window_options(in)).out * mix_window_;
    const auto linear = recurrence(in, raw, {}, form).out * mix_linear_;
    if (mix_window_ == 0) return linear;
    return linear + window_attention(rotated.q, rotated.k, rotated.v, window_options(in)).out * mix_window_;
  }

  std::unique_ptr<MixerState> start(const DecoderConfig& c, std::int64_t batch,
                                    const at::TensorOptions& options) const override {
    std::vector<at::Tensor> states;
    if (name_ == "gsa")
      states = {at::zeros({batch, c.kv_heads, c.head_dim, slots_}, options),
                at::zeros({batch, c.kv_heads, slots_, c.head_dim}, options)};
    else
      states = {at::zeros({batch, c.kv_heads, c.head_dim, c.head_dim}, options)};
    return std::make_unique<LigerState>(
        WindowCache(batch, c.kv_heads, c.head_dim, {window_, sinks_, c.scale()}, options), std::move(states));
  }

  at::Tensor extend(const MixerInput& in, MixerState& base) const override {
    auto& state = dynamic_cast<LigerState&>(base);
    const auto [rotated, raw] = in.both();
    const auto step = recurrence(in, raw, state.recurrent, in.tokens() == 1 ? Form::Recurrent : Form::Chunked);
    state.recurrent = step.states;
    return step.out * mix_linear_ + state.window.attend(rotated.q, rotated.k, rotated.v).out * mix_window_;
  }

  std::vector<Parameter> parameters() override {
    std::vector<Parameter> all;
    if (query_map_.defined()) all.insert(all.end(), {{"query_map", &query_map_}, {"key_map", &key_map_}});
    if (gate_weight_.defined()) all.insert(all.end(), {{"gate_weight", &gate_weight_}, {"gate_bias", &gate_bias_}});
    return all;
  }

  std::unique_ptr<Mixer> clone() const override {
    auto copy = std::make_unique<LigerMixer>(*this);
    for (const auto& parameter : copy->parameters()) *parameter.tensor = parameter.tensor->detach().clone();
    return copy;
  }

 private:
  struct Step {
    at::Tensor out;
    std::vector<at::Tensor> states;
  };

  WindowOptions window_options(const MixerInput& in) const { return {window_, sinks_, in.config.scale()}; }

  /// Gate logits [B, Hkv, T, width]: the source flattened over heads and average-pooled (an identity when sizes agree,
  /// as for k).
  at::Tensor gate_logits(const MixerInput& in, const Heads& raw, std::int64_t width) const {
    const std::int64_t kv = in.config.kv_heads, batch = in.batch(), tokens = in.tokens();
    at::Tensor flat;  // [B, T, source width]
    const auto flatten = [&](const at::Tensor& heads) { return heads.transpose(1, 2).reshape({batch, tokens, -1}); };
    if (source_ == "k")
      flat = flatten(raw.k);
    else if (source_ == "v")
      flat = flatten(raw.v);
    else if (source_ == "q")
      flat = flatten(raw.q);
    else
      flat = at::linear(in.x.to(gate_weight_.scalar_type()), gate_weight_, gate_bias_);
    if (pool_ > 1) flat = flat.unflatten(-1, {-1, pool_}).mean(-1, true).expand({-1, -1, -1, pool_}).flatten(-2);
    if (flat.size(-1) != kv * width) flat = at::adaptive_avg_pool1d(flat, kv * width);
    return flat.view({batch, tokens, kv, width}).transpose(1, 2);
  }

  Step recurrence(const MixerInput& in, const Heads& raw, const std::vector<at::Tensor>& states, Form form) const {
    const auto& [q, k, v] = raw;
    auto z = gate_logits(in, raw, name_ == "gsa" ? slots_ : in.config.head_dim);
    if (variant_->scalar_gate) z = z.mean(-1, true);
    auto gate = variant_->log_decay(z, normalizer_);
    if (!gated_) gate = at::zeros_like(gate);
    const auto initial = [&](std::size_t i) { return i < states.size() ? states[i] : at::Tensor(); };
    ScanOptions options;
    options.form = form;
    if (name_ == "gsa") {
      const auto scan = gated_slot_attention(q, k, v, gate, initial(0), initial(1), options);
      return {scan.out, {scan.key_state, scan.value_state}};
    }
    const auto feature_q = query_map_.defined() ? softmax_pair_map(q, query_map_) : at::softmax(q, -1);
    const auto feature_k = key_map_.defined() ? softmax_pair_map(k, key_map_) : at::softmax(k, -1);
    Scan scan;
    if (name_ == "hgrn2")
      scan = hgrn2(feature_q, v, gate, initial(0), options);
    else if (name_ == "gated_deltanet") {
      const auto beta = at::sigmoid(k.mean(-1));
      const auto unit = k / at::linalg_vector_norm(k, 2, {-1}, true).clamp_min(1e-6);
      scan = gated_delta_rule(feature_q, unit, v, gate.squeeze(-1), beta, initial(0), options);
    } else
      scan = gated_scan(feature_q, feature_k, v, gate, initial(0), options);
    return {scan.out, {scan.state}};
  }

  std::int64_t window_, sinks_, pool_, slots_;
  std::string name_, source_;
  const Variant* variant_;
  bool gated_;
  double normalizer_, mix_linear_, mix_window_;
  at::Tensor query_map_, key_map_;      // [H, d, d/2], [Hkv, d, d/2]; learned feature map only
  at::Tensor gate_weight_, gate_bias_;  // [Hkv d, hidden], [Hkv d]; gate_source projection only
};

}  // namespace

Recipe liger_recipe() {
  Recipe recipe;
  recipe.name = "liger";
  recipe.title = "Liger: gated linear recurrence + window, gates from the pretrained keys";
  recipe.source = "Lan et al. 2025, arXiv 2503.01496";
  recipe.defaults = common_options(64, 0);
  recipe.defaults.update({{"variant", "gla"},
                          {"gate_source", "k"},
                          {"gate", true},
                          {"gate_logit_normalizer", 16.0},
                          {"pool_size", 1},
                          {"feature_map", "softmax"},
                          {"slots", 0},
                          {"mix_linear", .5},
                          {"mix_window", .5}});
  recipe.mixer = [](const DecoderConfig& config, const Json& options, std::int64_t,
                    Random& random) -> std::unique_ptr<Mixer> {
    return std::make_unique<LigerMixer>(config, options, random);
  };
  recipe.stages = [](const Json&) {
    Stage lora;
    lora.name = "lora";
    lora.tokens = 65536;
    lora.mixer_learning_rate = 1e-3;
    lora.beta2 = .999;
    lora.weight_decay = .01;
    lora.schedule = Stage::Schedule::Plateau;
    return std::vector<Stage>{lora};
  };
  return recipe;
}

}  // namespace unbend::lm
