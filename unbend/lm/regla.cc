#include "unbend/lm/regla.h"

#include <torch/types.h>

#include <cmath>
#include <numbers>

#include "unbend/attention/feature_map.h"
#include "unbend/attention/recurrences.h"
#include "unbend/base/error.h"

namespace unbend::lm {
namespace {

constexpr double kSmallestHead = 1e-37;  // heads and sums below count as 0
constexpr double kLargestSpan = 80;      // exp(-88) is no normal float any more

void check_choice(const char* option, const std::string& value, const std::vector<std::string>& choices) {
  for (const auto& choice : choices)
    if (value == choice) return;
  fail_input("regla: {} must be one of {}, not '{}'", option, fmt::join(choices, ", "), value);
}

struct ReglaState : MixerState {
  at::Tensor scan;     // [B, H or Hkv, d, d]; [.., 2d] or [.., d + 1] with a denominator
  at::Tensor largest;  // M_t [B, Hkv, 1, 1], -inf at the start; shift=running only

  std::unique_ptr<MixerState> clone() const override {
    auto copy = std::make_unique<ReglaState>();
    copy->scan = scan.clone();
    if (largest.defined()) copy->largest = largest.clone();
    return copy;
  }
  std::int64_t bytes() const override {
    return static_cast<std::int64_t>(scan.nbytes() + (largest.defined() ? largest.nbytes() : 0));
  }
  void pretend(std::int64_t) override {
    scan.uniform_(-1, 1);
    if (largest.defined()) largest.fill_(3);
  }
};

class ReglaMixer : public Mixer {
 public:
  ReglaMixer(const DecoderConfig& c, const Json& o, Random& random) {
    require(o.at("window").get<std::int64_t>() == 0 && o.at("sinks").get<std::int64_t>() == 0,
            "regla: it has neither a window nor sinks: both must be 0");
    const auto choice = [&](const char* option, const std::vector<std::string>& choices) {
      const auto value = o.at(option).get<std::string>();
      check_choice(option, value, choices);
      return value;
    };
    feature_ = choice("feature", {"safe_exp", "relu", "elu1", "hedgehog", "none"});
    shift_ = choice("shift", {"running", "global", "none"});
    gate_ = choice("gate", {"refined", "sigmoid", "scalar", "delta", "fast_decay", "none"});
    axis_ = choice("gate_axis", {"value", "key"}) == "value" ? DecayAxis::Value : DecayAxis::Key;
    norm_ = choice("norm", {"rms", "layer", "none"});
    const bool anew = choice("init", {"teacher", "random"}) == "random";
    require(choice("warm_start", {"gates", "projections", "none"}) != "gates" || !anew,
            "regla: gates cannot be fitted to random projections: with init=random, warm_start must be projections or "
            "none");
    if (feature_ != "safe_exp") shift_ = "none";
    scale_ = o.at("scale_s").get<bool>() && feature_ == "safe_exp" ? feature_scale(c.head_dim) : 1;
    denominator_ = o.at("denominator").get<bool>();
    require(!denominator_ || feature_ != "none", "regla: a denominator needs features that are not negative");
    require(!denominator_ || gate_ != "delta", "regla: gate=delta corrects the state and has no denominator");
    rotate_ = o.at("rope").get<bool>();
    const auto rank = o.at("gate_rank").get<std::int64_t>();
    require(rank >= 0 && rank <= 65536, "regla: gate_rank must be 0 (full) to 65536, not {}", rank);
    const auto bias = o.at("gate_bias").get<double>();
    require(std::isfinite(bias), "regla: gate_bias must be finite, not {}", bias);

    if (feature_ == "hedgehog") {
      query_map_ = softmax_pair_map_start(c.heads, c.head_dim);
      key_map_ = softmax_pair_map_start(c.kv_heads, c.head_dim);
    }
    if (norm_ != "none") norm_gain_ = at::ones({c.heads, c.head_dim});
    if (gate_ == "none") return;
    constexpr double kDeviation = .02;
    const std::int64_t each = gate_ == "scalar" || gate_ == "delta" ? c.heads : c.heads * c.head_dim,
                       rows = each * gates();
    if (rank > 0) gate_down_ = random_normal({rank, c.hidden}, kDeviation, random);
    gate_weight_ = random_normal({rows, rank > 0 ? rank : c.hidden}, kDeviation, random);
    gate_bias_ = at::zeros({rows});
    gate_bias_.slice(0, 0, each).fill_(bias);
  }

  at::Tensor forward(const MixerInput& in, Form form) const override {
    ReglaState state;
    return heads(in, state, form);
  }

  std::unique_ptr<MixerState> start(const DecoderConfig& c, std::int64_t batch,
                                    const at::TensorOptions& options) const override {
    require(shift_ != "global", "regla: shift=global looks ahead, so it cannot go on token by token");
    auto state = std::make_unique<ReglaState>();
    const std::int64_t more = !denominator_ ? 0 : decays_values() ? c.head_dim : 1;
    state->scan = at::zeros({batch, gate_ == "none" ? c.kv_heads : c.heads, c.head_dim, c.head_dim + more}, options);
    if (shift_ == "running") state->largest = at::full({batch, c.kv_heads, 1, 1}, -INFINITY, options);
    return state;
  }

  at::Tensor extend(const MixerInput& in, MixerState& base) const override {
    auto& state = dynamic_cast<ReglaState&>(base);
    return heads(in, state, in.tokens() == 1 ? Form::Recurrent : Form::Chunked);
  }

  std::vector<Parameter> parameters() override {
    std::vector<Parameter> all;
    for (const auto& [name, tensor] : {std::pair{"gate_down", &gate_down_},
                                       {"gate_weight", &gate_weight_},
                                       {"gate_bias", &gate_bias_},
                                       {"norm_gain", &norm_gain_},
                                       {"query_map", &query_map_},
                                       {"key_map", &key_map_}})
      if (tensor->defined()) all.push_back({name, tensor});
    return all;
  }

  std::vector<Gauge> gauges(const MixerInput& in) const override {
    if (feature_ != "safe_exp") return {};
    const auto largest = (rotate_ ? in.heads() : in.unrotated()).k.amax(-1);  // [B, Hkv, T]
    Gauge span{"span of keys", (largest.amax(-1) - largest.amin(-1)).max().item<double>(), ""};
    if (span.value > kLargestSpan)
      span.warning = "features of keys so far below the largest are 0: their tokens are forgotten";
    return {span};
  }

  std::unique_ptr<Mixer> clone() const override {
    auto copy = std::make_unique<ReglaMixer>(*this);
    for (const auto& parameter : copy->parameters()) *parameter.tensor = parameter.tensor->detach().clone();
    return copy;
  }

 private:
  std::int64_t gates() const { return gate_ == "refined" || gate_ == "fast_decay" ? 2 : 1; }
  bool decays_values() const {
    return gate_ == "fast_decay" || (axis_ == DecayAxis::Value && (gate_ == "refined" || gate_ == "sigmoid"));
  }
  /// Whether a factor common to a token's entries of h changes nothing, so that maxima need no gradient.
  bool scale_free() const { return norm_ != "none" || denominator_; }

  /// Logits of the gates, [B, H, T, d or 1] each.
  std::vector<at::Tensor> gate_logits(const MixerInput& in) const {
    auto z = in.x.to(gate_weight_.scalar_type());
    if (gate_down_.defined()) z = at::linear(z, gate_down_);
    z = at::linear(z, gate_weight_, gate_bias_).view({in.batch(), in.tokens(), gates(), in.config.heads, -1});
    return z.permute({2, 0, 3, 1, 4}).unbind(0);
  }

  at::Tensor query_features(const at::Tensor& q) const {
    if (feature_ == "relu") return at::relu(q);
    if (feature_ == "elu1") return at::elu(q) + 1;
    if (feature_ == "hedgehog") return softmax_pair_map(q, query_map_.to(q.scalar_type()));
    if (feature_ == "none") return q;
    const auto largest = q.amax(-1, true);
    return (q - (scale_free() ? largest.detach() : largest)).exp() * scale_;
  }

  /// Features of keys, and the logarithm of what the state shrinks by before each token [B, Hkv, T, 1] (undefined: 1).
  std::pair<at::Tensor, at::Tensor> key_features(const at::Tensor& k, ReglaState& state) const {
    if (feature_ == "relu") return {at::relu(k), {}};
    if (feature_ == "elu1") return {at::elu(k) + 1, {}};
    if (feature_ == "hedgehog") return {softmax_pair_map(k, key_map_.to(k.scalar_type())), {}};
    if (feature_ == "none") return {k, {}};
    if (shift_ == "none") return {k.exp(), {}};
    auto largest = k.amax(-1, true);
    // It would stay in the maximum for good.
    if (!at::isfinite(largest).all().item<bool>()) fail_computation("regla: a key is not finite");
    if (scale_free()) largest = largest.detach();
    if (shift_ == "global") return {(k - largest.amax(2, true)).exp(), {}};
    largest = std::get<0>(at::cummax(largest, 2));
    if (state.largest.defined()) largest = at::maximum(largest, state.largest);
    const auto before =
        at::cat({state.largest.defined() ? state.largest : largest.slice(2, 0, 1), largest.slice(2, 0, -1)}, 2);
    if (state.largest.defined()) state.largest = largest.slice(2, -1).contiguous();
    return {(k - largest).exp(), before - largest};
  }

  at::Tensor heads(const MixerInput& in, ReglaState& state, Form form) const {
    const auto [q, k, v] = rotate_ ? in.heads() : in.unrotated();
    const std::int64_t group = in.config.heads / in.config.kv_heads, d = in.config.head_dim;
    const auto repeated = [&](const at::Tensor& x) {
      return group == 1 || gate_ == "none" || !x.defined() ? x : x.repeat_interleave(group, 1);
    };
    const auto queries = query_features(q);
    const auto [features, shrink] = key_features(k, state);
    auto keys = repeated(features), values = repeated(v);
    if (denominator_)
      values = decays_values() ? at::cat({values, at::ones_like(values)}, -1) : at::constant_pad_nd(values, {0, 1}, 1);

    ScanOptions options;
    options.form = form;
    if (gate_ == "delta") {  // of unit keys, whose scale is no matter
      const auto unit = keys / at::linalg_vector_norm(keys, 2, {-1}, true).clamp_min(kSmallestHead);
      const Scan scan =
          gated_delta_rule(queries, unit, values, {}, gate_logits(in)[0].sigmoid().squeeze(-1), state.scan, options);
      state.scan = scan.state;
      return normed(scan.out);
    }
    at::Tensor log_decay = repeated(shrink), log_key_decay;
    if (gate_ != "none") {
      const auto z = gate_logits(in);
      auto log_gate = gate_ == "refined" ? refined_log_gate(z[0], z[1]) : at::log_sigmoid(z[0]);
      if (gate_ == "scalar") keys = keys * at::sigmoid(-z[0]);
      if (gate_ == "fast_decay") log_key_decay = at::log_sigmoid(z[1]);
      if (denominator_ && decays_values()) log_gate = at::cat({log_gate, log_gate}, -1);
      log_decay = log_decay.defined() ? log_decay + log_gate : log_gate;
    }
    options.axis = decays_values() ? DecayAxis::Value : DecayAxis::Key;
    const Scan scan = log_key_decay.defined()
                          ? doubly_gated_scan(queries, keys, values, log_key_decay, log_decay, state.scan, options)
                          : gated_scan(queries, keys, values, log_decay, state.scan, options);
    state.scan = scan.state;
    if (!denominator_) return normed(scan.out);
    const auto sum = scan.out.narrow(-1, d, scan.out.size(-1) - d);
    return normed(scan.out.narrow(-1, 0, d) / sum.clamp_min(kSmallestHead));
  }

  /// The norm of each head, with no epsilon that a small h could feel: h may have any scale.
  at::Tensor normed(const at::Tensor& h) const {
    if (norm_ == "none") return h;
    const auto largest = h.detach().abs().amax(-1, true);
    const auto alive = largest > kSmallestHead;
    const auto n = at::where(alive, h / largest.masked_fill(~alive, 1), 0.);
    const auto gain = norm_gain_.unsqueeze(1).to(h.scalar_type());
    if (norm_ == "layer") return at::layer_norm(n, {n.size(-1)}, {}, {}, 1e-12) * gain;
    return n / (n.square().mean(-1, true) + (~alive).to(n.scalar_type())).sqrt() * gain;
  }

  std::string feature_, shift_, gate_, norm_;
  DecayAxis axis_;
  double scale_;
  bool denominator_, rotate_;
  at::Tensor gate_down_, gate_weight_, gate_bias_;  // [r, hidden], [gates H d (scalar: H), hidden or r], [gates H d]
  at::Tensor norm_gain_;                            // [H, d]
  at::Tensor query_map_, key_map_;                  // [H, d, d/2], [Hkv, d, d/2]; hedgehog only
};

}  // namespace

at::Tensor refined_log_gate(const at::Tensor& g, const at::Tensor& r) {
  // f = g (g + 2 r (1 - g)); rounding may lift log f above 0 where g is nearly 1.
  const auto log_g = at::log_sigmoid(g);
  return (log_g + at::logaddexp(log_g, at::log_sigmoid(r) + at::log_sigmoid(-g) + std::numbers::ln2)).clamp_max(0);
}

double feature_scale(std::int64_t d) {
  constexpr double e = std::numbers::e;
  return 1 / (e * std::sqrt(static_cast<double>(d) * (e * e - 1)));
}

Recipe regla_recipe() {
  Recipe recipe;
  recipe.name = "regla";
  recipe.title = "ReGLA: gated linear attention, safe exponential features, refined gate, norm; all weights train";
  recipe.source = "Lu et al. 2025, arXiv 2502.01578";
  recipe.defaults = common_options(0, 0);
  recipe.defaults.update({{"feature", "safe_exp"},
                          {"shift", "running"},
                          {"scale_s", true},
                          {"gate", "refined"},
                          {"gate_axis", "value"},
                          {"gate_rank", 0},
                          {"gate_bias", 0.},
                          {"norm", "rms"},
                          {"denominator", false},
                          {"rope", true},
                          {"init", "teacher"},
                          {"warm_start", "gates"},
                          {"lora_rank", 0}});
  recipe.mixer = [](const DecoderConfig& config, const Json& options, std::int64_t,
                    Random& random) -> std::unique_ptr<Mixer> {
    return std::make_unique<ReglaMixer>(config, options, random);
  };
  recipe.weights = [](Layer& layer, const Json& options, Random& random) {
    if (options.at("init") != "random") return;
    for (auto* projection : {&layer.qkv, &layer.output}) {
      const auto& old = projection->weight;
      const double deviation = 1 / std::sqrt(static_cast<double>(projection->in()));
      projection->weight = random_normal(old.sizes(), deviation, random).to(old.device(), old.scalar_type());
      if (projection->bias.defined()) projection->bias = at::zeros_like(projection->bias);
    }
  };
  recipe.stages = [](const Json& options) {
    Stage all;
    all.name = "all";
    all.tokens = 65536;
    all.learning_rate = all.mixer_learning_rate = 1e-4;
    all.weight_decay = .1;
    all.warmup = .01;
    all.also = {""};
    Stage transfer = all;
    transfer.kind = Stage::Kind::Transfer;
    transfer.name = "transfer";
    transfer.mixer_learning_rate = 1e-2;
    transfer.weight_decay = 0;
    transfer.also.clear();
    const auto warm_start = options.at("warm_start").get<std::string>();
    if (warm_start == "projections") {
      transfer.projections = {"q", "k", "o"};
      if (options.at("init") == "random") transfer.projections.push_back("v");
      transfer.learning_rate = 6e-4;
    }
    if (warm_start == "none") return std::vector<Stage>{all};
    return std::vector<Stage>{transfer, all};
  };
  return recipe;
}

}  // namespace unbend::lm
