#include "unbend/report/drawing.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "unbend/base/error.h"
#include "unbend/report/html.h"

namespace unbend {
namespace {

constexpr double kWidth = 600;  // of the picture, in its own units

// A report's colour, or where there is no report the one that reports have by day.
std::string color(int index) {
  constexpr std::array<const char*, 8> kDay = {"#2f6fd0", "#d9752b", "#279a76", "#b04fc4",
                                               "#c33f5c", "#8a7a1e", "#3f97b5", "#7b7f86"};
  require(index >= 0 && index < 8, "drawing: colour {}, expected 0 to 7", index);
  return fmt::format("var(--c{}, {})", index, kDay[index]);
}

}  // namespace

std::string to_svg(const Drawing& drawing) {
  const double width = drawing.high.x - drawing.low.x, height = drawing.high.y - drawing.low.y;
  require(std::isfinite(width) && std::isfinite(height) && width > 0 && height > 0,
          "drawing \"{}\": nothing between ({}, {}) and ({}, {})", drawing.title, drawing.low.x, drawing.low.y,
          drawing.high.x, drawing.high.y);
  const double scale = kWidth / width;
  const auto at = [&](const Point& p) {
    require(std::isfinite(p.x) && std::isfinite(p.y), "drawing \"{}\": a point ({}, {})", drawing.title, p.x, p.y);
    return Point{(p.x - drawing.low.x) * scale, (drawing.high.y - p.y) * scale};
  };
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"drawing\" viewBox=\"0 0 {:.0f} {:.0f}\" role=\"img\" "
      "aria-label=\"{}\">\n<g transform=\"scale(.1)\" stroke=\"var(--ink, #1b1f24)\" stroke-opacity=\".45\" "
      "stroke-width=\"5\" stroke-linejoin=\"round\">\n",
      kWidth, height * scale, escape_html(drawing.title));
  // Tens of thousands are common: in tenths of a unit, and neighbours in the list that look the same as one path.
  std::string look, path;
  const auto finish = [&] {
    if (!path.empty()) svg += fmt::format("<path {} d=\"{}\"/>\n", look, path);
    path.clear();
  };
  for (const auto& polygon : drawing.polygons) {
    auto its =
        fmt::format("fill=\"{}\" fill-opacity=\"{:.2f}\"", color(polygon.color), std::clamp(polygon.opacity, 0., 1.));
    if (its != look) finish(), look = std::move(its);
    long x = 0, y = 0;
    for (std::size_t i = 0; i < polygon.corners.size(); ++i) {
      const Point q = at(polygon.corners[i]);
      const long to_x = std::lround(10 * q.x), to_y = std::lround(10 * q.y);
      path += fmt::format("{}{}{}{}",
                          i == 0     ? "M"
                          : i == 1   ? "l"
                          : to_x < x ? ""
                                     : " ",
                          to_x - x, to_y < y ? "" : " ", to_y - y);
      x = to_x, y = to_y;
    }
    path += 'z';
  }
  finish();
  svg += "</g>\n<g stroke=\"var(--ink, #1b1f24)\" stroke-width=\"2.4\" stroke-linecap=\"round\">\n";
  for (const auto& line : drawing.lines) {
    const Point a = at(line.from), b = at(line.to);
    svg += fmt::format("<line x1=\"{:.2f}\" y1=\"{:.2f}\" x2=\"{:.2f}\" y2=\"{:.2f}\"/>\n", a.x, a.y, b.x, b.y);
  }
  svg += "</g>\n";
  for (const auto& mark : drawing.marks) {
    Point p = at(mark.at);
    if (mark.dot) {
      svg += fmt::format(
          "<circle cx=\"{:.2f}\" cy=\"{:.2f}\" r=\"5\" fill=\"var(--ink, #1b1f24)\" stroke=\"var(--paper, #fff)\" "
          "stroke-width=\"2\"/>\n",
          p.x, p.y);
      p.x += 9, p.y -= 8;
    }
    svg += fmt::format(
        "<text x=\"{:.2f}\" y=\"{:.2f}\" font-size=\"15\" font-weight=\"600\" font-family=\"sans-serif\" "
        "fill=\"var(--ink, #1b1f24)\" stroke=\"var(--paper, #fff)\" stroke-width=\"3\" "
        "paint-order=\"stroke\">{}</text>\n",
        p.x, p.y, escape_html(mark.label));
  }
  return svg + "</svg>\n";
}

HtmlReport& HtmlReport::drawing(const Drawing& drawing) {
  const auto svg = to_svg(drawing);
  open_figures(true);
  body_ += "<figure>\n<figcaption>";
  if (!drawing.title.empty()) body_ += fmt::format("<strong>{}</strong> ", escape_html(drawing.title));
  body_ += escape_html(drawing.caption) + "</figcaption>\n";
  if (!drawing.legend.empty()) {
    body_ += "<p class=\"legend\">";
    for (const auto& [index, name] : drawing.legend)
      body_ += fmt::format("<span><i class=\"c{}\"></i>{}</span>", index, escape_html(name));
    body_ += "</p>\n";
  }
  body_ += svg + "</figure>\n";
  return *this;
}

}  // namespace unbend
