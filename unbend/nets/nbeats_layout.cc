#include <fmt/format.h>

#include <cmath>
#include <numbers>

#include "unbend/base/error.h"
#include "unbend/nets/nbeats.h"

namespace unbend::nbeats {
namespace {

constexpr std::int64_t kMostParameters = std::int64_t(1) << 31;
constexpr std::int64_t kMostBasisNumbers = std::int64_t(1) << 26;
constexpr int kMostPoints = 100000, kMostBlocks = 10000;

// Rows t^d over t = i / length.
std::vector<double> trend_basis(int degree, int length) {
  std::vector<double> out;
  for (int d = 0; d <= degree; ++d)
    for (int i = 0; i < length; ++i) out.push_back(std::pow(static_cast<double>(i) / length, d));
  return out;
}

// Frequencies 0, then from `harmonics` in steps of 1 up to below harmonics horizon / 2, all over `harmonics`.
int frequency_count(int harmonics, int horizon) { return (harmonics * horizon + 1) / 2 - (harmonics - 1); }

// Cosines, then sines, of the angle sign 2 pi (i / horizon) f.
std::vector<double> seasonality_basis(int harmonics, int horizon, int length, int sign) {
  std::vector<double> out;
  for (const bool sine : {false, true}) {
    for (int k = 0; k < frequency_count(harmonics, horizon); ++k) {
      const double f = k == 0 ? 0 : static_cast<double>(harmonics + k - 1) / harmonics;
      for (int i = 0; i < length; ++i) {
        const double angle = sign * 2 * std::numbers::pi * i / horizon * f;
        out.push_back(sine ? std::sin(angle) : std::cos(angle));
      }
    }
  }
  return out;
}

std::int64_t basis_rows(const Stack& stack, int horizon) {
  return stack.basis == Basis::Generic ? 0
         : stack.basis == Basis::Trend ? stack.degree + 1
                                       : 2 * frequency_count(stack.harmonics, horizon);
}

void add_theta(BlockSet& set, const Stack& stack, int lookback, int horizon) {
  if (stack.basis == Basis::Generic) {
    set.backcast_at = 0, set.backcast_size = lookback;
    set.forecast_at = lookback, set.forecast_size = horizon;
    return;
  }
  if (stack.basis == Basis::Trend) {
    set.backcast_basis = trend_basis(stack.degree, lookback);
    set.forecast_basis = trend_basis(stack.degree, horizon);
  } else {
    set.backcast_basis = seasonality_basis(stack.harmonics, horizon, lookback, -1);
    set.forecast_basis = seasonality_basis(stack.harmonics, horizon, horizon, 1);
  }
  set.forecast_size = set.backcast_size = set.backcast_at = basis_rows(stack, horizon);
  set.forecast_at = 0;
}

}  // namespace

Config generic(int lookback, int horizon, int blocks, bool shared, int layers, int width) {
  return {lookback, horizon, {{Basis::Generic, blocks, shared, layers, width}}};
}

Config interpretable(int lookback, int horizon, int blocks, int layers, int trend_width, int seasonality_width) {
  return {lookback,
          horizon,
          {{Basis::Trend, blocks, true, layers, trend_width},
           {Basis::Seasonality, blocks, true, layers, seasonality_width}}};
}

std::string name(Basis basis) {
  return basis == Basis::Generic ? "generic" : basis == Basis::Trend ? "trend" : "seasonality";
}

Json to_json(const Config& config) {
  Json stacks = Json::array();
  for (const auto& s : config.stacks)
    stacks.push_back({{"basis", name(s.basis)},
                      {"blocks", s.blocks},
                      {"shared", s.shared},
                      {"layers", s.layers},
                      {"width", s.width},
                      {"degree", s.degree},
                      {"harmonics", s.harmonics}});
  return {{"lookback", config.lookback},
          {"horizon", config.horizon},
          {"last_level", config.last_level},
          {"stacks", stacks}};
}

Config config_from_json(const Json& json, std::string_view where) {
  Config config{json_get<int>(json, "lookback", where),
                json_get<int>(json, "horizon", where),
                {},
                json_get<bool>(json, "last_level", where)};
  for (const auto& s : json_get<Json>(json, "stacks", where)) {
    const auto basis = json_get<std::string>(s, "basis", where);
    require(basis == "generic" || basis == "trend" || basis == "seasonality", "{}: basis '{}' is not known", where,
            basis);
    config.stacks.push_back({basis == "generic" ? Basis::Generic
                             : basis == "trend" ? Basis::Trend
                                                : Basis::Seasonality,
                             json_get<int>(s, "blocks", where), json_get<bool>(s, "shared", where),
                             json_get<int>(s, "layers", where), json_get<int>(s, "width", where),
                             json_get<int>(s, "degree", where), json_get<int>(s, "harmonics", where)});
  }
  return config;
}

Layout layout(const Config& config) {
  require(config.lookback > 0 && config.horizon > 0, "N-BEATS: lookback {} and horizon {} must be above 0",
          config.lookback, config.horizon);
  require(config.lookback <= kMostPoints && config.horizon <= kMostPoints,
          "N-BEATS: lookback {} and horizon {} must be at most {} points", config.lookback, config.horizon,
          kMostPoints);
  require(!config.stacks.empty(), "N-BEATS: there is no stack");
  Layout out{config, {}, 0, 0};
  const auto dense = [&](std::int64_t in, std::int64_t outputs) {
    require(in * outputs + static_cast<std::int64_t>(out.parameters) < kMostParameters,
            "N-BEATS: more than {} parameters", kMostParameters);
    const Dense layer{in, outputs, out.parameters, out.parameters + static_cast<std::size_t>(in * outputs)};
    out.parameters = layer.bias + static_cast<std::size_t>(outputs);
    return layer;
  };
  std::int64_t basis_numbers = 0;
  for (std::size_t s = 0; s < config.stacks.size(); ++s) {
    const auto& stack = config.stacks[s];
    require(
        stack.blocks > 0 && stack.layers > 0 && stack.width > 0 && stack.blocks <= kMostBlocks - out.blocks &&
            stack.layers <= 100,
        "N-BEATS: stack {} has {} blocks of {} layers of width {}: all must be above 0, blocks of all stacks at most "
        "{}, layers at most 100",
        s, stack.blocks, stack.layers, stack.width, kMostBlocks);
    require(stack.degree >= 0 && stack.degree <= 20 && stack.harmonics > 0 && stack.harmonics <= 100,
            "N-BEATS: stack {} has degree {} (0 to 20) and {} harmonics (1 to 100)", s, stack.degree, stack.harmonics);
    require(stack.basis != Basis::Seasonality || config.horizon > 1, "N-BEATS: seasonality needs a horizon above 1");
    const std::int64_t sets = stack.shared ? 1 : stack.blocks;
    basis_numbers += sets * basis_rows(stack, config.horizon) * (config.lookback + config.horizon);
    require(basis_numbers <= kMostBasisNumbers, "N-BEATS: the bases of stacks 0 to {} have more than {} numbers", s,
            kMostBasisNumbers);
    for (std::int64_t b = 0; b < sets; ++b) {
      BlockSet set{
          stack.basis, static_cast<int>(s), out.blocks, stack.shared ? stack.blocks : 1, {}, {}, 0, 0, 0, 0, {}, {}};
      add_theta(set, stack, config.lookback, config.horizon);
      for (int l = 0; l < stack.layers; ++l)
        set.hidden.push_back(dense(l == 0 ? config.lookback : stack.width, stack.width));
      set.theta = dense(stack.width, set.backcast_size + set.forecast_size);
      out.blocks += set.uses;
      out.sets.push_back(std::move(set));
    }
  }
  return out;
}

std::vector<NamedPart> parts(const Layout& layout) {
  std::vector<NamedPart> out;
  int stack = -1, block = 0;
  for (const auto& set : layout.sets) {
    block = set.stack == stack ? block + 1 : 0;
    stack = set.stack;
    const auto add = [&](const std::string& name, const Dense& d) {
      const auto prefix = fmt::format("stacks.{}.blocks.{}.{}.", stack, block, name);
      out.push_back({prefix + "weight", d.weight, {d.out, d.in}});
      out.push_back({prefix + "bias", d.bias, {d.out}});
    };
    for (std::size_t l = 0; l < set.hidden.size(); ++l) add(fmt::format("layers.{}", l), set.hidden[l]);
    add("theta", set.theta);
  }
  return out;
}

std::vector<float> random_weights(const Layout& layout, Random& random) {
  std::vector<float> out(layout.parameters);
  const auto fill = [&](const Dense& d) {
    const double bound = 1 / std::sqrt(static_cast<double>(d.in));
    for (std::size_t i = d.weight; i < d.bias + static_cast<std::size_t>(d.out); ++i)
      out[i] = static_cast<float>(bound * (2 * random.uniform() - 1));
  };
  for (const auto& set : layout.sets) {
    for (const auto& d : set.hidden) fill(d);
    fill(set.theta);
  }
  return out;
}

}  // namespace unbend::nbeats
