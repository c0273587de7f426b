#include "unbend/lm/supra.h"

#include <torch/types.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "unbend/attention/gated_scan.h"
#include "unbend/base/error.h"

namespace unbend::lm {
namespace {

constexpr double kGroupNormEps = 1e-5, kSmallestSum = 1e-7;
constexpr double kManyDead = .5, kManySilent = .01;  // shares that are warned of

/// The slopes r^(h+1) of a power of two.
std::vector<double> geometric_slopes(std::int64_t heads) {
  std::vector<double> slopes;
  for (std::int64_t h = 0; h < heads; ++h)
    slopes.push_back(std::exp2(-8. * static_cast<double>(h + 1) / static_cast<double>(heads)));
  return slopes;
}

struct SupraState : MixerState {
  at::Tensor scan;  // [B, H or Hkv, d, d], one column more with a denominator

  explicit SupraState(at::Tensor initial) : scan(std::move(initial)) {}
  std::unique_ptr<MixerState> clone() const override { return std::make_unique<SupraState>(scan.clone()); }
  std::int64_t bytes() const override { return static_cast<std::int64_t>(scan.nbytes()); }
  void pretend(std::int64_t) override { scan.uniform_(-1, 1); }
};

class SupraMixer : public Mixer {
 public:
  SupraMixer(const DecoderConfig& c, const Json& o, Random& random) {
    require(o.at("window").get<std::int64_t>() == 0 && o.at("sinks").get<std::int64_t>() == 0,
            "supra: it has neither a window nor sinks: both must be 0");
    const auto& slopes = o.at("slopes");
    require(std::ranges::all_of(slopes, [](const Json& s) { return s.is_number(); }),
            "supra: slopes must be numbers, not {}", slopes.dump());
    slopes_ = slopes.get<std::vector<double>>();
    if (slopes_.empty())
      slopes_ = decay_slopes(o.at("decay").get<std::string>(), c.heads, o.at("decay_start").get<double>());
    require(static_cast<std::int64_t>(slopes_.size()) == c.heads, "supra: {} slopes for {} heads", slopes_.size(),
            c.heads);
    for (const double s : slopes_)
      require(std::isfinite(s) && s >= 0, "supra: slope {} is not in [0, inf), so its decay not in (0, 1]", s);
    rope_ = o.at("rope").get<std::string>();
    require(rope_ == "after" || rope_ == "before" || rope_ == "none",
            "supra: rope must be after, before or none, not '{}'", rope_);
    rope_base_ = o.at("rope_base").get<double>();
    require(rope_base_ == 0 || (rope_base_ > 1 && std::isfinite(rope_base_)),
            "supra: rope_base must be above 1, or 0 for the model's own, not {}", rope_base_);
    require(rope_base_ == 0 || rope_ != "none", "supra: rope_base has no use without rotation (rope=none)");
    normalise_ = o.at("normalise").get<bool>();
    const auto init = o.at("kernel_init").get<std::string>();
    require(init == "default" || init == "identity", "supra: kernel_init must be default or identity, not '{}'", init);

    const auto kernel = [&](std::int64_t heads, at::Tensor& weight, at::Tensor& bias) {
      const std::int64_t width = heads * c.head_dim;
      const double bound = 1 / std::sqrt(static_cast<double>(width));
      weight = init == "identity" ? at::eye(width) : random_uniform({width, width}, -bound, bound, random);
      bias = init == "identity" ? at::zeros({width}) : random_uniform({width}, -bound, bound, random);
    };
    kernel(c.heads, query_weight_, query_bias_);
    if (c.heads != c.kv_heads) kernel(c.kv_heads, key_weight_, key_bias_);
    if (o.at("qk_norm").get<bool>()) {
      query_gain_ = at::ones({c.heads * c.head_dim});
      key_gain_ = at::ones({c.kv_heads * c.head_dim});
    }
    const std::int64_t group = c.heads / c.kv_heads;
    for (std::int64_t h = 0; h < c.heads; ++h) shared_ = shared_ && slopes_[h] == slopes_[h / group * group];
  }

  at::Tensor forward(const MixerInput& in, Form form) const override {
    return outputs(recurrence(in, {}, form).out).to(query_weight_.scalar_type());
  }

  std::unique_ptr<MixerState> start(const DecoderConfig& c, std::int64_t batch,
                                    const at::TensorOptions& options) const override {
    return std::make_unique<SupraState>(
        at::zeros({batch, state_heads(c), c.head_dim, c.head_dim + (normalise_ ? 1 : 0)}, options));
  }

  at::Tensor extend(const MixerInput& in, MixerState& base) const override {
    auto& state = dynamic_cast<SupraState&>(base);
    const Scan scan = recurrence(in, state.scan, in.tokens() == 1 ? Form::Recurrent : Form::Chunked);
    state.scan = scan.state.to(state.scan.scalar_type());
    return outputs(scan.out).to(query_weight_.scalar_type());
  }

  std::vector<Parameter> parameters() override {
    std::vector<Parameter> all;
    for (const auto& [name, tensor] : {std::pair{"query_kernel", &query_weight_},
                                       {"query_bias", &query_bias_},
                                       {"key_kernel", &key_weight_},
                                       {"key_bias", &key_bias_},
                                       {"query_gain", &query_gain_},
                                       {"key_gain", &key_gain_}})
      if (tensor->defined()) all.push_back({name, tensor});
    return all;
  }

  std::vector<Gauge> gauges(const MixerInput& in) const override {
    const auto share = [](const at::Tensor& x) { return x.to(at::kDouble).mean().item<double>(); };
    const auto parts = kernel_inputs(in);
    const auto queries = kernel(parts[0], query_weight_, query_bias_) > 0;
    const auto keys = kernel(parts[1], key_weight(), key_bias()) > 0;
    const auto dead = [&](const char* name, const at::Tensor& alive) {
      Gauge gauge{name, 1 - share(alive.flatten(0, 1).any(0)), ""};
      if (gauge.value > kManyDead)
        gauge.warning =
            "features that are 0 for every token learn nothing any more: train anew with a lower rate or "
            "kernel_init=identity";
      return gauge;
    };
    Gauge silent{"silent queries", 1 - share(queries.unflatten(-1, {in.config.heads, in.config.head_dim}).any(-1)), ""};
    if (silent.value > kManySilent)
      silent.warning = fmt::format("such a head reads nothing, and GroupNorm multiplies its gradient by {:.0f}",
                                   1 / std::sqrt(kGroupNormEps));
    return {dead("dead features of queries", queries), dead("dead features of keys", keys), silent};
  }

  std::unique_ptr<Mixer> clone() const override {
    auto copy = std::make_unique<SupraMixer>(*this);
    for (const auto& parameter : copy->parameters()) *parameter.tensor = parameter.tensor->detach().clone();
    return copy;
  }

 private:
  std::int64_t state_heads(const DecoderConfig& c) const { return shared_ ? c.kv_heads : c.heads; }

  const at::Tensor& key_weight() const { return key_weight_.defined() ? key_weight_ : query_weight_; }
  const at::Tensor& key_bias() const { return key_bias_.defined() ? key_bias_ : query_bias_; }

  /// x [B, T, heads * d] to its features, not normalised.
  static at::Tensor kernel(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
    return at::relu(at::linear(x, weight, bias));
  }

  RopeTable angles(const MixerInput& in) const {
    if (rope_base_ == 0) return in.rope;
    DecoderConfig config = in.config;
    config.rope_base = rope_base_;
    return rope_table(config, in.position, in.tokens(), in.rope.cos.options());
  }

  /// q, k and v as the kernels take them, [B, T, heads * d] each.
  std::vector<at::Tensor> kernel_inputs(const MixerInput& in) const {
    const auto& c = in.config;
    const std::int64_t q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
    at::Tensor flat = in.qkv.to(query_weight_.scalar_type());
    if (rope_ == "before") {
      const auto rope = angles(in);
      const auto rotated = MixerInput{c, rope, in.x, in.qkv, in.position}.heads();
      const auto joined = [](const at::Tensor& x) { return x.transpose(1, 2).flatten(2); };
      flat = at::cat({joined(rotated.q), joined(rotated.k), joined(rotated.v)}, -1);
    }
    return flat.split_with_sizes({q, kv, kv}, -1);
  }

  /// Features of queries and keys, the latter over sqrt(d), and the values.
  Heads mapped(const MixerInput& in) const {
    const auto parts = kernel_inputs(in);
    const auto normed = [](const at::Tensor& phi, const at::Tensor& gain) {
      return gain.defined() ? at::layer_norm(phi, gain.sizes(), gain) : phi;
    };
    const auto queries = normed(kernel(parts[0], query_weight_, query_bias_), query_gain_);
    const auto keys = normed(kernel(parts[1], key_weight(), key_bias()), key_gain_) * in.config.scale();
    const auto rope = angles(in);
    const MixerInput out{in.config, rope, in.x, at::cat({queries, keys, parts[2]}, -1), in.position};
    return rope_ == "after" ? out.heads() : out.unrotated();
  }

  /// u_t [B, H, T, d], with the sum of the weights as one more column if it is wanted.
  ///
  /// u_t is a sum of terms of both signs, of which sometimes little is left, and GroupNorm divides by that. Outside
  /// training it is summed in float64: all forms then give the same float32 heads, at a cost that is small beside that
  /// of the projections.
  Scan recurrence(const MixerInput& in, const at::Tensor& state, Form form) const {
    auto [q, k, v] = mapped(in);
    const auto type = at::GradMode::is_enabled() ? q.scalar_type() : at::kDouble;
    q = q.to(type), k = k.to(type), v = v.to(type);
    if (normalise_) v = at::constant_pad_nd(v, {0, 1}, 1);
    const std::int64_t heads = state_heads(in.config), group = in.config.heads / in.config.kv_heads;
    if (heads != k.size(1)) k = k.repeat_interleave(group, 1), v = v.repeat_interleave(group, 1);
    at::Tensor log_decay;
    if (std::ranges::any_of(slopes_, [](double s) { return s > 0; })) {
      log_decay = -at::tensor(slopes_, at::kDouble).to(q.options());
      if (shared_) log_decay = log_decay.slice(0, 0, std::nullopt, group);
      log_decay = log_decay.view({1, heads, 1, 1}).expand({q.size(0), heads, q.size(2), 1});
    }
    ScanOptions options;
    options.form = form;
    return gated_scan(q, k, v, log_decay, state.defined() ? state.to(type) : state, options);
  }

  at::Tensor outputs(const at::Tensor& u) const {
    if (!normalise_) return at::layer_norm(u, {u.size(-1)}, {}, {}, kGroupNormEps);  // GroupNorm: one head is a group
    const std::int64_t d = u.size(-1) - 1;
    return u.narrow(-1, 0, d) / u.narrow(-1, d, 1).clamp_min(kSmallestSum);
  }

  std::vector<double> slopes_;
  std::string rope_;
  double rope_base_;
  bool normalise_, shared_ = true;                                // shared: one state per key head
  at::Tensor query_weight_, query_bias_, key_weight_, key_bias_;  // [H d, H d], [H d], [Hkv d, Hkv d], [Hkv d]
  at::Tensor query_gain_, key_gain_;                              // [H d], [Hkv d]; qk_norm only
};

}  // namespace

std::vector<double> decay_slopes(const std::string& decay, std::int64_t heads, double start) {
  require(std::isfinite(start) && start >= 0, "supra: decay_start must be 0 (off) or above, not {}", start);
  if (decay == "none") return std::vector<double>(static_cast<std::size_t>(heads), 0.);
  std::vector<double> slopes;
  if (decay == "retnet") {
    // -log(1 - x) in double: 1 - x itself rounds to 1 in float32 from the twentieth head on.
    for (std::int64_t h = 0; h < heads; ++h) slopes.push_back(-std::log1p(-std::exp2(-5. - static_cast<double>(h))));
    return slopes;
  }
  require(decay == "lightning", "supra: decay must be lightning, retnet or none, not '{}'", decay);
  const auto power = static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(heads)));
  slopes = geometric_slopes(power);
  const auto finer = geometric_slopes(2 * power);
  for (std::int64_t i = 0; i < heads - power; ++i) slopes.push_back(finer[static_cast<std::size_t>(2 * i)]);
  if (start > 0)
    for (const double factor = start / slopes[0]; auto& s : slopes) s *= factor;
  return slopes;
}

Recipe supra_recipe() {
  Recipe recipe;
  recipe.name = "supra";
  recipe.title = "SUPRA: linear attention with fixed decay and GroupNorm; all weights train";
  recipe.source = "Mercat et al. 2024, arXiv 2405.06640";
  recipe.defaults = common_options(0, 0);
  recipe.defaults.update({{"decay", "lightning"},
                          {"decay_start", 0.},
                          {"slopes", Json::array()},
                          {"kernel_init", "default"},
                          {"qk_norm", false},
                          {"rope", "after"},
                          {"rope_base", 0.},
                          {"normalise", false},
                          {"transfer", false},
                          {"two_step", false},
                          {"lora_rank", 0}});
  recipe.mixer = [](const DecoderConfig& config, const Json& options, std::int64_t,
                    Random& random) -> std::unique_ptr<Mixer> {
    return std::make_unique<SupraMixer>(config, options, random);
  };
  recipe.stages = [](const Json& options) {
    // The paper's settings for models of 1B and less; its budgets are tens of billions of tokens.
    Stage all;
    all.name = "all";
    all.tokens = 65536;
    all.learning_rate = all.mixer_learning_rate = 3e-4;
    all.floor = 1. / 30;
    all.weight_decay = .1;
    all.also = {""};
    std::vector<Stage> stages;
    if (options.at("transfer").get<bool>()) {
      stages.push_back(all);
      stages.back().kind = Stage::Kind::Transfer;
      stages.back().name = "transfer";
      stages.back().mixer_learning_rate = 1e-2;
    }
    if (options.at("two_step").get<bool>()) {
      stages.push_back(all);
      stages.back().name = "kernel";
      stages.back().also.clear();
    }
    stages.push_back(all);
    return stages;
  };
  return recipe;
}

}  // namespace unbend::lm
