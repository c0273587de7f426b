// Measurements along an axis (query, position), several per model: a table of means and a plot with the spread over
// seeds.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "unbend/report/html.h"
#include "unbend/report/table.h"

namespace unbend {

struct Curves {
  std::string title, axis, value;        ///< what is shown, along what, in what
  std::vector<double> x;                 ///< where a curve has its points
  std::vector<std::string> points = {};  ///< how a table calls them
  std::vector<std::pair<std::string, std::vector<std::vector<double>>>> lines = {};  ///< per model, one curve per seed

  void add(const std::string& model, std::vector<double> curve);  ///< curve as long as x
  Table table(int decimals) const;
  LinePlot plot() const;
};

}  // namespace unbend
