// Plots that are drawn once, as SVG inside the page: no script.
#pragma once

#include <string>
#include <vector>

#include "unbend/report/html.h"

namespace unbend {

/// Input error that names the plot for grids and cells that do not fit.
std::string cell_svg(const CellPlot& plot);
std::string path_svg(const PathPlot& plot);

/// The different names of a plot's paths, in order: their colours.
std::vector<std::string> path_names(const PathPlot& plot);

/// One square of colour and name per entry; "" if there are none.
std::string legend_html(const std::vector<std::string>& names);

}  // namespace unbend
