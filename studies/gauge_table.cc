#include "studies/gauge_table.h"

#include <fmt/format.h>

#include "unbend/lm/evaluate.h"

namespace unbend {

void add_gauges(Table& table, const std::string& name, const lm::Decoder& decoder, const at::Tensor& windows) {
  const auto layers = lm::gauges(decoder, windows);
  for (std::size_t i = 0; i < layers.size(); ++i) {
    if (table.columns.empty()) {
      table.columns = {"run", "layer"};
      for (const auto& gauge : layers[i]) table.columns.push_back(gauge.name);
      table.columns.push_back("warnings");
    }
    std::vector<std::string> row{name, fmt::format("{}", i)};
    std::string warnings;
    for (const auto& gauge : layers[i]) {
      row.push_back(fmt::format("{:.3f}", gauge.value));
      if (!gauge.warning.empty()) warnings += (warnings.empty() ? "" : "; ") + gauge.warning;
    }
    row.push_back(warnings);
    table.rows.push_back(row);
  }
}

}  // namespace unbend
