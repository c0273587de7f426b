#include "unbend/engine/mixer_files.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "unbend/base/error.h"

namespace unbend::engine {
namespace {

GateForm gate_form(const std::string& where, const Json& options) {
  if (!json_get<bool>(options, "gate", where)) return GateForm::None;
  const auto variant = json_get<std::string>(options, "variant", where);
  if (variant == "gla") return GateForm::LogSigmoid;
  if (variant == "mamba2") return GateForm::MeanSoftplus;
  if (variant == "mlstm") return GateForm::MeanLogSigmoid;
  if (variant == "rwkv6") return GateForm::Exp;
  fail_input("{}: the engine does not run Liger's variant '{}' (gla, mamba2, mlstm and rwkv6)", where, variant);
}

/// Settings of recipes without a window.
MixerSettings alone(const std::string& where, const DecoderConfig& config, const Json& options) {
  MixerSettings s;
  s.kind = MixerKind::Linear;
  const auto window = json_get<std::int64_t>(options, "window", where);
  require(window == 0, "{}: the engine runs this mixer without a window only, not with one of {}", where, window);
  s.groups = config.heads;
  s.recurrence.width = config.head_dim;
  return s;
}

/// Input error unless the option has one of the values that the engine knows.
std::string known(const std::string& where, const Json& options, const char* name,
                  const std::vector<std::string>& values) {
  auto value = json_get<std::string>(options, name, where);
  require(std::ranges::find(values, value) != values.end(), "{}: the engine runs {} {}, not '{}'", where, name,
          fmt::join(values, ", "), value);
  return value;
}

MixerSettings read_lawcat(const std::string& where, const DecoderConfig& config, const Json& options) {
  auto settings = alone(where, config, options);
  auto& s = settings.recurrence;
  s.gate = json_get<bool>(options, "gate", where) ? RecurrenceSettings::Gate::Sigmoid : RecurrenceSettings::Gate::None;
  s.gates = config.kv_heads;
  s.tau = json_get<double>(options, "gate_tau", where);
  s.width = json_get<std::int64_t>(options, "feature_dim", where);
  if (s.width == 0) s.width = config.head_dim / 2;
  if (json_get<bool>(options, "conv", where)) s.taps = json_get<std::int64_t>(options, "conv_size", where);
  s.silu = known(where, options, "conv_act", {"none", "silu"}) == "silu";
  s.rotated = json_get<bool>(options, "rope_student", where);
  if (!json_get<bool>(options, "normalise", where)) {
    s.norm = RecurrenceSettings::Norm::None;
    s.scale = 1 / std::sqrt(static_cast<double>(config.head_dim));
  }
  require(
      s.width >= 1 && s.width <= config.head_dim && s.taps >= 0 && s.taps <= 1024 && std::isfinite(s.tau) && s.tau > 0,
      "{}: feature_dim {}, conv_size {}, gate_tau {}", where, s.width, s.taps, s.tau);
  return settings;
}

MixerSettings read_supra(const std::string& where, const DecoderConfig& config, const Json& options) {
  auto settings = alone(where, config, options);
  auto& s = settings.recurrence;
  s.features = RecurrenceSettings::Features::Given;
  s.norm = RecurrenceSettings::Norm::Group;
  s.gate = RecurrenceSettings::Gate::Fixed;
  s.scale = config.scale();
  s.rotated = known(where, options, "rope", {"after", "none"}) == "after";
  s.rope_base = json_get<double>(options, "rope_base", where, 0);
  require(s.rope_base == 0 || (std::isfinite(s.rope_base) && s.rope_base > 1), "{}: rope_base is {}", where,
          s.rope_base);
  require(!json_get<bool>(options, "normalise", where) && !json_get<bool>(options, "qk_norm", where),
          "{}: the engine runs SUPRA without normalise and qk_norm only", where);
  s.slopes = json_get<std::vector<double>>(options, "slopes", where);
  require(static_cast<std::int64_t>(s.slopes.size()) == config.heads &&
              std::ranges::all_of(s.slopes, [](double x) { return std::isfinite(x) && x >= 0; }),
          "{}: slopes must be {} numbers of at least 0", where, config.heads);
  bool shared = true;  // heads of one key head that decay alike share its state
  const std::int64_t repeat = config.heads / config.kv_heads;
  for (std::int64_t h = 0; h < config.heads; ++h) shared = shared && s.slopes[h] == s.slopes[h / repeat * repeat];
  if (shared) settings.groups = config.kv_heads;
  return settings;
}

MixerSettings read_regla(const std::string& where, const DecoderConfig& config, const Json& options) {
  auto settings = alone(where, config, options);
  auto& s = settings.recurrence;
  known(where, options, "feature", {"safe_exp"});
  known(where, options, "shift", {"running"});
  require(!json_get<bool>(options, "denominator", where), "{}: the engine runs ReGLA without a denominator", where);
  s.features = RecurrenceSettings::Features::SafeExp;
  const auto gate = known(where, options, "gate", {"refined", "sigmoid", "none"});
  if (gate == "none")
    settings.groups = config.kv_heads;  // nothing differs between the heads of one key head
  else
    s.gate = gate == "refined" ? RecurrenceSettings::Gate::Refined : RecurrenceSettings::Gate::Sigmoid;
  s.gates = config.heads;
  s.decays_values = known(where, options, "gate_axis", {"value", "key"}) == "value";
  s.rotated = json_get<bool>(options, "rope", where);
  s.norm = known(where, options, "norm", {"rms", "none"}) == "rms" ? RecurrenceSettings::Norm::Rms
                                                                   : RecurrenceSettings::Norm::None;
  if (json_get<bool>(options, "scale_s", where))  // of features whose logarithms are standard normal
    s.scale = 1 / (std::numbers::e *
                   std::sqrt(static_cast<double>(config.head_dim) * (std::numbers::e * std::numbers::e - 1)));
  return settings;
}

/// Of settings that have a window already.
void read_lizard(const std::string& where, const DecoderConfig& config, const Json& options, MixerSettings& settings) {
  settings.kind = MixerKind::Lizard;
  const auto map_heads = known(where, options, "map_heads", {"query", "kv", "layer"});
  settings.groups = map_heads == "query" ? config.heads : config.kv_heads;
  settings.convex = json_get<bool>(options, "convex", where);
  settings.alpha = json_get<double>(options, "alpha", where);
  auto& s = settings.recurrence;
  known(where, options, "features", {"softmax"});
  known(where, options, "gla_norm", {"row"});
  known(where, options, "branches", {"both"});
  s.gate = known(where, options, "gate", {"sigmoid", "none"}) == "none" ? RecurrenceSettings::Gate::None
                                                                        : RecurrenceSettings::Gate::Sigmoid;
  s.scalar_gate = true;
  if (json_get<bool>(options, "gate_per_head", where)) s.gates = settings.groups;
  s.tau = json_get<double>(options, "gate_tau", where);
  s.width = json_get<std::int64_t>(options, "feature_dim", where);
  if (s.width == 0) s.width = config.head_dim;
  s.rotated = json_get<bool>(options, "window_rope", where);
  require(s.width >= 1 && s.width <= 1024 && std::isfinite(s.tau) && s.tau > 0, "{}: feature_dim {}, gate_tau {}",
          where, s.width, s.tau);
}

MixerSettings read_mixer(const std::string& where, const DecoderConfig& config, const std::string& kind,
                         const Json& options) {
  MixerSettings s;
  if (kind == "softmax") return s;
  if (kind == "lawcat") return read_lawcat(where, config, options);
  if (kind == "supra") return read_supra(where, config, options);
  if (kind == "regla") return read_regla(where, config, options);
  if (kind != "window" && kind != "hybrid" && kind != "lolcats" && kind != "liger" && kind != "lizard")
    fail_input(
        "{}: the engine does not run mixer '{}' (softmax, window, hybrid, lolcats, liger, lizard, lawcat, supra and "
        "regla)",
        where, kind);
  s.window = json_get<std::int64_t>(options, "window", where);
  s.sinks = json_get<std::int64_t>(options, "sinks", where);
  require(s.window >= 1 && s.window <= config.context && s.sinks >= 0 && s.sinks <= s.window,
          "{}: a window of {} with {} sinks cannot be", where, s.window, s.sinks);
  s.groups = config.kv_heads;
  if (kind == "window") {
    s.kind = MixerKind::Window;
  } else if (kind == "lizard") {
    read_lizard(where, config, options, s);
  } else if (kind == "hybrid") {
    s.kind = MixerKind::Hybrid;
    s.linear = json_get<bool>(options, "linear", where);
    s.gate = json_get<bool>(options, "gate", where);
    if (json_get<std::string>(options, "state_heads", where) == "query") s.groups = config.heads;
  } else if (kind == "lolcats") {  // no gate, and a head's number is the window's factor
    s.kind = MixerKind::Hybrid;
    s.linear = json_get<bool>(options, "linear", where);
    s.gate = false;
    s.window_factor = true;
    s.groups = config.heads;
    if (options.contains("terraced") && json_get<bool>(options, "terraced", where)) {
      s.step = s.window;
      s.window *= 2;
    }
  } else {
    s.kind = MixerKind::Liger;
    s.gate_form = gate_form(where, options);
    s.gate_normalizer = json_get<double>(options, "gate_logit_normalizer", where);
    s.mix_linear = json_get<double>(options, "mix_linear", where);
    s.mix_window = json_get<double>(options, "mix_window", where);
    require(json_get<std::string>(options, "gate_source", where) == "k" &&
                json_get<std::int64_t>(options, "pool_size", where) == 1 &&
                json_get<std::string>(options, "feature_map", where) == "softmax",
            "{}: the engine runs Liger with gates from keys, unpooled, and softmax features only", where);
    require(std::isfinite(s.gate_normalizer) && s.gate_normalizer > 0 && std::isfinite(s.mix_linear) &&
                std::isfinite(s.mix_window) && s.mix_window != 0,
            "{}: gate_logit_normalizer {}, mix_linear {}, mix_window {}", where, s.gate_normalizer, s.mix_linear,
            s.mix_window);
  }
  return s;
}

std::vector<float> values(const Gguf& file, const std::string& name, const std::vector<std::int64_t>& shape) {
  const auto& info = file.tensor(name);
  require(info.shape == shape, "{}: tensor {} has shape [{}], expected [{}]", file.path().string(), name,
          fmt::join(info.shape, ", "), fmt::join(shape, ", "));
  std::vector<float> out(static_cast<std::size_t>(info.elements()));
  file.dequantize(info, 0, info.rows(), out.data());
  return out;
}

/// Taps [heads or kv heads, d, K] of convolutions as [heads][K][d], those of a kv head for each of its query heads.
std::vector<float> taps(const Gguf& file, const std::string& name, const DecoderConfig& c, std::int64_t heads,
                        std::int64_t size) {
  const std::int64_t d = c.head_dim, stored = file.tensor(name).shape.front();
  const auto read = values(file, name, {stored == c.kv_heads ? c.kv_heads : heads, d, size});
  std::vector<float> out(static_cast<std::size_t>(heads * size * d));
  for (std::int64_t h = 0; h < heads; ++h)
    for (std::int64_t j = 0; j < size; ++j)
      for (std::int64_t i = 0; i < d; ++i) out[(h * size + j) * d + i] = read[(h * stored / heads * d + i) * size + j];
  return out;
}

/// Maps [heads, d, f], stored for each head, each of several consecutive ones, or once for all.
std::vector<float> maps(const Gguf& file, const std::string& name, const DecoderConfig& c, std::int64_t heads,
                        std::int64_t width) {
  const std::int64_t size = c.head_dim * width, stored = file.tensor(name).shape.front();
  const bool shared = stored == 1 || stored == c.kv_heads;
  const auto read = values(file, name, {shared ? stored : heads, c.head_dim, width});
  std::vector<float> out;
  for (std::int64_t h = 0; h < heads; ++h) {
    const auto from = read.begin() + h * stored / heads * size;
    out.insert(out.end(), from, from + size);
  }
  return out;
}

void read_shares(const Gguf& file, const std::string& alpha_name, const DecoderConfig& c, const MixerSettings& s,
                 MixerWeights& w) {
  std::vector<float> alpha(static_cast<std::size_t>(c.heads), static_cast<float>(s.alpha));
  if (const auto* info = file.find(alpha_name)) {
    const auto read = values(file, alpha_name, {info->shape == std::vector<std::int64_t>{1} ? 1 : c.heads});
    for (std::size_t h = 0; h < alpha.size(); ++h) alpha[h] = read[read.size() == 1 ? 0 : h];
  }
  for (const float a : alpha) {
    w.window_share.push_back(s.convex ? std::abs(a) / (1 + std::abs(a)) : a);
    w.linear_share.push_back(s.convex ? 1 - w.window_share.back() : 1);
  }
}

}  // namespace

std::vector<MixerSettings> check_mixers(const std::string& where, const DecoderConfig& config,
                                        const std::vector<std::string>& kinds, const Json& options) {
  require(static_cast<std::int64_t>(kinds.size()) == config.layers, "{}: {} mixers for {} layers", where, kinds.size(),
          config.layers);
  std::vector<MixerSettings> all;
  for (const auto& kind : kinds) all.push_back(read_mixer(where, config, kind, options));
  return all;
}

MixerWeights read_mixer_weights(const Gguf& file, const std::string& block, const DecoderConfig& c,
                                const MixerSettings& s) {
  MixerWeights w;
  const std::int64_t d = c.head_dim;
  const auto name = [&](const char* what) { return block + "mixer." + what; };
  if (s.kind == MixerKind::Hybrid && s.linear) {
    w.query_map = values(file, name("query_map"), {c.heads, d, d / 2});
    w.key_map = values(file, name("key_map"), {s.groups, d, d / 2});
    w.scale = values(file, name(s.window_factor ? "window_factor" : "log_scale"), {c.heads});
    for (auto& x : w.scale) x = s.window_factor ? 1 + std::exp(-x) : std::exp(x);
  }
  if (!s.by_settings()) return w;
  const auto either = [&](const char* first, const char* second) {  // what both share is stored once
    return name(file.find(name(first)) ? first : second);
  };
  if (s.recurrence.features == RecurrenceSettings::Features::SoftmaxPair) {
    w.query_map = maps(file, name("query_map"), c, c.heads, s.recurrence.width);
    w.key_map = maps(file, either("key_map", "query_map"), c, s.groups, s.recurrence.width);
  }
  if (s.recurrence.taps > 0) {
    w.query_taps = taps(file, name("query_taps"), c, c.heads, s.recurrence.taps);
    w.key_taps = taps(file, either("key_taps", "query_taps"), c, c.heads, s.recurrence.taps);
    if (file.find(name("value_taps"))) w.value_taps = taps(file, name("value_taps"), c, c.kv_heads, s.recurrence.taps);
  }
  if (s.recurrence.norm == RecurrenceSettings::Norm::Rms) w.norm_gain = values(file, name("norm_gain"), {c.heads, d});
  if (s.kind == MixerKind::Lizard) {
    read_shares(file, name("alpha"), c, s, w);
    if (const auto* meta = file.find(name("meta"))) w.meta = values(file, meta->name, {meta->elements()});
  }
  return w;
}

std::int64_t gate_logits(const DecoderConfig& c, const MixerSettings& s) {
  if (s.kind == MixerKind::Hybrid) return s.linear && s.gate ? s.groups : 0;
  using Gate = RecurrenceSettings::Gate;
  const auto& r = s.recurrence;
  if (!s.by_settings() || r.gate == Gate::None || r.gate == Gate::Fixed) return 0;
  const bool pair = r.features == RecurrenceSettings::Features::SoftmaxPair && !r.decays_values;
  const std::int64_t channels = r.scalar_gate ? 1 : pair ? 2 * r.width : c.head_dim;
  return r.gates * channels * (r.gate == Gate::Refined ? 2 : 1);
}

}  // namespace unbend::engine
