#include "unbend/report/svg.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "unbend/base/error.h"

namespace unbend {
namespace {

constexpr double kWidth = 420, kLeft = 56, kTop = 8, kBottom = 44, kRight = 10;  // in the picture's own units

double on_scale(Scale scale, double value) {
  return scale == Scale::Log10 ? std::log10(value) : scale == Scale::Log2 ? std::log2(value) : value;
}
double off_scale(Scale scale, double value) {
  return scale == Scale::Log10 ? std::pow(10, value) : scale == Scale::Log2 ? std::exp2(value) : value;
}

/// Round numbers between two ends, about five of them.
std::vector<double> ticks(double low, double high) {
  const double rough = (high - low) / 5, power = std::pow(10, std::floor(std::log10(rough)));
  double step = power;
  for (const double factor : {2., 5., 10.})
    if (step < rough) step = factor * power;
  std::vector<double> all;
  for (double t = std::ceil(low / step) * step; t <= high + 1e-9 * step; t += step)
    all.push_back(std::abs(t) < 1e-9 * step ? 0 : t);
  return all;
}

/// A frame with ticks and labels, and where numbers (on their scales) go in it.
struct Frame {
  const Axis &x, &y;
  double x0, x1, y0, y1, height;

  double across(double v) const { return kLeft + (v - x0) / (x1 - x0) * (kWidth - kLeft - kRight); }
  double down(double v) const { return kTop + (y1 - v) / (y1 - y0) * (height - kTop - kBottom); }

  std::string begin(const std::string& title) const {
    return fmt::format("<svg class=\"drawn\" viewBox=\"0 0 {} {:.0f}\" role=\"img\" aria-label=\"{}\">\n", kWidth,
                       height, escape_html(title));
  }
  std::string end() const {
    std::string svg = fmt::format("<path class=\"frame\" d=\"M{:.1f} {:.1f}V{:.1f}H{:.1f}\"/>\n", kLeft, kTop,
                                  height - kBottom, kWidth - kRight);
    for (const double t : ticks(x0, x1))
      svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{:.3g}</text>\n", across(t),
                         height - kBottom + 15, off_scale(x.scale, t));
    for (const double t : ticks(y0, y1))
      svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{:.3g}</text>\n", kLeft - 6, down(t) + 4,
                         off_scale(y.scale, t));
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n",
                       (kLeft + kWidth - kRight) / 2, height - 8, escape_html(x.label));
    svg += fmt::format("<text transform=\"translate(12 {:.1f}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
                       (height - kBottom + kTop) / 2, escape_html(y.label));
    return svg + "</svg>\n";
  }
};

/// Half a cell beyond the first and the last centre.
std::pair<double, double> edges(const std::string& title, const std::vector<double>& centres, Scale scale) {
  require(centres.size() >= 2, "plot \"{}\": a grid needs two rows and two columns at least", title);
  for (std::size_t i = 0; i < centres.size(); ++i)
    require(std::isfinite(on_scale(scale, centres[i])) && (i == 0 || centres[i] > centres[i - 1]),
            "plot \"{}\": {} does not increase, or is not on its scale", title, centres[i]);
  const double first = on_scale(scale, centres.front()), last = on_scale(scale, centres.back());
  const double half = (last - first) / static_cast<double>(centres.size() - 1) / 2;
  return {first - half, last + half};
}

}  // namespace

std::string legend_html(const std::vector<std::string>& names) {
  if (names.empty()) return "";
  std::string html = "<p class=\"legend\">";
  for (std::size_t i = 0; i < names.size(); ++i)
    html += fmt::format("<span><i class=\"c{}\"></i>{}</span>", i % 8, escape_html(names[i]));
  return html + "</p>\n";
}

std::string cell_svg(const CellPlot& plot) {
  const std::size_t columns = plot.columns.size(), rows = plot.rows.size();
  require(plot.cells.size() == columns * rows && (plot.marked.empty() || plot.marked.size() == plot.cells.size()),
          "plot \"{}\": {} cells and {} marks for {} rows of {}", plot.title, plot.cells.size(), plot.marked.size(),
          rows, columns);
  const auto [x0, x1] = edges(plot.title, plot.columns, plot.x.scale);
  const auto [y0, y1] = edges(plot.title, plot.rows, plot.y.scale);
  const Frame frame{plot.x, plot.y, x0, x1, y0, y1, 360};
  const double width = (x1 - x0) / static_cast<double>(columns), height = (y1 - y0) / static_cast<double>(rows);
  // Half a unit larger where the next run, or the row below, is: rounded edges would leave seams.
  const auto rectangle = [&](const std::string& kind, std::size_t row, std::size_t first, std::size_t last) {
    const double more = kind == "mark" ? 0 : .5;
    const double left = frame.across(x0 + width * static_cast<double>(first)),
                 right = frame.across(x0 + width * static_cast<double>(last)),
                 top = frame.down(y0 + height * static_cast<double>(row + 1)),
                 bottom = frame.down(y0 + height * static_cast<double>(row));
    return fmt::format("<rect class=\"{}\" x=\"{:.2f}\" y=\"{:.2f}\" width=\"{:.2f}\" height=\"{:.2f}\"/>\n", kind,
                       left, top, right - left + (last < columns ? more : 0), bottom - top + (row > 0 ? more : 0));
  };
  std::string svg = frame.begin(plot.title);
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t begin = 0; begin < columns;) {  // runs of one class
      const int kind = plot.cells[row * columns + begin];
      require(kind >= -1 && kind < std::ssize(plot.classes), "plot \"{}\": class {} of {}", plot.title, kind,
              plot.classes.size());
      std::size_t end = begin + 1;
      while (end < columns && plot.cells[row * columns + end] == kind) ++end;
      if (kind >= 0) svg += rectangle(fmt::format("c{}", kind % 8), row, begin, end);
      begin = end;
    }
  }
  for (std::size_t i = 0; i < plot.marked.size(); ++i)
    if (plot.marked[i]) svg += rectangle("mark", i / columns, i % columns, i % columns + 1);
  return svg + frame.end();
}

std::vector<std::string> path_names(const PathPlot& plot) {
  std::vector<std::string> names;
  for (const auto& path : plot.paths)
    if (std::ranges::find(names, path.name) == names.end()) names.push_back(path.name);
  return names;
}

std::string path_svg(const PathPlot& plot) {
  double x0 = std::numeric_limits<double>::infinity(), x1 = -x0, y0 = x0, y1 = -x0;
  const auto take = [&](const PathPlot::Path& path) {
    require(path.x.size() == path.y.size(), "plot \"{}\", path \"{}\": {} x values, but {} y values", plot.title,
            path.name, path.x.size(), path.y.size());
    for (std::size_t i = 0; i < path.x.size(); ++i) {
      require(std::isfinite(path.x[i]) && std::isfinite(path.y[i]), "plot \"{}\", path \"{}\": point {} is not finite",
              plot.title, path.name, i);
      x0 = std::min(x0, path.x[i]), x1 = std::max(x1, path.x[i]);
      y0 = std::min(y0, path.y[i]), y1 = std::max(y1, path.y[i]);
    }
  };
  for (const auto& path : plot.paths) take(path);
  take(plot.points);
  require(x1 >= x0, "plot \"{}\" has no points", plot.title);
  const double span = std::max({x1 - x0, y1 - y0, 1e-12}) * 1.08;
  const double middle_x = (x0 + x1) / 2, middle_y = (y0 + y1) / 2;
  const Frame frame{plot.x,
                    plot.y,
                    middle_x - span / 2,
                    middle_x + span / 2,
                    middle_y - span / 2,
                    middle_y + span / 2,
                    kWidth - kLeft - kRight + kTop + kBottom};
  const auto names = path_names(plot);
  std::string svg = frame.begin(plot.title);
  for (const auto& path : plot.paths) {
    if (path.x.empty()) continue;
    const auto color = (std::ranges::find(names, path.name) - names.begin()) % 8;
    std::string line;
    for (std::size_t i = 0; i < path.x.size(); ++i)
      line += fmt::format("{}{:.2f} {:.2f}", i == 0 ? "M" : "L", frame.across(path.x[i]), frame.down(path.y[i]));
    svg += fmt::format("<path class=\"path p{}\" d=\"{}\"/>\n", color, line);
    svg += fmt::format("<circle class=\"c{}\" cx=\"{:.2f}\" cy=\"{:.2f}\" r=\"3\"/>\n", color,
                       frame.across(path.x.back()), frame.down(path.y.back()));
  }
  for (std::size_t i = 0; i < plot.points.x.size(); ++i) {
    const double x = frame.across(plot.points.x[i]), y = frame.down(plot.points.y[i]);
    svg += fmt::format("<path class=\"cross\" d=\"M{:.2f} {:.2f}l8 8m0 -8l-8 8\"/>\n", x - 4, y - 4);
  }
  return svg + frame.end();
}

}  // namespace unbend
