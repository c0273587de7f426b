#include "unbend/tangent/local_complexity.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>

#include "unbend/base/error.h"
#include "unbend/tangent/local_complexity_chain.h"
#include "unbend/tensor/check.h"

namespace unbend {
namespace {

constexpr double kFewest = .001, kMost = .5;  // shares of neurons outside which a radius tells little

std::string name_of_value(const Network& network, int value) {
  return value == 0 ? "input" : network.nodes[value - 1].name;
}

// The values to look at, in order.
std::vector<int> looked_at(const Network& network, const LocalComplexityOptions& options) {
  std::vector<int> values;
  const int last = static_cast<int>(network.nodes.size());
  if (!options.layers.empty()) {
    for (const auto& name : options.layers) {
      const auto node = std::ranges::find(network.nodes, name, &NetworkNode::name);
      if (node == network.nodes.end()) fail_input("local complexity: the network has no layer '{}'", name);
      values.push_back(static_cast<int>(node - network.nodes.begin()) + 1);
    }
  } else {
    for (const auto& node : network.nodes) {
      if (std::holds_alternative<Elementwise>(node.operation)) values.push_back(node.inputs.at(0));
    }
  }
  if (options.include_output && last > 0 && !std::holds_alternative<Elementwise>(network.nodes.back().operation))
    values.push_back(last);
  std::ranges::sort(values);
  values.erase(std::unique(values.begin(), values.end()), values.end());
  require(!values.empty(), "local complexity: the network has no activation: name layers, or include the output");
  return values;
}

// The type and place of the network's numbers; those of the probes if it has none. Scalars go with any type.
at::TensorOptions options_of(Network network, const at::Tensor& probes) {
  for (const auto& p : parameters(network))
    if (p.tensor->dim() > 0) return p.tensor->options();
  return probes.options();
}

struct Setting {
  at::Tensor probes;      // [S, ..]
  at::Tensor directions;  // [P, D], times r
};

Setting checked(const Network& network, const at::Tensor& probes, const at::Tensor& frame, double radius) {
  check_floating(probes, "local complexity: probes");
  require(probes.dim() >= 2 && probes.size(0) > 0 && probes.numel() > 0,
          "local complexity: probes of shape {} hold no point: expected [points, ..]", shape_string(probes.sizes()));
  check_finite(probes, "local complexity: probes");
  const int64_t d = probes.numel() / probes.size(0);
  check_floating(frame, "local complexity: frame");
  require(frame.dim() == 2 && frame.size(0) >= 1 && frame.size(1) == d,
          "local complexity: a frame of shape {} for probes of {} numbers: expected [directions, {}]",
          shape_string(frame.sizes()), d, d);
  require(std::isfinite(radius) && radius > 0, "local complexity: the radius is above 0, not {}", radius);
  const auto options = options_of(network, probes);
  return {probes.detach().to(options), (frame.to(at::kDouble) * radius).to(options)};
}

// Vertices [probes, 2 P (+ 1), D] of some probes [probes, D]: first all + r v, then all - r v, then the centres.
at::Tensor vertices(const at::Tensor& probes, const at::Tensor& directions, bool centre) {
  const auto x = probes.unsqueeze(1);
  std::vector<at::Tensor> parts = {x + directions, x - directions};
  if (centre) parts.push_back(x);
  return at::cat(parts, 1);
}

std::vector<int64_t> batch_shape(const at::Tensor& probes, int64_t rows) {
  auto shape = probes.sizes().vec();
  shape[0] = rows;
  return shape;
}

// The sign is the same at all vertices if all values are above 0, all below, or all 0.
at::Tensor crossed(const at::Tensor& low, const at::Tensor& high) {
  return ((low <= 0) & (high >= 0) & ((low != 0) | (high != 0))).sum(1);
}

LocalComplexity by_vertices(const Network& network, const Setting& setting, const std::vector<int>& values,
                            const LocalComplexityOptions& options) {
  const int64_t count = setting.probes.size(0);
  const auto flat = setting.probes.reshape({count, -1});
  const int64_t d = flat.size(1), per_probe = 2 * setting.directions.size(0) + (options.include_centre ? 1 : 0);
  const int64_t at_once =
      options.vertices_at_once > 0 ? options.vertices_at_once : std::clamp<int64_t>((1 << 26) / d, 1, 16384);
  const int64_t block = std::max<int64_t>(at_once / per_probe, 1);
  std::map<int, std::vector<at::Tensor>> crossings;
  std::map<int, int64_t> neurons;
  for (int64_t first = 0; first < count; first += block) {
    const int64_t probes = std::min(block, count - first);
    const auto all = vertices(flat.narrow(0, first, probes), setting.directions, options.include_centre);
    std::map<int, std::pair<at::Tensor, at::Tensor>> range;  // lowest and highest value, [probes, neurons]
    // Many vertices of one large probe go in parts.
    for (const auto& part : all.split(probes == 1 ? at_once : per_probe, 1)) {
      const int64_t rows = probes * part.size(1);
      run(network, part.reshape(batch_shape(setting.probes, rows)), [&](int value, const at::Tensor& z) {
        if (!std::ranges::binary_search(values, value)) return;
        require(z.dim() >= 1 && z.size(0) == rows, "local complexity: layer '{}' mixes samples: {} rows became {}",
                name_of_value(network, value), rows, shape_string(z.sizes()));
        const auto [low, high] = at::aminmax(z.reshape({probes, part.size(1), -1}), 1);
        auto& [lowest, highest] = range[value];
        lowest = lowest.defined() ? at::minimum(lowest, low) : low;
        highest = highest.defined() ? at::maximum(highest, high) : high;
      });
    }
    for (const auto& [value, lowest_highest] : range) {
      const auto& [low, high] = lowest_highest;
      if (!at::isfinite(low).all().item<bool>() || !at::isfinite(high).all().item<bool>())
        fail_computation("local complexity: layer '{}' has values that are not finite", name_of_value(network, value));
      crossings[value].push_back(crossed(low, high).cpu());
      neurons[value] = low.size(1);
    }
  }
  LocalComplexity result;
  for (const auto& [value, counts] : crossings)
    result.layers.push_back({name_of_value(network, value), neurons[value], at::cat(counts)});
  return result;
}

}  // namespace

double LayerComplexity::mean() const { return crossings.to(at::kDouble).mean().item<double>(); }

at::Tensor LocalComplexity::total() const {
  std::vector<at::Tensor> all;
  for (const auto& layer : layers) all.push_back(layer.crossings);
  return at::stack(all).sum(0);
}

double LocalComplexity::mean() const { return total().to(at::kDouble).mean().item<double>(); }

std::vector<std::string> LocalComplexity::warnings() const {
  std::vector<std::string> lines;
  for (const auto& layer : layers) {
    const double fraction = layer.fraction();
    if (fraction >= kFewest && fraction <= kMost) continue;
    lines.push_back(fmt::format("layer '{}': {:.3g} % of {} neurons are crossed: a {} radius shows more", layer.name,
                                100 * fraction, layer.neurons, fraction < kFewest ? "larger" : "smaller"));
  }
  return lines;
}

LocalComplexity local_complexity(const Network& network, const at::Tensor& probes, const at::Tensor& frame,
                                 const LocalComplexityOptions& options) {
  const at::NoGradGuard no_grad;
  const auto values = looked_at(network, options);
  const auto setting = checked(network, probes, frame, options.radius);
  auto chain = options.layers.empty() ? linear_chain(network) : std::nullopt;
  const bool flat = setting.probes.dim() == 2 || std::holds_alternative<Reshape>(network.nodes.front().operation);
  if (!chain || !flat || chain->front().linear.weight.size(1) != setting.directions.size(1))
    return by_vertices(network, setting, values, options);
  if (!chain->back().activation && !options.include_output) chain->pop_back();
  const auto counts = chain_crossings(*chain, setting.probes.flatten(1), setting.directions, options.include_centre);
  LocalComplexity result;
  for (size_t i = 0; i < chain->size(); ++i)
    result.layers.push_back(
        {(*chain)[i].name, (*chain)[i].linear.weight.size(0), counts[static_cast<int64_t>(i)].clone()});
  return result;
}

LocalComplexity local_complexity_naive(const Network& network, const at::Tensor& probes, const at::Tensor& frame,
                                       const LocalComplexityOptions& options) {
  const at::NoGradGuard no_grad;
  const auto values = looked_at(network, options);
  const auto [x, directions] = checked(network, probes, frame, options.radius);
  const int64_t count = x.size(0);
  const auto all = vertices(x.reshape({count, -1}), directions, options.include_centre);
  LocalComplexity result;
  run(network, all.reshape(batch_shape(x, count * all.size(1))), [&](int value, const at::Tensor& z) {
    if (!std::ranges::binary_search(values, value)) return;
    const auto sign = at::sign(z).reshape({count, all.size(1), -1});
    const auto differs = (sign != sign.narrow(1, 0, 1)).any(1);  // [probes, neurons]
    result.layers.push_back({name_of_value(network, value), sign.size(2), differs.sum(1).cpu()});
  });
  return result;
}

}  // namespace unbend
