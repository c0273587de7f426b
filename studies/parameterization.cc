#include "studies/parameterization.h"

#include <fmt/format.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "studies/study.h"

namespace unbend {
namespace {

std::string number(double x) { return fmt::format("{:.4g}", x); }

std::vector<std::string> settings(const TensorRule& rule) {
  return {rule.init_std > 0 ? number(rule.init_std) : "constant", number(rule.lr), number(rule.weight_decay),
          number(rule.eps)};
}

std::vector<double> values(const at::Tensor& t) {
  const auto flat = t.contiguous();
  return {flat.const_data_ptr<double>(), flat.const_data_ptr<double>() + flat.numel()};
}

std::string size_name(const NetworkSize& size) { return fmt::format("width {}, depth {}", size.width, size.depth); }

}  // namespace

std::string rate_name(double rate) {
  int exponent = 0;
  return std::frexp(rate, &exponent) == .5 ? fmt::format("2^{}", exponent - 1) : fmt::format("{:.3g}", rate);
}

Table role_table(const ScaledRules& rules) {
  Table table{"", {"role", "tensors", "std at start", "learning rate", "weight decay", "eps"}, {}};
  std::vector<std::pair<const TensorRule*, int>> kinds;  // biases outside of blocks differ from the weights beside them
  for (const auto& t : rules.tensors) {
    const auto same = std::ranges::find_if(
        kinds, [&](const auto& k) { return k.first->role == t.role && settings(*k.first) == settings(t); });
    same == kinds.end() ? kinds.emplace_back(&t, 1), void() : void(++same->second);
  }
  std::ranges::stable_sort(kinds, {}, [](const auto& k) { return k.first->role; });
  for (const auto& [rule, count] : kinds) {
    table.rows.push_back({std::string(to_string(rule->role)), std::to_string(count)});
    for (const auto& cell : settings(*rule)) table.rows.back().push_back(cell);
  }
  return table;
}

Table tensor_table(const ScaledRules& rules) {
  Table table{"", {"tensor", "role", "std at start", "learning rate", "weight decay", "eps"}, {}};
  for (const auto& t : rules.tensors) {
    table.rows.push_back({t.name, std::string(to_string(t.role))});
    for (const auto& cell : settings(t)) table.rows.back().push_back(cell);
  }
  return table;
}

Json rules_json(const ScaledRules& rules) {
  const auto& m = rules.multipliers;
  Json json{{"parameterization", rules.parameterization.name},
            {"alpha", rules.parameterization.alpha ? Json(*rules.parameterization.alpha) : Json(nullptr)},
            {"width", rules.size.width},
            {"depth", rules.size.depth},
            {"base_width", rules.base.width},
            {"base_depth", rules.base.depth},
            {"multipliers",
             {{"input", m.input},
              {"residual", m.residual},
              {"logits", m.logits},
              {"generation_logits", m.generation_logits}}},
            {"betas", {rules.settings.beta1, rules.settings.beta2}},
            {"tensors", Json::array()},
            {"warnings", rules.warnings}};
  for (const auto& t : rules.tensors)
    json["tensors"].push_back({{"name", t.name},
                               {"role", to_string(t.role)},
                               {"init_std", t.init_std},
                               {"lr", t.lr},
                               {"weight_decay", t.weight_decay},
                               {"eps", t.eps}});
  return json;
}

LinePlot coordinate_plot(const std::vector<NamedCheck>& checks, std::string_view quantity, int64_t step, bool change,
                         const std::string& axis) {
  LinePlot plot{change ? fmt::format("How far {} moves in {} steps", quantity, step)
                       : fmt::format("Size of {} after {} step{}", quantity, step, step == 1 ? "" : "s"),
                {axis, Scale::Log2},
                {"mean |entry|", Scale::Log10},
                {}};
  for (const auto& [name, check] : checks) {
    const auto row = std::ranges::find(check.quantities, quantity) - check.quantities.begin();
    const auto means = (change ? check.change : check.size)[row].select(2, step).mean(1);
    plot.series.push_back({name, check.sizes, values(means)});
  }
  plot.caption = "Means over seeds. A flat line is what a parameterization promises.";
  return plot;
}

LinePlot transfer_plot(const TransferSweep& sweep, const std::string& title) {
  LinePlot plot{title, {"learning rate at the base size", Scale::Log2}, {"training loss (nats)"}, {}};
  std::vector<std::size_t> order(sweep.rates.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::sort(order, {}, [&](std::size_t i) { return sweep.rates[i]; });
  for (std::size_t s = 0; s < sweep.sizes.size(); ++s) {
    Series series{size_name(sweep.sizes[s]), {}, {}};
    for (const auto i : order) {
      const auto seeds = values(sweep.loss[static_cast<int64_t>(s)][static_cast<int64_t>(i)]);
      series.x.push_back(sweep.rates[i]);
      series.y.push_back(mean(seeds));
      series.low.push_back(*std::ranges::min_element(seeds));
      series.high.push_back(*std::ranges::max_element(seeds));
    }
    plot.series.push_back(std::move(series));
  }
  plot.caption = "Means over seeds, from the lowest to the highest seed.";
  return plot;
}

Table transfer_table(const TransferSweep& sweep, const std::string& title) {
  Table table{title, {"size"}, {}};
  for (const double rate : sweep.rates) table.columns.push_back(rate_name(rate));
  for (std::size_t s = 0; s < sweep.sizes.size(); ++s) {
    table.rows.push_back({size_name(sweep.sizes[s])});
    for (const double loss : sweep.means(s))
      table.rows.back().push_back(std::isfinite(loss) ? fmt::format("{:.4f}", loss) : "-");
  }
  return table;
}

}  // namespace unbend
