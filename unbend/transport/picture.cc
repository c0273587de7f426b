#include "unbend/transport/picture.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "unbend/base/error.h"

namespace unbend::transport {
namespace {

constexpr double kTurn = 2 * std::numbers::pi;

/// Panels are squares of side 1 with a gap, at most five in a row; the lower left corner of panel k of `count`.
Point corner(std::size_t k, std::size_t count) {
  const std::size_t rows = (count + 4) / 5;
  return {static_cast<double>(k % 5) * 1.1, static_cast<double>(rows - 1 - k / 5) * 1.25};
}

Drawing sheet(std::string title, std::string caption, std::size_t count) {
  const auto columns = static_cast<double>(std::min<std::size_t>(count, 5)),
             rows = static_cast<double>((count + 4) / 5);
  return {std::move(title), std::move(caption), {-.06, -.06}, {columns * 1.1 - .04, rows * 1.25 + .02}};
}

void label(Drawing& d, Point at, const std::string& text) { d.marks.push_back({{at.x, at.y + 1.08}, text, false}); }

void disc(Drawing& d, Point at, double radius, int color) {
  Drawing::Polygon polygon{{}, color, .55};
  for (int k = 0; k < 8; ++k)
    polygon.corners.push_back({at.x + radius * std::cos(kTurn * k / 8), at.y + radius * std::sin(kTurn * k / 8)});
  d.polygons.push_back(std::move(polygon));
}

}  // namespace

Drawing point_panels(std::string title, const std::vector<std::pair<std::string, Measure>>& panels, std::string caption,
                     std::int64_t most) {
  double low_x = INFINITY, high_x = -INFINITY, low_y = INFINITY, high_y = -INFINITY, heaviest = 0;
  const auto place = [](const Measure& m, std::int64_t i) {
    const auto x = m.point(i);
    return Point{x[0], m.dim > 1 ? x[1] : 0};
  };
  for (const auto& [name, m] : panels) {
    for (std::int64_t i = 0; i < m.size(); ++i) {
      const Point p = place(m, i);
      low_x = std::min(low_x, p.x), high_x = std::max(high_x, p.x);
      low_y = std::min(low_y, p.y), high_y = std::max(high_y, p.y);
      heaviest = std::max(heaviest, m.masses[static_cast<std::size_t>(i)]);
    }
  }
  require(high_x >= low_x, "drawing \"{}\": no points", title);
  const double span = std::max({high_x - low_x, high_y - low_y, 1e-12});
  Drawing d = sheet(std::move(title), std::move(caption), panels.size());
  for (std::size_t k = 0; k < panels.size(); ++k) {
    const Measure& m = panels[k].second;
    const Point at = corner(k, panels.size());
    std::vector<std::int64_t> order(m.masses.size());
    std::iota(order.begin(), order.end(), 0);
    std::ranges::stable_sort(order, std::greater(),
                             [&](std::int64_t i) { return m.masses[static_cast<std::size_t>(i)]; });
    if (m.size() > most) order.resize(static_cast<std::size_t>(most));
    const double largest =
        std::clamp(.35 / std::sqrt(static_cast<double>(std::max<std::size_t>(order.size(), 1))), .008, .04);
    for (const std::int64_t i : order) {
      const double mass = m.masses[static_cast<std::size_t>(i)];
      if (mass <= 0) continue;
      const Point p = place(m, i);
      disc(d,
           {at.x + (p.x - (low_x + high_x) / 2) / span * .94 + .47,
            at.y + (p.y - (low_y + high_y) / 2) / span * .94 + .47},
           std::max(.004, largest * std::sqrt(mass / heaviest)), static_cast<int>(k % 8));
    }
    label(d, at, panels[k].first);
  }
  return d;
}

Drawing circle_panels(std::string title, const std::vector<std::pair<std::string, std::vector<double>>>& panels,
                      std::string caption) {
  double most = 0;
  for (const auto& [name, bins] : panels)
    for (const double mass : bins) most = std::max(most, mass * static_cast<double>(bins.size()));
  require(most > 0, "drawing \"{}\": no mass", title);
  Drawing d = sheet(std::move(title), std::move(caption), panels.size());
  for (std::size_t k = 0; k < panels.size(); ++k) {
    const auto& bins = panels[k].second;
    const Point at = corner(k, panels.size());
    const auto ray = [&](double turn, double radius) {
      return Point{at.x + .48 + radius * std::cos(kTurn * turn), at.y + .48 + radius * std::sin(kTurn * turn)};
    };
    for (int i = 0; i < 60; ++i) d.lines.push_back({ray(i / 60., .22), ray((i + .5) / 60., .22)});
    const auto count = static_cast<double>(bins.size());
    for (std::size_t i = 0; i < bins.size(); ++i) {
      if (bins[i] <= 0) continue;
      const double begin = static_cast<double>(i) / count, end = static_cast<double>(i + 1) / count;
      const double outer = .22 + .26 * std::sqrt(bins[i] * count / most);
      d.polygons.push_back(
          {{ray(begin, .22), ray(begin, outer), ray(end, outer), ray(end, .22)}, static_cast<int>(k % 8), .6});
    }
    label(d, at, panels[k].first);
  }
  return d;
}

}  // namespace unbend::transport
