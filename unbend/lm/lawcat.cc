#include "unbend/lm/lawcat.h"

#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "unbend/attention/feature_map.h"
#include "unbend/attention/gated_scan.h"
#include "unbend/attention/window_cache.h"
#include "unbend/base/error.h"

namespace unbend::lm {
namespace {

constexpr double kSmallestFeature = 1e-12, kSmallestMass = 1e-10;
constexpr double kSmallSum = 1e-8;  // of a denominator: kSmallestMass takes 1 % of the result from there on

struct LawcatState : MixerState {
  std::optional<WindowCache> window;
  at::Tensor q, k, v;  // the last K - 1 rows before the convolution, [B, h, K - 1, d]; v only if it is convolved
  at::Tensor scan;     // [B, H, 2f, d + 1]

  std::unique_ptr<MixerState> clone() const override {
    auto copy = std::make_unique<LawcatState>();
    if (window) copy->window = window->clone();
    for (const auto& [to, from] : {std::pair{&copy->q, &q}, {&copy->k, &k}, {&copy->v, &v}, {&copy->scan, &scan}})
      if (from->defined()) *to = from->clone();
    return copy;
  }
  std::int64_t bytes() const override {
    std::int64_t total = window ? window->bytes() : 0;
    for (const auto* t : {&q, &k, &v, &scan})
      if (t->defined()) total += static_cast<std::int64_t>(t->nbytes());
    return total;
  }
  void pretend(std::int64_t tokens) override {
    if (window) window->pretend(tokens);
    for (auto* t : {&q, &k, &v})
      if (t->defined()) t->normal_();
    scan.uniform_(0, 1);
  }
};

class LawcatMixer : public Mixer {
 public:
  LawcatMixer(const DecoderConfig& c, const Json& o, Random& random) {
    window_ = o.at("window").get<std::int64_t>();
    sinks_ = o.at("sinks").get<std::int64_t>();
    require(window_ > 0 || sinks_ == 0, "lawcat: {} sinks without a window", sinks_);
    conv_ = o.at("conv").get<bool>();
    size_ = o.at("conv_size").get<std::int64_t>();
    require(size_ >= 1 && size_ <= 4096, "lawcat: conv_size must be 1 to 4096, not {}", size_);
    const auto act = o.at("conv_act").get<std::string>();
    require(act == "none" || act == "silu", "lawcat: conv_act must be none or silu, not '{}'", act);
    silu_ = act == "silu";
    repeat_first_ = o.at("repeat_before_conv").get<bool>();
    rotate_ = o.at("rope_student").get<bool>();
    gated_ = o.at("gate").get<bool>();
    tau_ = o.at("gate_tau").get<double>();
    require(tau_ > 0 && std::isfinite(tau_), "lawcat: gate_tau must be above 0, not {}", tau_);
    normalise_ = o.at("normalise").get<bool>();
    require(normalise_ || window_ == 0, "lawcat: a window needs the normaliser, which it shares");
    affine_ = o.at("affine").get<bool>();
    std::int64_t f = o.at("feature_dim").get<std::int64_t>();
    require(f >= 0 && f <= c.head_dim, "lawcat: feature_dim must be 0 (half the head width) to {}, not {}", c.head_dim,
            f);
    if (f == 0) f = c.head_dim / 2;
    const std::int64_t rank = o.at("gate_rank").get<std::int64_t>();
    require(rank >= 0 && rank <= 65536, "lawcat: gate_rank must be 0 (full) to 65536, not {}", rank);

    const auto taps = [&](std::int64_t heads) {
      auto t = at::full({heads, c.head_dim, size_}, o.at("conv_init").get<double>());
      t.select(-1, size_ - 1).fill_(1);
      return t;
    };
    if (conv_) {
      query_taps_ = taps(c.heads);
      const bool share = o.at("share_qk_conv").get<bool>();
      require(!share || repeat_first_ || c.heads == c.kv_heads,
              "lawcat: share_qk_conv needs repeat_before_conv where query and key heads differ in number");
      if (!share) key_taps_ = taps(repeat_first_ ? c.heads : c.kv_heads);
      if (o.at("conv_v").get<bool>()) value_taps_ = taps(c.kv_heads);
    }
    const auto map = at::eye(c.head_dim).slice(1, 0, f).expand({c.heads, -1, -1}).contiguous();
    query_map_ = map;
    if (!o.at("tie_qk").get<bool>()) key_map_ = map.clone();
    constexpr double kGateDeviation = .006;
    const std::int64_t gates = c.kv_heads * 2 * f;
    if (rank > 0) gate_down_ = random_normal({rank, c.hidden}, kGateDeviation, random);
    gate_up_ = random_normal({gates, rank > 0 ? rank : c.hidden}, kGateDeviation, random);
    gate_bias_ = at::zeros({gates});
    if (window_ > 0) window_factor_ = at::zeros({c.heads});
  }

  at::Tensor forward(const MixerInput& in, Form form) const override {
    LawcatState state;
    const auto linear = recurrence(in, state, form);
    if (window_ == 0) return normalised(linear);
    const auto [q, k, v] = in.heads();
    return combined(window_attention(q, k, v, window_options(in.config)), linear);
  }

  std::unique_ptr<MixerState> start(const DecoderConfig& c, std::int64_t batch,
                                    const at::TensorOptions& options) const override {
    auto state = std::make_unique<LawcatState>();
    if (window_ > 0) state->window.emplace(batch, c.kv_heads, c.head_dim, window_options(c), options);
    const auto rows = [&](std::int64_t heads) { return at::zeros({batch, heads, size_ - 1, c.head_dim}, options); };
    if (conv_) {
      state->q = rows(c.heads);
      state->k = rows(repeat_first_ ? c.heads : c.kv_heads);
      if (value_taps_.defined()) state->v = rows(c.kv_heads);
    }
    state->scan = at::zeros({batch, c.heads, 2 * query_map_.size(2), c.head_dim + 1}, options);
    return state;
  }

  at::Tensor extend(const MixerInput& in, MixerState& base) const override {
    auto& state = dynamic_cast<LawcatState&>(base);
    const auto linear = recurrence(in, state, in.tokens() == 1 ? Form::Recurrent : Form::Chunked);
    if (window_ == 0) return normalised(linear);
    const auto [q, k, v] = in.heads();
    return combined(state.window->attend(q, k, v), linear);
  }

  std::vector<Parameter> parameters() override {
    std::vector<Parameter> all;
    for (const auto& [name, tensor] : {std::pair{"query_taps", &query_taps_},
                                       {"key_taps", &key_taps_},
                                       {"value_taps", &value_taps_},
                                       {"query_map", &query_map_},
                                       {"key_map", &key_map_},
                                       {"gate_down", &gate_down_},
                                       {"gate_up", &gate_up_},
                                       {"gate_bias", &gate_bias_},
                                       {"window_factor", &window_factor_}})
      if (tensor->defined()) all.push_back({name, tensor});
    return all;
  }

  std::vector<Gauge> gauges(const MixerInput& in) const override {
    const auto share = [](const at::Tensor& which) { return which.to(at::kDouble).mean().item<double>(); };
    std::vector<Gauge> all;
    if (gated_) {
      const auto half_life =
          std::log(.5) / log_decay(in).to(at::kDouble).mean(at::IntArrayRef({0, 2})).flatten();  // of each feature
      all = {{"median half-life of features (tokens)", half_life.median().item<double>(), ""},
             {"share above 100", share(half_life.gt(100)), ""},
             {"share above 1,000", share(half_life.gt(1000)), ""},
             {"share above 10,000", share(half_life.gt(10000)), ""},
             {"share above 30,000", share(half_life.gt(30000)), ""}};
    }
    if (normalise_ && window_ == 0) {  // a window's own sum keeps a common denominator away from 0
      LawcatState none;
      const auto sums = recurrence(in, none, Form::Chunked);
      const double small = share(sums.select(-1, sums.size(-1) - 1).lt(kSmallSum));
      all.push_back({"share of denominators below 1e-8", small, ""});
      if (small > 0) all.back().warning = "some queries match no key: their results shrink towards 0";
    }
    return all;
  }

  std::unique_ptr<Mixer> clone() const override {
    auto copy = std::make_unique<LawcatMixer>(*this);
    for (const auto& parameter : copy->parameters()) *parameter.tensor = parameter.tensor->detach().clone();
    return copy;
  }

 private:
  WindowOptions window_options(const DecoderConfig& c) const { return {window_, sinks_, c.scale()}; }

  /// Causal convolution along the tokens of x [B, h, T, d] with taps [h, d, K], after the rows in `before` (zeros where
  /// there are none), which then hold the last K - 1 rows. Channels lie innermost, where LibTorch's is fastest.
  at::Tensor convolved(const at::Tensor& x, const at::Tensor& taps, at::Tensor& before) const {
    if (!taps.defined()) return x;
    const std::int64_t batch = x.size(0), heads = x.size(1), tokens = x.size(2), d = x.size(3), channels = heads * d;
    const auto flat = [&](const at::Tensor& y) { return y.transpose(1, 2).reshape({batch, y.size(2), channels}); };
    const auto rows =
        before.defined() ? at::cat({flat(before), flat(x)}, 1) : at::constant_pad_nd(flat(x), {0, 0, size_ - 1, 0});
    if (before.defined())
      before = rows.slice(1, tokens).view({batch, size_ - 1, heads, d}).transpose(1, 2).contiguous();
    const auto sum =
        at::convolution(rows.transpose(1, 2).unsqueeze(2), taps.to(x.scalar_type()).view({channels, 1, 1, size_}), {},
                        {1, 1}, {0, 0}, {1, 1}, false, {0, 0}, channels);
    const auto out = sum.squeeze(2).transpose(1, 2).reshape({batch, tokens, heads, d}).transpose(1, 2);
    return silu_ ? at::silu(out) : out;
  }

  at::Tensor features(const at::Tensor& x, const at::Tensor& map) const {
    return softmax_pair_map(x, map.to(x.scalar_type())).clamp_min(kSmallestFeature);
  }

  /// log alpha [B, Hkv, T, 2f]; undefined without a gate.
  at::Tensor log_decay(const MixerInput& in) const {
    if (!gated_) return {};
    auto z = in.x.to(gate_up_.scalar_type());
    if (gate_down_.defined()) z = at::linear(z, gate_down_);
    z = at::linear(z, gate_up_, gate_bias_);
    return at::log_sigmoid(z.view({in.batch(), in.tokens(), in.config.kv_heads, -1}).transpose(1, 2)) / tau_;
  }

  /// Numerator and denominator [B, H, T, d + 1] of the linear part; `state` moves on where it is that of a stream.
  at::Tensor recurrence(const MixerInput& in, LawcatState& state, Form form) const {
    const auto [q, k, v] = rotate_ ? in.heads() : in.unrotated();
    const std::int64_t group = in.config.heads / in.config.kv_heads;
    const auto repeated = [&](const at::Tensor& x) {
      return group == 1 || !x.defined() ? x : x.repeat_interleave(group, 1);
    };
    const auto& taps = key_taps_.defined() ? key_taps_ : query_taps_;
    const auto queries = convolved(q, query_taps_, state.q);
    const auto keys = repeat_first_ ? convolved(repeated(k), taps, state.k) : repeated(convolved(k, taps, state.k));
    const auto values = at::constant_pad_nd(convolved(v, value_taps_, state.v), {0, 1}, 1);  // ones sum the weights
    ScanOptions options;
    options.form = form;
    const auto scan =
        gated_scan(features(queries, query_map_), features(keys, key_map_.defined() ? key_map_ : query_map_),
                   repeated(values), repeated(log_decay(in)), state.scan, options);
    state.scan = scan.state;
    return scan.out;
  }

  at::Tensor normalised(const at::Tensor& linear) const {
    const std::int64_t d = linear.size(-1) - 1;
    if (!normalise_) return linear.narrow(-1, 0, d) / std::sqrt(static_cast<double>(d));
    return linear.narrow(-1, 0, d) / (linear.narrow(-1, d, 1) + kSmallestMass);
  }

  at::Tensor combined(const Partial& window, const at::Tensor& linear) const {
    const std::int64_t d = linear.size(-1) - 1;
    const auto s = at::sigmoid(window_factor_).to(linear.scalar_type()).view({1, -1, 1, 1});
    const auto mass = s * (window.lse - window.max).exp().unsqueeze(-1);
    const auto weighted = affine_ ? linear * (1 - s) : linear;
    return (window.out * mass + weighted.narrow(-1, 0, d)) / (mass + weighted.narrow(-1, d, 1) + kSmallestMass);
  }

  std::int64_t window_, sinks_, size_;
  bool conv_, silu_, repeat_first_, rotate_, gated_, normalise_, affine_;
  double tau_;
  at::Tensor query_taps_, key_taps_, value_taps_;  // [H, d, K], [H or Hkv, d, K], [Hkv, d, K]
  at::Tensor query_map_, key_map_;                 // [H, d, f]
  at::Tensor gate_down_, gate_up_, gate_bias_;     // [r, hidden], [Hkv 2f, r or hidden], [Hkv 2f]
  at::Tensor window_factor_;                       // [H]
};

}  // namespace

Recipe lawcat_recipe() {
  Recipe recipe;
  recipe.name = "lawcat";
  recipe.title = "LAWCAT: convolved queries and keys, normalised gated linear attention";
  recipe.source = "Liu et al. 2025, arXiv 2509.18467";
  recipe.defaults = common_options(0, 0);
  recipe.defaults.update({{"conv", true},
                          {"conv_size", 4},
                          {"conv_init", .001},
                          {"conv_act", "none"},
                          {"conv_v", false},
                          {"share_qk_conv", false},
                          {"rope_student", false},
                          {"repeat_before_conv", true},
                          {"feature_dim", 0},
                          {"tie_qk", true},
                          {"gate", true},
                          {"gate_rank", 16},
                          {"gate_tau", 16.0},
                          {"normalise", true},
                          {"affine", false},
                          {"lora_alpha", 16.0},
                          {"lora_targets", {"q", "k", "v", "o"}}});
  recipe.mixer = [](const DecoderConfig& config, const Json& options, std::int64_t,
                    Random& random) -> std::unique_ptr<Mixer> {
    return std::make_unique<LawcatMixer>(config, options, random);
  };
  recipe.stages = [](const Json&) {
    Stage transfer;
    transfer.kind = Stage::Kind::Transfer;
    transfer.name = "transfer";
    transfer.tokens = 65536;
    transfer.mixer_learning_rate = 1e-2;
    transfer.beta2 = .999;
    transfer.warmup = .01;
    Stage lora;
    lora.name = "lora";
    lora.tokens = 65536;
    lora.learning_rate = 1e-4;
    lora.mixer_learning_rate = 0;  // frozen
    lora.beta2 = .999;
    lora.warmup = .01;
    return std::vector<Stage>{transfer, lora};
  };
  return recipe;
}

}  // namespace unbend::lm
