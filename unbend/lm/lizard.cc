#include "unbend/lm/lizard.h"

#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "unbend/attention/gated_scan.h"
#include "unbend/attention/window_cache.h"
#include "unbend/base/error.h"

namespace unbend::lm {
namespace {

struct LizardState : MixerState {
  std::optional<WindowCache> window;
  at::Tensor scan;       // [B, S, 2f, d + 1]
  at::Tensor reference;  // [B, S]: exponent that the state is relative to; features exp only

  std::unique_ptr<MixerState> clone() const override {
    auto copy = std::make_unique<LizardState>();
    copy->window = window->clone();
    copy->scan = scan.clone();
    if (reference.defined()) copy->reference = reference.clone();
    return copy;
  }
  std::int64_t bytes() const override {
    return window->bytes() + static_cast<std::int64_t>(scan.nbytes() + (reference.defined() ? reference.nbytes() : 0));
  }
  void pretend(std::int64_t tokens) override {
    window->pretend(tokens);
    scan.uniform_(0, 1);
    if (reference.defined()) reference.zero_();
  }
};

/// The option `name`, one of `known`.
std::string choice(const Json& options, const char* name, const std::vector<std::string>& known) {
  auto value = options.at(name).get<std::string>();
  require(std::find(known.begin(), known.end(), value) != known.end(), "lizard: {} must be one of {}, not '{}'", name,
          fmt::join(known, ", "), value);
  return value;
}

double finite(const Json& options, const char* name) {
  const auto value = options.at(name).get<double>();
  require(std::isfinite(value), "lizard: {} must be finite, not {}", name, value);
  return value;
}

class LizardMixer : public Mixer {
 public:
  LizardMixer(const DecoderConfig& c, const Json& o, Random& random) {
    choice(o, "preset", {"paper", "recommended"});
    window_ = o.at("window").get<std::int64_t>();
    sinks_ = o.at("sinks").get<std::int64_t>();
    exponential_ = choice(o, "features", {"softmax", "exp"}) == "exp";
    norm_ = choice(o, "gla_norm", {"row", "none", "joint"});
    require(norm_ == "row" || !exponential_,
            "lizard: features exp need gla_norm row, whose denominator cancels what keeps them finite");
    convex_ = o.at("convex").get<bool>();
    require(!convex_ || norm_ != "joint", "lizard: convex says how two means are added; gla_norm joint has one");
    branches_ = choice(o, "branches", {"both", "gate", "anchor"});
    rotate_window_ = o.at("window_rope").get<bool>();

    const auto map_heads = choice(o, "map_heads", {"query", "kv", "layer"});
    const auto map_start = choice(o, "map_start", {"identity", "random"});
    features_ = o.at("feature_dim").get<std::int64_t>();
    require(features_ >= 0, "lizard: feature_dim must be 0 (the head width) or more, not {}", features_);
    if (features_ == 0) features_ = c.head_dim;
    require(map_start == "random" || features_ == c.head_dim,
            "lizard: map_start identity needs a feature_dim of the head width {}, not {}", c.head_dim, features_);
    states_ = map_heads == "query" ? c.heads : c.kv_heads;
    const auto map = [&](std::int64_t heads) {
      if (map_start == "identity") return at::eye(c.head_dim).expand({heads, -1, -1}).contiguous();
      return random_normal({heads, c.head_dim, features_}, 1 / std::sqrt(static_cast<double>(c.head_dim)), random);
    };
    query_map_ = map(map_heads == "layer" ? 1 : c.heads);
    key_map_ = map(map_heads == "layer" ? 1 : states_);

    gate_ = choice(o, "gate", {"sigmoid", "mamba2", "gla", "pooling", "none"});
    gates_ = o.at("gate_per_head").get<bool>() ? states_ : 1;
    tau_ = finite(o, "gate_tau");
    require(tau_ > 0, "lizard: gate_tau must be above 0, not {}", tau_);
    const double bias = finite(o, "gate_bias");
    const auto rank = o.at("gate_rank").get<std::int64_t>();
    require(rank >= 1 && rank <= 65536, "lizard: gate_rank must be 1 to 65536, not {}", rank);
    if (gate_ == "gla") {
      const double bound = 1 / std::sqrt(static_cast<double>(c.hidden));
      gate_down_ = random_uniform({rank, c.hidden}, -bound, bound, random);
      gate_weight_ = at::zeros({gates_ * features_, rank});
      gate_bias_ = at::full({gates_ * features_}, bias);
    } else if (gate_ == "sigmoid" || gate_ == "mamba2") {
      gate_weight_ = at::zeros({gates_, c.hidden});
      gate_bias_ = at::full({gates_}, bias);
      if (gate_ == "mamba2") gate_rate_ = at::zeros({gates_});
    }

    const auto meta = o.at("meta").get<std::int64_t>();
    require(meta >= 0 && meta <= 65536, "lizard: meta must be 0 (no sinks) to 65536, not {}", meta);
    const double start = finite(o, "meta_start"), spread = finite(o, "meta_spread");
    if (meta > 0) meta_ = at::linspace(start - spread / 2, start + spread / 2, meta);
    alpha_ = at::full({o.at("alpha_per_head").get<bool>() ? c.heads : 1}, finite(o, "alpha"));
    learn_alpha_ = o.at("learn_alpha").get<bool>();
  }

  at::Tensor forward(const MixerInput& in, Form form) const override {
    const auto [rotated, raw] = branch_heads(in);
    LizardState none;
    return combined(window_attention(rotated.q, rotated.k, rotated.v, window_options(in.config)),
                    recurrence(in, raw, none, form));
  }

  std::unique_ptr<MixerState> start(const DecoderConfig& c, std::int64_t batch,
                                    const at::TensorOptions& options) const override {
    auto state = std::make_unique<LizardState>();
    state->window.emplace(batch, c.kv_heads, c.head_dim, window_options(c), options);
    state->scan = at::zeros({batch, states_, 2 * features_, c.head_dim + 1}, options);
    if (exponential_) state->reference = at::full({batch, states_}, -std::numeric_limits<double>::infinity(), options);
    return state;
  }

  at::Tensor extend(const MixerInput& in, MixerState& base) const override {
    auto& state = dynamic_cast<LizardState&>(base);
    const auto [rotated, raw] = branch_heads(in);
    return combined(state.window->attend(rotated.q, rotated.k, rotated.v),
                    recurrence(in, raw, state, in.tokens() == 1 ? Form::Recurrent : Form::Chunked));
  }

  std::vector<Parameter> parameters() override {
    std::vector<Parameter> all;
    for (const auto& [name, tensor] : {std::pair{"query_map", &query_map_},
                                       {"key_map", &key_map_},
                                       {"gate_down", &gate_down_},
                                       {"gate_weight", &gate_weight_},
                                       {"gate_bias", &gate_bias_},
                                       {"gate_rate", &gate_rate_},
                                       {"meta", &meta_}})
      if (tensor->defined()) all.push_back({name, tensor});
    if (learn_alpha_) all.push_back({"alpha", &alpha_});
    return all;
  }

  std::unique_ptr<Mixer> clone() const override {
    auto copy = std::make_unique<LizardMixer>(*this);
    for (const auto& parameter : copy->parameters()) *parameter.tensor = parameter.tensor->detach().clone();
    return copy;
  }

  std::vector<Gauge> gauges(const MixerInput& in) const override {
    const auto mean = [](const at::Tensor& t) { return t.mean().item<double>(); };
    const auto [rotated, raw] = branch_heads(in);
    LizardState none;
    const auto window = window_attention(rotated.q, rotated.k, rotated.v, window_options(in.config));
    const auto linear = recurrence(in, raw, none, Form::Chunked);
    const auto gates = log_decay(in, raw);
    const double gamma = gates.defined() ? mean(gates.exp()) : 1, alpha = mean(alpha_);
    const auto size = [](const at::Tensor& t) { return t.square().sum().sqrt().item<double>(); };
    const double gated = linear.defined() ? size(row_mean(linear)) : 0,
                 anchored = branches_ == "gate" ? 0 : size(anchor(window) * alpha_view(window.out));
    std::vector<Gauge> all{
        {"mean gamma", gamma, ""}, {"alpha", alpha, ""}, {"share of the gated branch", gated / (gated + anchored), ""}};
    if (meta_.defined()) all.push_back({"share of the meta memory", 1 - mean(window_share(window)), ""});
    if (gates.defined() && gamma > .999) all[0].warning = "the gates hardly forget anything";
    if (gamma < .01) all[0].warning = "the gates forget everything at once";
    // Its mean would hide a head whose window is switched off.
    if (alpha_.min().item<double>() <= 0) all[1].warning = "the window's branch is switched off or turned around";
    return all;
  }

 private:
  WindowOptions window_options(const DecoderConfig& c) const { return {window_, sinks_, c.scale()}; }

  /// Heads of the window's branch and of the gated one.
  std::pair<Heads, Heads> branch_heads(const MixerInput& in) const {
    if (rotate_window_) return in.both();
    const auto raw = in.unrotated();
    return {raw, raw};
  }

  /// log gamma, [B, 1 or S, T, 1 or 2f]; undefined where nothing decays.
  at::Tensor log_decay(const MixerInput& in, const Heads& raw) const {
    if (gate_ == "none") return {};
    const auto batch = in.batch(), tokens = in.tokens();
    at::Tensor z;  // [B, T, gates, 1 or f]
    if (gate_ == "pooling") {
      const auto kv = in.config.kv_heads, groups = gates_ == 1 ? 1 : kv;
      z = raw.k.transpose(1, 2).reshape({batch, tokens, -1});
      if (z.size(2) != groups * features_) z = at::adaptive_avg_pool1d(z, groups * features_);
      z = z.view({batch, tokens, groups, features_});
      if (groups != gates_) z = z.repeat_interleave(gates_ / groups, 2);
    } else {
      z = in.x.to(gate_weight_.scalar_type());
      if (gate_down_.defined()) z = at::linear(z, gate_down_);
      z = at::linear(z, gate_weight_, gate_bias_).view({batch, tokens, gates_, -1});
    }
    auto log_gamma = at::log_sigmoid(z.transpose(1, 2)) / tau_;
    if (gate_rate_.defined()) log_gamma = log_gamma * gate_rate_.exp().view({1, -1, 1, 1});
    return log_gamma.size(3) == 1 ? log_gamma : at::cat({log_gamma, log_gamma}, 3);  // a feature and its twin: one gate
  }

  /// Relative to what a state of exponential features is kept, [B, S, T], after each token; double, without gradient:
  /// it cancels.
  static at::Tensor references(const at::Tensor& log_keys, const at::Tensor& gates, const at::Tensor& before) {
    const auto largest = log_keys.detach().amax(-1).to(at::kDouble);
    const auto decayed = gates.defined() ? gates.detach().amax(-1).to(at::kDouble).expand_as(largest).cumsum(2)
                                         : at::zeros_like(largest);
    auto peak = std::get<0>((largest - decayed).cummax(2));
    if (before.defined()) peak = at::maximum(peak, before.to(at::kDouble).unsqueeze(2));
    return peak + decayed;
  }

  /// Numerator and denominator [B, H, T, d + 1] of the gated branch; undefined if it is switched off. `state` moves on
  /// where it is that of a stream.
  at::Tensor recurrence(const MixerInput& in, const Heads& raw, LizardState& state, Form form) const {
    if (branches_ == "anchor") return {};
    const auto repeat = states_ / in.config.kv_heads;
    const auto shared = [&](const at::Tensor& x) { return repeat == 1 ? x : x.repeat_interleave(repeat, 1); };
    const auto type = raw.q.scalar_type();
    auto q = at::matmul(raw.q, query_map_.to(type)), k = at::matmul(shared(raw.k), key_map_.to(type));
    auto gates = log_decay(in, raw);
    if (gates.defined()) gates = gates.to(type).expand({-1, states_, -1, -1});
    if (exponential_) {
      q = at::cat({q, -q}, -1), k = at::cat({k, -k}, -1);
      q = (q - q.detach().amax(-1, true)).exp();
      const auto reference = references(k, gates, state.reference);
      k = (k - reference.unsqueeze(-1).to(type)).exp();
      const auto first = state.reference.defined() ? state.reference.to(at::kDouble).unsqueeze(2)
                                                   : reference.slice(2, 0, 1);  // of an empty state
      const auto change = at::cat({first, reference.slice(2, 0, -1)}, 2) - reference;
      gates = gates.defined() ? gates + change.unsqueeze(-1).to(type) : change.unsqueeze(-1).to(type);
      gates = gates - gates.detach().clamp_min(0);  // what rounding put above 0, without cutting the gradient off
      if (state.reference.defined()) state.reference = reference.select(2, -1).to(type);
    } else {
      q = at::cat({at::softmax(q, -1), at::softmax(-q, -1)}, -1);
      k = at::cat({at::softmax(k, -1), at::softmax(-k, -1)}, -1);
    }
    ScanOptions options;
    options.form = form;
    const auto values = at::constant_pad_nd(shared(raw.v), {0, 1}, 1);  // ones sum the weights
    const auto scan = gated_scan(q, k, values, gates, state.scan, options);
    state.scan = scan.state;
    return scan.out;
  }

  at::Tensor row_mean(const at::Tensor& linear) const {
    const std::int64_t d = linear.size(-1) - 1;
    const auto sum = linear.narrow(-1, 0, d);
    return norm_ == "none" ? sum : sum / linear.narrow(-1, d, 1).clamp_min(std::numeric_limits<float>::min());
  }

  /// The part of the window's softmax that falls on its tokens, [B, H, T].
  at::Tensor window_share(const Partial& window) const { return at::sigmoid(window.lse - at::logsumexp(meta_, 0)); }

  at::Tensor anchor(const Partial& window) const {
    return meta_.defined() ? window.out * window_share(window).unsqueeze(-1) : window.out;
  }

  at::Tensor alpha_view(const at::Tensor& like) const { return alpha_.to(like.options()).view({1, -1, 1, 1}); }

  at::Tensor combined(const Partial& window, const at::Tensor& linear) const {
    auto alpha = alpha_view(window.out);
    if (norm_ == "joint") return joint(window, linear, alpha);
    if (branches_ == "gate") return row_mean(linear);
    auto share = alpha;
    if (convex_) {
      share = alpha.abs() / (1 + alpha.abs());
      if (linear.defined()) return row_mean(linear) * (1 - share) + anchor(window) * share;
    }
    return linear.defined() ? row_mean(linear) + anchor(window) * share : anchor(window) * share;
  }

  at::Tensor joint(const Partial& window, const at::Tensor& linear, const at::Tensor& alpha) const {
    if (branches_ == "gate") return row_mean(linear);
    const auto peak = meta_.defined() ? at::maximum(window.max, meta_.max()) : window.max;
    const auto mass = (window.lse - peak).exp().unsqueeze(-1) * alpha;
    auto sum = window.out * mass, weight = mass;
    if (meta_.defined()) weight = weight + (at::logsumexp(meta_, 0) - peak).exp().unsqueeze(-1) * alpha;
    if (linear.defined()) {
      const std::int64_t d = linear.size(-1) - 1;
      sum = sum + linear.narrow(-1, 0, d);
      weight = weight + linear.narrow(-1, d, 1);
    }
    return sum / weight;
  }

  std::int64_t window_, sinks_, features_, states_, gates_;
  bool exponential_, convex_, rotate_window_, learn_alpha_;
  double tau_;
  std::string norm_, branches_, gate_;
  at::Tensor query_map_, key_map_;                              // [H or 1, d, f], [S or 1, d, f]
  at::Tensor gate_down_, gate_weight_, gate_bias_, gate_rate_;  // [r, hidden], [n, hidden or r], [n], [gates]
  at::Tensor meta_;                                             // [m]
  at::Tensor alpha_;                                            // [1 or H]
};

std::vector<Stage> lizard_stages(const Json& options) {
  Stage transfer;
  transfer.kind = Stage::Kind::Transfer;
  transfer.name = "transfer";
  transfer.tokens = 65536;
  transfer.mixer_learning_rate = options.at("preset") == "paper" ? 1e-3 : 1e-2;
  transfer.beta2 = .99;
  transfer.mse_scale = 1;  // LoLCATs' factor of 1,000 would make every gradient longer than the clip
  Stage lora;
  lora.name = "lora";
  lora.tokens = 65536;
  lora.learning_rate = 5e-4;
  lora.mixer_learning_rate = options.at("freeze_mixer").get<bool>() ? 0 : 5e-4;
  lora.beta2 = .99;
  return {transfer, lora};
}

}  // namespace

Recipe lizard_recipe() {
  Recipe recipe;
  recipe.name = "lizard";
  recipe.title = "Lizard: linear attention with a learned gate + window with a meta memory";
  recipe.source = "Nguyen et al. 2025, arXiv 2507.09025";
  recipe.defaults = common_options(128, 0);
  recipe.defaults.update({{"preset", "paper"},
                          {"features", "softmax"},
                          {"feature_dim", 0},
                          {"map_heads", "query"},
                          {"map_start", "identity"},
                          {"gate", "sigmoid"},
                          {"gate_per_head", false},
                          {"gate_bias", 0.0},
                          {"gate_rank", 16},
                          {"gate_tau", 1.0},
                          {"meta", 4},
                          {"meta_start", 0.0},
                          {"meta_spread", 0.0},
                          {"window_rope", false},
                          {"convex", false},
                          {"alpha", 1.0},
                          {"learn_alpha", true},
                          {"alpha_per_head", false},
                          {"gla_norm", "row"},
                          {"branches", "both"},
                          {"freeze_mixer", false},
                          {"lora_alpha", 16.0}});
  recipe.presets = {
      {"paper", Json::object()},
      {"recommended", {{"window_rope", true}, {"convex", true}, {"gate_per_head", true}, {"gate_bias", 3.0}}}};
  recipe.mixer = [](const DecoderConfig& config, const Json& options, std::int64_t,
                    Random& random) -> std::unique_ptr<Mixer> {
    return std::make_unique<LizardMixer>(config, options, random);
  };
  recipe.stages = lizard_stages;
  return recipe;
}

}  // namespace unbend::lm
