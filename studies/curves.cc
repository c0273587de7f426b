#include "studies/curves.h"

#include <fmt/format.h>

#include <algorithm>

#include "studies/study.h"
#include "unbend/base/error.h"

namespace unbend {
namespace {

std::vector<double> at_point(const std::vector<std::vector<double>>& curves, std::size_t point) {
  std::vector<double> values;
  for (const auto& curve : curves) values.push_back(curve[point]);
  return values;
}

}  // namespace

void Curves::add(const std::string& model, std::vector<double> curve) {
  require(curve.size() == x.size(), "curves '{}': {} values for {} points", title, curve.size(), x.size());
  auto line = std::ranges::find(lines, model, [](const auto& l) { return l.first; });
  if (line == lines.end()) line = lines.insert(line, {model, {}});
  line->second.push_back(std::move(curve));
}

Table Curves::table(int decimals) const {
  Table table{fmt::format("{}: {}", title, value), {"model"}, {}};
  table.columns.insert(table.columns.end(), points.begin(), points.end());
  for (const auto& [model, curves] : lines) {
    table.rows.push_back({model});
    for (std::size_t i = 0; i < x.size(); ++i)
      table.rows.back().push_back(fmt::format("{:.{}f}", mean(at_point(curves, i)), decimals));
  }
  return table;
}

LinePlot Curves::plot() const {
  LinePlot plot{title, {axis}, {value}, {}, {}, Spread::Band};
  for (const auto& [model, curves] : lines) {
    Series series{model, x, {}};
    for (std::size_t i = 0; i < x.size(); ++i) {
      const auto values = at_point(curves, i);
      series.y.push_back(mean(values));
      series.low.push_back(*std::ranges::min_element(values));
      series.high.push_back(*std::ranges::max_element(values));
    }
    plot.series.push_back(std::move(series));
  }
  plot.caption = "Means over seeds; the bands reach from the lowest to the highest seed.";
  return plot;
}

}  // namespace unbend
